"""Gated units: GLU, ReGLU, GeGLU, SwiGLU and the bilinear one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.linear import INDEPENDENT_GRADIENT, INDEPENDENT_WEIGHTS, gaussian_matrix
from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.activation import Activation, Gelu, Identity, Relu
from symprop.functions.logistic import Sigmoid, Silu

if TYPE_CHECKING:
    import numpy as np

GAUSSIAN_WEIGHTS = Assumption("Gaussian weights", "the weights of a gated unit are Gaussian, or its fan-in is large")


@dataclass(frozen=True)
class GatedUnit(Component):
    r"""Gated unit :math:`y = \phi(x W_g + b_g) \odot (x W_u + b_u)` with independent zero-mean weights.

    .. math:: \mu' = b_u E\phi, \qquad q' = E\phi^2\, q_u, \qquad \Delta' = \Delta_\phi q_u + p_\phi \Delta_u

    with :math:`q_u = d \sigma_u^2 q + b_u^2`, :math:`\Delta_u = d \sigma_u^2 \Delta` and the moments of :math:`\phi` at mean
    :math:`b_g` and variance :math:`d \sigma_g^2 q`. ``width`` is the hidden width, variances are absolute, the biases
    ``gate_bias`` and ``up_bias`` are one constant for all coordinates. A coordinate mean of the input is part of its second
    moment, which is all that passes through weights of zero mean. Backward the gate and the other branch add,
    :math:`g_q' = d_F (\sigma_g^2 q_u E\phi'^2 + \sigma_u^2 E\phi^2)\, g_q`, with 2/d of the derivative of every moment in
    the scale of the covariances, because both read one input. Exact at any width for Gaussian weights and tokens of given
    norms and inner products, of which a norm gives the norms. Shazeer 2020.

    >>> from symprop.core.symbols import d, d_F, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(0), tokens=n, width=d)
    >>> GatedUnit(d_F, 1/d, 1/d, Relu()).forward(x).q
    1/2
    >>> GatedUnit(d_F, 1/d, 1/d, Identity(), gate_bias=2).forward(x).q
    5
    """

    width: Any
    gate_variance: Any
    up_variance: Any
    activation: Activation
    gate_bias: Any = sp.S.Zero
    up_bias: Any = sp.S.Zero

    rule = "gated unit"
    reason = "the gate and the other branch are independent, so that their second moments multiply"
    assumptions = (INDEPENDENT_WEIGHTS, GAUSSIAN_WEIGHTS, INDEPENDENT_GRADIENT)
    sources = (Source("shazeer2020", "Eqs. 5, 6"),)

    def __post_init__(self) -> None:
        self._sympify("width", "gate_variance", "up_variance", "gate_bias", "up_bias")
        if self.gate_bias != 0 and not self.activation.takes_mean:
            raise RefusedError(
                self.describe(), f"the moments of {self.activation.name} are known at zero mean only",
                "leave out the bias of the gate, or name the activation",
            )

    @property
    def neglected(self) -> str:  # type: ignore[override]
        """What the activation's own moments leave out."""
        return self.activation.neglected

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        sizes = (symbols.d_F, symbols.sigma_up2, symbols.sigma_w2)
        choices = (Identity(), Sigmoid(), Relu(), Gelu(), Silu())
        plain = tuple(cls(*sizes, choice) for choice in choices)
        half = sp.S.Half
        return (*plain, cls(*sizes, Relu(), half, half), cls(*sizes, Silu(), -half), cls(*sizes, Sigmoid(), half, -half))

    def forward(self, *signals: Signal) -> Signal:
        (x,) = signals
        gate, phi, at = x.width * self.gate_variance, self.activation, self.gate_bias
        up_q, up_gap = self._up(x)
        second = phi.second(at, gate * x.q)
        change = phi.gap(at, gate * x.q, gate * x.gap) if x.gap != 0 else sp.S.Zero
        return x.replace(
            mean=self._mean(gate * x.q),
            q=second * up_q,
            gap=change * up_q + (second - change) * up_gap,
            width=self.width,
            gaussian=False,
            fixed_norm=None,
            fresh=self.up_bias == 0,
        )

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        (x,) = signals
        gate, phi, at = x.width * self.gate_variance, self.activation, self.gate_bias
        up_q, up_gap = self._up(x)
        v, gap = gate * x.q, gate * x.gap
        slope = _corrected(lambda scale: phi.slope_second(at, scale * v), x.width)
        second = _corrected(lambda scale: phi.second(at, scale * v), x.width)
        slope_gap = change = sp.S.Zero
        if x.gap != 0:
            slope_gap = _corrected(lambda scale: phi.slope_gap(at, scale * v, scale * gap), x.width)
            change = _corrected(lambda scale: phi.gap(at, scale * v, scale * gap), x.width)
        gain = self.width * (self.gate_variance * up_q * slope + self.up_variance * second)
        lost = self.width * (
            self.gate_variance * (slope * up_gap + slope_gap * (up_q - up_gap)) + self.up_variance * change
        )
        return (Gradient(gain * gradient.q, gain * gradient.gap + lost * gradient.p),)

    def _up(self, x: Signal) -> tuple[sp.Expr, sp.Expr]:
        """q and gap of the branch without activation; all tokens share the bias."""
        gain = x.width * self.up_variance
        return gain * x.q + self.up_bias**2, gain * x.gap

    def _mean(self, v: sp.Expr) -> sp.Expr:
        """Mean of an output coordinate, where the gate has variance v."""
        return self.up_bias * self.activation.mean(self.gate_bias, v) if self.up_bias != 0 else sp.S.Zero

    def pair(self, *states: PairState) -> PairState:
        (x,) = states
        if x.left is None or x.right is None:
            raise RefusedError(
                self.describe(), "the second moments of the two tokens are unknown here", "give left and right"
            )
        gate, up = (x.width * variance for variance in (self.gate_variance, self.up_variance))
        phi, at, shared = self.activation, self.gate_bias, self.up_bias**2
        left, right = (phi.second(at, gate * side) * (up * side + shared) for side in (x.left, x.right))
        sides = (gate * x.left, gate * x.right, gate * x.entry)
        left_mean, right_mean = (self._mean(gate * side) for side in (x.left, x.right))
        entry = left if x.diagonal else phi.cross(at, at, *sides) * (up * x.entry + shared)
        return PairState(entry, None, self.width, left, right, left_mean, right_mean, x.diagonal)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        (tokens,) = x
        draws, _, fan_in = tokens.shape
        width = int(self.number(self.width, values))
        gate_weights, up_weights = (
            gaussian_matrix(rng, draws, fan_in, width, self.number(variance, values))
            for variance in (self.gate_variance, self.up_variance)
        )
        gate = tokens @ gate_weights + self.number(self.gate_bias, values)
        up = tokens @ up_weights + self.number(self.up_bias, values)
        active = self.activation.apply(gate)

        def vjp(g: Array) -> tuple[Array, ...]:
            through_gate = (g * up * self.activation.slope(gate)) @ gate_weights.swapaxes(1, 2)
            return (through_gate + (g * active) @ up_weights.swapaxes(1, 2),)

        return active * up, vjp

    def describe(self) -> str:
        """Name, hidden width, activation and what biases there are."""
        biases = (f", {name}={getattr(self, name)}" for name in ("gate_bias", "up_bias") if getattr(self, name) != 0)
        return f"{type(self).__name__}({self.width}, {self.activation.name}{''.join(biases)})"


def _corrected(moment: Callable[[sp.Expr], sp.Expr], width: sp.Expr) -> sp.Expr:
    """A moment plus 2/d of its derivative in the scale of the covariances.

    Both paths see one input through Gaussian weights w: by Stein's lemma E |w|^2 F(w x, w y) and the product of the two
    paths each add that derivative.
    """
    scale = sp.Dummy("scale", positive=True)
    return moment(sp.S.One) + 2 / width * sp.diff(moment(scale), scale).xreplace({scale: sp.S.One})
