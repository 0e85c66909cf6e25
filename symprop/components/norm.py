"""LayerNorm and RMSNorm: every token divided by its own size."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.elementwise import GAUSSIAN_COORDINATES
from symprop.components.linear import INDEPENDENT_GRADIENT
from symprop.core.errors import InputError, RefusedError
from symprop.core.provenance import EXACT, Assumption, Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.finite_width import CorrelationDeficit, CorrelationSlopeDeficit

if TYPE_CHECKING:
    import numpy as np

NOTHING = "nothing is left of a token"
INFINITE = "the mean inverse square of a token's size, by which gradients grow, is infinite"
WIDE_NORM = Assumption("wide norm", "the size of a token is its expectation, exact as the width tends to infinity")


@dataclass(frozen=True)
class _Norm(Component):
    """A norm with its gain and epsilon; ``finite`` keeps the fluctuation of a token's size at finite width."""

    gain2: Any = sp.S.One
    epsilon: Any = sp.S.Zero
    finite: bool = False

    rule = "norm"
    reason = "every token is divided by its own size"

    def __post_init__(self) -> None:
        self._sympify("gain2", "epsilon")
        if self.finite and self.epsilon != 0:
            raise InputError("epsilon", self.epsilon, "0 at finite width, where no closed form is known otherwise")

    @property
    def gaussian_input(self) -> bool:  # type: ignore[override]
        """A wide norm needs independent coordinates only."""
        return self.finite

    @property
    def assumptions(self) -> tuple[Assumption, ...]:  # type: ignore[override]
        """Wide norm, or Gaussian coordinates at finite width."""
        return (GAUSSIAN_COORDINATES if self.finite else WIDE_NORM, INDEPENDENT_GRADIENT)

    @property
    def neglected(self) -> str:  # type: ignore[override]
        """The order in the width, forward and backward."""
        return EXACT if self.finite else "O(1/d)"

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        return cls(), cls(sp.Rational(9, 4), sp.Rational(1, 10)), cls(sp.Rational(9, 4), finite=True)

    @staticmethod
    @abstractmethod
    def size2(x: Signal) -> sp.Expr:
        """Mean square that a token is divided by, per coordinate."""

    @staticmethod
    @abstractmethod
    def freedom(width: sp.Expr) -> sp.Expr:
        """Number of independent coordinates after the mean is removed or not."""

    @staticmethod
    @abstractmethod
    def removed(width: sp.Expr, mean_share: sp.Expr) -> sp.Expr:
        """Relative change of a token's mean square that the removal of its own mean brings."""

    @classmethod
    def correlation_factor(cls, r: sp.Expr, fluctuation: sp.Expr, width: sp.Expr) -> sp.Expr:
        r"""What a norm over finitely many coordinates does to a correlation r, :math:`1 - \phi (1 - r^2)/(2 f)`.

        ``fluctuation`` is phi: the relative variance of a token's mean square over its value 2/d for independent
        coordinates. A stream that was normalised before fluctuates only through what was added since. f are the
        :meth:`freedom`. The first order of :class:`CorrelationDeficit`.

        >>> from symprop.core.symbols import d
        >>> RMSNorm.correlation_factor(sp.Integer(0), sp.S.One, d)
        1 - 1/(2*d)
        """
        t = sp.Dummy("t", positive=True)
        freedom = sp.Dummy("f", positive=True)
        deficit = (CorrelationDeficit(t, freedom).expansion() - t) / (1 - t)
        return 1 - fluctuation * sp.factor(deficit).subs({t: 1 - r, freedom: cls.freedom(width)})

    @classmethod
    def gradient_factor(
        cls, r: sp.Expr, fluctuation: sp.Expr, width: sp.Expr, along: sp.Expr, along_mean: sp.Expr, mean_share: sp.Expr
    ) -> sp.Expr:
        r"""Factor of the gradient moment of two tokens of correlation r, beyond the division by their sizes; O(1/d^2) apart.

        .. math:: 1 + \frac1d \Big[\phi \frac{3 + r^2}{2} - a\,(2 - r^2)\Big]

        The first term is :math:`E\, 1/(s_i s_j)` of sizes whose squares have relative variances 2 phi/d and covariance
        2 phi r^2/d, the second the trace of the two projections that take the tokens' own directions out of the gradient.
        ``along`` is a, the share of an isotropic gradient's component in that direction that the incoming one has: zero where
        a norm above has removed it. Where the norm removes the mean, ``along_mean`` is that of the constant direction,
        and ``mean_share`` the squared mean of the token's coordinates over its value q/d for independent ones.

        >>> from symprop.core.symbols import d
        >>> one, zero = sp.S.One, sp.S.Zero
        >>> RMSNorm.gradient_factor(one, one, d, one, zero, zero), LayerNorm.gradient_factor(one, one, d, one, one, one)
        (1 + 1/d, 1 + 1/d)
        """
        own = fluctuation * (3 + r**2) / 2 - along * (2 - r**2)
        return 1 + own / width + cls.removed(width, mean_share - along_mean)

    @abstractmethod
    def normalised_mean(self, x: Signal) -> sp.Expr:
        """Mean of a coordinate after the division."""

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        (x,) = signals
        return sp.S.Zero if self.finite else 2 / x.width

    def forward(self, *signals: Signal) -> Signal:
        self.accept(*signals)
        (x,) = signals
        size2 = self.size2(x)
        q, gap = size2 / (size2 + self.epsilon), x.gap / (size2 + self.epsilon)
        if self.finite:
            gap = CorrelationDeficit(gap, self._freedom_above(0, x.width, NOTHING))
        return x.replace(
            mean=self.normalised_mean(x), q=self.gain2 * q, gap=self.gain2 * gap,
            gaussian=x.gaussian and not self.finite, fresh=x.fresh,
            fixed_norm=self.freedom(x.width) if x.gaussian or x.fixed_norm is not None else None,
        )

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        (x,) = signals
        size2 = self.size2(x)
        gain = self.gain2 / (size2 + self.epsilon)
        if not self.finite:
            return (Gradient(gain * gradient.q, gain * gradient.gap),)
        freedom = self._freedom_above(2, x.width, INFINITE)
        # What a gradient has along its token beyond an isotropic one goes as well.
        along, along_pair = gradient.radial / (freedom - 2), (gradient.radial - gradient.radial_gap) / freedom
        kept = (freedom - 1) / (freedom - 2)
        # Price's theorem: the factor of two tokens is the derivative of their expected correlation, over v.
        lost = CorrelationSlopeDeficit(x.gap / size2, freedom)
        return (Gradient(
            gain * (kept * gradient.q - along),
            gain * (kept * gradient.gap + lost * gradient.p - (along - along_pair)),
        ),)

    def _freedom_above(self, least: int, width: sp.Expr, reason: str) -> sp.Expr:
        freedom = self.freedom(width)
        if freedom.is_number and freedom <= least:
            raise RefusedError(f"{self.describe()} of width {width}", reason, f"a width above {width - freedom + least}")
        return freedom

    def pair(self, *states: PairState) -> PairState:
        (x,) = states
        if x.left is None or x.right is None:
            raise RefusedError(self.describe(), "the sizes of the two tokens are unknown here", "give left and right")
        means = (x.left_mean, x.right_mean)
        removed = [mean if self.normalised_mean(_only_mean(mean, x.width)) == 0 else sp.S.Zero for mean in means]
        sizes = [side - mean**2 for side, mean in zip((x.left, x.right), removed, strict=True)]
        scales = [self.gain2 / (size + self.epsilon) for size in sizes]
        entry = (x.entry - removed[0] * removed[1]) * sp.sqrt(scales[0] * scales[1])
        if self.finite and not x.diagonal:
            entry = self.gain2 * (1 - CorrelationDeficit(1 - entry / self.gain2, self._freedom_above(0, x.width, NOTHING)))
        left, right = (size * scale for size, scale in zip(sizes, scales, strict=True))
        left_mean, right_mean = (
            (mean - gone) * sp.sqrt(scale) for mean, gone, scale in zip(means, removed, scales, strict=True)
        )
        return PairState(entry, None, x.width, left, right, left_mean, right_mean, x.diagonal)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        import numpy as np

        (tokens,) = x
        gain, epsilon = self.number(sp.sqrt(self.gain2), values), self.number(self.epsilon, values)
        centred = self._centre(tokens)
        size = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        output = centred / size

        def vjp(g: Array) -> tuple[Array, ...]:
            along = (g * output).mean(axis=-1, keepdims=True)
            return (gain * self._centre(g - output * along) / size,)

        return gain * output, vjp

    @staticmethod
    @abstractmethod
    def _centre(x: Array) -> Array:
        """Remove the mean of a token's coordinates, or not."""


def _only_mean(mean: sp.Expr, width: sp.Expr) -> Signal:
    return Signal(q=sp.S.One, gap=sp.S.Zero, tokens=sp.S.One, width=width, mean=mean)


@dataclass(frozen=True)
class LayerNorm(_Norm):
    r"""LayerNorm, :math:`y = g (x - \bar x)/\sqrt{s^2 + \epsilon}` with the mean and variance of the token's coordinates.

    .. math:: \mu' = 0, \quad q' = E g^2 \frac{v}{v + \epsilon}, \quad \Delta' = E g^2 \frac{\Delta}{v + \epsilon}, \quad
        g_q' = E g^2 \frac{g_q}{v + \epsilon}

    at infinite width, up to O(1/d). With ``finite`` the gap is that of the expected sample correlation
    (:class:`CorrelationDeficit` with d - 1 degrees of freedom) and the gradient has the factor (d - 2)/(d - 3); both
    and the gradient covariance (:class:`CorrelationSlopeDeficit`) are exact for Gaussian coordinates.
    ``gain2`` is the second moment of the gain.
    Ba et al. 2016; Kedia et al. 2024, component table.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(4), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
    >>> LayerNorm().forward(x).gap
    1/4
    """

    sources = (Source("ba2016", "Section 3"), Source("kedia2024", "component table"))

    @staticmethod
    def size2(x: Signal) -> sp.Expr:
        return x.var

    @staticmethod
    def freedom(width: sp.Expr) -> sp.Expr:
        return width - 1

    @staticmethod
    def removed(width: sp.Expr, mean_share: sp.Expr) -> sp.Expr:
        return mean_share / width

    def normalised_mean(self, x: Signal) -> sp.Expr:
        return sp.S.Zero

    @staticmethod
    def _centre(x: Array) -> Array:
        centred: Array = x - x.mean(axis=-1, keepdims=True)
        return centred


@dataclass(frozen=True)
class RMSNorm(_Norm):
    r"""RMSNorm, :math:`y = g x/\sqrt{\overline{x^2} + \epsilon}`.

    .. math:: \mu' = g \mu/\sqrt{q + \epsilon}, \quad q' = E g^2 \frac{q}{q + \epsilon}, \quad
        \Delta' = E g^2 \frac{\Delta}{q + \epsilon}

    at infinite width, up to O(1/d); the gradient is divided by :math:`q + \epsilon`. With ``finite`` (zero mean only) the
    degrees of freedom are d, where those of :class:`LayerNorm` are d - 1. Zhang & Sennrich 2019.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(4), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
    >>> RMSNorm().forward(x).q
    1
    """

    sources = (Source("zhang2019", "Eq. 4"),)

    @property
    def takes_mean(self) -> bool:  # type: ignore[override]
        """Only the form at infinite width knows a nonzero mean."""
        return not self.finite

    @staticmethod
    def size2(x: Signal) -> sp.Expr:
        return x.q

    @staticmethod
    def freedom(width: sp.Expr) -> sp.Expr:
        return width

    @staticmethod
    def removed(width: sp.Expr, mean_share: sp.Expr) -> sp.Expr:
        return sp.S.Zero

    def normalised_mean(self, x: Signal) -> sp.Expr:
        return x.mean * sp.sqrt(self.gain2 / (x.q + self.epsilon)) if x.mean != 0 else sp.S.Zero

    @staticmethod
    def _centre(x: Array) -> Array:
        return x
