"""What every component states about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import sympy as sp

from symprop.core.display import html_table
from symprop.core.errors import InputError, RefusedError
from symprop.core.provenance import EXACT, Assumption, Source
from symprop.core.signal import Gradient, Signal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[np.float64]"
Values: TypeAlias = Mapping[sp.Symbol, float]
Vjp: TypeAlias = Callable[[Array], tuple[Array, ...]]


@dataclass(frozen=True)
class PairState:
    """Two tokens in the expected Gram matrix, everything per coordinate.

    ``entry`` is their inner product, ``average`` that of all pairs of tokens (None where one entry does not determine
    it: after a nonlinearity or a mask that acts on each token alone), ``left`` and ``right`` are the second moments of
    the two tokens (None where unknown), ``left_mean`` and ``right_mean`` the means of their coordinates. ``diagonal`` says
    that both are one token.
    """

    entry: sp.Expr
    average: sp.Expr | None
    width: sp.Expr
    left: sp.Expr | None = None
    right: sp.Expr | None = None
    left_mean: sp.Expr = sp.S.Zero
    right_mean: sp.Expr = sp.S.Zero
    diagonal: bool = False

    @classmethod
    def of(cls, signal: Signal, *, diagonal: bool = False) -> PairState:
        """Two exchangeable tokens of a signal, or one of them twice."""
        entry = signal.q if diagonal else signal.p
        return cls(entry, signal.common, signal.width, signal.q, signal.q, signal.mean, signal.mean, diagonal)

    def affine(
        self, gain: sp.Expr, shift: sp.Expr = sp.S.Zero, *, width: sp.Expr | None = None, scale: sp.Expr = sp.S.Zero
    ) -> PairState:
        """Every moment times ``gain`` plus ``shift``, with a new width, and the means of coordinates times ``scale``."""
        entry, average, left, right = (
            None if moment is None else gain * moment + shift
            for moment in (self.entry, self.average, self.left, self.right)
        )
        means = scale * self.left_mean, scale * self.right_mean
        return PairState(entry, average, width or self.width, left, right, *means, self.diagonal)


@dataclass(frozen=True)
class Component(ABC):
    """A transfer function on the moment state, with the sampler of the operation it models.

    ``rule`` is the word over the equals sign of a proof, ``reason`` the sentence behind it. ``assumptions`` and
    ``neglected`` are collected along a network. ``gaussian_input`` says that the moments are right for Gaussian
    coordinates only, ``takes_mean`` that a nonzero coordinate mean is allowed, ``maps_entries`` that one entry of the token
    Gram matrix maps alone. Parameters are SymPy expressions in
    registered symbols.
    """

    rule: ClassVar[str]
    reason: ClassVar[str]
    inputs: ClassVar[int] = 1
    gaussian_input: ClassVar[bool] = False
    takes_mean: ClassVar[bool] = True
    maps_entries: ClassVar[bool] = True
    assumptions: ClassVar[tuple[Assumption, ...]] = ()
    neglected: ClassVar[str] = EXACT
    sources: ClassVar[tuple[Source, ...]] = ()

    @abstractmethod
    def forward(self, *signals: Signal) -> Signal:
        """Moments of the output in terms of the moments of the inputs."""

    @abstractmethod
    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        """Moments of dLoss/d(input), one for each input, given those of dLoss/d(output).

        The incoming gradient is independent of the component's own weights.
        """

    @abstractmethod
    def pair(self, *states: PairState) -> PairState:
        """The map on one entry of the expected token Gram matrix, for tokens that need not be exchangeable."""

    @abstractmethod
    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        """Draw the weights and apply the real operation to arrays of shape (draws, tokens, width).

        Returns the output and the map from dLoss/d(output) to dLoss/d(input), one array for each input.
        """

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        """Order of magnitude of what ``neglected`` leaves out, relative to the q of the output; zero where exact."""
        return sp.S.Zero

    @classmethod
    @abstractmethod
    def examples(cls) -> tuple[Component, ...]:
        """Instances in registered symbols, with values of every kind of parameter: what the contract tests run."""

    def exchangeable(self, *signals: Signal, fresh: bool, gaussian: bool, mean: sp.Expr = sp.S.Zero) -> Signal:
        """The pair rule at exchangeable tokens: its diagonal is q', its diagonal minus off-diagonal is the gap."""
        diagonal = self.pair(*(PairState.of(item, diagonal=True) for item in signals))
        off_diagonal = self.pair(*(PairState.of(item) for item in signals))
        return Signal(
            q=diagonal.entry,
            gap=sp.expand(diagonal.entry - off_diagonal.entry),
            mean=mean,
            tokens=signals[0].tokens,
            width=diagonal.width,
            gaussian=gaussian,
            fresh=fresh,
        )

    def accept(self, *signals: Signal) -> None:
        """Refuse by name a signal that this component has no moments for."""
        for signal in signals:
            if self.gaussian_input and not signal.gaussian:
                raise RefusedError(
                    f"{self.describe()} of {signal.label}",
                    f"its moments are known for Gaussian coordinates, and {signal.label} is not Gaussian",
                    "put a wide random linear layer before it",
                )
            if not self.takes_mean and signal.mean != 0:
                raise RefusedError(
                    f"{self.describe()} of {signal.label}",
                    f"its moments are known at zero coordinate mean, and that of {signal.label} is {signal.mean}",
                    "put a linear layer or LayerNorm before it",
                )

    def number(self, expression: Any, values: Values) -> float:
        """A parameter of this component as a number."""
        value = sp.sympify(expression).xreplace({key: sp.Float(item, 30) for key, item in values.items()})
        if not value.is_number:
            missing = ", ".join(sorted(map(str, value.free_symbols)))
            raise InputError("values", dict(values), f"a number for {missing} as well")
        return float(value)

    def describe(self) -> str:
        """Name and parameters, as a reader writes them: ``Linear(d_F, sigma_up2)``."""
        return f"{type(self).__name__}({', '.join(str(getattr(self, item.name)) for item in fields(self))})"

    def _repr_html_(self) -> str:
        facts = [("reason", self.reason), ("neglected", self.neglected), *((a.name, a.statement) for a in self.assumptions)]
        return html_table(self.describe(), ("rule", self.rule), [*facts, *(("source", source) for source in self.sources)])

    def _sympify(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(name, value, "a number or a SymPy expression")
            object.__setattr__(self, name, sp.sympify(value))
