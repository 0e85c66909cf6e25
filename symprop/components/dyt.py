"""Dynamic tanh: a saturating function in the place of a norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.elementwise import GAUSSIAN_COORDINATES
from symprop.components.linear import INDEPENDENT_GRADIENT
from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.provenance import Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.activation import Activation, Erf
from symprop.functions.logistic import Tanh

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class DynamicTanh(Component):
    r"""Dynamic tanh :math:`y = \gamma\, \phi(\alpha x) + \beta`, with a saturating :math:`\phi` such as tanh or erf.

    .. math:: \mu' = \gamma E\phi + \beta, \quad q' = \gamma^2 E\phi^2 + 2 \gamma \beta E\phi + \beta^2, \quad
        \Delta' = \gamma^2 \Delta_\phi

    with the moments of :math:`\phi` at mean :math:`\alpha \mu`, variance :math:`\alpha^2 v` and gap
    :math:`\alpha^2 \Delta`. The gradient is multiplied by :math:`\gamma^2 \alpha^2` and the moments of :math:`\phi'`.
    ``slope`` is alpha, ``gain`` and ``shift`` are the same for all coordinates, as at initialisation. Exact for Gaussian
    coordinates. Zhu et al. 2025.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(2), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
    >>> DynamicTanh(Erf(), sp.S.Half).forward(x).q
    1/3
    """

    activation: Activation
    slope: Any
    gain: Any = sp.S.One
    shift: Any = sp.S.Zero

    rule = "dynamic tanh"
    reason = "Gaussian expectations of the saturating function at the scaled input, then a constant gain and shift"
    gaussian_input = True
    assumptions = (GAUSSIAN_COORDINATES, INDEPENDENT_GRADIENT)
    sources = (Source("zhu2025", "Section 4"),)

    def __post_init__(self) -> None:
        self._sympify("slope", "gain", "shift")

    @property
    def takes_mean(self) -> bool:  # type: ignore[override]
        """Whether the moments of the saturating function are known at a nonzero mean."""
        return self.activation.takes_mean

    @property
    def neglected(self) -> str:  # type: ignore[override]
        """What the saturating function's own moments leave out."""
        return self.activation.neglected

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        return (
            cls(Tanh(), sp.S.Half),
            cls(Erf(), sp.S.Half),
            cls(Erf(), symbols.alpha_t, symbols.alpha_1, symbols.alpha_2),
        )

    def forward(self, *signals: Signal) -> Signal:
        self.accept(*signals)
        (x,) = signals
        m, v, gap = self._scaled(x)
        phi, gain2 = self.activation, self.gain**2
        return x.replace(
            mean=self.gain * phi.mean(m, v) + self.shift,
            q=self._shifted(phi.second(m, v), phi.mean(m, v)),
            gap=gain2 * phi.gap(m, v, gap) if gap != 0 else sp.S.Zero,
            gaussian=False,
            fixed_norm=None,
            fresh=x.fresh and phi.odd and self.shift == 0,
        )

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        (x,) = signals
        m, v, gap = self._scaled(x)
        scale = self.gain**2 * self.slope**2
        gain = scale * self.activation.slope_second(m, v)
        lost = scale * self.activation.slope_gap(m, v, gap) if gap != 0 else sp.S.Zero
        return (Gradient(gain * gradient.q, gain * gradient.gap + lost * gradient.p),)

    def _scaled(self, x: Signal) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        return self.slope * x.mean, self.slope**2 * x.var, self.slope**2 * x.gap

    def _shifted(self, second: sp.Expr, mean: sp.Expr) -> sp.Expr:
        return self.gain**2 * second + 2 * self.gain * self.shift * mean + self.shift**2

    def pair(self, *states: PairState) -> PairState:
        (x,) = states
        if x.left is None or x.right is None:
            raise RefusedError(
                self.describe(), "the second moments of the two tokens are unknown here", "give left and right"
            )
        scale, phi = self.slope**2, self.activation
        places = (self.slope * x.left_mean, self.slope * x.right_mean)
        variances = (scale * (x.left - x.left_mean**2), scale * (x.right - x.right_mean**2))
        means = list(map(phi.mean, places, variances))
        first, second = map(self._shifted, map(phi.second, places, variances), means)
        cross = phi.cross(*places, *variances, scale * (x.entry - x.left_mean * x.right_mean))
        entry = first if x.diagonal else self._shifted(cross, sum(means) / 2)
        left_mean, right_mean = (self.gain * mean + self.shift for mean in means)
        return PairState(entry, None, x.width, first, second, left_mean, right_mean, x.diagonal)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        (tokens,) = x
        slope, gain, shift = (self.number(item, values) for item in (self.slope, self.gain, self.shift))
        scaled = slope * tokens
        derivative = gain * slope * self.activation.slope(scaled)
        return gain * self.activation.apply(scaled) + shift, lambda g: (g * derivative,)

    def describe(self) -> str:
        """Name, saturating function and parameters."""
        return f"{type(self).__name__}({self.activation.name}, {self.slope}, {self.gain}, {self.shift})"
