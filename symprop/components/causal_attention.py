"""Softmax attention under a causal mask: moments of every position, and their averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.attention import INDEPENDENT_DROPOUT
from symprop.components.base import Array, Component, Values
from symprop.components.linear import INDEPENDENT_GRADIENT, INDEPENDENT_WEIGHTS
from symprop.components.positional_attention import GAUSSIAN_TOKENS, PositionalAttention
from symprop.core import symbols
from symprop.core.errors import InputError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.softmax_contractions import score_jacobian_square, score_mean_square, score_variance_square
from symprop.functions.softmax_overlap import (
    JacobianOverlap,
    Participation,
    RowOverlap,
    jacobian_square,
    jacobian_trace_square,
    participation_slope,
)
from symprop.functions.token_means import AMPLITUDE, COSINE, LATER, ROW, OverlapGrowth, PairMean, RowMean

if TYPE_CHECKING:
    import numpy as np

RANDOM_SCALE = Assumption(
    "random score scale",
    "the squared scale of the scores of a row has a Gamma law, and scale and correlation of two rows a normal law, with the "
    "moments of Gaussian tokens and weights to first order in 1/d and 1/d_k",
)

LEVELS = ("uniform", "exact")

_RANGE = {"uniform": 0.09, "exact": 4.0}
"""Score variance up to which a level is used without a warning."""


@dataclass(frozen=True)
class CausalAttention(PositionalAttention):
    r"""Softmax attention in which token t attends to the tokens 1, ..., t.

    Row t has the weight moments of t exchangeable tokens. With :math:`\kappa = \tau^2 \sigma_q^2 \sigma_k^2 d_{in}^2` the
    variance of its scores about what they share is :math:`a G`, :math:`a = \kappa q \Delta`, G being random at finite width;
    two rows t < u have scores of variance a P and correlation :math:`\rho`. With the participation :math:`Y_t`, the overlap
    :math:`O_{tu} = E \sum_j A_{tj} A_{uj}`, its slope :math:`B_{tu} = E\, \mathrm{tr} J_t J_u` and
    :math:`C_{tu} = E\, \mathrm{tr} J_t\, \mathrm{tr} J_u` (:math:`J = \mathrm{diag}(A) - A A^\top`):

    .. math::
        \frac{q_t}{d_{in} \sigma_v^2} &= p + \Delta E\Bigl[Y_t + \frac{1}{d_{in}}
            \Bigl(\bigl(\textstyle\sum_j A_j \zeta_j\bigr)^2 - Y_t\Bigr)\Bigr] + \tfrac{P_d}{1 - P_d} q\, E Y_t \\
        \frac{p_{tu}}{d_{in} \sigma_v^2} &= p + \Delta E\Bigl[O_{tu} + \frac{a P \rho}{d_{in}} (B_{tu} + C_{tu})\Bigr]

    The outputs are not exchangeable. :meth:`position` and :meth:`position_pair` give these moments;
    ``forward`` and ``backward`` return averages over positions and pairs of positions, the moments of an exchangeable signal
    that has the same sums. Where all weights of a row are equal, :math:`E Y = H_n/n`.

    ``dropout`` is that of the attention weights. ``level`` is ``exact`` (weight moments of softmax rows) or ``uniform`` (the
    moments of equal weights, rational functions of t; for score variances well below one).

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
    >>> CausalAttention(d, 1/d).forward(x).q
    harmonic(n)/n
    """

    dropout: Any = sp.S.Zero
    level: str = "exact"

    rule = "causal attention"
    reason = "row t of a causal mask is a softmax over t tokens; averages over positions are sums over t"
    assumptions = (GAUSSIAN_TOKENS, RANDOM_SCALE, INDEPENDENT_DROPOUT, INDEPENDENT_WEIGHTS, INDEPENDENT_GRADIENT)
    neglected = (
        "relative O((1/d + 1/d_k)^2 a^2), backward also O(1/(n d)); 4 % in the gradients of queries and keys at a of 4 and "
        "more; outputs are averaged over positions"
    )
    sources = (Source("noci2022", "Eq. 1, with a causal mask"),)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sympify("dropout")
        if self.level not in LEVELS:
            raise InputError("level", self.level, " or ".join(LEVELS))
        if self.dropout.is_number and not 0 <= self.dropout < 1:
            raise InputError("dropout", self.dropout, "a number in [0, 1)")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        small = sp.Rational(1, 10**8)
        return (
            cls(symbols.d_o, symbols.sigma_v2, heads=2),
            cls(symbols.d_o, symbols.sigma_v2, symbols.d_k, small, symbols.sigma_k2, dropout=symbols.P, level="uniform"),
        )

    def describe(self) -> str:
        """Name, width and score parameters, as a reader writes them."""
        more = "" if self.query_variance == 0 else f", d_k={self.key_width}, {self.query_variance}, {self.key_variance}"
        more += "" if self.dropout == 0 else f", P={self.dropout}"
        more += "" if self.heads == 1 else f", heads={self.heads}"
        more += "" if self.query_variance == 0 else f", level={self.level}"
        return f"{type(self).__name__}({self.width}{more})"

    @property
    def _noise(self) -> sp.Expr:
        return self.dropout / (1 - self.dropout)

    def expected_error(self, x: Signal) -> float | None:
        """Of the participation of the last row at the level uniform, of the gradients of queries and keys at the level exact.

        None inside the range (score variance 0.09 and 4), or where it is unknown.
        """
        a = self.score_variance(x)
        if not a.is_number or not x.tokens.is_number or float(a) <= _RANGE[self.level]:
            return None
        if self.level == "exact":
            return 0.04
        from symprop.functions.softmax_values import value

        return float(abs(1 / (x.tokens * value(Participation(a, x.tokens))) - 1))

    def _beyond(self, x: Signal) -> tuple[str, str]:
        exact, a = self.level == "exact", float(self.score_variance(x))
        where = "the gradients of queries and keys" if exact else "the participation of the last row. Use level exact"
        return f"score variance {a:.3g} is beyond the range {_RANGE[self.level]:g} of level {self.level}", where

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        (x,) = signals
        a, width = self.score_variance(x), 2 / sp.sympify(x.width) + 1 / self.key_width
        size = (a * width) ** 2 + self._strength(x) * x.q**2 / (x.tokens * x.width)
        return size if self.level == "exact" else size + x.tokens * self._strength(x) * x.q**2

    # Law of the scores. A level replaces the variance at which weight moments are taken; the paths through the softmax keep a.

    def _weights_variance(self, x: Signal) -> sp.Expr:
        return self.score_variance(x) if self.level == "exact" else sp.S.Zero

    def _scale_variance(self, x: Signal) -> sp.Expr:
        d = sp.sympify(x.width)
        return (1 + 2 / self.key_width) * (1 + 2 / d) ** 2 - 1

    def _spread(self, x: Signal) -> sp.Expr:
        """Half the relative variance of the squared scale, to first order."""
        return 1 / self.key_width + 2 / sp.sympify(x.width)

    def _pair_law(self, x: Signal) -> sp.Tuple:
        """E P, E rho, var P, cov, var rho of two rows; E P rho is the correlation of the tokens."""
        if self._weights_variance(x) == 0:
            return sp.Tuple(1, x.rho, 0, 0, 0)
        r, w = x.rho, self._spread(x)
        loss = 1 - (1 - r**2) * w / 2
        return sp.Tuple(loss, r * loss, (1 + r**2) * w, r * (1 - r**2) * w, (1 - r**2) ** 2 * w)

    # Moments of one row, as expressions in ROW.

    def _row(self, x: Signal, power: sp.Expr = sp.S.Zero) -> tuple[sp.Expr, ...]:
        """Arguments of the weight moments of row t, averaged with G to a power."""
        a = self._weights_variance(x)
        return (a, ROW) if a == 0 else (a, ROW, sp.oo, self._scale_variance(x), power)

    def _key_jacobian(self, x: Signal, power: sp.Expr) -> sp.Expr:
        """Second moment of J_t on the private parts of the keys, over its size for orthogonal keys of unit length."""
        row = self._row(x, power)
        square = jacobian_square(*row)
        return square + (score_jacobian_square(*row) - square) / x.width

    def _form(self, x: Signal, power: sp.Expr) -> sp.Expr:
        """E tr C^2 over the squared norm of the private parts, C = X^T J_t X."""
        row, d = self._row(x, power), x.width
        square, trace = jacobian_square(*row), jacobian_trace_square(*row)
        along, double = score_jacobian_square(*row), score_variance_square(*row)
        return square + (trace - square) / d + 2 * (d - 1) * along / d**2 + (double - trace) / d**2

    def _query_form(self, x: Signal, power: sp.Expr = sp.S.Zero) -> sp.Expr:
        """The same weighted with W_K W_K^T, which is correlated with the scores."""
        row, d = self._row(x, power), x.width
        along = (score_variance_square(*row) + (d - 1) * score_jacobian_square(*row)) / d
        return self._form(x, power) + (along - self._form(x, power)) / self.key_width

    def _own(self, x: Signal) -> sp.Expr:
        return Participation(*self._row(x))

    # Moments of two rows, as expressions in ROW, LATER, AMPLITUDE and COSINE.

    def _pair(self, x: Signal) -> tuple[sp.Expr, ...]:
        a = self._weights_variance(x) * AMPLITUDE
        return a, a * (1 - COSINE), ROW, LATER - ROW

    def _trace_product(self, x: Signal) -> sp.Expr:
        a = self._pair(x)[0]
        plain = (1 - Participation(a, ROW)) * (1 - Participation(a, LATER))
        # A row of one key has no variance, where a square root has no slope.
        single = sp.S.Zero if a == 0 else sp.Piecewise((1, sp.Eq(ROW, 1)), (0, True))
        equal = sp.sqrt(jacobian_trace_square(a, ROW) * jacobian_trace_square(a, LATER) + single) - single
        return plain + COSINE**2 * (equal - plain)

    def _pair_form(self, x: Signal) -> sp.Expr:
        """E tr C_t C_u over the squared norm of the private parts."""
        overlap = JacobianOverlap(*self._pair(x))
        return overlap + (overlap + self._trace_product(x)) / x.width

    def _rows(self, moment: sp.Expr, x: Signal) -> sp.Expr:
        return RowMean(sp.Lambda(ROW, moment), x.tokens)

    def _pairs(self, moment: sp.Expr, x: Signal, law: sp.Tuple | None = None) -> sp.Expr:
        bound = (ROW, LATER, AMPLITUDE, COSINE)
        return PairMean(sp.Lambda(bound, moment), x.tokens, self._pair_law(x) if law is None else law)

    # Forward.

    def _mean_square(self, x: Signal) -> sp.Expr:
        """Second moment of the weighted mean of the private parts, over their variance."""
        return self._own(x) + (score_mean_square(*self._row(x)) - self._own(x)) / x.width

    def _mean_product(self, x: Signal) -> sp.Expr:
        a = self.score_variance(x)
        tilt = a * AMPLITUDE * COSINE * (JacobianOverlap(*self._pair(x)) + self._trace_product(x)) / x.width
        return RowOverlap(*self._pair(x)) + (tilt if self.level == "exact" else 0)

    def position(self, x: Signal) -> sp.Lambda:
        """The second moment of output t, a function of t.

        >>> from symprop.core.symbols import d, n
        >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
        >>> CausalAttention(d, 1/d).position(x)(8)
        1/8
        """
        self.accept(x)
        noise = self._noise * x.q * self._own(x)
        return sp.Lambda(ROW, x.width * self.value_variance * (x.p + x.gap * self._mean_square(x) + noise))

    def position_pair(self, x: Signal) -> sp.Lambda:
        """The product moment of outputs t < u, a function of t, u and the scale and correlation of the scores."""
        self.accept(x)
        bound = (ROW, LATER, AMPLITUDE, COSINE)
        return sp.Lambda(bound, x.width * self.value_variance * (x.p + x.gap * self._mean_product(x)))

    def forward(self, *signals: Signal) -> Signal:
        self.accept(*signals)
        (x,) = signals
        self._warn(x)
        gain = x.width * self.value_variance
        square, noise = self._rows(self._mean_square(x), x), self._noise * x.q * self._rows(self._own(x), x)
        return Signal(
            q=gain * (x.p + x.gap * square + noise),
            gap=sp.S.Zero if x.tokens == 1 else gain * (x.gap * (square - self._pairs(self._mean_product(x), x)) + noise),
            tokens=x.tokens,
            width=self.width,
            gaussian=True,
            fresh=True,
        )

    # Backward, in units of width * value_variance.

    def _value_path(self, x: Signal) -> tuple[sp.Expr, sp.Expr]:
        """Moments of one row and of two rows, with the product of value and key paths."""
        row = self._own(x) / (1 - self.dropout)
        pair = RowOverlap(*self._pair(x))
        if self.level == "exact":
            row += participation_slope(*self._row(x)) / x.width
        return row, pair

    def _key_path(self, x: Signal) -> tuple[sp.Expr, sp.Expr]:
        one = sp.S.One if self.level == "exact" else sp.S.Zero
        strength = self._strength(x)
        row = strength * (x.q * x.gap + self._noise * x.q**2) * self._key_jacobian(x, one)
        return row, self.score_variance(x) * AMPLITUDE * COSINE * JacobianOverlap(*self._pair(x))

    def _query_path(self, x: Signal) -> sp.Expr:
        dropped = self._noise * x.q * x.gap * jacobian_square(*self._row(x))
        return self._strength(x) * (x.gap**2 * self._query_form(x) + dropped)

    def _growth(self, x: Signal) -> sp.Expr:
        """Product of value and key paths of two rows, taken at sharp scores."""
        if self._weights_variance(x) == 0:
            return sp.S.Zero
        return self._pairs(OverlapGrowth(*self._pair(x)), x, sp.Tuple(1, x.rho, 0, 0, 0)) / x.width

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        r"""Averages over positions of the value path and of the paths through queries and keys.

        In units of :math:`d_{out} \sigma_v^2`, s and :math:`g_p` the incoming second moments of one and of two tokens, bars
        averages over rows or pairs of rows:

        .. math::
            q_V + q_{VK} &= s\, \overline{Y/(1 - P_d) + s Y'/d} + (n - 1) g_p\, \overline{O + s O'/d} \\
            q_Q &= \kappa \Delta^2 s\, \overline{c_Q} \qquad
            q_K = a s\, \overline{G J_2} + (n - 1) g_p\, a\, \overline{P \rho B}

        with :math:`c_Q = J_2 + (\mathrm{tr} J)^2/d + \ldots`. The key gradients of a row sum to zero, and the value
        gradients of a row to that of its output, which gives the moment of two tokens.
        """
        self.accept(*signals)
        (x,) = signals
        self._warn(x)
        n = x.tokens
        own, other = self._value_path(x)
        key, keys = self._key_path(x)
        kept = self._rows(own, x) * gradient.q + self._rows(key, x) * gradient.q
        if n != 1:
            kept += (n - 1) * gradient.p * (self._pairs(other, x) + self._growth(x) + self._pairs(keys, x))
        query = self._rows(self._query_path(x), x) * gradient.q
        gain = self.width * self.value_variance
        if n == 1:
            return (Gradient(gain * (kept + query), sp.S.Zero),)
        total = (1 + self._noise * self._rows(self._own(x), x)) * gradient.q + (n - 1) * gradient.p
        shared = (total - kept) / (n - 1)
        shared += self._strength(x) * x.gap**2 * self._pairs(self._pair_form(x), x) * gradient.p
        return (Gradient(gain * (kept + query), gain * (kept + query - shared)),)

    def weight_gradients(self, gradient: Gradient, x: Signal) -> dict[str, sp.Expr]:
        r"""Second moments of dLoss/dW per weight, for ``value``, ``query`` and ``key``.

        >>> from symprop.core.symbols import d, n
        >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
        >>> CausalAttention(d, 1/d).weight_gradients(Gradient(sp.Integer(1), sp.Integer(1)), x)["value"]
        harmonic(n)
        """
        n, d = x.tokens, sp.sympify(x.width)
        out, gain = self.forward(x), x.width * self.value_variance
        value = n * (out.q * gradient.q + (n - 1) * out.p * gradient.p) / gain
        scale = n * self.width * self.value_variance * gradient.q / (self.heads * self.key_width)
        strength = self.temperature**2 * d**2
        form, square = self._pair_form(x), jacobian_square(*self._row(x))
        mean, weighted = self._pairs(form, x), self._pairs(AMPLITUDE * COSINE * form, x)
        correlation = gradient.p / gradient.q

        def path(own: sp.Expr, tilted: sp.Expr, part: sp.Expr) -> sp.Expr:
            """One row, with G as far as the inner product and the scale fluctuate together, and two rows."""
            dropped = self._noise * x.q * x.gap * square
            row = x.gap**2 * ((1 - part) * own + part * tilted) + dropped
            pair = x.gap**2 * (x.rho * mean + part * (weighted - x.rho * mean))
            return scale * strength * x.q * (self._rows(row, x) + correlation * (n - 1) * pair)

        one = sp.S.One if self.level == "exact" else sp.S.Zero
        width = self._spread(x)
        tokens, keys = (1 / d) / width, (1 / self.key_width + 1 / d) / width
        query = path(self._query_form(x), self._query_form(x, one), tokens)
        key = path(self._form(x, sp.S.Zero), self._form(x, one), keys)
        return {"value": value, "query": self.key_variance * query, "key": self.query_variance * key}

    def _hidden(self, count: int) -> Array:
        import numpy as np

        return np.triu(np.ones((count, count), dtype=bool), 1)

    def _mask(self, rng: np.random.Generator, shape: tuple[int, ...], values: Values) -> Array | float:
        keep = 1 - self.number(self.dropout, values)
        return (rng.random(shape) < keep) / keep if keep < 1 else 1.0
