"""Softmax attention with constants added to its weights: centred (gain-controlled) and shaped attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from symprop.components.attention import Attention
from symprop.components.base import Array, Component, Values
from symprop.core import symbols
from symprop.core.provenance import Source
from symprop.core.signal import Gradient, Signal


@dataclass(frozen=True)
class ShapedAttention(Attention):
    r"""Softmax attention with the weights :math:`A' = \alpha I + D(A) - \tfrac{c}{n} 1 1^\top`.

    ``identity`` is :math:`\alpha`, ``centre`` is c; all else is as in :class:`Attention`. With c = 1 and :math:`\alpha = 0`
    (the default) the mean of the weights is removed: centred or gain-controlled attention, where what tokens share does not
    pass. With :math:`\alpha = c = 1` and a small ``temperature`` it is shaped attention. For tokens with the common part
    :math:`C = q - (1 - \tfrac1n) \Delta`

    .. math::
        \frac{q'}{d_{in} \sigma_v^2} &= \alpha^2 q + \Delta (M - \tfrac1n) + (1 - c) (1 - c + 2 \alpha)\, C
            + \tfrac{P}{1 - P} (\dots) \\
        \frac{\Delta'}{d_{in} \sigma_v^2} &= \alpha^2 \Delta + \Delta (M - M_2) + \tfrac{P}{1 - P} (\dots)

    with M, M_2 and the terms of dropout of :class:`Attention`. A query has no preference for its own token, which makes the
    products of the three parts of A' exact. Backward the value path has the same factors; constants have no derivative, so
    that query and key paths and the gradients of their weights are those of softmax attention. The difference M - 1/n keeps
    its digits at small scores (for tokens of fixed norm a relative 1e-4 at score variance 1e-9).
    Cowsik et al. 2024 and Giorlandino and Goldt 2025 (centred); Noci et al. 2023 (shaped).

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.Rational(1, 2), tokens=n, width=d, gaussian=True)
    >>> ShapedAttention(d, 1/d).forward(x).q, ShapedAttention(d, 1/d, identity=1, centre=1).forward(x).gap
    (0, 1/2)
    """

    identity: Any = sp.S.Zero
    centre: Any = sp.S.One

    rule = "shaped attention"
    reason = (
        "the weights of a row less their mean keep the spread of the weights about 1/n, and every query adds its own token"
    )
    sources: ClassVar[tuple[Source, ...]] = (
        Source("cowsik2024", "gain-controlled attention"), Source("giorlandino2025", "centred attention"),
        Source("noci2023", "shaped attention"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sympify("identity", "centre")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        small = sp.Rational(1, 10**6)
        scored = {"key_width": symbols.d_k, "query_variance": small, "key_variance": symbols.sigma_k2}
        return (
            cls(symbols.d_o, symbols.sigma_v2, dropout=symbols.P, value_bias=symbols.sigma_x2),
            cls(symbols.d_o, symbols.sigma_v2, **scored),
            cls(symbols.d_o, symbols.sigma_v2, **scored, identity=symbols.alpha_1, centre=sp.Rational(1, 2), heads=2),
        )

    def describe(self) -> str:
        """As of softmax attention, with the two constants."""
        return f"{super().describe()[:-1]}, identity={self.identity}, centre={self.centre})"

    @property
    def _row_sum(self) -> sp.Expr:
        return 1 + self.identity - self.centre

    @property
    def _through(self) -> sp.Expr:
        """Factor of the common part beyond what a query's own token carries."""
        return sp.sympify((1 - self.centre) * (1 - self.centre + 2 * self.identity))

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        size = super().neglected_size(*signals)
        if self.identity != 0 or self.centre != 1 or self.query_variance == 0:
            return size
        # All paths are of the size of the scores, so that what their first order neglects counts against nothing larger.
        (x,) = signals
        return size + 1 / sp.sympify(x.width) + 1 / x.tokens

    def _own_gap(self, x: Signal) -> sp.Expr:
        return self.identity**2 * x.gap

    def _kept(self, x: Signal) -> sp.Expr:
        spread = self.moment("spread", x) - 2 * self.centre * self.moment("lean", x)
        return (
            self.identity**2 * x.q + x.gap * spread + self._through * x.common - self._row_sum * self._lost_norm(x)
        )

    def _value_path(self, gradient: Gradient, x: Signal) -> Gradient:
        softmax = super()._value_path(gradient, x)
        dropped = self._noise * self.moment("own", x) * gradient.q
        kept = (1 - 1 / sp.sympify(x.tokens)) * (softmax.gap - dropped)
        own = self.identity**2
        return Gradient(
            own * gradient.q + kept + dropped + self._through * gradient.common(x.tokens), own * gradient.gap + softmax.gap
        )

    def _applied(self, weights: Array, values: Values) -> Array:
        import numpy as np

        identity, centre = self.number(self.identity, values), self.number(self.centre, values)
        applied: Array = weights + (identity * np.eye(weights.shape[1]) - centre / weights.shape[2])
        return applied
