"""Softmax attention at finite length: forward moments, input gradient and weight gradients, with dropout on the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.level_warning import RangedAttention
from symprop.components.linear import INDEPENDENT_GRADIENT, INDEPENDENT_WEIGHTS, Linear, gaussian_matrix
from symprop.core import symbols
from symprop.core.errors import InputError, RefusedError, UnknownNameError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.softmax_layer import LEVELS, Geometry, layer_moment

if TYPE_CHECKING:
    import numpy as np

GAUSSIAN_SCORES = Assumption(
    "Gaussian scores",
    "tokens are jointly Gaussian, or Gaussian ones that a norm has given a fixed size; query and key weights are Gaussian and "
    "independent, so that the scores of a row are Gaussian given its query, at a scale that fluctuates",
)
INDEPENDENT_DROPOUT = Assumption("independent dropout", "attention weights are dropped independently of each other")

_NEGLECTED = {
    "uniform": "the effect of the scores on the weights, relative O(a) with a the score variance",
    "closed_form": "the tail of e^score beyond its variance, second order in 1/d_k + 2/d",
    "exact": "second order in 1/d_k + 2/d, and what a cubic through the ends misses of the overlap of two rows",
    "reference": "second order in 1/d_k + 2/d",
}
_RANGE = {"uniform": 0.3, "closed_form": 1.0, "exact": 3.0, "reference": math.inf}
"""Score standard deviation up to which a level is used without a warning."""


def by_shared_length(x: Signal) -> tuple[tuple[sp.Expr, Signal], ...]:
    """Tokens of fixed norm at two lengths of what they shared before the norm, with the weights of these; others as they are.

    The squared length of a Gaussian vector of D entries has the relative variance 2/D. What a norm leaves of it changes the
    gap of the tokens by 2 rho^2/D, relative and squared: Gauss's rule of two nodes of a Gamma law.
    """
    if x.fixed_norm is None or x.gap == 0:
        return ((sp.S.One, x),)
    spread = 2 * x.rho**2 / x.fixed_norm
    share = sp.sqrt(spread / (1 + spread))
    return tuple(
        ((1 - sign * share) / 2, x.replace(gap=x.gap * (1 + spread) * (1 + sign * share))) for sign in (-1, 1)
    )


@dataclass(frozen=True)
class WeightGradients:
    """E ||dLoss/dW||^2, summed over all entries and heads; ``query_bias`` that of the query bias."""

    query: sp.Expr
    key: sp.Expr
    value: sp.Expr
    query_bias: sp.Expr = sp.S.Zero

    @classmethod
    def mean(cls, parts: Iterable[tuple[sp.Expr, WeightGradients]]) -> WeightGradients:
        """The sum of weights times gradients."""
        rows = [[weight * getattr(item, one.name) for one in fields(cls)] for weight, item in parts]
        return cls(*(sp.Add(*column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Attention(RangedAttention):
    r"""Softmax attention :math:`y = D(\mathrm{softmax}(M)) V`, :math:`M = \tau Q K^\top/\sqrt{d_k}`.

    :math:`Q = X W^Q + b^Q`, and K and V likewise; D is inverted dropout with probability P on the attention weights. With
    :math:`\kappa = \tau^2 \sigma_q^2 \sigma_k^2 d_{in}^2` and :math:`\beta = \sigma_{b_q}^2/(\sigma_q^2 d_{in} q)` the scores
    of a row have the variance :math:`a = \kappa q \Delta (1 + \beta)` about what they share. Forward

    .. math::
        \frac{q'}{d_{in} \sigma_v^2} &= p + \Delta M + \tfrac{P}{1 - P} (q Y + \Delta (Y_2 - Y)) + \dots \\
        \frac{\Delta'}{d_{in} \sigma_v^2} &= \Delta (M - M_2) + \tfrac{P}{1 - P} (q Y + \Delta (Y_2 - Y))

    with the second moment M of the weighted mean of the tokens' private parts, that of two rows M_2, and the participation Y
    (:math:`Y_2` weighs with the private norms). The difference is carried and keeps its digits near collapse. Backward there is
    the value path, its product with the key path, the query path and the key path (:meth:`backward`); gradients of the weights
    are in :meth:`weight_gradients`.

    The weight moments are :class:`~symprop.functions.softmax_layer.LayerMoment`, averages over the fluctuating scale of the
    scores, the correlation of two rows and the private Gram matrix of the tokens. ``level`` says how exactly they are known:

    - ``uniform``: all weights are 1/n, with the softmax's derivative there (score standard deviation below 0.3);
    - ``closed_form``: elementary functions, with Gamma variables of equal mean and variance for the exponentials (below 1);
    - ``exact``: integrals over one row, and the overlap of two rows between its exact ends (error
      3% at deviation 3, 8% at 4.5, 15% at 6);
    - ``reference``: the integral over two rows as well, for Gaussian tokens (``exact`` for tokens of fixed norm).

    Outside its range a level warns with the error to expect. Tokens are Gaussian, or Gaussian ones of fixed norm where
    ``Signal.fixed_norm`` says so. ``width`` is the output width of all ``heads`` together, ``key_width`` the width d_k of
    the keys of one head. ``key_heads`` heads of keys and values are shared by groups of query heads; neither number enters the
    moments. The key bias changes nothing, as it shifts all scores of a row. Variances are absolute. ``query_variance`` 0
    makes attention uniform. The output projection is a :class:`Linear` after this.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
    >>> Attention(d, 1/d).forward(x).q
    1/n
    >>> Attention(d, 1/d, d, 1/d, 1/d, level="uniform").backward(Gradient(sp.S.One, sp.S.One), x)[0].q.free_symbols == {n, d}
    True
    """

    width: Any
    value_variance: Any
    key_width: Any = sp.S.One
    query_variance: Any = sp.S.Zero
    key_variance: Any = sp.S.Zero
    dropout: Any = sp.S.Zero
    temperature: Any = sp.S.One
    heads: Any = sp.S.One
    key_heads: Any = None
    query_bias: Any = sp.S.Zero
    key_bias: Any = sp.S.Zero
    value_bias: Any = sp.S.Zero
    level: str = "exact"

    rule = "attention"
    reason = (
        "attention keeps what tokens share and averages the rest with its weights, whose second moments are the "
        "participation of a row and the overlap of two rows"
    )
    gaussian_input = True
    maps_entries = False
    assumptions = (GAUSSIAN_SCORES, INDEPENDENT_DROPOUT, INDEPENDENT_WEIGHTS, INDEPENDENT_GRADIENT)
    sources: ClassVar[tuple[Source, ...]] = (
        Source("kedia2024", "component table, single-head attention"), Source("noci2022", "Eq. 1"),
    )

    def __post_init__(self) -> None:
        if self.key_heads is None:
            object.__setattr__(self, "key_heads", self.heads)
        self._sympify(
            "width", "value_variance", "key_width", "query_variance", "key_variance", "dropout", "temperature", "heads",
            "key_heads", "query_bias", "key_bias", "value_bias",
        )
        if self.level not in LEVELS:
            raise UnknownNameError("level", self.level, LEVELS)
        if self.dropout.is_number and not 0 <= self.dropout < 1:
            raise InputError("dropout", self.dropout, "a number in [0, 1)")
        for name in ("heads", "key_heads"):
            count = getattr(self, name)
            if count.is_number and not (count.is_Integer and count > 0):
                raise InputError(name, count, "an integer >= 1")
        if self.heads.is_number and self.key_heads.is_number and self.heads % self.key_heads:
            raise InputError("key_heads", self.key_heads, f"a divisor of heads = {self.heads}")

    @property
    def neglected(self) -> str:  # type: ignore[override]
        """What the level leaves out."""
        return _NEGLECTED[self.level]

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        small = sp.Rational(1, 10**6)
        scored = {"key_width": symbols.d_k, "query_variance": small, "key_variance": symbols.sigma_k2}
        return (
            cls(symbols.d_o, symbols.sigma_v2, dropout=symbols.P),
            cls(symbols.d_o, symbols.sigma_v2, heads=2, key_heads=1),
            cls(symbols.d_o, symbols.sigma_v2, **scored, level="uniform"),
            cls(symbols.d_o, symbols.sigma_v2, **scored, dropout=symbols.P, value_bias=symbols.sigma_x2),
            cls(symbols.d_o, symbols.sigma_v2, **scored, query_bias=small / 3, key_bias=symbols.sigma_x2, level="closed_form"),
        )

    def describe(self) -> str:
        """Name, width, score parameters and level, as a reader writes them."""
        more = "" if self.query_variance == 0 else f", d_k={self.key_width}, {self.query_variance}, {self.key_variance}"
        more += "" if self.dropout == 0 else f", P={self.dropout}"
        more += "" if self.temperature == 1 else f", tau={self.temperature}"
        more += "" if self.heads == 1 else f", heads={self.heads}"
        more += "" if self.key_heads == self.heads else f", key_heads={self.key_heads}"
        biases = (self.query_bias, self.key_bias, self.value_bias)
        more += "" if biases == (0, 0, 0) else f", biases={biases[0]}, {biases[1]}, {biases[2]}"
        more += "" if self.query_variance == 0 else f", level={self.level}"
        return f"{type(self).__name__}({self.width}{more})"

    def _strength(self, x: Signal) -> sp.Expr:
        return self.temperature**2 * self.query_variance * self.key_variance * x.width**2

    def _queries(self, x: Signal) -> Signal:
        """The tokens that the queries are made of; keys and values are made of ``x``."""
        return x

    def _query_offset(self, x: Signal) -> sp.Expr:
        """Second moment of the query bias over that of the rest of a query."""
        if self.query_bias == 0 or self.query_variance == 0:
            return sp.S.Zero
        return self.query_bias / (self.query_variance * x.width * self._queries(x).q)

    def score_variance(self, x: Signal) -> sp.Expr:
        """Variance a of the scores of a row about what they share, at large width."""
        return self._strength(x) * self._queries(x).q * x.gap * (1 + self._query_offset(x))

    def geometry(self, x: Signal) -> Geometry:
        """What the weight moments depend on."""
        asking = self._queries(x)
        deficit = sp.S.Zero if asking.gap == 0 else asking.gap / asking.q
        return Geometry(
            x.tokens, sp.sympify(x.width if x.fixed_norm is None else x.fixed_norm), self.key_width, self.score_variance(x),
            deficit, self._query_offset(x), int(x.fixed_norm is not None),
        )

    def moment(self, name: str, x: Signal) -> sp.Expr:
        """An averaged weight moment at the level of this layer, one of ``softmax_layer.AVERAGES``."""
        return layer_moment(name, self.level, self.geometry(x))

    def participation(self, x: Signal) -> sp.Expr:
        """E sum_j A_ij^2 before dropout."""
        return self.moment("own", x)

    def overlap(self, x: Signal) -> sp.Expr:
        """E sum_j A_ij A_kj of two rows."""
        return self.moment("own", x) - self.moment("row_gap", x)

    @property
    def _noise(self) -> sp.Expr:
        return self.dropout / (1 - self.dropout)

    def _known(self, level: str, x: Signal) -> bool:
        """Whether a level has its own formulas: the kernel of two rows is that of normal scores."""
        return level != "reference" or not self.geometry(x).unit

    def _pair_level(self, x: Signal) -> str:
        """The level that two rows are known at."""
        return self.level if self._known(self.level, x) else "exact"

    def expected_error(self, x: Signal) -> float | None:
        """Relative error of the level for the signal's score variance, where it is beyond its range; None inside or unknown.

        Of the participation at the levels uniform and closed_form, of the overlap of two rows at the level exact.
        """
        variance, level = self.score_variance(x), self._pair_level(x)
        if not variance.is_number or not x.tokens.is_number or float(variance) <= _RANGE[level] ** 2:
            return None
        if level == "exact":
            return float(min(1.0, 0.15 * (float(variance) / 36) ** 1.15))
        from symprop.functions.softmax_values import value

        found, right = (value(layer_moment("own", item, self.geometry(x))) for item in (level, "exact"))
        return float(abs(found / right - 1))

    def _beyond(self, x: Signal) -> tuple[str, str]:
        level = self._pair_level(x)
        what = "the overlap of two rows" if level == "exact" else "the participation of a row"
        better = LEVELS[LEVELS.index(level) + 1]
        remedy = f"Use level {better}" if self._known(better, x) else "No level is better where scores are cosines"
        deviation = float(self.score_variance(x)) ** 0.5
        beyond = f"score standard deviation {deviation:.3g} is beyond the range {_RANGE[level]:g} of level {level}"
        return beyond, f"{what}. {remedy}"

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        (x,) = signals
        variance = self._strength(x) * self._queries(x).q * x.q * (1 + self._query_offset(x))
        spread = 1 / self.key_width + 2 / sp.sympify(x.width)
        # Relative to the gradient by values, 1/n of that of the whole, every query adds a path of the size of its scores.
        return variance * (x.tokens if self.level == "uniform" else spread + 1 / x.tokens)

    def forward(self, *signals: Signal) -> Signal:
        self.accept(*signals)
        (x,) = signals
        self._warn(x)
        gain, noise, rows = x.width * self.value_variance, self._noise, self._queries(x).tokens
        own = self.moment("own", x)
        # Dropped weights meet the full tokens; a fixed norm leaves no correlation of weight and norm.
        dropped = x.q * own if x.fixed_norm is not None else x.q * own + x.gap * (self.moment("size", x) - own)
        bias = self.value_bias * (self._row_sum**2 + noise * own)
        gap = x.gap * self.moment("token_gap", x) + self._own_gap(x) + noise * dropped
        return Signal(
            q=gain * (self._kept(x) + noise * dropped) + bias,
            gap=sp.S.Zero if rows == 1 else gain * gap + self.value_bias * noise * own,
            tokens=rows,
            width=self.width,
            gaussian=True,
            fresh=True,
        )

    @property
    def _row_sum(self) -> sp.Expr:
        """Sum of the weights of a query."""
        return sp.S.One

    def _own_gap(self, x: Signal) -> sp.Expr:
        """What a query's own token adds to the gap of the averages."""
        return sp.S.Zero

    def _kept(self, x: Signal) -> sp.Expr:
        """Second moment of a query's average of the tokens, without dropout."""
        return x.p + x.gap * self.moment("mean", x) - self._row_sum * self._lost_norm(x)

    def _lost_norm(self, x: Signal) -> sp.Expr:
        """What a fixed norm takes from it: a large private part comes with a small shared one."""
        if x.fixed_norm is None:
            return sp.S.Zero
        return x.gap * (1 - (x.gap / x.q) ** 2) / x.fixed_norm * self.moment("excess", x)

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        r"""Value path, its product with the key path, query path and key path.

        In units of :math:`d_{out} \sigma_v^2`, with s and :math:`g_p` the incoming second moments of one and of two tokens,
        :math:`J = \mathrm{diag}(A) - A A^\top` the Jacobian of a row and :math:`\Omega` the private Gram matrix (a value bias
        adds its :math:`\sigma_b^2/(d \sigma_v^2)` to the q beside P, as dropped weights do not cancel what values share):

        .. math::
            q_V &= \tfrac{Y}{1 - P} s + (n - 1) V g_p, \qquad
            q_{VK} = \tfrac1d \sqrt a\, \partial_{\sqrt a} (Y s + (n - 1) V g_p) \\
            q_Q &= \kappa \Delta \bigl(\Delta\, E\, \mathrm{tr}(J \Omega J \Omega)
                + \tfrac{P}{1 - P} q\, E\, \mathrm{tr} J^2\bigr) s \\
            q_K &= \kappa (1 + \beta) q \bigl(\bigl(\Delta + \tfrac{P}{1 - P} q\bigr) E\, G\, \mathrm{tr}(J^2 \Omega)\, s
                + (n - 1) \Delta\, E\, P \rho\, \mathrm{tr}(J_i J_k)\, g_p \bigr)

        Rows of J sum to zero, so that the key path adds nothing to the sum of the gradients: two tokens have
        :math:`-q_K/(n - 1)`. The value path adds the sum of all incoming gradients.

        For tokens of fixed norm the gradient knows its part along its own token (``Gradient.radial``), which the norm before
        takes out: the component of :math:`u_i` along a key is its score. To first order in 1/d, without that of dropout.
        """
        self.accept(*signals)
        (x,) = signals
        self._warn(x)
        gain = self.width * self.value_variance
        found = self._query_path(gradient, x).plus(self._key_path(gradient, x))
        if x.fixed_norm is not None and x.tokens != 1:
            found = found.plus(self._radial(gradient, x))
        return (found.times(gain),)

    def _key_path(self, gradient: Gradient, x: Signal) -> Gradient:
        """What reaches the tokens as values and keys, in units of the output width times the value variance."""
        n, d, noise, asking = x.tokens, sp.sympify(x.width), self._noise, self._queries(x)
        share, others = asking.tokens / n, asking.tokens - 1
        value = self._value_path(gradient, x)
        cross = (self.moment("slope", x) * gradient.q + others * self.moment("pair_slope", x) * gradient.p) / d
        key = self._strength(x) * (1 + self._query_offset(x)) * asking.q * (
            (x.gap + noise * self._value_size(x)) * self.moment("scaled_jacobian", x) * gradient.q
            + others * x.gap * self.moment("pair_jacobian", x) * gradient.p
        )
        q = share * (value.q + cross + key)
        if n == 1:
            return Gradient(q, sp.S.Zero)
        return Gradient(q, share * (value.gap + n / (n - 1) * (cross + key)))

    def _value_path(self, gradient: Gradient, x: Signal) -> Gradient:
        """What a token gets as a value, for as many queries as tokens."""
        n, others, noise = x.tokens, self._queries(x).tokens - 1, self._noise
        own, row_gap, alone = self.moment("own", x), self.moment("row_gap", x), self.moment("gap", x)
        q = (1 + noise) * own * gradient.q + others * (own - row_gap) * gradient.p
        if n == 1:
            return Gradient(q, sp.S.Zero)
        return Gradient(q, (alone + noise * own) * gradient.q + others * (alone - n / (n - 1) * row_gap) * gradient.p)

    def _query_path(self, gradient: Gradient, x: Signal) -> Gradient:
        """What reaches the tokens as queries, in the same units."""
        scale = self._strength(x) * x.gap
        alone = self._alone(x)
        dropped = self._noise * self._dropped(x, self.key_width) * gradient.q
        q = scale * (x.gap * alone * gradient.q + dropped)
        if self._queries(x).tokens == 1:
            return Gradient(q, sp.S.Zero)
        change = alone * gradient.gap + (alone - self.moment("joint", x)) * gradient.p
        return Gradient(q, scale * (x.gap * change + dropped))

    def _radial(self, gradient: Gradient, x: Signal) -> Gradient:
        r"""What the paths have along their own token beyond an isotropic gradient, in the same units.

        The query path has :math:`u_i^\top C_i^2 u_i` in place of a trace. In the key path the scores stand for the
        coordinates of :math:`u_i`; two rows that meet in a token have them at the mean that their weights give (annealed).
        """
        d, n = sp.sympify(x.width), x.tokens
        others, deficit = n - 1, x.gap / x.q
        scale = self._strength(x) * x.gap
        query = scale * x.gap * (d * self.moment("along", x) - self._alone(x)) * gradient.q
        excess, tilt = self._score_along(gradient, x)
        key, pull, pair_slope = deficit * excess, self.moment("pull", x), self.moment("pair_slope", x)
        # Constant weights of a token on itself and on all add to those of the softmax.
        common = gradient.common(n)
        value = self.moment("value_along", x) * gradient.q + tilt + (self._row_sum - 1) * common * pull
        cross = (self.moment("slope", x) * gradient.q + others * pair_slope * gradient.p) / d
        radial = query + key + 2 * deficit * value - cross
        # The key path vanishes in the sum over tokens: that of another token is minus its share.
        pair = deficit * (n * self._row_sum * common * pull - 2 * value) - key
        return Gradient(sp.S.Zero, sp.S.Zero, radial, radial - 2 * pair / others)

    def _score_along(self, gradient: Gradient, x: Signal) -> tuple[sp.Expr, sp.Expr]:
        """Scores in place of coordinates along a token: of the key path, beyond isotropic, and of two rows with the values."""
        own, overlap, pull, half = (self.moment("own", x), self.overlap(x), self.moment("pull", x),
                                    self.moment("pair_slope", x) / 2)
        # E sum_j w_j w'_j a_j: half the derivative of the overlap in the size of both rows, and what the weights' mean adds.
        tilt = (x.tokens - 1) * gradient.p * ((1 - own) * half + overlap * pull)
        alone = self.score_variance(x) * self.moment("scaled_key_along", x) * gradient.q
        return alone + tilt * ((1 - own) * half / overlap + pull), tilt

    def _value_size(self, x: Signal) -> sp.Expr:
        """The second moment of a value with its bias, in units of the values of tokens of second moment one."""
        if self.value_bias == 0 or self.dropout == 0:
            return x.q
        if self.value_variance == 0:
            raise RefusedError(self.describe(), "all values are their bias alone", "give value_variance a positive number")
        return x.q + self.value_bias / (x.width * self.value_variance)

    def _dropped(self, x: Signal, key_width: sp.Expr = sp.oo) -> sp.Expr:
        r"""E sum_j |v_j|^2 (J Omega J)_jj, what dropped weights add to a query, with W_K W_K^T of ``key_width`` in Omega.

        W_K W_K^T has a part 1/d_k along the scores, and the norm of a Gaussian token is in part that of its private part.
        For tokens of fixed norm at large width only.
        """
        square, d = self.moment("square", x), sp.sympify(x.width)
        if x.fixed_norm is not None:
            return self._value_size(x) * square
        change = self.moment("jacobian", x) - square
        return self._value_size(x) * (square + (1 + (d - 1) / key_width) * change) + 2 * x.gap / d * self.moment("diagonal", x)

    def _alone(self, x: Signal) -> sp.Expr:
        """The query path of one token, in units of the score strength."""
        return (1 - 1 / sp.sympify(x.width)) * self._own_form(x) + self.moment("along", x)

    def _own_form(self, x: Signal, prefix: str = "") -> sp.Expr:
        """E tr(J Omega J Omega) as W_K W_K^T, which depends on u_i, weighs it; ``prefix`` scaled_ weighs with G."""
        item = self.geometry(x)
        form, along = self.moment(f"{prefix}form", x), self.moment(f"{prefix}along", x)
        return ((self.key_width - 1) * form + item.dimension * along) / self.key_width

    def weight_gradients(self, gradient: Gradient, signal: Signal) -> WeightGradients:
        r"""E ||dLoss/dW||^2 of the query, key and value matrices and of the query bias.

        ``gradient`` is that of the output before a projection, ``signal`` the input. Queries and keys have the factor
        :math:`n d\, d_{out} \sigma_v^2 \kappa \Delta^2 q`, over the variance of the matrix; in the diagonal the query norm is
        tied to G, and off the diagonal the inner product of two tokens to that of their rows, both by Stein's lemma.
        The norms of shared key and value heads are sums over their groups. Tokens of fixed norm fluctuate in what they share
        (:func:`by_shared_length`), which the square of their gap sees.

        >>> from symprop.core.symbols import d, n
        >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
        >>> sp.factor(Attention(d, 1/d).weight_gradients(Gradient(sp.S.One, sp.S.One), x).value)
        d**2
        """
        self.accept(signal)
        return WeightGradients.mean((part, self._weight_gradients(gradient, x)) for part, x in by_shared_length(signal))

    def _weight_gradients(self, gradient: Gradient, x: Signal) -> WeightGradients:
        """The same at a given length of what the tokens share."""
        item, noise, asking = self.geometry(x), self._noise, self._queries(x)
        if self.query_variance == 0:
            return WeightGradients(sp.S.Zero, sp.S.Zero, self._value_gradient(gradient, x))
        n, d, own, others = asking.tokens, sp.sympify(x.width), gradient.q, (asking.tokens - 1) * gradient.p
        w, t, b, r = item.key_spread, item.token_spread, item.bias, item.query_rho
        product = item.product_variance / (1 + b)
        total = (1 + r**2) * w + product / (1 + b)
        joint, scaled_joint = self.moment("joint", x), self.moment("scaled_joint", x)
        square, scaled_square = self.moment("square", x), self.moment("scaled_square", x)
        form = self.moment("form", x), self.moment("scaled_form", x)
        query_form = self._own_form(x), self._own_form(x, "scaled_")

        def tied(pair: tuple[sp.Expr, sp.Expr], share: sp.Expr, key_width: sp.Expr = sp.oo) -> sp.Expr:
            kept = x.gap * (pair[0] + share * (pair[1] - pair[0]))
            dropped = self._dropped(x, key_width) + self._value_size(x) * share * (scaled_square - square)
            return x.gap * kept + noise * x.gap * dropped

        def across(start: sp.Expr, share: sp.Expr) -> sp.Expr:
            return x.gap**2 * (start * joint + share * (scaled_joint - r * joint))

        base = n * self.width * self.value_variance * self._strength(x) / self.query_variance
        by_query = own * tied(query_form, t * (1 + b) / (w + t), self.key_width) + others * across(item.rho, product / total)
        by_bias = own * tied(query_form, sp.S.Zero, self.key_width) + others * x.gap**2 * joint
        share = ((1 + r**2) / self.key_width + product / (1 + b)) / total
        by_key = own * tied(form, (1 / self.key_width + t) / (w + t)) + others * across(r, share)
        ratio = self.query_variance / self.key_variance * (1 + b)
        return WeightGradients(
            base * d * asking.q * by_query, base * d * asking.q * ratio * by_key, self._value_gradient(gradient, x),
            base * by_bias if self.query_bias != 0 else sp.S.Zero,
        )

    def _value_gradient(self, gradient: Gradient, x: Signal) -> sp.Expr:
        """The values are a linear layer of the averaged tokens."""
        average = replace(self, value_variance=1 / sp.sympify(x.width), value_bias=sp.S.Zero).forward(x)
        size = x.width * self.width
        return size * Linear(self.width, self.value_variance).weight_gradient(gradient, average)

    def pair(self, *states: PairState) -> PairState:
        raise RefusedError(
            self.describe(),
            "the weights of a row depend on all tokens, so that one entry of the Gram matrix does not map alone",
            "propagate exchangeable tokens, or use UniformAttention",
        )

    def _scored(self, x: Array, values: Values) -> tuple[Array, Vjp]:
        """Queries or keys as the scores see them, with the vector-Jacobian product."""
        return x, lambda g: (g,)

    def _applied(self, weights: Array, values: Values) -> Array:
        """What averages the values, given the softmax weights after dropout: these plus constants."""
        return weights

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        import numpy as np

        asking, tokens = x[0], x[-1]
        draws, count, fan_in = tokens.shape
        heads, key_heads, width, key_width = (
            int(self.number(size, values)) for size in (self.heads, self.key_heads, self.width, self.key_width)
        )
        if width % heads:
            raise InputError("heads", heads, f"a divisor of the output width {width}")
        keep = 1 - self.number(self.dropout, values)
        # The value weights are drawn first, so that a uniform layer with the same generator has the same ones.
        value = gaussian_matrix(rng, draws, fan_in, width // heads * key_heads, self.number(self.value_variance, values))
        rng = rng.spawn(1)[0]
        scale = self.number(self.temperature, values) / key_width**0.5

        def bias(variance: Any, size: int) -> Array:
            number = self.number(variance, values)
            return gaussian_matrix(rng, draws, 1, size, number) if number else np.zeros((draws, 1, size))

        transposed = tokens.swapaxes(1, 2)
        shared: list[tuple[Array, Array, Vjp, Array, Array]] = []
        parts = []
        for head in range(heads):
            query = gaussian_matrix(rng, draws, fan_in, key_width, self.number(self.query_variance, values))
            queries, query_vjp = self._scored(asking @ query + bias(self.query_bias, key_width), values)
            if head % (heads // key_heads) == 0:
                key = gaussian_matrix(rng, draws, fan_in, key_width, self.number(self.key_variance, values))
                head_value = np.split(value, key_heads, axis=2)[len(shared)]
                keys, key_vjp = self._scored(tokens @ key + bias(self.key_bias, key_width), values)
                shared.append((key, keys, key_vjp, head_value, bias(self.value_bias, width // heads)))
            key, keys, key_vjp, head_value, offset = shared[-1]
            scores = queries @ keys.swapaxes(1, 2) * scale
            weights = np.exp(scores - scores.max(axis=2, keepdims=True))
            weights /= weights.sum(axis=2, keepdims=True)
            mask = (rng.random((draws, asking.shape[1], count)) < keep) / keep if keep < 1 else np.ones(())
            parts.append((head_value, offset, query, queries, query_vjp, key, keys, key_vjp, weights, mask))
        output = np.concatenate(
            [self._applied(weights * mask, values) @ (tokens @ v + offset) for v, offset, *_, weights, mask in parts], axis=2
        )

        def vjp(g: Array) -> tuple[Array, ...]:
            pulled, asked = np.zeros_like(tokens), np.zeros_like(asking)
            for (v, offset, query, queries, query_vjp, key, keys, key_vjp, weights, mask), part in zip(
                parts, np.split(g, heads, axis=2), strict=True
            ):
                to_values = part @ v.swapaxes(1, 2)
                to_weights = (to_values @ transposed + part @ offset.swapaxes(1, 2)) * mask
                to_scores = weights * (to_weights - (weights * to_weights).sum(axis=2, keepdims=True)) * scale
                pulled += self._applied(weights * mask, values).swapaxes(1, 2) @ to_values
                asked += query_vjp(to_scores @ keys)[0] @ query.swapaxes(1, 2)
                pulled += key_vjp(to_scores.swapaxes(1, 2) @ queries)[0] @ key.swapaxes(1, 2)
            return (asked + pulled,) if len(x) == 1 else (asked, pulled)

        return output, vjp
