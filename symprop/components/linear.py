"""A random linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.core import symbols
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal

if TYPE_CHECKING:
    import numpy as np

INDEPENDENT_WEIGHTS = Assumption(
    "independent weights", "the entries of every weight matrix are independent, of zero mean and given variance"
)
INDEPENDENT_GRADIENT = Assumption(
    "independent gradient", "the incoming gradient is independent of the layer's own weights"
)


def gaussian_matrix(rng: np.random.Generator, draws: int, rows: int, columns: int, variance: float) -> Array:
    """Independent Gaussian matrices of shape (draws, rows, columns)."""
    weights: Array = rng.standard_normal((draws, rows, columns)) * variance**0.5
    return weights


@dataclass(frozen=True)
class Linear(Component):
    r"""Linear layer :math:`y = x W + b` with independent zero-mean weights.

    .. math:: q' = d_{in} \sigma^2 q + \sigma_b^2, \qquad \Delta' = d_{in} \sigma^2 \Delta

    with :math:`\Delta = q - p` the gap of two tokens. ``width`` is the output width, ``variance`` the absolute variance
    of a weight (not a gain), ``bias_variance`` that of a bias, which all tokens share. Exact at any width. Backward the
    factor is ``width * variance``. Noci et al. 2022, Lemma A.4 (there with variance 1/d and equal widths).

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(3), gap=sp.Integer(1), tokens=n, width=d)
    >>> Linear(d, 1/d).forward(x).q
    3
    """

    width: Any
    variance: Any
    bias_variance: Any = sp.S.Zero

    rule = "linear"
    reason = "a random linear map multiplies the expected Gram matrix by its fan-in times its weight variance"
    assumptions = (INDEPENDENT_WEIGHTS, INDEPENDENT_GRADIENT)
    sources = (Source("noci2022", "Lemma A.4"),)

    def __post_init__(self) -> None:
        self._sympify("width", "variance", "bias_variance")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        return Linear(symbols.d_o, symbols.sigma_w2), Linear(symbols.d, 1 / symbols.d, symbols.sigma_x2)

    def forward(self, *signals: Signal) -> Signal:
        return self.exchangeable(*signals, fresh=True, gaussian=True)

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        gain = self.width * self.variance
        return (Gradient(gain * gradient.q, gain * gradient.gap),)

    def weight_gradient(self, gradient: Gradient, signal: Signal) -> sp.Expr:
        r"""Second moment of dLoss/dW per weight, for a gradient dLoss/dy independent of the input x.

        The gradient is summed over tokens, :math:`\sum_t x_t g_t`: n terms of one token and n (n - 1) of two.

        .. math:: E (\partial W)^2 = n q g_q + n (n - 1) p g_p

        >>> from symprop.core.symbols import d, n
        >>> x = Signal(q=sp.Integer(3), gap=sp.Integer(3), tokens=n, width=d)
        >>> Linear(d, 1/d).weight_gradient(Gradient(sp.Integer(1), sp.Integer(0)), x)
        3*n
        """
        n = signal.tokens
        return n * signal.q * gradient.q + n * (n - 1) * signal.p * gradient.p

    def pair(self, *states: PairState) -> PairState:
        (x,) = states
        return x.affine(x.width * self.variance, self.bias_variance, width=self.width)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        (tokens,) = x
        draws, _, fan_in = tokens.shape
        width = int(self.number(self.width, values))
        weights = gaussian_matrix(rng, draws, fan_in, width, self.number(self.variance, values))
        biases = gaussian_matrix(rng, draws, 1, width, self.number(self.bias_variance, values))
        return tokens @ weights + biases, lambda g: (g @ weights.swapaxes(1, 2),)
