r"""Moments of softmax weights, as SymPy functions of the score variance and the number of tokens.

A row of attention weights is :math:`A_j = e^{t_j} / \sum_k e^{t_k}` with n independent Gaussian scores of variance a (what
all scores of a row share cancels). Scores of two rows have the covariance c = a - g, g being the gap of the scores. Every
function here is a moment of these weights. Code uses its expansion in 1/n (:func:`expanded`), which the delta method
derives: numerator and denominator are sums of lognormal variables, expanded about their means. ``evalf`` is exact for
integer n: it integrates :math:`1/S^k = \int_0^\infty s^{k-1} e^{-s S} ds / \Gamma(k)` over the product of the characteristic
integrals of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import comb, factorial
from typing import Any

import mpmath
import sympy as sp
from sympy.polys.rings import PolyElement, ring

from symprop.core.errors import InputError
from symprop.functions.depth_nodes import ExpMinusOne

_RING, _TOKENS, _SAME, _CROSS = ring("m, X, Y", sp.QQ)
"""Other tokens m, X = e^a and Y = e^c: every moment of the normalised exponentials is a monomial in X and Y."""

_Bivariate = dict[tuple[int, int], PolyElement]
Exponents = Sequence[tuple[int, int]]


def _moment(first: int, second: int) -> PolyElement:
    """E e^first f^second of one token, e = exp(x - a/2) and f = exp(y - a/2) with E x y = c."""
    return _SAME ** (comb(first, 2) + comb(second, 2)) * _CROSS ** (first * second)


def _token_series(first: int, second: int, degree: int) -> _Bivariate:
    """E e^first f^second exp(u (e - 1) + v (f - 1)) as a series in u and v."""
    series: _Bivariate = {}
    for i in range(degree + 1):
        for j in range(degree + 1 - i):
            total = _RING.zero
            for alpha in range(i + 1):
                for beta in range(j + 1):
                    sign = (-1) ** (i - alpha + j - beta)
                    total += sign * comb(i, alpha) * comb(j, beta) * _moment(first + alpha, second + beta)
            series[i, j] = total * sp.QQ(1, factorial(i) * factorial(j))
    return series


def _times(left: _Bivariate, right: _Bivariate, degree: int) -> _Bivariate:
    product: _Bivariate = {}
    for (i, j), one in left.items():
        for (k, m), two in right.items():
            if i + j + k + m <= degree:
                product[i + k, j + m] = product.get((i + k, j + m), _RING.zero) + one * two
    return product


def _power(base: _Bivariate, degree: int) -> _Bivariate:
    """base^m for a series 1 + (terms of degree >= 2)."""
    rest = {key: value for key, value in base.items() if key != (0, 0)}
    total, term, binomial = {(0, 0): _RING.one}, {(0, 0): _RING.one}, _RING.one
    for k in range(1, degree // 2 + 1):
        term = _times(term, rest, degree)
        binomial = binomial * (_TOKENS - (k - 1)) * sp.QQ(1, k)
        for key, value in term.items():
            total[key] = total.get(key, _RING.zero) + binomial * value
    return total


@lru_cache(maxsize=64)
def weight_moment(exponents: tuple[tuple[int, int], ...], order: int) -> tuple[PolyElement, ...]:
    r"""Expansion of :math:`n^{K} E \prod_j A_j^{k_j} B_j^{l_j}` in 1/n, for distinct tokens j and two rows A and B.

    ``exponents`` lists (k_j, l_j), K is the sum of all of them. Returns the coefficients of 1, 1/n, ..., 1/n^order as
    polynomials in X = e^a and Y = e^c. The delta method: with e the normalised exponentials, each sum in a denominator is
    n (1 + delta), and delta^r contributes from 1/n^{r/2} on.

    >>> [str(c) for c in weight_moment(((2, 0),), 1)]
    ['X', '-2*X**3 + 3*X**2 - X']
    """
    degree = 2 * order
    series = _power(_token_series(0, 0, degree), degree)
    for first, second in exponents:
        series = _times(series, _token_series(first, second, degree), degree)
    one, two = (sum(pair[side] for pair in exponents) for side in (0, 1))
    coefficients = [_RING.zero] * (order + 1)
    shift = _TOKENS - len(exponents)
    for (r, s), value in series.items():
        if (r and not one) or (s and not two):
            continue
        signed = (-1) ** (r + s) * factorial(r) * factorial(s)
        binomials = signed * (comb(one + r - 1, r) if one else 1) * (comb(two + s - 1, s) if two else 1)
        # The number of other tokens is n - J; here the ring's first variable becomes n itself.
        in_tokens = value.compose(_TOKENS, shift) * binomials
        for (power, *rest), coefficient in in_tokens.terms():
            below = r + s - power
            if below <= order:
                coefficients[below] += coefficient * _RING({(0, *rest): 1})
    return tuple(coefficients)


class _WeightNode(sp.Function):
    """A moment of softmax weights: opaque in formulas, a series in 1/n in code, an integral in ``evalf``."""

    leading: int
    """The expansion starts at 1/n^leading."""

    @classmethod
    def coefficients(cls, order: int) -> tuple[PolyElement, ...]:
        """Coefficients of 1/n^leading, ..., 1/n^(leading + order), polynomials in X = e^a and Y = e^c."""
        raise NotImplementedError

    def expansion(self, order: int = 1) -> sp.Expr:
        """The expansion in 1/n; the neglected terms are smaller than the leading one by 1/n^(order + 1).

        Written in e^x - 1, so that a difference keeps its relative accuracy as the scores vanish.
        """
        if order < 0 or order != int(order):
            raise InputError("order", order, "an integer >= 0")
        tokens = self.args[-1]
        variance, score_gap = self.args[0], (self.args[1] if len(self.args) == 3 else sp.S.Zero)
        cross, excess = ExpMinusOne(variance - score_gap), ExpMinusOne(score_gap)
        one, two = sp.Dummy("cross"), sp.Dummy("excess")
        total = sp.S.Zero
        for k, polynomial in enumerate(self.coefficients(int(order))):
            at = polynomial.as_expr(0, (1 + one) * (1 + two), 1 + one)
            total += sp.horner(sp.expand(at), one, two, wrt=(two, one)) / tokens ** (self.leading + k)
        return total.xreplace({one: cross, two: excess})

    def _exact(self) -> mpmath.mpf:
        raise NotImplementedError

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        if any(not argument.is_number for argument in self.args):
            return None
        if not (self.args[-1].is_integer and self.args[-1].is_positive):
            return None
        # In steps of 32 bits, so that the slightly raised precisions of an enclosing sum meet the cache.
        return sp.Float._new(_exact_value(self, -(-(prec + 12) // 32) * 32)._mpf_, prec)

    def _numbers(self) -> list[Any]:
        return [mpmath.mpf(sp.N(argument, mpmath.mp.dps + 5)._mpf_) for argument in self.args[:-1]]

    @property
    def _count(self) -> int:
        return int(self.args[-1])

    def _eval_is_real(self) -> bool | None:
        return True if all(argument.is_real for argument in self.args) else None


@lru_cache(maxsize=256)
def _exact_value(node: _WeightNode, precision: int) -> mpmath.mpf:
    with mpmath.workprec(precision):
        return +node._exact()


class _RowNode(_WeightNode):
    nargs = (2,)

    def _eval_is_nonnegative(self) -> bool | None:
        return True if all(argument.is_nonnegative for argument in self.args) else None


class Participation(_RowNode):
    r"""Participation of a row of softmax weights, :math:`E \sum_j A_j^2`: 1/n uniform, 1 for a single token.

    Arguments: the variance a of a score about what its row shares, the number n of tokens.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> Participation(0, n), Participation(a, 1)
    (1/n, 1)
    >>> Participation(a, n).expansion(0)
    (ExpMinusOne(a) + 1)/n
    """

    leading = 1

    @classmethod
    def eval(cls, variance: sp.Expr, tokens: sp.Expr) -> sp.Expr | None:
        return 1 / tokens if variance == 0 or tokens == 1 else None

    @classmethod
    def coefficients(cls, order: int) -> tuple[PolyElement, ...]:
        return weight_moment(((2, 0),), order)

    def _exact(self) -> mpmath.mpf:
        (variance,) = self._numbers()
        return self._count * _row_integral((2,), variance, self._count)


class WeightGap(_RowNode):
    r"""Gap of the weights of a row, times n: :math:`n E(A_1^2 - A_1 A_2) = (n \sum_j E A_j^2 - 1)/(n - 1)`.

    It vanishes at uniform attention, where ``n*Participation - 1`` would lose every digit.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> WeightGap(0, n), WeightGap(a, n).expansion(0)
    (0, ExpMinusOne(a)/n)
    """

    leading = 1

    @classmethod
    def eval(cls, variance: sp.Expr, tokens: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if variance == 0 or tokens == 1 else None

    @classmethod
    def coefficients(cls, order: int) -> tuple[PolyElement, ...]:
        return _over_others(_excess(weight_moment(((2, 0),), order)))

    def _exact(self) -> mpmath.mpf:
        (variance,) = self._numbers()
        with mpmath.extraprec(_lost_bits(variance)):
            return (self._count**2 * _row_integral((2,), variance, self._count) - 1) / (self._count - 1)


class SoftmaxSlope(_RowNode):
    r"""How the softmax maps the gap of a gradient, :math:`E[S_2 - 2 S_3 + S_2^2]/(n - 1)` with :math:`S_k = \sum_j A_j^k`.

    It is 1/n^2 at uniform attention. What all entries of the gradient share does not pass the softmax.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> SoftmaxSlope(0, n), SoftmaxSlope(a, n).expansion(0)
    (n**(-2), (ExpMinusOne(a) + 1)/n**2)
    """

    leading = 2

    @classmethod
    def eval(cls, variance: sp.Expr, tokens: sp.Expr) -> sp.Expr | None:
        return tokens**-2 if variance == 0 else sp.S.Zero if tokens == 1 else None

    @classmethod
    def coefficients(cls, order: int) -> tuple[PolyElement, ...]:
        total = list(weight_moment(((2, 0),), order))
        cube, fourth = weight_moment(((3, 0),), order), weight_moment(((4, 0),), order)
        pair = weight_moment(((2, 0), (2, 0)), order)
        for k in range(order):
            total[k + 1] += pair[k] - 2 * cube[k]
            if k + 2 <= order:
                total[k + 2] += fourth[k] - pair[k]
        return _over_others(tuple(total))

    def _exact(self) -> mpmath.mpf:
        (variance,) = self._numbers()
        count = self._count
        square, cube, fourth = (_row_integral((k,), variance, count) for k in (2, 3, 4))
        pair = _row_integral((2, 2), variance, count)
        return (count * (square - 2 * cube + fourth) + count * (count - 1) * pair) / (count - 1)


class _PairNode(_WeightNode):
    nargs = (3,)


class RowOverlap(_PairNode):
    r"""Overlap of two rows of softmax weights, :math:`E \sum_j A_{ij} A_{kj}`: 1/n uniform, 1 for a single token.

    Arguments: the variance a of a score about what its row shares, the gap g = a - c of the scores of two rows with
    covariance c, the number n of tokens. Equal rows (g = 0) overlap as much as one row participates.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> RowOverlap(0, 0, n), RowOverlap(a, 0, n)
    (1/n, Participation(a, n))
    """

    leading = 1

    @classmethod
    def eval(cls, variance: sp.Expr, score_gap: sp.Expr, tokens: sp.Expr) -> sp.Expr | None:
        if tokens == 1 or variance == 0 or variance == score_gap:
            return 1 / tokens
        return Participation(variance, tokens) if score_gap == 0 else None

    @classmethod
    def coefficients(cls, order: int) -> tuple[PolyElement, ...]:
        return weight_moment(((1, 1),), order)

    def _exact(self) -> mpmath.mpf:
        variance, score_gap = self._numbers()
        return self._count * _pair_integral(variance, score_gap, self._count)


class OverlapGap(_PairNode):
    r"""Gap of the overlap of two rows, times n: :math:`n E(A_{i1} A_{k1} - A_{i1} A_{k2})`; arguments of :class:`RowOverlap`.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> OverlapGap(a, a, n), OverlapGap(a, 0, n)
    (0, WeightGap(a, n))
    """

    leading = 1

    @classmethod
    def eval(cls, variance: sp.Expr, score_gap: sp.Expr, tokens: sp.Expr) -> sp.Expr | None:
        if tokens == 1 or variance == 0 or variance == score_gap:
            return sp.S.Zero
        return WeightGap(variance, tokens) if score_gap == 0 else None

    @classmethod
    def coefficients(cls, order: int) -> tuple[PolyElement, ...]:
        return _over_others(_excess(weight_moment(((1, 1),), order)))

    def _exact(self) -> mpmath.mpf:
        variance, score_gap = self._numbers()
        with mpmath.extraprec(_lost_bits(variance - score_gap)):
            return (self._count**2 * _pair_integral(variance, score_gap, self._count) - 1) / (self._count - 1)


class RowGap(_PairNode):
    r"""How much two rows of weights differ, :math:`\tfrac12 E \sum_j (A_{ij} - A_{kj})^2`: participation minus overlap.

    Proportional to the gap g of the scores as g vanishes, without cancellation. Arguments of :class:`RowOverlap`.

    >>> a, g, n = sp.symbols("a g n", positive=True)
    >>> RowGap(a, 0, n), RowGap(a, g, n).subs(g, 0)
    (0, 0)
    """

    leading = 1

    @classmethod
    def eval(cls, variance: sp.Expr, score_gap: sp.Expr, tokens: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if tokens == 1 or variance == 0 or score_gap == 0 else None

    @classmethod
    def coefficients(cls, order: int) -> tuple[PolyElement, ...]:
        own, other = weight_moment(((2, 0),), order), weight_moment(((1, 1),), order)
        return tuple(one - two for one, two in zip(own, other, strict=True))

    def _exact(self) -> mpmath.mpf:
        variance, score_gap = self._numbers()
        count = self._count
        with mpmath.extraprec(_lost_bits(score_gap)):
            return count * (_row_integral((2,), variance, count) - _pair_integral(variance, score_gap, count))


def expanded(expression: sp.Expr, order: int = 1) -> sp.Expr:
    """Every weight moment of an expression replaced by its expansion in 1/n.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> expanded(n*Participation(a, n), 0)
    ExpMinusOne(a) + 1
    """
    return expression.replace(lambda node: isinstance(node, _WeightNode), lambda node: node.expansion(order))


def softmax_variance(variance: sp.Expr, tokens: sp.Expr) -> sp.Expr:
    r"""Variance of a softmax weight, :math:`E A^2 - 1/n^2 = (n - 1) W/n^2` with W the :class:`WeightGap`."""
    return (tokens - 1) * WeightGap(variance, tokens) / tokens**2


def softmax_gradient(variance: sp.Expr, tokens: sp.Expr) -> sp.Expr:
    r"""Second moment of dLoss/d(score) for a gradient on the weights with independent entries of second moment 1.

    :math:`E[S_2 - 2 S_3 + S_2^2]/n` with :math:`S_k = \sum_j A_j^k`; see :class:`SoftmaxSlope`.
    """
    return (tokens - 1) * SoftmaxSlope(variance, tokens) / tokens


def _excess(coefficients: tuple[PolyElement, ...]) -> tuple[PolyElement, ...]:
    return (coefficients[0] - 1, *coefficients[1:])


def _over_others(coefficients: tuple[PolyElement, ...]) -> tuple[PolyElement, ...]:
    """Times n/(n - 1), as a series in 1/n."""
    total, sums = _RING.zero, []
    for coefficient in coefficients:
        total = total + coefficient
        sums.append(total)
    return tuple(sums)


def _lost_bits(small: Any) -> int:
    return 0 if small == 0 else max(0, -int(mpmath.mag(small))) + 5


def _steps(scale: Any) -> tuple[Any, Any, Any]:
    """Step of log s, step and half range of a standard normal, for the trapezoid rule at the working precision."""
    digits = mpmath.mp.prec * mpmath.log(2) + 6
    normal = mpmath.pi * mpmath.sqrt(2 / digits)
    if scale > 0:
        # exp(-s e^x) is bounded only for |Im x| < pi/2.
        strip = mpmath.pi / (2 * scale)
        if 2 * mpmath.pi / normal > strip:
            normal = 2 * mpmath.pi * strip / (digits + strip**2 / 2)
    return mpmath.pi**2 / (digits + 2), normal, mpmath.sqrt(2 * digits) + 1


@lru_cache(maxsize=32)
def _gauss_hermite(count: int, prec: int) -> tuple[tuple[Any, Any], ...]:
    """Nodes and weights of the Gauss rule of a standard normal."""
    with mpmath.workprec(prec + 10):
        jacobi = mpmath.zeros(count)
        for k in range(1, count):
            jacobi[k, k - 1] = jacobi[k - 1, k] = mpmath.sqrt(k)
        places, vectors = mpmath.eigsy(jacobi)
        return tuple((places[k], vectors[0, k] ** 2) for k in range(count))


def _gauss_count(scale: Any) -> int | None:
    """Nodes that a Gauss rule needs for exp(-s e^(scale w)), None where its bound never gets below the precision."""
    if scale == 0:
        return 1
    wanted = -mpmath.mp.prec * mpmath.log(2) - 5
    for count in range(2, 33):
        if 2 * count * mpmath.log(2 * scale / mpmath.pi) + mpmath.loggamma(2 * count + 1) / 2 < wanted:
            return count
    return None


def _normal_nodes(scale: Any, reach: Any = 0) -> list[tuple[Any, Any]]:
    """Pairs (scale w, weight of w) of a quadrature rule for a standard normal w; ``reach`` widens the range."""
    count = _gauss_count(scale)
    if count is not None:
        return [(scale * place, weight) for place, weight in _gauss_hermite(count, mpmath.mp.prec)]
    _, step, half = _steps(scale)
    last = int((half + reach) / step) + 1
    norm = step / mpmath.sqrt(2 * mpmath.pi)
    return [(scale * step * k, norm * mpmath.exp(-((step * k) ** 2) / 2)) for k in range(-last, last + 1)]


def _row_integral(exponents: tuple[int, ...], variance: Any, tokens: int) -> Any:
    """E prod_j A_j^k_j of distinct tokens of one row."""
    root = mpmath.sqrt(variance)
    step = _steps(root)[0]
    # The factors e^(k x) move the mean of x to k a; the range covers all of them.
    nodes = [(mpmath.exp(x), weight) for x, weight in _normal_nodes(root, max(exponents) * root)]
    total_power = sum(exponents)

    def integrand(position: int) -> Any:
        s = mpmath.exp(step * position) / tokens
        values = [(e, w * mpmath.exp(-s * e)) for e, w in nodes]
        result = mpmath.fsum(v for _, v in values) ** (tokens - len(exponents)) * s**total_power
        for power in exponents:
            result *= mpmath.fsum(e**power * v for e, v in values)
        return result

    return step * _two_sided(integrand) / mpmath.factorial(total_power - 1)


def _two_sided(integrand: Callable[[int], Any]) -> Any:
    """Sum over all integers of a function with one maximum, near zero."""
    total = integrand(0)
    for direction in (1, -1):
        position, small, previous = direction, 0, total
        while small < 3:
            term = integrand(position)
            total += term
            small = small + 1 if term <= total * mpmath.eps / 8 and term <= previous else 0
            previous, position = term, position + direction
    return total


def _pair_integral(variance: Any, score_gap: Any, tokens: int) -> Any:
    """E A_i1 A_k1 of two rows whose scores are x = sqrt(c) z + sqrt(g) w, with the sign of c in the second row."""
    import numpy as np

    covariance = variance - score_gap
    own = score_gap if covariance >= 0 else variance + covariance
    common, private = mpmath.sqrt(abs(covariance)), mpmath.sqrt(own)
    step, normal, half = _steps(mpmath.sqrt(variance))
    nodes = [(mpmath.exp(x), weight) for x, weight in _normal_nodes(private, common + private)]
    first = -(int((mpmath.mp.prec * mpmath.log(2) + 4) / step) + 1)
    last = int((mpmath.log(mpmath.mp.prec) + 2 + (common + private) * half) / step) + 1
    # Integers of fixed point: all entries are of order 1, and a power of n - 1 multiplies a relative error.
    bits = mpmath.mp.prec + 2 * tokens.bit_length() + 10

    def entry(shift: Any) -> tuple[int, int]:
        s = mpmath.exp(shift)
        values = [(e, w * mpmath.exp(-s / tokens * e)) for e, w in nodes]
        moments = mpmath.fsum(v for _, v in values), s * mpmath.fsum(e * v for e, v in values)
        plain, tilted = (int(mpmath.ldexp(moment, bits)) for moment in moments)
        return plain, tilted

    if _gauss_count(common) is not None:
        rule = _normal_nodes(common)
        table = [[entry(step * i + x) for x, _ in rule] for i in range(first, last + 1)]
        heights = [weight for _, weight in rule]
    else:
        # log s and sqrt(c) z share one grid, so that the entries are a table of one variable.
        fine = int(step / (common * normal)) + 1
        unit = step / fine
        span = int(common * (half + common + private) / unit) + 1
        line = [entry(unit * k) for k in range(first * fine - span, last * fine + span + 1)]
        table = [line[i * fine : i * fine + 2 * span + 1] for i in range(last - first + 1)]
        norm = unit / common / mpmath.sqrt(2 * mpmath.pi)
        heights = [norm * mpmath.exp(-((unit * k / common) ** 2) / 2) for k in range(-span, span + 1)]
    weights = np.array([int(mpmath.ldexp(height, bits)) for height in heights], dtype=object)
    sign = 1 if covariance >= 0 else -1

    def gram(side: int) -> Any:
        rows = np.array([[pair[side] for pair in row] for row in table], dtype=object)
        return ((rows * weights) >> bits) @ rows[:, ::sign].T

    survival, numerator = gram(0), gram(1)
    total = mpmath.mpf(0)
    for j in range(len(survival)):
        # The integrand is symmetric in the two rows.
        for i in range(j + 1):
            if numerator[i, j]:
                term = numerator[i, j] * mpmath.ldexp(survival[i, j], -2 * bits) ** (tokens - 1)
                total += term if i == j else 2 * term
    return step**2 * mpmath.ldexp(total, -2 * bits) / mpmath.mpf(tokens) ** 2


__all__ = [
    "OverlapGap",
    "Participation",
    "RowGap",
    "RowOverlap",
    "SoftmaxSlope",
    "WeightGap",
    "expanded",
    "softmax_gradient",
    "softmax_variance",
    "weight_moment",
]
