"""Attention whose weights are all 1/n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.linear import INDEPENDENT_GRADIENT, INDEPENDENT_WEIGHTS, gaussian_matrix
from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal

if TYPE_CHECKING:
    import numpy as np

UNIFORM_ATTENTION = Assumption("uniform attention", "every attention weight equals 1/n (Assumption 3.1 of Noci et al.)")


@dataclass(frozen=True)
class UniformAttention(Component):
    r"""Value layer averaged over tokens, :math:`S = \frac{1}{n} 1 1^\top X W^V`.

    .. math:: q' = d_{in} \sigma_v^2 c, \qquad \Delta' = 0, \qquad c = q - (1 - 1/n) \Delta

    with c the second moment of a coordinate of the token mean. ``width`` is the output width, ``value_variance`` the
    absolute variance of a value weight. Exact at any width once the attention weights are 1/n. Backward it is the value
    path alone: the attention weights are constants here. Noci et al. 2022, Lemma A.6 (there with variance 1/d).

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d)
    >>> UniformAttention(d, 1/d).forward(x).q
    1/n
    """

    width: Any
    value_variance: Any

    rule = "attention"
    reason = "uniform attention replaces every token by the average token, and the value weights are a linear layer"
    assumptions = (UNIFORM_ATTENTION, INDEPENDENT_WEIGHTS, INDEPENDENT_GRADIENT)
    sources = (Source("noci2022", "Lemma A.6"),)

    def __post_init__(self) -> None:
        self._sympify("width", "value_variance")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        return (UniformAttention(symbols.d_o, symbols.sigma_v2),)

    def forward(self, *signals: Signal) -> Signal:
        return self.exchangeable(*signals, fresh=True, gaussian=True)

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        (x,) = signals
        return (Gradient(self.width * self.value_variance * gradient.common(x.tokens), sp.S.Zero),)

    def pair(self, *states: PairState) -> PairState:
        (x,) = states
        if x.average is None:
            raise RefusedError(
                self.describe(), "one entry of the Gram matrix does not determine their average here",
                "propagate exchangeable tokens, or the whole Gram matrix",
            )
        average = x.width * self.value_variance * x.average
        return PairState(average, average, self.width, average, average, diagonal=x.diagonal)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        (tokens,) = x
        draws, count, fan_in = tokens.shape
        width = int(self.number(self.width, values))
        weights = gaussian_matrix(rng, draws, fan_in, width, self.number(self.value_variance, values))
        output = (tokens.mean(axis=1, keepdims=True) @ weights).repeat(count, axis=1)

        def vjp(g: Array) -> tuple[Array, ...]:
            mean = g.mean(axis=1, keepdims=True) @ weights.swapaxes(1, 2)
            return (mean.repeat(count, axis=1),)

        return output, vjp
