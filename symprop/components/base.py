"""What every component states about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import sympy as sp

from symprop.core.errors import InputError
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
    """An entry of the expected token Gram matrix and the average of all its entries, both divided by the width."""

    entry: sp.Expr
    average: sp.Expr
    width: sp.Expr


@dataclass(frozen=True)
class Component(ABC):
    """A transfer function on the moment state, with the sampler of the operation it models.

    ``rule`` is the word over the equals sign of a proof, ``reason`` the sentence behind it. ``assumptions`` and
    ``neglected`` are collected along a network. Parameters are SymPy expressions in registered symbols.
    """

    rule: ClassVar[str]
    reason: ClassVar[str]
    inputs: ClassVar[int] = 1
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
        diagonal = self.pair(*(PairState(item.q, item.common, item.width) for item in signals))
        off_diagonal = self.pair(*(PairState(item.p, item.common, item.width) for item in signals))
        return Signal(
            q=diagonal.entry,
            gap=sp.expand(diagonal.entry - off_diagonal.entry),
            mean=mean,
            tokens=signals[0].tokens,
            width=diagonal.width,
            gaussian=gaussian,
            fresh=fresh,
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

    def _sympify(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(name, value, "a number or a SymPy expression")
            object.__setattr__(self, name, sp.sympify(value))
