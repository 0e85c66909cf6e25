r"""Two rows of softmax weights from moments of one row: the logarithm of their overlap as a cubic in the correlation.

The overlap V of two rows whose scores have the correlation :math:`\rho` is a noise stability. Its values and slopes at
:math:`\rho = 0` and :math:`\rho = 1` are moments of a row; between them :math:`\log V` is taken as the cubic that has these.
Relative error for normal keys below 1% for score variances up to 4, 3% up to 9, 8% at 20 and 15% at 36 (worst at
:math:`\rho = 1/2`); :class:`~symprop.functions.softmax_overlap.RowOverlap` is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy as sp

from symprop.functions.depth_nodes import ExpMinusOne
from symprop.functions.softmax_contractions import aligned_slope, gram_jacobian_square, pair_trace, score_excess, score_mean
from symprop.functions.softmax_overlap import Participation, RowOverlap, WeightGap, WeightMoment


@dataclass(frozen=True)
class Interpolation:
    r"""The cubic through the ends: values (logarithm of V times the number of keys, over the variance) and slopes.

    ``at_zero``, ``at_one`` and the slopes are in units of the score variance ``variance``; ``keys`` is the number of keys of
    the longer row, ``turn`` the relative change of the Jacobian overlap per squared correlation (0 for normal keys), ``trace``
    the ends of E tr J_i tr J_k.
    """

    variance: sp.Expr
    keys: sp.Expr
    at_zero: sp.Expr
    slope_zero: sp.Expr
    at_one: sp.Expr
    slope_one: sp.Expr
    turn: sp.Expr
    trace: tuple[sp.Expr, sp.Expr]
    equal: sp.Expr
    """The overlap at correlation 1."""

    def _rise(self, gap: sp.Expr) -> sp.Expr:
        """Logarithm of V(1)/V at the score gap, a sum of terms that vanish with the gap."""
        part = gap / self.variance
        rho = 1 - part
        quadratic = (self.at_one - self.at_zero) * (1 + 2 * rho) - self.slope_zero * rho
        return gap * (self.slope_one * rho**2 + part * quadratic)

    def _exponent(self, gap: sp.Expr) -> sp.Expr:
        """Logarithm of keys * V, a sum of terms that vanish with the correlation but for the end value there."""
        part = gap / self.variance
        rho = 1 - part
        inner = self.slope_zero * part**2 + rho * ((3 - 2 * rho) * self.at_one - part * self.slope_one)
        return self.variance * (self.at_zero * (1 + 2 * rho) * part**2 + rho * inner)

    def overlap(self, gap: Any) -> sp.Expr:
        r""":math:`V = E \sum_j A_{ij} A_{kj}` at a score gap."""
        return sp.exp(self._exponent(sp.sympify(gap))) / self.keys

    def row_gap(self, gap: Any) -> sp.Expr:
        """V(1) - V: it keeps its digits as the gap vanishes."""
        return -self.equal * ExpMinusOne(-self._rise(sp.sympify(gap)))

    def overlap_gap(self, gap: Any) -> sp.Expr:
        """(n V - 1)/(n - 1): it keeps its digits as the correlation vanishes."""
        return ExpMinusOne(self._exponent(sp.sympify(gap))) / (self.keys - 1)

    def jacobian(self, gap: Any) -> sp.Expr:
        r""":math:`B = E\, \mathrm{tr}(J_i J_k)` (with the keys' Gram matrix on a sphere): the slope of V in the covariance."""
        gap = sp.sympify(gap)
        part = gap / self.variance
        rho = 1 - part
        slope = (self.slope_zero * part * (1 - 3 * rho) + self.slope_one * rho * (3 * rho - 2)
                 + 6 * rho * part * (self.at_one - self.at_zero))
        return self.overlap(gap) * slope * (1 + self.turn * rho**2)

    def trace_product(self, gap: Any) -> sp.Expr:
        r""":math:`C = E\, \mathrm{tr} J_i\, \mathrm{tr} J_k`, quadratic in the correlation between its ends."""
        first, last = self.trace
        return first + (1 - sp.sympify(gap) / self.variance) ** 2 * (last - first)


def interpolation(variance: Any, tokens: Any, dimension: Any = sp.oo, extra: Any = 0) -> Interpolation:
    r"""The interpolation for rows of ``tokens`` keys, the second with ``extra`` more (normal keys only).

    >>> a, n = sp.symbols("a n", positive=True)
    >>> pair = interpolation(a, n)
    >>> sp.simplify(pair.overlap(a)), pair.row_gap(0), pair.overlap_gap(a)
    (1/n, 0, 0)
    """
    a, n, extra = (sp.sympify(item) for item in (variance, tokens, extra))
    keys = n + extra
    own = Participation(a, n)
    if dimension is sp.oo and extra == 0:
        slope = aligned_slope(a, n)
        return Interpolation(
            a, n, sp.S.Zero, (1 - own) ** 2 * n / (n - 1), sp.log(1 + (n - 1) * WeightGap(a, n)) / a, slope / own,
            sp.S.Zero, pair_trace(a, n), own,
        )
    if extra != 0:
        other = Participation(a, keys)
        equal = RowOverlap(a, sp.S.Zero, n, extra)
        # Share of the longer row that falls on the keys of the shorter, weighted by the weights of that.
        share = equal / own
        cube, square = WeightMoment((3,), a, n), WeightMoment((2, 2), a, n)
        mean = (1 - own) * (1 - other)
        last = sp.sqrt(pair_trace(a, n)[1] * pair_trace(a, keys)[1])
        return Interpolation(
            a, keys, sp.S.Zero, mean * keys / (keys - 1), sp.log(keys * equal) / a,
            (own - cube - share * (cube - square)) / own, sp.S.Zero, (mean, last), equal,
        )
    own, mean = Participation(a, n, dimension), score_mean(a, n, dimension)
    slope = aligned_slope(a, n, dimension)
    independent = -(score_excess(a, n, dimension) ** 2) * n / (2 * dimension * (n - 1))
    first, last = pair_trace(a, n, dimension)
    return Interpolation(
        a, n, sp.log(1 + independent) / a, mean**2 / a * n / (n - 1), sp.log(n * own) / a, slope / own,
        gram_jacobian_square(a, n, dimension) / slope - 1, (first * (1 + 1 / (n - 1) - 2 / n), last), own,
    )


def normal_average(
    function: Callable[[sp.Expr, sp.Expr], sp.Expr],
    means: tuple[Any, Any],
    variances: tuple[Any, Any],
    covariance: Any,
) -> sp.Expr:
    r"""E f(x, y) of two normal variables by Gauss's rule with 3 x 3 nodes: exact for polynomials of degree 5.

    >>> m, v = sp.symbols("m v", positive=True)
    >>> sp.expand(normal_average(lambda x, y: x**2*y, (m, 1), (v, 0), 0))
    m**2 + v
    >>> sp.expand(normal_average(lambda x, y: x*y, (m, 1), (v, v), v/2))
    m + v/2
    """
    first, second, across = (sp.sympify(item) for item in (*variances, covariance))
    nodes = ((sp.S.Zero, sp.Rational(2, 3)), (sp.sqrt(3), sp.Rational(1, 6)), (-sp.sqrt(3), sp.Rational(1, 6)))
    shared = across / sp.sqrt(first) if first != 0 else sp.S.Zero
    rest = sp.sqrt(second - shared**2)
    total = sp.S.Zero
    for x, one in nodes if first != 0 else ((sp.S.Zero, sp.S.One),):
        for y, two in nodes if rest != 0 else ((sp.S.Zero, sp.S.One),):
            total += one * two * function(means[0] + sp.sqrt(first) * x, means[1] + shared * x + rest * y)
    return total


__all__ = ["Interpolation", "interpolation", "normal_average"]
