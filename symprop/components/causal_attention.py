"""Softmax attention under a causal mask: moments of every position, and their averages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.attention import GAUSSIAN_SCORES, INDEPENDENT_DROPOUT, WeightGradients, by_shared_length
from symprop.components.base import Array, Component, Values
from symprop.components.linear import INDEPENDENT_GRADIENT, INDEPENDENT_WEIGHTS
from symprop.components.positional_attention import PositionalAttention, later_keys
from symprop.core import symbols
from symprop.core.errors import InputError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.softmax_contractions import aligned_slope, gram_jacobian_square, private_square, score_mean
from symprop.functions.softmax_layer import Geometry, row_moment
from symprop.functions.softmax_overlap import JacobianOverlap, Participation, RowOverlap, WeightMoment, jacobian_trace_square
from symprop.functions.token_means import (
    AMPLITUDE,
    COSINE,
    LATER,
    ROW,
    OverlapGrowth,
    PairMean,
    RowMean,
    SphereOverlap,
    SphereSlope,
    sharp,
)

if TYPE_CHECKING:
    import numpy as np

RANDOM_SCALE = Assumption(
    "random score scale",
    "the squared scale of the scores of a row has a Gamma law, and scale and correlation of two rows a normal law, with the "
    "moments of the tokens and of Gaussian weights to first order in 1/d and 1/d_k",
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

    Tokens are Gaussian, or Gaussian ones of fixed norm where ``Signal.fixed_norm`` says so: then the moments of a row are those
    of cosines mixed with normal scores (as in :class:`Attention`), two rows meet between the exact ends of keys on a sphere,
    and the gradient knows its part along its own token.

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
    assumptions = (GAUSSIAN_SCORES, RANDOM_SCALE, INDEPENDENT_DROPOUT, INDEPENDENT_WEIGHTS, INDEPENDENT_GRADIENT)
    neglected = (
        "relative O((1/d + 1/d_k)^2 a^2), backward also O(1/(n d)); 4 % in the gradients of queries and keys at a of 4 and "
        "more, 3 to 5 % after a norm where gradients are correlated; outputs are averaged over positions"
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

    def geometry(self, x: Signal) -> Geometry:
        """What the weight moments of row t depend on."""
        deficit = sp.S.Zero if x.gap == 0 else x.gap / x.q
        width = sp.sympify(x.width if x.fixed_norm is None else x.fixed_norm)
        return Geometry(ROW, width, self.key_width, self._weights_variance(x), deficit, unit=int(x.fixed_norm is not None))

    def _pair_law(self, x: Signal) -> sp.Tuple:
        """E P, E rho, var P, cov, var rho of two rows; E P rho is the correlation of the tokens."""
        item = self.geometry(x)
        if item.variance == 0:
            return sp.Tuple(1, x.rho, 0, 0, 0)
        r, w = x.rho, item.key_spread + item.token_spread
        turned = item.product_variance if item.unit else (1 - r**2) ** 2 * item.token_spread
        loss = 1 - (1 - r**2) * w / 2
        return sp.Tuple(loss, r * loss, (1 + r**2) * w, r * (1 - r**2) * w, (1 - r**2) ** 2 * item.key_spread + turned)

    # Moments of one row, as expressions in ROW.

    def _moment(self, name: str, x: Signal, power: sp.Expr = sp.S.Zero) -> sp.Expr:
        """Of row t, averaged with G to a power."""
        item = self.geometry(x)
        return row_moment(name, item, sp.S.Zero if item.variance == 0 else item.scale_variance, power)

    def _query_form(self, x: Signal, power: sp.Expr = sp.S.Zero) -> sp.Expr:
        """The second moment of C = X^T J_t X as W_K W_K^T weighs it, which is correlated with the scores."""
        form, along = self._moment("form", x, power), self.geometry(x).dimension * self._moment("along", x, power)
        return form + (along - form) / self.key_width

    def _own(self, x: Signal) -> sp.Expr:
        return self._moment("own", x)

    # Moments of two rows, as expressions in ROW, LATER, AMPLITUDE and COSINE.

    def _mixed(self, x: Signal, of: Callable[[sp.Expr], sp.Expr]) -> sp.Expr:
        """A moment by the dimension of the keys: tokens of fixed norm mix keys on a sphere with normal ones, oo."""
        item = self.geometry(x)
        if not item.unit:
            return of(sp.oo)
        return item.deficit**2 * of(item.dimension) + (1 - item.deficit**2) * of(sp.oo)

    def _pair(self, x: Signal) -> tuple[sp.Expr, ...]:
        a = self._weights_variance(x) * AMPLITUDE
        return a, a * (1 - COSINE), ROW, LATER - ROW

    def _overlap(self, x: Signal, dimension: sp.Expr) -> sp.Expr:
        return RowOverlap(*self._pair(x)) if dimension is sp.oo else SphereOverlap(*self._pair(x), dimension)

    def _jacobian(self, x: Signal, dimension: sp.Expr) -> sp.Expr:
        """E tr(J_t J_u) with the Gram matrix of keys on a sphere."""
        if dimension is sp.oo or self._weights_variance(x) == 0:
            return JacobianOverlap(*self._pair(x))
        # For equal scores the Gram matrix changes it by a factor, which is that of the later row.
        later = self._pair(x)[0], LATER, dimension
        turn = gram_jacobian_square(*later) / aligned_slope(*later) - 1
        return SphereSlope(*self._pair(x), dimension) * (1 + turn * COSINE**2)

    def _trace_product(self, x: Signal, dimension: sp.Expr) -> sp.Expr:
        a = self._pair(x)[0]
        rows = (a, ROW, dimension), (a, LATER, dimension)
        plain = (1 - Participation(*rows[0])) * (1 - Participation(*rows[1]))
        # A row of one key has no variance, where a square root has no slope.
        single = sp.S.Zero if a == 0 else sp.Piecewise((1, sp.Eq(ROW, 1)), (0, True))
        equal = sp.sqrt(jacobian_trace_square(*rows[0]) * jacobian_trace_square(*rows[1]) + single) - single
        return plain + COSINE**2 * (equal - plain)

    def _pair_form(self, x: Signal) -> sp.Expr:
        """E tr C_t C_u over the squared norm of the private parts."""
        def form(dimension: sp.Expr) -> sp.Expr:
            jacobian, width = self._jacobian(x, dimension), self.geometry(x).dimension
            once = jacobian if dimension is sp.oo else sp.S.Zero
            return jacobian + (once + self._trace_product(x, dimension)) / width

        return self._mixed(x, form)

    def _rows(self, moment: sp.Expr, x: Signal) -> sp.Expr:
        return RowMean(sp.Lambda(ROW, moment), x.tokens)

    def _pairs(self, moment: sp.Expr, x: Signal, law: sp.Tuple | None = None) -> sp.Expr:
        bound = (ROW, LATER, AMPLITUDE, COSINE)
        return PairMean(sp.Lambda(bound, moment), x.tokens, self._pair_law(x) if law is None else law)

    # Forward.

    def _mean_square(self, x: Signal) -> sp.Expr:
        """Second moment of the weighted mean of the private parts, over their variance."""
        return self._moment("mean", x) - self._lost_norm(x)

    def _lost_norm(self, x: Signal) -> sp.Expr:
        """What a fixed norm takes from it: a large private part comes with a small shared one."""
        item = self.geometry(x)
        return (1 - item.deficit**2) / item.dimension * self._moment("excess", x, sp.S.One) if item.unit else sp.S.Zero

    def _mean_product(self, x: Signal) -> sp.Expr:
        if self.level != "exact":
            return RowOverlap(*self._pair(x))
        a, width = self._pair(x)[0], self.geometry(x).dimension

        def product(dimension: sp.Expr) -> sp.Expr:
            if dimension is sp.oo:
                tilt = a * COSINE * (self._jacobian(x, dimension) + self._trace_product(x, dimension)) / width
            else:
                row = a, ROW, dimension
                own, cube = Participation(*row), WeightMoment((3,), *row)
                tilt = COSINE * (1 - COSINE**2) * score_mean(*row) * score_mean(a, LATER, dimension) / width
                tilt += COSINE**3 * (private_square(*row) - own)
                tilt -= (1 - COSINE) * 2 * a / (LATER * width) * (1 - 3 * own + 2 * cube)
            return self._overlap(x, dimension) + tilt

        # Over all pairs the norm that two rows lose is the mean of what each loses.
        lost = (self._lost_norm(x) + self._lost_norm(x).xreplace({ROW: LATER})) / 2
        return self._mixed(x, product) - lost

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
        """Moments of one row and of two rows."""
        return self._own(x) / (1 - self.dropout), self._mixed(x, lambda dimension: self._overlap(x, dimension))

    def _key_path(self, x: Signal) -> tuple[sp.Expr, sp.Expr]:
        one = sp.S.One if self.level == "exact" else sp.S.Zero
        strength = self._strength(x)
        row = strength * (x.q * x.gap + self._noise * x.q**2) * self._moment("jacobian", x, one)
        jacobian = self._mixed(x, lambda dimension: self._jacobian(x, dimension))
        return row, self.score_variance(x) * AMPLITUDE * COSINE * jacobian

    def _alone(self, x: Signal) -> sp.Expr:
        """The query path of one row, in units of the score strength."""
        return (1 - 1 / self.geometry(x).dimension) * self._query_form(x) + self._moment("along", x)

    def _query_path(self, x: Signal) -> sp.Expr:
        dropped = self._noise * x.q * x.gap * self._moment("square", x)
        return self._strength(x) * (x.gap**2 * self._alone(x) + dropped)

    def _cross(self, gradient: Gradient, x: Signal) -> sp.Expr:
        """Product of value and key paths; that of two rows at sharp scores."""
        if self._weights_variance(x) == 0:
            return sp.S.Zero
        total = self._rows(self._moment("slope", x, sp.S.One), x) * gradient.q
        if x.tokens != 1:
            total += (x.tokens - 1) * gradient.p * self._pairs(self._growth(x), x, sharp(x.rho))
        return total / self.geometry(x).dimension

    def _growth(self, x: Signal) -> sp.Expr:
        def growth(dimension: sp.Expr) -> sp.Expr:
            return OverlapGrowth(*self._pair(x), *(() if dimension is sp.oo else (dimension,)))

        return self._mixed(x, growth)

    def _radial(self, gradient: Gradient, x: Signal, cross: sp.Expr, key: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
        """The gradient along its own token beyond an isotropic one, and the same of two; see :meth:`Attention.backward`."""
        item, others = self.geometry(x), x.tokens - 1
        half, pull = self._growth(x) / 2, self._moment("pull", x, sp.S.Half)
        overlap = self._mixed(x, lambda dimension: self._overlap(x, dimension))
        tilt = (1 - self._own(x)) * half + overlap * pull
        query = self._strength(x) * x.gap**2 * self._rows(item.dimension * self._moment("along", x) - self._alone(x), x)
        excess = self.score_variance(x) * self._rows(self._moment("key_along", x, sp.S.One), x) * gradient.q
        value = self._rows(self._moment("value_along", x, sp.S.Half), x) * gradient.q
        if x.tokens != 1:
            scores = tilt * ((1 - self._own(x)) * half / overlap + pull)
            excess += others * gradient.p * self._pairs(scores, x, sharp(x.rho))
            value += others * gradient.p * self._pairs(tilt, x, sharp(x.rho))
        radial = query * gradient.q + item.deficit * (excess + 2 * value) - cross
        both = item.deficit * (x.tokens * gradient.common(x.tokens) * self._rows(pull, x) - 2 * value) - item.deficit * excess
        return radial, radial - 2 * both / others

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
        row, pair = self._key_path(x)
        value, key, cross = self._rows(own, x) * gradient.q, self._rows(row, x) * gradient.q, self._cross(gradient, x)
        if n != 1:
            value += (n - 1) * gradient.p * self._pairs(other, x)
            key += (n - 1) * gradient.p * self._pairs(pair, x)
        kept = value + cross + key
        query = self._rows(self._query_path(x), x) * gradient.q
        gain = self.width * self.value_variance
        if n == 1:
            return (Gradient(gain * (kept + query), sp.S.Zero),)
        total = (1 + self._noise * self._rows(self._own(x), x)) * gradient.q + (n - 1) * gradient.p
        shared = (total - kept) / (n - 1)
        shared += self._strength(x) * x.gap**2 * self._pairs(self._pair_form(x), x) * gradient.p
        radial = (sp.S.Zero, sp.S.Zero)
        if x.fixed_norm is not None and self._weights_variance(x) != 0:
            radial = self._radial(gradient, x, cross, key)
        return (Gradient(*(gain * item for item in (kept + query, kept + query - shared, *radial))),)

    def weight_gradients(self, gradient: Gradient, x: Signal) -> WeightGradients:
        """E ||dLoss/dW||^2 of the query, key and value matrices, as :meth:`Attention.weight_gradients`.

        >>> from symprop.core.symbols import d, n
        >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
        >>> CausalAttention(d, 1/d).weight_gradients(Gradient(sp.Integer(1), sp.Integer(1)), x).value
        d**2*harmonic(n)
        """
        return WeightGradients.mean((part, self._weight_gradients(gradient, given)) for part, given in by_shared_length(x))

    def _weight_gradients(self, gradient: Gradient, x: Signal) -> WeightGradients:
        """The same at a given length of what the tokens share."""
        n, d = x.tokens, sp.sympify(x.width)
        scale = n * d * self.width * self.value_variance * gradient.q
        strength = self.temperature**2 * d**2
        form, square = self._pair_form(x), self._moment("square", x)
        mean, weighted = self._pairs(form, x), self._pairs(AMPLITUDE * COSINE * form, x)
        correlation = gradient.p / gradient.q
        # A token is among its own keys: E |z_t|^2 f = (1 + 4/(t d)) E |z_t|^2 E f of the private parts, for f of degree 4.
        lengthened = 1 if x.fixed_norm is not None else 1 + 4 * x.gap / (x.q * ROW * d)

        def path(own: sp.Expr, tilted: sp.Expr, part: sp.Expr, share: sp.Expr) -> sp.Expr:
            """One row, with G as far as a norm and the scale fluctuate together, and two rows with their inner product."""
            dropped = self._noise * x.q * x.gap * square
            row = x.gap**2 * lengthened * ((1 - part) * own + part * tilted) + dropped
            pair = x.gap**2 * (x.rho * mean + share * (weighted - x.rho * mean))
            return scale * strength * x.q * (self._rows(row, x) + correlation * (n - 1) * pair)

        one, item = sp.S.One if self.level == "exact" else sp.S.Zero, self.geometry(x)
        width = item.key_spread + item.token_spread
        own_form = self._moment("form", x), self._moment("form", x, one)
        product = item.product_variance / (1 + x.rho**2) if item.unit else item.token_spread
        total = width if not item.unit else item.key_spread + product
        query = path(self._query_form(x), self._query_form(x, one), item.token_spread / width, product / total)
        key = path(*own_form, (1 / self.key_width + item.token_spread) / width, (1 / self.key_width + product) / total)
        return WeightGradients(self.key_variance * query, self.query_variance * key, self._value_gradient(gradient, x))

    def _hidden(self, count: int) -> Array:
        return later_keys(count)

    def _mask(self, rng: np.random.Generator, shape: tuple[int, ...], values: Values) -> Array | float:
        keep = 1 - self.number(self.dropout, values)
        return (rng.random(shape) < keep) / keep if keep < 1 else 1.0
