"""The softmax over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.linear import INDEPENDENT_GRADIENT
from symprop.core.errors import RefusedError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.softmax_overlap import Participation, SoftmaxSlope, WeightGap

if TYPE_CHECKING:
    import numpy as np

GAUSSIAN_ROW = Assumption("Gaussian row", "the scores of a row are jointly Gaussian and exchangeable")


@dataclass(frozen=True)
class Softmax(Component):
    r"""Softmax of a row of Gaussian scores, :math:`A_t = e^{x_t}/\sum_s e^{x_s}`: the n tokens are the entries of the row.

    .. math:: q' = \frac{\chi}{n}, \qquad \Delta' = \frac{W}{n}, \qquad \Delta_g' = \omega \Delta_g, \qquad
        q_g' = \bigl(1 - \tfrac{1}{n}\bigr) \omega \Delta_g

    Every coordinate is a row of its own. What the scores of a row share cancels, so that the moments depend on their gap
    alone: :math:`\chi(\Delta, n)` is the participation, W the gap of the weights, :math:`\omega` the slope of the softmax,
    all exact functions of Gaussian scores. Gradients sum to zero over a row. The output variance is
    :math:`(n\chi - 1)/n^2`. Kedia et al. 2024 neglect O(1/n) in their moments of a softmax.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.S.Zero, tokens=n, width=d, gaussian=True)
    >>> Softmax().forward(x).q
    n**(-2)
    """

    rule = "softmax"
    reason = "the weights of a row of Gaussian scores depend on the gap of the scores alone"
    gaussian_input = True
    maps_entries = False
    assumptions = (GAUSSIAN_ROW, INDEPENDENT_GRADIENT)
    sources = (Source("kedia2024", "component table"),)

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        return (cls(),)

    def forward(self, *signals: Signal) -> Signal:
        self.accept(*signals)
        (x,) = signals
        n = x.tokens
        return Signal(
            q=Participation(x.gap, n) / n, gap=WeightGap(x.gap, n) / n, tokens=n, width=x.width, mean=1 / sp.sympify(n)
        )

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        self.accept(*signals)
        (x,) = signals
        gap = SoftmaxSlope(x.gap, x.tokens) * gradient.gap
        return (Gradient((1 - 1 / sp.sympify(x.tokens)) * gap, gap),)

    def pair(self, *states: PairState) -> PairState:
        raise RefusedError(
            self.describe(), "a weight depends on all scores of its row", "propagate exchangeable scores"
        )

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        import numpy as np

        (scores,) = x
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return weights, lambda g: (weights * (g - (weights * g).sum(axis=1, keepdims=True)),)
