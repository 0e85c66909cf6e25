"""Softmax attention with rotary positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from symprop.components.attention import WeightGradients
from symprop.components.base import Array, Component, Values
from symprop.components.linear import INDEPENDENT_GRADIENT, INDEPENDENT_WEIGHTS
from symprop.components.positional_attention import GAUSSIAN_TOKENS, PositionalAttention, later_keys
from symprop.core import symbols
from symprop.core.errors import InputError, RefusedError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.rotary_means import CENTRED, LAG, NORMAL, SCALE, RotaryAverage, RotaryMean
from symprop.functions.softmax_interpolation import Interpolation
from symprop.functions.softmax_overlap import Participation, WeightMoment, jacobian_square, jacobian_trace_square
from symprop.functions.table_sum import Larger
from symprop.functions.token_means import ROW

PATTERN = Assumption(
    "exchangeable keys",
    "the scores that the shared part of the tokens causes are as if drawn for every key from one law, whose variance and "
    "fourth moment are those of the pattern over positions; for p/q >= 0.5 and score variance >= 4 the overlap of two rows and "
    "the gradients are then 3 to 20 % off",
)


@dataclass(frozen=True)
class RotaryAttention(PositionalAttention):
    r"""Softmax attention with queries and keys rotated by their positions.

    Query i and key j are rotated in the planes f of the first ``rotated`` coordinates by :math:`\theta_f i` and
    :math:`\theta_f j`, :math:`\theta_f = b^{-2f/\mathrm{rotated}}` with the ``base`` b; ``rotated`` None is all of
    ``key_width``. What the tokens share then no longer cancels in the softmax: with :math:`\kappa = \tau^2 \sigma_q^2
    \sigma_k^2 d_{in}^2` the scores of a row vary by

    .. math:: a = a_p + a_r, \qquad a_p = \kappa q \Delta, \qquad a_r = \kappa q p (1 - \bar K)

    over the keys. The part :math:`a_r` is one pattern over positions, stationary with correlation K and of few modes: its
    variance fluctuates from row to row, and given its variance it is a bounded oscillation, so that the law of a key has the
    excess kurtosis :meth:`kurtosis` and the squared scale of a row the relative variance :meth:`scale_variance`. Two rows at
    the lag :math:`\tau` have the correlation :math:`\rho = (p/q) (a_p K + a_r K_c)/a`. With the mean :math:`T = E \sum_j A_j
    \zeta_j` of the scores, Y and V the participation and overlap at these laws,

    .. math::
        \frac{q'}{d_{in} \sigma_v^2} &= p + \Delta \Bigl[Y + T^2 \frac{a_p}{a} \frac{\bar K}{d}
            + \frac{2 a_r}{d} (1 - Y)\Bigr] \\
        \frac{p'}{d_{in} \sigma_v^2} &= p + \Delta \Bigl[V + \frac{p}{q} T^2 \frac{a_p}{a} \frac{\bar K}{d}
            + \frac{2 a_r}{d} (1 - Y)\Bigr]

    Measured against autograd: all moments within 2 % for p/q <= 0.3 or scores (with what they share) of variance at most one;
    at p/q >= 0.5 and variance 4 the overlap and the input gradient are 3 to 9 % low, for longer sequences up to 20 %, because
    neighbouring keys have correlated weights. The averages over lags need numbers for tokens, ``key_width``, ``rotated`` and
    ``base``.

    ``causal`` hides the keys after a row. The law of the scores of a row depends on the number of its keys alone, so that
    :meth:`position` has the second moment of every output; what two rows of different lengths have in common is not known, and
    averages over positions are refused.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.Rational(1, 2), tokens=sp.Integer(64), width=sp.Integer(128), gaussian=True)
    >>> layer = RotaryAttention(64, sp.Rational(1, 128), 64, sp.Rational(1, 128), sp.Rational(1, 128))
    >>> [sp.N(item, 4) for item in (layer.coherence(x), layer.pattern_variance(x), layer.forward(x).q)]
    [0.6332, 0.1834, 0.5174]
    """

    rotated: Any = None
    base: Any = 10000
    causal: bool = False

    rule = "rotary attention"
    reason = "rotations make the scores of what tokens share depend on the lag, which the softmax sees but for its mean"
    assumptions = (GAUSSIAN_TOKENS, PATTERN, INDEPENDENT_WEIGHTS, INDEPENDENT_GRADIENT)
    neglected = "2 % for p/q <= 0.3 or score variance <= 1; backward up to 20 % for p/q >= 0.5 and score variance >= 4"
    sources = (Source("noci2022", "Eq. 1, with rotary positions"),)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rotated", self.key_width if self.rotated is None else self.rotated)
        self._sympify("rotated", "base")
        even = self.rotated.is_Integer and self.rotated >= 0 and self.rotated % 2 == 0
        beyond = self.rotated.is_number and self.key_width.is_number and self.rotated > self.key_width
        if self.rotated.is_number and self.query_variance != 0 and (not even or beyond):
            raise InputError("rotated", self.rotated, f"an even integer from 0 to key_width = {self.key_width}")
        if self.base.is_number and not self.base > 0:
            raise InputError("base", self.base, "a number > 0")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        small = sp.Rational(1, 10**8)
        return (
            cls(symbols.d_o, symbols.sigma_v2, heads=2),
            cls(symbols.d_o, symbols.sigma_v2, symbols.d_k, small, symbols.sigma_k2, rotated=2, base=100),
        )

    def describe(self) -> str:
        """Name, width and score parameters, as a reader writes them."""
        more = "" if self.query_variance == 0 else f", d_k={self.key_width}, {self.query_variance}, {self.key_variance}"
        more += "" if self.rotated == self.key_width else f", rotated={self.rotated}"
        more += "" if self.heads == 1 else f", heads={self.heads}"
        more += f", base={self.base}" + (", causal" if self.causal else "")
        return f"{type(self).__name__}({self.width}{more})"

    def accept(self, *signals: Signal) -> None:
        """Gaussian tokens; no averages over positions under a causal mask."""
        super().accept(*signals)
        if self.causal:
            raise RefusedError(
                self.describe(),
                "the overlap of two rows of different lengths whose scores depend on the lag is not known",
                "take position(x) for the second moment of a row, or a CausalAttention without rotary positions; an audit of a "
                "whole model follows the Gram matrix of its tokens, under both",
            )

    def position(self, x: Signal) -> sp.Lambda:
        """The second moment of an output that sees t keys, a function of t: under a causal mask that of output t.

        >>> x = Signal(q=sp.Integer(1), gap=sp.Rational(1, 2), tokens=sp.Integer(64), width=sp.Integer(128), gaussian=True)
        >>> layer = RotaryAttention(64, sp.Rational(1, 128), 64, sp.Rational(1, 128), sp.Rational(1, 128), causal=True)
        >>> layer.position(x)(1), sp.N(layer.position(x)(64), 4)
        (1, 0.5174)
        """
        several = replace(self, causal=False).forward(x.replace(tokens=ROW)).q
        return sp.Lambda(ROW, sp.Piecewise((x.width * self.value_variance * x.q, sp.Eq(ROW, 1)), (several, True)))

    # Laws of the scores.

    def _average(self, kind: str, x: Signal) -> sp.Expr:
        return RotaryAverage(kind, x.tokens, self.key_width, self.rotated, self.base)

    def coherence(self, x: Signal) -> sp.Expr:
        """Mean of K over all pairs of positions: the fraction of the shared scores that cancels."""
        return self._average("coherence", x)

    def pattern_variance(self, x: Signal) -> sp.Expr:
        """Variance over keys of the scores of what the tokens share."""
        return self._strength(x) * x.q * x.p * (1 - self.coherence(x))

    def _total(self, x: Signal) -> sp.Expr:
        return self.score_variance(x) + self.pattern_variance(x)

    def scale_variance(self, x: Signal) -> sp.Expr:
        """Relative variance of the variance of the scores of a row."""
        own, pattern = self.score_variance(x), self.pattern_variance(x)
        norm, weights = 2 / sp.sympify(x.width), 2 / self.key_width
        sharing, peak, square = (self._average(kind, x) for kind in ("sharing", "peak", "square"))
        spread = own**2 * ((1 + weights) * (1 + norm * square) * (1 + norm) - 1)
        spread += pattern**2 * ((1 + 2 * sharing + 2 * peak) * (1 + norm) - 1)
        return (spread + 2 * own * pattern * (weights + norm)) / self._total(x) ** 2

    def kurtosis(self, x: Signal) -> sp.Expr:
        """Excess kurtosis of the scores of a row, given their variance; -3 at least, which stands for one oscillation."""
        own, pattern = self.score_variance(x), self.pattern_variance(x)
        sharing, peak, square = (self._average(kind, x) for kind in ("sharing", "peak", "square"))
        fourth = own**2 * 6 * (1 - square) / x.width - pattern**2 * (6 * sharing + 3 * peak)
        return Larger(fourth / self._total(x) ** 2, sp.Integer(-3))

    def expected_error(self, x: Signal) -> float | None:
        """Largest relative error of the input gradient measured outside the stated range; None inside or unknown."""
        shared, raw = x.rho, self._strength(x) * x.q**2
        if not shared.is_number or not raw.is_number or x.tokens == 1 or float(shared) <= 0.3 or float(raw) <= 1:
            return None
        return 0.2 if float(shared) >= 0.5 and float(raw) >= 4 else 0.09

    def _beyond(self, x: Signal) -> tuple[str, str]:
        raw = float(self._strength(x) * x.q**2)
        return (
            f"token correlation {float(x.rho):.3g} and score variance {raw:.3g} are beyond the range (0.3, or variance 1) of "
            "exchangeable keys", "the overlap and the gradients, or less",
        )

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        (x,) = signals
        strength = self._strength(x) * x.q**2
        return strength * (x.tokens + x.rho)

    # Moments of one row, as expressions in SCALE.

    def _row(self, x: Signal) -> tuple[sp.Expr, ...]:
        """Arguments of the weight moments of a row of squared scale G."""
        if self._uniform(x):
            return sp.S.Zero, x.tokens
        kurtosis = self.kurtosis(x)
        return self._total(x) * SCALE, x.tokens, sp.oo if kurtosis == 0 else -6 / kurtosis

    def _score_mean(self, x: Signal) -> sp.Expr:
        """T, the weighted mean of the scores over their scale."""
        row = self._row(x)
        return WeightMoment(((1, 1),), *row) * (sp.S.One if row[2] is sp.oo else sp.sqrt(Larger(row[2], sp.S.One)))

    def _mean(self, moment: sp.Expr, x: Signal, rows: int = 1) -> sp.Expr:
        """Over the scale of one row, or over that of two and their lag."""
        if self._uniform(x):
            return moment
        bound, spread = (LAG, CENTRED, SCALE, NORMAL), self.scale_variance(x) / rows
        return RotaryMean(sp.Lambda(bound, moment), spread, x.tokens, self.key_width, self.rotated, self.base)

    def _own(self, x: Signal) -> sp.Expr:
        return self._mean(Participation(*self._row(x)), x)

    # Two rows, as expressions in LAG, CENTRED, SCALE and NORMAL.

    def _cosine_spread(self, x: Signal) -> sp.Expr:
        return 1 / self.key_width + 2 / sp.sympify(x.width)

    def _shared(self, x: Signal) -> sp.Expr:
        """Covariance of the scores of two rows in a column, over p/q."""
        return self.score_variance(x) * LAG + self.pattern_variance(x) * CENTRED

    def _turn(self, x: Signal) -> sp.Expr:
        """One minus the squared correlation, at its mean."""
        return 1 - (x.rho * self._shared(x) / self._total(x)) ** 2

    def _lines(self, x: Signal) -> tuple[Interpolation, sp.Expr]:
        """Two rows of one scale G, and the gap of their scores."""
        n, row = x.tokens, self._row(x)
        own, variance = Participation(*row), row[0]
        lines = Interpolation(
            variance, n, sp.S.Zero, self._score_mean(x) ** 2 * n / ((n - 1) * variance), sp.log(n * own) / variance,
            jacobian_square(*row) / own, sp.S.Zero, (sp.S.Zero, sp.S.Zero), own,
        )
        spread = self.score_variance(x) / self._total(x) * sp.sqrt(self._cosine_spread(x)) * self._turn(x) * NORMAL
        cosine = x.rho * self._shared(x) / self._total(x) + spread
        return lines, variance * Larger(1 - cosine, sp.S.Zero)

    def _uniform(self, x: Signal) -> bool:
        return bool(self._strength(x) == 0 or x.tokens == 1)

    def _overlap(self, x: Signal) -> sp.Expr:
        if self._uniform(x):
            return 1 / x.tokens
        lines, gap = self._lines(x)
        return self._mean(lines.overlap(gap), x, 2)

    def _jacobian(self, factor: sp.Expr, x: Signal) -> sp.Expr:
        """Average of a factor and the overlap of the softmax Jacobians of two rows."""
        lines, gap = self._lines(x)
        return self._mean(factor * lines.jacobian(gap), x, 2)

    def _tilt(self, x: Signal) -> sp.Expr:
        """Second moment of the weighted mean of the keys along the query, over their private variance."""
        if self._uniform(x):
            return sp.S.Zero
        return self._mean(self._score_mean(x), x) ** 2 * self.score_variance(x) / self._total(x) * self.coherence(x) / x.width

    def forward(self, *signals: Signal) -> Signal:
        self.accept(*signals)
        (x,) = signals
        self._warn(x)
        gain, own, tilt = x.width * self.value_variance, self._own(x), self._tilt(x)
        bent = sp.S.Zero if self._uniform(x) else 2 * self.pattern_variance(x) * (1 - own) / x.width
        difference = own - self._overlap(x) + (1 - x.rho) * tilt if tilt != 0 else own - self._overlap(x)
        return Signal(
            q=gain * (x.p + x.gap * (own + tilt + bent)),
            gap=sp.S.Zero if x.tokens == 1 else gain * x.gap * difference,
            tokens=x.tokens,
            width=self.width,
            gaussian=True,
            fresh=True,
        )

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        r"""Value path and the paths through queries and keys, in units of :math:`d_{out} \sigma_v^2`.

        With s and :math:`g_p` the incoming second moments of one and of two tokens, B the overlap of the softmax Jacobians:

        .. math::
            q_V &= Y s + (n - 1) V g_p \qquad
            q_Q = \tfrac{\Delta}{q} \bigl[a J_2 + a_p \bar K\, (\mathrm{tr} J)^2/d\bigr] s \\
            q_K &= a_p\, G J_2\, s + (n - 1) g_p \bigl[a_p \tfrac{p}{q} \overline{K B} + v\, \overline{(1 - \rho^2) x B}\bigr]

        where the last term is the fluctuation of the correlation of two rows (x normal, v its covariance with the inner
        product of the queries). The key gradients of a row no longer sum to zero, as every key is rotated by its position.
        """
        self.accept(*signals)
        (x,) = signals
        self._warn(x)
        n, gain = x.tokens, self.width * self.value_variance
        own, overlap = self._own(x), self._overlap(x)
        value = own * gradient.q + ((n - 1) * overlap * gradient.p if n != 1 else 0)
        if n == 1:
            return (Gradient(gain * value, sp.S.Zero),)
        total = gradient.q + (n - 1) * gradient.p
        if self._strength(x) == 0:
            return (Gradient(gain * value, gain * (value - (total - value) / (n - 1))),)
        private, coherence = self.score_variance(x), self.coherence(x)
        mean, seen = self._forms(x)
        query = x.gap / x.q * seen * gradient.q
        key = private * self._mean(SCALE * jacobian_square(*self._row(x)), x) * gradient.q
        covariance = private * self._cosine_spread(x)
        covariance += self.pattern_variance(x) * (1 / self.key_width + 1 / sp.sympify(x.width))
        keys = private * x.rho * self._jacobian(LAG, x) + covariance * self._turned(x)
        low = LAG - (1 - coherence) * CENTRED
        off = key * (n * coherence - 1) / (n - 1) + (n - 1) * gradient.p * private * x.rho * self._jacobian(low, x)
        q = value + query + key + (n - 1) * gradient.p * keys
        shared = (total - value - off) / (n - 1) + x.gap / x.q * mean * gradient.p
        return (Gradient(gain * q, gain * (q - shared)),)

    def _forms(self, x: Signal) -> tuple[sp.Expr, sp.Expr]:
        """Second moment of what queries learn through the keys: of two rows and of one."""
        part = self.score_variance(x) * self.coherence(x) / x.width
        pair = self._jacobian(self._shared(x), x) + part * (1 - self._own(x)) ** 2
        return pair, self._learnt(sp.S.One, x)

    def _learnt(self, weight: sp.Expr, x: Signal) -> sp.Expr:
        row, part = self._row(x), self.score_variance(x) * self.coherence(x) / x.width
        return self._mean(weight * self._total(x) * jacobian_square(*row) + part * jacobian_trace_square(*row), x)

    def _turned(self, x: Signal) -> sp.Expr:
        """Jacobian overlap of two rows per fluctuation of their correlation."""
        return self._jacobian(self._turn(x) * NORMAL / sp.sqrt(self._cosine_spread(x)), x)

    def weight_gradients(self, gradient: Gradient, x: Signal) -> WeightGradients:
        """E ||dLoss/dW||^2 of the query, key and value matrices, as :meth:`Attention.weight_gradients`."""
        n, d, value = x.tokens, sp.sympify(x.width), self._value_gradient(gradient, x)
        if self._uniform(x):
            return WeightGradients(sp.S.Zero, sp.S.Zero, value)
        scale = n * d * self.width * self.value_variance * x.gap
        mean, seen = self._forms(x)
        turned = self._total(x) * self._turned(x)

        def path(own: sp.Expr, part: sp.Expr) -> sp.Expr:
            return scale * (own * gradient.q + (n - 1) * gradient.p * (x.rho * mean + part * turned))

        query, key = path(seen, 1 / d), path(self._learnt(SCALE, x), 1 / self.key_width + 1 / d)
        return WeightGradients(query / self.query_variance, key / self.key_variance, value)

    def _hidden(self, count: int) -> Array | None:
        return later_keys(count) if self.causal else None

    def _placed(self, x: Array, values: Values, sign: int = 1) -> Array:
        import numpy as np

        half = int(self.number(self.rotated, values)) // 2
        if 2 * half > x.shape[2]:
            raise InputError("rotated", 2 * half, f"at most the key width {x.shape[2]}")
        base = self.number(self.base, values)
        angle = sign * np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / max(half, 1))
        one, two, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([one * cos - two * sin, one * sin + two * cos, rest], axis=2)
