"""An activation applied to every coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.linear import INDEPENDENT_GRADIENT
from symprop.core.errors import RefusedError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.activation import Absolute, Activation, Erf, Gelu, LeakyRelu, Relu, Sine, SkipSum, SquaredRelu
from symprop.functions.logistic import Sigmoid, Silu, Tanh
from symprop.functions.quadrature_activation import VARIABLE, GeluTanh, QuadratureActivation

if TYPE_CHECKING:
    import numpy as np

GAUSSIAN_COORDINATES = Assumption(
    "Gaussian coordinates", "the coordinates that enter an activation are jointly Gaussian over tokens (exact as the width "
    "of the layer below tends to infinity)"
)


@dataclass(frozen=True)
class Elementwise(Component):
    r"""Activation :math:`y = \phi(x)` of Gaussian coordinates.

    .. math:: \mu' = E\phi(x), \quad q' = E\phi(x)^2, \quad \Delta' = E\phi(x)^2 - E\phi(x)\phi(y)

    with x, y of the mean, variance and covariance of two tokens; the gradient is multiplied by the same moments of
    :math:`\phi'`. Exact for Gaussian coordinates. A residual sum around an activation is
    ``Elementwise(SkipSum(activation, skip_scale, branch_scale))``, and any function, with kinks or without, becomes one with
    ``Elementwise(QuadratureActivation(x, formula, name))``. Kedia et al. 2024, component table; Cho & Saul 2009.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(2), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
    >>> Elementwise(Relu()).forward(x).q
    1
    """

    activation: Activation

    rule = "activation"
    reason = "Gaussian expectations of the activation and of its derivative"
    gaussian_input = True
    assumptions = (GAUSSIAN_COORDINATES, INDEPENDENT_GRADIENT)
    sources = (Source("kedia2024", "component table"),)

    @property
    def takes_mean(self) -> bool:  # type: ignore[override]
        """Whether the activation's moments are known at a nonzero mean."""
        return self.activation.takes_mean

    @property
    def neglected(self) -> str:  # type: ignore[override]
        """What the activation's own moments leave out."""
        return self.activation.neglected

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        half = sp.Rational(1, 2)
        kinked = (Relu(), LeakyRelu(half), Absolute(), SquaredRelu())
        smooth = (Gelu(), GeluTanh(), Silu(), Tanh(), Sigmoid(), Erf(), Sine(), SkipSum(Gelu(), half, 2))
        given = (
            QuadratureActivation(VARIABLE, sp.Max(-1, sp.Min(VARIABLE, 1)), "hard_tanh"),
            QuadratureActivation(VARIABLE, VARIABLE / (1 + sp.Abs(VARIABLE)), "softsign"),
            QuadratureActivation(VARIABLE, sp.Piecewise((VARIABLE, VARIABLE > 0), (sp.exp(VARIABLE) - 1, True)), "elu"),
        )
        return tuple(cls(choice) for choice in (*kinked, *smooth, *given))

    def forward(self, *signals: Signal) -> Signal:
        self.accept(*signals)
        (x,) = signals
        return x.replace(
            mean=self.activation.mean(x.mean, x.var),
            q=self.activation.second(x.mean, x.var),
            gap=self.activation.gap(x.mean, x.var, x.gap) if x.gap != 0 else sp.S.Zero,
            gaussian=False,
            fixed_norm=None,
            fresh=x.fresh and self.activation.odd,
        )

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        (x,) = signals
        gain = self.activation.slope_second(x.mean, x.var)
        lost = self.activation.slope_gap(x.mean, x.var, x.gap) if x.gap != 0 else sp.S.Zero
        return (Gradient(gain * gradient.q, gain * gradient.gap + lost * gradient.p),)

    def pair(self, *states: PairState) -> PairState:
        (x,) = states
        if x.left is None or x.right is None:
            raise RefusedError(
                self.describe(), "the second moments of the two tokens are unknown here", "give left and right"
            )
        means = (x.left_mean, x.right_mean)
        variances = (x.left - means[0] ** 2, x.right - means[1] ** 2)
        first, second = map(self.activation.second, means, variances)
        covariance = x.entry - means[0] * means[1]
        entry = first if x.diagonal else self.activation.cross(*means, *variances, covariance)
        left_mean, right_mean = map(self.activation.mean, means, variances)
        return PairState(entry, None, x.width, first, second, left_mean, right_mean, x.diagonal)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        (tokens,) = x
        slope = self.activation.slope(tokens)
        return self.activation.apply(tokens), lambda g: (g * slope,)

    def describe(self) -> str:
        """Name and activation, as a reader writes them: ``Elementwise(relu)``."""
        return f"{type(self).__name__}({self.activation.name})"
