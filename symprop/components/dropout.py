"""Inverted dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.core import symbols
from symprop.core.errors import InputError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal

if TYPE_CHECKING:
    import numpy as np

INDEPENDENT_MASKS = Assumption("independent masks", "dropout masks are independent over tokens and coordinates")


@dataclass(frozen=True)
class Dropout(Component):
    r"""Dropout with probability p: a coordinate is zeroed, or divided by 1 - p.

    .. math:: q' = \frac{q}{1 - p}, \qquad \Delta' = \Delta + \frac{p}{1 - p} q

    Exact at any width: two tokens have independent masks, so that E x_t x_s and the mean stay. The gradient has the same
    map. Kedia et al. 2024, component table.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(0), tokens=n, width=d)
    >>> Dropout(sp.Rational(1, 2)).forward(x).rho
    1/2
    """

    probability: Any

    rule = "dropout"
    reason = "masks are independent over tokens: they divide the second moment by 1 - p and keep the moment of two tokens"
    assumptions = (INDEPENDENT_MASKS,)
    sources = (Source("kedia2024", "component table"),)

    def __post_init__(self) -> None:
        self._sympify("probability")
        if self.probability.is_number and not 0 <= self.probability < 1:
            raise InputError("probability", self.probability, "a number in [0, 1)")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        return (cls(symbols.P), cls(sp.Rational(1, 3)))

    @property
    def _added(self) -> sp.Expr:
        return self.probability / (1 - self.probability)

    def forward(self, *signals: Signal) -> Signal:
        (x,) = signals
        # One token has no pair to compare with: its gap stays zero.
        gap = sp.S.Zero if x.tokens == 1 else x.gap + self._added * x.q
        return x.replace(q=x.q / (1 - self.probability), gap=gap, gaussian=x.gaussian and self.probability == 0,
                         fixed_norm=x.fixed_norm if self.probability == 0 else None)

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        (x,) = signals
        gap = sp.S.Zero if x.tokens == 1 else gradient.gap + self._added * gradient.q
        return (Gradient(gradient.q / (1 - self.probability), gap),)

    def pair(self, *states: PairState) -> PairState:
        (x,) = states
        keep = 1 - self.probability
        left, right = (None if item is None else item / keep for item in (x.left, x.right))
        means = x.left_mean, x.right_mean
        return PairState(x.entry / keep if x.diagonal else x.entry, None, x.width, left, right, *means, x.diagonal)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        (tokens,) = x
        keep = 1 - self.number(self.probability, values)
        mask = (rng.random(tokens.shape) < keep) / keep
        return tokens * mask, lambda g: (g * mask,)
