"""Softmax attention beyond its uniform limit, with dropout on the attention weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.linear import INDEPENDENT_GRADIENT, INDEPENDENT_WEIGHTS, gaussian_matrix
from symprop.core import symbols
from symprop.core.errors import InputError, RefusedError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.softmax_overlap import OverlapGap, Participation, RowGap, RowOverlap, WeightGap

if TYPE_CHECKING:
    import numpy as np

GAUSSIAN_SCORES = Assumption(
    "Gaussian scores",
    "tokens are jointly Gaussian, and the scores of a row are Gaussian given its query; their covariances spread by the "
    "fraction 2/d + 1/d_k, which enters at leading order",
)
INDEPENDENT_DROPOUT = Assumption("independent dropout", "attention weights are dropped independently of each other")


@dataclass(frozen=True)
class Attention(Component):
    r"""Softmax attention :math:`y = D(\mathrm{softmax}(M)) X W^V`, :math:`M = \tau X W^Q W^{K\top} X^\top/\sqrt{d_k}`.

    D is inverted dropout with probability P on the attention weights. With :math:`\kappa = \tau^2 \sigma_q^2 \sigma_k^2
    d_{in}^2` the scores of a row have the variance :math:`a = \kappa q \Delta` about what they share, and those of two
    rows the covariance :math:`c = \kappa p \Delta`. The weights enter through their participation :math:`\chi = E \sum_j
    A_{ij}^2`, their overlap :math:`o = E \sum_j A_{ij} A_{kj}` and gaps of these, taken at the effective variance
    :math:`a + \nu_a/2` and covariance :math:`c + \nu_c/2`: the covariances of the scores are themselves random, with
    variances :math:`\nu_a = 2 a^2 \eta`, :math:`\nu_c = \kappa^2 \Delta^2 (q^2 + p^2) \eta`, :math:`\eta = 2/d_{in} + 1/d_k`.

    .. math::
        \frac{q'}{d_{in} \sigma_v^2} &= p + \Delta \chi + \tfrac{P}{1 - P}\, \chi\, \bigl(q + \tfrac{4 a \Delta}{d_{in}}\bigr)
            + \tfrac{a \Delta}{d_{in}} (1 - \chi) \\
        \frac{\Delta'}{d_{in} \sigma_v^2} &= \Delta (\chi - o) \bigl(1 + \tfrac{c}{d_{in}}\bigr)
            + \tfrac{P}{1 - P}\, \chi\, \bigl(q + \tfrac{4 a \Delta}{d_{in}}\bigr)
            + \tfrac{(a - c) \Delta}{d_{in}} (1 - \chi)

    The terms over :math:`d_{in}` come from the dependence of the weights on the tokens they average. The gradient has the
    value path, which multiplies with the weights, and the query and key paths through the softmax (:meth:`backward`).

    ``width`` is the output width of all ``heads`` together, ``key_width`` the width d_k of the keys of one head; the
    moments do not depend on the number of heads. Variances are absolute. ``query_variance`` 0 makes attention uniform.
    ``bias_variance`` is that of a bias of the values, which every token gets in full since weights sum to one.
    The output projection is a :class:`Linear` after this. Kedia et al. 2024 give the value path without its dependence on
    the scores of other rows, and no path through the softmax.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
    >>> Attention(d, 1/d).forward(x).q
    1/n
    >>> Attention(d, 1/d, d, 1/d, 1/d).score_variance(x), Attention(d, 1/d, d, 1/d, 1/d).forward(x).q.has(Participation)
    (1, True)
    """

    width: Any
    value_variance: Any
    key_width: Any = sp.S.One
    query_variance: Any = sp.S.Zero
    key_variance: Any = sp.S.Zero
    dropout: Any = sp.S.Zero
    temperature: Any = sp.S.One
    heads: Any = sp.S.One
    bias_variance: Any = sp.S.Zero

    rule = "attention"
    reason = (
        "attention keeps what tokens share and averages the rest with its weights, whose second moments are the "
        "participation of a row and the overlap of two rows"
    )
    gaussian_input = True
    maps_entries = False
    assumptions = (GAUSSIAN_SCORES, INDEPENDENT_DROPOUT, INDEPENDENT_WEIGHTS, INDEPENDENT_GRADIENT)
    neglected = "relative O(a/(n d) + a^2/d + a^3/d_k), a the score variance; backward also O(a^2/n)"
    sources = (Source("kedia2024", "component table, single-head attention"), Source("noci2022", "Eq. 1"))

    def __post_init__(self) -> None:
        self._sympify(
            "width", "value_variance", "key_width", "query_variance", "key_variance", "dropout", "temperature", "heads",
            "bias_variance",
        )
        if self.dropout != 0 and self.bias_variance != 0:
            raise InputError("bias_variance", self.bias_variance, "0 with dropout, which would drop the bias as well")
        if self.dropout.is_number and not 0 <= self.dropout < 1:
            raise InputError("dropout", self.dropout, "a number in [0, 1)")
        if self.heads.is_number and not (self.heads.is_Integer and self.heads > 0):
            raise InputError("heads", self.heads, "an integer >= 1")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        return (
            cls(symbols.d_o, symbols.sigma_v2, dropout=symbols.P),
            cls(symbols.d_o, symbols.sigma_v2, heads=2, bias_variance=symbols.sigma_x2),
        )

    def describe(self) -> str:
        """Name, width and score parameters, as a reader writes them."""
        more = "" if self.query_variance == 0 else f", d_k={self.key_width}, {self.query_variance}, {self.key_variance}"
        more += "" if self.dropout == 0 else f", P={self.dropout}"
        more += "" if self.heads == 1 else f", heads={self.heads}"
        return f"{type(self).__name__}({self.width}{more})"

    def _strength(self, x: Signal) -> sp.Expr:
        return self.temperature**2 * self.query_variance * self.key_variance * x.width**2

    def score_variance(self, x: Signal) -> sp.Expr:
        """Variance a of the scores of a row about what they share, at large width."""
        return self._strength(x) * x.q * x.gap

    def score_gap(self, x: Signal) -> sp.Expr:
        """The gap a - c of the scores, half the variance of the difference of two rows in one column."""
        return self._strength(x) * x.gap**2

    def score_spread(self, x: Signal) -> tuple[sp.Expr, sp.Expr]:
        """Variances of the random score covariance of a row with itself and of two rows."""
        eta = 2 / sp.sympify(x.width) + 1 / self.key_width
        shared = (self._strength(x) * x.gap) ** 2 * eta
        return 2 * shared * x.q**2, shared * (x.q**2 + x.p**2)

    def _effective(self, x: Signal) -> tuple[sp.Expr, sp.Expr]:
        """Variance and gap of Gaussian scores with the mean of e^covariance: half the spread is added to each."""
        eta = 2 / sp.sympify(x.width) + 1 / self.key_width
        variance, score_gap = self.score_variance(x), self.score_gap(x)
        return variance * (1 + eta * variance), score_gap * (1 + eta * self._strength(x) * x.gap * (x.q + x.p) / 2)

    def participation(self, x: Signal) -> sp.Expr:
        """E sum_j A_ij^2 before dropout."""
        return Participation(self._effective(x)[0], x.tokens)

    def overlap(self, x: Signal) -> sp.Expr:
        """E sum_j A_ij A_kj of two rows."""
        return RowOverlap(*self._effective(x), x.tokens)

    @property
    def _noise(self) -> sp.Expr:
        return self.dropout / (1 - self.dropout)

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        (x,) = signals
        variance = self.score_variance(x)
        second_order = 1 / x.tokens + 1 / sp.sympify(x.width) + variance / self.key_width
        return variance / (x.tokens * x.width) + variance**2 * second_order

    def forward(self, *signals: Signal) -> Signal:
        self.accept(*signals)
        (x,) = signals
        gain = x.width * self.value_variance
        variance, score_gap = self.score_variance(x), self.score_gap(x)
        chi, row_gap = self.participation(x), RowGap(*self._effective(x), x.tokens)
        dropped = self._noise * chi * (x.q + 4 * variance * x.gap / x.width)
        gap = x.gap * row_gap * (1 + (variance - score_gap) / x.width) + score_gap * x.gap * (1 - chi) / x.width + dropped
        return Signal(
            q=gain * (x.p + x.gap * chi + variance * x.gap * (1 - chi) / x.width + dropped) + self.bias_variance,
            gap=sp.S.Zero if x.tokens == 1 else gain * gap,
            tokens=x.tokens,
            width=self.width,
            gaussian=True,
            fresh=True,
        )

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        r"""Value path and the paths through the softmax.

        In units of :math:`d_{out} \sigma_v^2`, with s and :math:`g_p` the incoming second moments of one and of two tokens:

        .. math::
            q_V &= \tfrac{\chi}{1 - P} s + (n - 1) o\, g_p \\
            q_Q &= \kappa \Delta (1 - \chi) \bigl[\Delta (\chi + \tfrac{1}{d}) + \tfrac{P}{1 - P} \chi q \bigr] s \\
            q_K &= (1 - \chi) \bigl[\bigl(a (1 + \tfrac{2 + a}{d}) + \nu_a + \tfrac{P}{1 - P} \kappa q^2\bigr) \chi s
                + (n - 1) o \bigl(c (1 + \tfrac{2 + c}{d}) + \nu_c\bigr) g_p \bigr]

        Key gradients of a row sum to zero, so that two tokens have -q_K/(n - 1). The 2/d is the product of key and value
        path. At leading order in the scores all is exact but O(1/(n d)).
        """
        self.accept(*signals)
        (x,) = signals
        n, d = x.tokens, x.width
        strength, variance, score_gap = self._strength(x), self.score_variance(x), self.score_gap(x)
        covariance = variance - score_gap
        chi, overlap = self.participation(x), self.overlap(x)
        own_spread, pair_spread = self.score_spread(x)
        effective = self._effective(x)
        row_gap, weight_gap = RowGap(*effective, n), WeightGap(effective[0], n)
        noise = self._noise
        q_value = chi / (1 - self.dropout) * gradient.q + (n - 1) * overlap * gradient.p
        gap_value = (weight_gap + noise * chi) * gradient.q
        gap_value += (n - 1) * OverlapGap(*effective, n) * gradient.p
        dropped = noise * strength * x.gap * x.q * chi * gradient.q
        q_query = (1 - chi) * (score_gap * (chi + 1 / d) * gradient.q + dropped)
        gap_query = (1 - chi) * (score_gap * ((chi + 1 / d) * gradient.gap + row_gap * gradient.p) + dropped)
        key = (variance * (1 + (2 + variance) / d) + own_spread + noise * strength * x.q**2) * chi * gradient.q
        key += (n - 1) * overlap * (covariance * (1 + (2 + covariance) / d) + pair_spread) * gradient.p
        gain = self.width * self.value_variance
        # n (1 - chi)/(n - 1), without the division.
        key_gap = (1 - weight_gap) * key
        gap = gap_value + gap_query + key_gap
        return (
            Gradient(gain * (q_value + q_query + (1 - chi) * key), sp.S.Zero if n == 1 else gain * gap),
        )

    def pair(self, *states: PairState) -> PairState:
        raise RefusedError(
            self.describe(),
            "the weights of a row depend on all tokens, so that one entry of the Gram matrix does not map alone",
            "propagate exchangeable tokens, or use UniformAttention",
        )

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        import numpy as np

        (tokens,) = x
        draws, count, fan_in = tokens.shape
        heads, width, key_width = (int(self.number(size, values)) for size in (self.heads, self.width, self.key_width))
        if width % heads:
            raise InputError("heads", heads, f"a divisor of the output width {width}")
        keep = 1 - self.number(self.dropout, values)
        # The value weights are drawn first, so that a uniform layer with the same generator has the same ones.
        value = gaussian_matrix(rng, draws, fan_in, width, self.number(self.value_variance, values))
        rng = rng.spawn(1)[0]
        scale = self.number(self.temperature, values) / key_width**0.5
        transposed = tokens.swapaxes(1, 2)
        parts = []
        for head_value in np.split(value, heads, axis=2):
            query = gaussian_matrix(rng, draws, fan_in, key_width, self.number(self.query_variance, values))
            key = gaussian_matrix(rng, draws, fan_in, key_width, self.number(self.key_variance, values))
            scores = (tokens @ query) @ (tokens @ key).swapaxes(1, 2) * scale
            weights = np.exp(scores - scores.max(axis=2, keepdims=True))
            weights /= weights.sum(axis=2, keepdims=True)
            mask = (rng.random((draws, count, count)) < keep) / keep if keep < 1 else np.ones(())
            parts.append((head_value, query, key, weights, mask))
        output = np.concatenate([(weights * mask) @ (tokens @ v) for v, _, _, weights, mask in parts], axis=2)
        if self.bias_variance != 0:
            output = output + gaussian_matrix(rng, draws, 1, width, self.number(self.bias_variance, values))

        def vjp(g: Array) -> tuple[Array, ...]:
            pulled = np.zeros_like(tokens)
            for (v, query, key, weights, mask), part in zip(parts, np.split(g, heads, axis=2), strict=True):
                to_values = part @ v.swapaxes(1, 2)
                to_weights = to_values @ transposed * mask
                to_scores = weights * (to_weights - (weights * to_weights).sum(axis=2, keepdims=True)) * scale
                pulled += (weights * mask).swapaxes(1, 2) @ to_values
                pulled += (to_scores @ (tokens @ key)) @ query.swapaxes(1, 2)
                pulled += (to_scores.swapaxes(1, 2) @ (tokens @ query)) @ key.swapaxes(1, 2)
            return (pulled,)

        return output, vjp
