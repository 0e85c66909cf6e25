"""Softmax attention, with the theory of its uniform limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.linear import INDEPENDENT_GRADIENT, INDEPENDENT_WEIGHTS, gaussian_matrix
from symprop.components.uniform_attention import UniformAttention
from symprop.core import symbols
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal

if TYPE_CHECKING:
    import numpy as np

SMALL_LOGITS = Assumption(
    "small logits",
    "the logits vary little over the keys, so that attention is uniform up to the order of their variance",
)


@dataclass(frozen=True)
class SoftmaxAttention(Component):
    r"""Softmax attention, :math:`S = \mathrm{softmax}(\tau X W^Q W^{K\top} X^\top/\sqrt{d_k})\, X W^V`.

    The moments are those of :class:`UniformAttention`, the limit of small logits; what they leave out is of the order
    of the logit variance :math:`s^2 = \tau^2 \sigma_q^2 \sigma_k^2 d_{in}^2 q \Delta`. The sampler is the real softmax,
    with its gradient through the weights. ``width`` is the output width, ``key_width`` that of queries and keys,
    variances are absolute. Noci et al. 2022, Eq. 1.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d)
    >>> SoftmaxAttention(d, 1/d, d, 1/d, 1/d).logit_variance(x)
    1
    """

    width: Any
    value_variance: Any
    key_width: Any
    query_variance: Any
    key_variance: Any
    temperature: Any = sp.S.One

    rule = "attention"
    reason = "at small logits softmax attention averages the tokens, and the value weights are a linear layer"
    assumptions = (SMALL_LOGITS, INDEPENDENT_WEIGHTS, INDEPENDENT_GRADIENT)
    neglected = "O(s^2), s^2 the logit variance"
    sources = (Source("noci2022", "Eq. 1, Section A.5"),)

    def __post_init__(self) -> None:
        self._sympify("width", "value_variance", "key_width", "query_variance", "key_variance", "temperature")

    @property
    def uniform(self) -> UniformAttention:
        """The same layer with every attention weight 1/n."""
        return UniformAttention(self.width, self.value_variance)

    def logit_variance(self, x: Signal) -> sp.Expr:
        """Variance over keys of the logits of one row, at large width."""
        return self.temperature**2 * self.query_variance * self.key_variance * x.width**2 * x.q * x.gap

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        small = sp.Rational(1, 10**8)
        return (SoftmaxAttention(symbols.d_o, symbols.sigma_v2, symbols.d_k, small, symbols.sigma_k2),)

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        # Backward, every query adds a path through the keys, in which the shared part of the tokens counts too.
        (x,) = signals
        return x.tokens * self.temperature**2 * self.query_variance * self.key_variance * x.width**2 * x.q**2

    def forward(self, *signals: Signal) -> Signal:
        return self.uniform.forward(*signals)

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        return self.uniform.backward(gradient, *signals)

    def pair(self, *states: PairState) -> PairState:
        return self.uniform.pair(*states)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        import numpy as np

        (tokens,) = x
        draws, _, fan_in = tokens.shape
        width, key_width = (int(self.number(size, values)) for size in (self.width, self.key_width))
        # The value weights are drawn first, so that a uniform layer with the same generator has the same ones.
        value = gaussian_matrix(rng, draws, fan_in, width, self.number(self.value_variance, values))
        rng = rng.spawn(1)[0]
        query = gaussian_matrix(rng, draws, fan_in, key_width, self.number(self.query_variance, values))
        key = gaussian_matrix(rng, draws, fan_in, key_width, self.number(self.key_variance, values))
        form = query @ key.swapaxes(1, 2) * (self.number(self.temperature, values) / key_width**0.5)
        transposed = tokens.swapaxes(1, 2)
        logits = tokens @ form @ transposed
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)

        def vjp(g: Array) -> tuple[Array, ...]:
            to_values = g @ value.swapaxes(1, 2)
            to_weights = to_values @ transposed
            to_logits = weights * (to_weights - (weights * to_weights).sum(axis=2, keepdims=True))
            return (
                weights.swapaxes(1, 2) @ to_values
                + to_logits @ tokens @ form.swapaxes(1, 2)
                + to_logits.swapaxes(1, 2) @ tokens @ form,
            )

        return weights @ tokens @ value, vjp
