r"""Moments of softmax weights, as SymPy functions of the score variance and the number of tokens.

A row of attention weights is :math:`A_j = e^{t_j} / \sum_k e^{t_k}` with n independent scores of variance a (what all scores
of a row share cancels). Scores of two rows have the covariance c = a - g, g being the gap of the scores. Every function here
is a moment of these weights, opaque in formulas. Derivatives in a and g stay in the family
(:mod:`symprop.functions.softmax_operators`); ``expansion`` is the series in 1/n (:mod:`symprop.functions.softmax_expansion`);
``evalf`` is exact for integer n (:mod:`symprop.functions.softmax_exact`), and double precision for many points is in
:mod:`symprop.functions.softmax_numeric`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from sympy.polys.rings import PolyElement

from symprop.core.errors import InputError, RefusedError
from symprop.functions import softmax_exact, softmax_numeric
from symprop.functions.depth_nodes import ExpMinusOne
from symprop.functions.softmax_expansion import excess, over_others, product_moment
from symprop.functions.softmax_numeric import set_partitions
from symprop.functions.softmax_operators import (
    Monomial,
    Polynomial,
    by_parts,
    cross_heat,
    heat,
    monomial,
    own_heat,
    pair_monomial,
    stretch,
)


class WeightNode(sp.Function):
    """A moment of softmax weights: opaque in formulas, a series in 1/n by ``expansion``, exact in ``evalf``."""

    leading: int
    """The expansion starts at 1/n^leading."""

    def coefficients(self, order: int) -> tuple[PolyElement, ...]:
        """Coefficients of 1/n^leading, ..., 1/n^(leading + order), polynomials in X = e^a and Y = e^c."""
        raise NotImplementedError

    @property
    def variance(self) -> sp.Expr:
        """The variance of the scores of a row."""
        raise NotImplementedError

    @property
    def score_gap(self) -> sp.Expr:
        """Their variance minus the covariance of two rows; 0 for a moment of one row."""
        return sp.S.Zero

    @property
    def tokens(self) -> sp.Expr:
        """The number of tokens."""
        raise NotImplementedError

    def expansion(self, order: int = 1) -> sp.Expr:
        """The expansion in 1/n; the neglected terms are smaller than the leading one by 1/n^(order + 1).

        Written in e^x - 1, so that a difference keeps its relative accuracy as the scores vanish. For normal keys, scores
        of one variance and rows of one length only.
        """
        if order < 0 or order != int(order):
            raise InputError("order", order, "an integer >= 0")
        cross, grown = ExpMinusOne(self.variance - self.score_gap), ExpMinusOne(self.score_gap)
        one, two = sp.Dummy("cross"), sp.Dummy("grown")
        total = sp.S.Zero
        for k, polynomial in enumerate(self.coefficients(int(order))):
            at = polynomial.as_expr(0, (1 + one) * (1 + two), 1 + one)
            total += sp.horner(sp.expand(at), one, two, wrt=(two, one)) / self.tokens ** (self.leading + k)
        return total.xreplace({one: cross, two: grown})

    def _refuse_expansion(self) -> RefusedError:
        return RefusedError(str(self), "its expansion in 1/n is known for normal keys and one length and variance of the rows",
                            "evaluate it numerically, or leave the further arguments out")

    def _exact(self) -> mpmath.mpf:
        raise NotImplementedError

    def in_double(self) -> float:
        """The value in double precision, with a relative error of 1e-10; every argument must be a number."""
        inner = self.moments()
        return float(inner.xreplace({node: sp.Float(node.in_double()) for node in inner.atoms(RowNode, PairNode)}))

    def moments(self) -> sp.Expr:
        """The node in moments of rows and of pairs of rows; a difference of these may lose digits."""
        raise NotImplementedError

    @property
    def _numeric(self) -> tuple[sp.Expr, ...]:
        """The arguments that must be numbers before the node has a value."""
        found: tuple[sp.Expr, ...] = self.args
        return found

    @property
    def is_number(self) -> bool:
        return all(argument.is_number for argument in self._numeric)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        if not self.is_number or not (self.tokens.is_integer and self.tokens.is_positive):
            return None
        if prec <= _DOUBLE_BITS:
            # Decisions on signs ask for few digits, and often.
            return sp.Float(evaluated(self.in_double(), self), precision=prec)
        # In steps of 32 bits, so that the slightly raised precisions of an enclosing sum meet the cache.
        return sp.Float._new(_exact_value(self, -(-(prec + 12) // 32) * 32)._mpf_, prec)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        terms = []
        for index, argument in enumerate(self.args):
            inner = argument.diff(symbol) if symbol in argument.free_symbols else sp.S.Zero
            if inner != 0:
                terms.append(self.fdiff(index + 1) * inner)
        return sp.Add(*terms)

    def _no_slope(self, what: str) -> RefusedError:
        return RefusedError(str(self), f"it has no derivative in {what} in closed form",
                            f"keep {what} fixed, or take differences of values")

    def _eval_is_real(self) -> bool | None:
        return True if all(argument.is_real for argument in self._numeric if argument is not sp.oo) else None


def evaluated(value: float, moment: object) -> float:
    """The value of a moment; :class:`RefusedError` where its scores are too sharp for the grid of an integral."""
    if math.isnan(value):
        raise RefusedError(str(moment), "score deviations beyond 64 in one row, 32 in two rows and 20 in tables and under a "
                           "mask are not evaluated", "lower the score variance, or take the limit of condensed weights")
    return value


_DOUBLE_BITS = 30
"""Precision up to which a value in double precision is exact."""


def _double(value: sp.Expr) -> Any:
    return np.float64(np.inf if value is sp.oo else float(value))


def _mp(value: sp.Expr) -> Any:
    return mpmath.mpf(sp.N(value, mpmath.mp.dps + 5)._to_mpmath(mpmath.mp.prec + 10))


@lru_cache(maxsize=1024)
def _exact_value(node: WeightNode, precision: int) -> mpmath.mpf:
    with mpmath.workprec(precision):
        return +node._exact()


@lru_cache(maxsize=1024)
def _row_moment(powers: Monomial, variance: Any, tokens: int, dimension: Any, precision: int) -> Any:
    return softmax_exact.row_moments([powers], variance, tokens, dimension)[0]


@lru_cache(maxsize=256)
def _pair_moments(powers: tuple[Monomial, ...], variance: Any, gap: Any, tokens: int, extra: int, precision: int) -> Any:
    return softmax_exact.pair_moments(list(powers), variance, gap, tokens, extra)


def _row(powers: Monomial, variance: Any, tokens: int, dimension: Any = None) -> Any:
    return _row_moment(powers, variance, tokens, dimension, mpmath.mp.prec)


def _pair(powers: tuple[Monomial, ...], variance: Any, gap: Any, tokens: int, extra: int = 0) -> Any:
    return _pair_moments(powers, variance, gap, tokens, extra, mpmath.mp.prec)


class RowNode(WeightNode):
    r"""E over G of G^k times the moment at the score variance G a, for keys of a law given by a dimension D.

    Trailing arguments: the variance a, the tokens n and, if they are not the defaults, the dimension D (oo: normal keys;
    D > 1: a coordinate of a uniform vector on the sphere; D < 0: a scale mixture of excess kurtosis -6/D), the variance w of G
    (0), whose law is the five-node Gauss rule of a Gamma law of mean 1, and the power k (0).
    """

    _DEFAULTS = (sp.oo, sp.S.Zero, sp.S.Zero)

    @property
    def powers(self) -> Monomial:
        """The exponents (k, p) of the factors sum_j w_j^k c_j^p."""
        raise NotImplementedError

    @property
    def rest(self) -> tuple[sp.Expr, ...]:
        """Variance, tokens, dimension, spread and weight."""
        rest = self._numeric
        return rest + self._DEFAULTS[len(rest) - 2 :]

    @property
    def variance(self) -> sp.Expr:
        return self.rest[0]

    @property
    def tokens(self) -> sp.Expr:
        return self.rest[1]

    @property
    def leading(self) -> int:  # type: ignore[override]
        return sum(k - 1 for k, _ in self.powers)

    def coefficients(self, order: int) -> tuple[PolyElement, ...]:
        if self.rest[2:] != self._DEFAULTS or any(p for _, p in self.powers):
            raise self._refuse_expansion()
        return product_moment(tuple((k, 0) for k, _ in self.powers), order)

    def _exact(self) -> mpmath.mpf:
        variance, tokens, dimension, spread, weight = self.rest
        width = None if dimension is sp.oo else _mp(dimension)
        if width is not None and width < 0:
            raise RefusedError(str(self), "the scale mixture of key laws is evaluated in double precision only",
                               "use generated code, or a dimension > 1")
        if width is not None and width <= 1:
            raise InputError("D", dimension, "oo, a number > 1 or a number < 0")
        nodes = softmax_exact.gamma_rule(_mp(spread)) if spread != 0 else [(mpmath.mpf(1), mpmath.mpf(1))]
        power = _mp(weight)
        return mpmath.fsum(
            part * node**power * _row(self.powers, _mp(variance) * node, int(tokens), width) for node, part in nodes
        )

    def in_double(self) -> float:
        *arguments, weight = self.rest
        return float(softmax_numeric.averaged_moments([(self.powers, float(weight))], *map(_double, arguments))[0])

    def _of(self, powers: Monomial, shift: sp.Expr = sp.S.Zero) -> sp.Expr:
        variance, tokens, dimension, spread, weight = self.rest
        return WeightMoment(powers, variance, tokens, dimension, spread, weight + shift)

    def _variance_slope(self) -> sp.Expr:
        dimension = self.rest[2]
        if all(p == 0 for _, p in self.powers) and not dimension.is_negative:
            sphere = dimension is not sp.oo
            factor = dimension / (dimension - 1) if sphere else sp.S.One
            return factor * _combined(heat(self.powers, sphere), lambda powers: self._of(powers, sp.S.One))
        scale = sp.S.One if dimension is sp.oo or dimension.is_negative else sp.sqrt(dimension)
        terms = _combined(stretch(self.powers), lambda powers: self._of(powers, sp.S.Half))
        return scale / (2 * sp.sqrt(self.variance)) * terms

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        place = argindex - 1 - (len(self.args) - len(self._numeric))
        if place == 0:
            return self._variance_slope()
        raise self._no_slope(("the variance", "the number of tokens", "the dimension", "the spread", "the power")[place])

    def _eval_is_nonnegative(self) -> bool | None:
        even = all(p % 2 == 0 for _, p in self.powers)
        return True if even and self.variance.is_nonnegative and self.tokens.is_positive else None

    def _eval_is_positive(self) -> bool | None:
        plain = all(p == 0 for _, p in self.powers)
        return True if plain and self.variance.is_nonnegative and self.tokens.is_positive else None


def _combined(polynomial: Polynomial, node: Any) -> sp.Expr:
    return sp.Add(*(sp.Rational(value) * node(powers) for powers, value in polynomial.items()))


def key_moment(power: int, dimension: sp.Expr) -> sp.Expr:
    r"""E c^p of one key: (p - 1)!! for normal keys, (p - 1)!!/(D (D + 2) ...) on a sphere.

    >>> key_moment(4, sp.oo), key_moment(4, sp.Symbol("D"))
    (3, 3/(D*(D + 2)))
    """
    if power % 2:
        return sp.S.Zero
    rising = sp.prod([dimension + 2 * k for k in range(power // 2)]) if dimension is not sp.oo else 1
    return sp.factorial2(power - 1) / rising


class WeightMoment(RowNode):
    r"""WeightMoment(powers, a, n[, D[, w[, k]]]), the moment :math:`E_G\, G^k\, E \prod_b \sum_j w_j^{k_b} c_j^{p_b}` of a row.

    ``powers`` lists the pairs (k_b, p_b), or integers k_b for p_b = 0; c_j are the keys in the units of
    :mod:`symprop.functions.softmax_numeric`. The weights are taken at the score variance G a. ``D`` is the dimension of the key
    law (oo: normal keys), ``w`` the variance of G (its law is the five-node Gauss rule of a Gamma law of mean 1).

    >>> a, n = sp.symbols("a n", positive=True)
    >>> WeightMoment((2,), a, n), WeightMoment((2, 2), 0, n), WeightMoment((3,), a, 1)
    (Participation(a, n), n**(-2), 1)
    >>> WeightMoment((3,), a, n).diff(a)
    3*WeightMoment((3,), a, n) - 9*WeightMoment((4,), a, n) + 6*WeightMoment((2, 3), a, n)
    """

    @classmethod
    def eval(cls, powers: Any, *rest: sp.Expr) -> sp.Expr | None:
        pairs = tuple(tuple(item) if isinstance(item, (sp.Tuple, tuple)) else (item, 0) for item in powers)
        if not 2 <= len(rest) <= 5:
            raise InputError("WeightMoment", rest, "powers, a, n and at most D, w, k")
        if any(len(pair) != 2 or not (int(pair[0]) >= 1 and int(pair[1]) >= 0) for pair in pairs):
            raise InputError("powers", powers, "integers k >= 1 or pairs of k >= 1 and p >= 0")
        sums = monomial(pairs)
        variance, tokens, dimension, spread, weight = rest + cls._DEFAULTS[len(rest) - 2 :]
        if spread == 0:
            weight = sp.S.Zero
        full: tuple[sp.Expr, ...] = (variance, tokens, dimension, spread, weight)
        if not sums:
            return _scale_moment(spread, weight)
        if variance == 0 or tokens == 1:
            return _scale_moment(spread, weight) * _uniform(sums, tokens, dimension)
        while len(full) > 2 and full[-1] == cls._DEFAULTS[len(full) - 3]:
            full = full[:-1]
        if sums == ((2, 0),):
            return Participation(*full)
        canonical = sp.Tuple(*(k if p == 0 else sp.Tuple(k, p) for k, p in sums))
        if canonical != powers or len(full) != len(rest):
            return cls(canonical, *full)
        return None

    @property
    def powers(self) -> Monomial:
        return monomial(tuple(item) if isinstance(item, sp.Tuple) else (item, 0) for item in self.args[0])

    def by_parts(self) -> sp.Expr:
        """Without powers of normal keys, by Stein's lemma; the sum loses digits where the score variance is large.

        >>> a, n = sp.symbols("a n", positive=True)
        >>> sp.factor(WeightMoment(((1, 1),), a, n).by_parts())
        -sqrt(a)*(Participation(a, n) - 1)
        """
        variance, tokens, dimension, spread, weight = self.rest
        if dimension is not sp.oo:
            return self
        total = sp.S.Zero
        for power, polynomial in by_parts(self.powers).items():
            half = sp.Rational(power, 2)
            total += variance**half * _combined(
                polynomial, lambda inner, half=half: WeightMoment(inner, variance, tokens, dimension, spread, weight + half)
            )
        return total

    @property
    def _numeric(self) -> tuple[sp.Expr, ...]:
        found: tuple[sp.Expr, ...] = self.args[1:]
        return found

    def _eval_subs(self, old: sp.Basic, new: sp.Basic) -> sp.Expr:
        return self.func(self.args[0], *(argument._subs(old, new) for argument in self.args[1:]))

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        def factor(k: int, p: int) -> str:
            return f"S_{{{k}}}" if p == 0 else f"T_{{{k}{p}}}"

        counts = {power: self.powers.count(power) for power in self.powers}
        product = " ".join(factor(*power) + (f"^{{{times}}}" if times > 1 else "") for power, times in counts.items())
        arguments = ", ".join(printer._print(item) for item in self.args[1:])
        text = rf"\mathbb{{E}}[{product}]\left({arguments}\right)"
        return text if exp is None else rf"\left[{text}\right]^{{{exp}}}"


def _scale_moment(spread: sp.Expr, weight: sp.Expr) -> sp.Expr:
    """E G^k of a Gamma law of mean 1."""
    if weight.is_Integer and weight >= 0:
        return sp.prod([1 + k * spread for k in range(int(weight))])
    return sp.gamma(1 / spread + weight) / sp.gamma(1 / spread) * spread**weight


def _uniform(sums: Monomial, tokens: sp.Expr, dimension: sp.Expr) -> sp.Expr:
    """The moment for weights 1/n."""
    total = sp.S.Zero
    for blocks, times in set_partitions(sums).items():
        falling = sp.prod([tokens - k for k in range(len(blocks))])
        total += times * falling * sp.prod([key_moment(p, dimension) for _, p in blocks])
    return sp.factor(total / tokens ** sum(k for k, _ in sums))


class Participation(RowNode):
    r"""Participation(a, n[, D[, w[, k]]]) of a row of softmax weights, :math:`Y = E \sum_j A_j^2`: the moment ((2, 0),).

    1/n for uniform weights, 1 for a single token. Arguments as in :class:`WeightMoment`: the variance a of a score about what
    its row shares, the number n of tokens.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> Participation(0, n), Participation(a, 1)
    (1/n, 1)
    >>> Participation(a, n).expansion(0)
    (ExpMinusOne(a) + 1)/n
    >>> Participation(a, n).diff(a)
    -4*WeightMoment((3,), a, n) + 3*WeightMoment((2, 2), a, n) + Participation(a, n)
    """

    nargs = (2, 3, 4, 5)

    @classmethod
    def eval(cls, *rest: sp.Expr) -> sp.Expr | None:
        if rest[0] == 0 or rest[1] == 1 or (len(rest) > 2 and rest[-1] == cls._DEFAULTS[len(rest) - 3]):
            return WeightMoment(sp.Tuple(2), *rest)
        return None

    @property
    def powers(self) -> Monomial:
        return ((2, 0),)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = rf"Y\left({', '.join(printer._print(item) for item in self.args)}\right)"
        return text if exp is None else rf"Y^{{{exp}}}" + text[1:]


class _PlainRowNode(WeightNode):
    nargs = (2,)

    @property
    def variance(self) -> sp.Expr:
        return self.args[0]

    @property
    def tokens(self) -> sp.Expr:
        return self.args[1]

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        if argindex != 1:
            raise self._no_slope("the number of tokens")
        return self.moments().diff(self.variance) if self.variance.is_Symbol else self._slope()

    def _slope(self) -> sp.Expr:
        dummy = sp.Dummy("a", positive=True)
        return self.func(dummy, self.tokens).fdiff(1).xreplace({dummy: self.variance})

    def _eval_is_nonnegative(self) -> bool | None:
        return True if all(argument.is_nonnegative for argument in self.args) else None


class WeightGap(_PlainRowNode):
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

    def coefficients(self, order: int) -> tuple[PolyElement, ...]:
        return over_others(excess(product_moment(((2, 0),), order)))

    def moments(self) -> sp.Expr:
        return (self.tokens * Participation(*self.args) - 1) / (self.tokens - 1)

    def in_double(self) -> float:
        return float(softmax_numeric.weight_gap(*map(_double, self.args)))

    def _exact(self) -> mpmath.mpf:
        variance, count = _mp(self.variance), int(self.tokens)
        with mpmath.extraprec(_lost_bits(variance)):
            return (count * _row(((2, 0),), _mp(self.variance), count) - 1) / (count - 1)


class SoftmaxSlope(_PlainRowNode):
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

    def coefficients(self, order: int) -> tuple[PolyElement, ...]:
        total = list(product_moment(((2, 0),), order))
        cube, square = product_moment(((3, 0),), order), product_moment(((2, 0), (2, 0)), order)
        for k in range(order):
            total[k + 1] += square[k] - 2 * cube[k]
        return over_others(tuple(total))

    def moments(self) -> sp.Expr:
        return jacobian_square(*self.args) / (self.tokens - 1)

    def _exact(self) -> mpmath.mpf:
        return _mp(self.moments())


class PairNode(WeightNode):
    """A moment of two rows; arguments: variance a, gap g = a - c, tokens n and, for a row with more keys, how many more."""

    nargs: Any = (3, 4)

    @property
    def powers(self) -> Monomial:
        """The exponents (k, l) of the factors sum_j A_ij^k A_i'j^l, for a moment."""
        raise NotImplementedError

    @property
    def rest(self) -> tuple[sp.Expr, ...]:
        """Variance, score gap, tokens and additional keys of the second row."""
        rest = self._numeric
        return rest if len(rest) == 4 else (*rest, sp.S.Zero)

    @property
    def variance(self) -> sp.Expr:
        return self.rest[0]

    @property
    def score_gap(self) -> sp.Expr:
        return self.rest[1]

    @property
    def tokens(self) -> sp.Expr:
        return self.rest[2]

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        place = argindex - 1 - (len(self.args) - len(self._numeric))
        if place > 1:
            raise self._no_slope(("the number of tokens", "the number of additional keys")[place - 2])
        names = sp.symbols("a g", positive=True, cls=sp.Dummy)
        moments = self.func(*names, *self._numeric[2:]).moments()
        return moments.diff(names[place]).xreplace(dict(zip(names, self.rest[:2], strict=True)))

    def _double_pair(self) -> float:
        return float(softmax_numeric.overlap_moments([self.powers], *map(_double, self.rest))[0])

    def _exact_pair(self, *powers: Monomial) -> Any:
        variance, gap, tokens, extra = self.rest
        if not (extra.is_integer and extra.is_nonnegative):
            raise InputError("additional keys", extra, "an integer >= 0")
        return _pair(powers, _mp(variance), _mp(gap), int(tokens), int(extra))

    def _refuse_unequal(self) -> None:
        if self.rest[3] != 0:
            raise self._refuse_expansion()


class PairMoment(PairNode):
    r"""PairMoment(powers, a, g, n[, m]), the moment :math:`E \prod_b \sum_j A_{ij}^{k_b} A_{i'j}^{l_b}` of two rows.

    ``powers`` lists the pairs (k_b, l_b). Row i has n keys, row i' these and m more (a causal mask).

    >>> a, g, n = sp.symbols("a g n", positive=True)
    >>> PairMoment(((1, 1),), a, g, n), PairMoment(((1, 2),), a, 0, n)
    (RowOverlap(a, g, n), WeightMoment((3,), a, n))
    >>> PairMoment(((1, 1), (1, 0)), a, g, n).diff(g)
    -JacobianOverlap(a, g, n)
    """

    nargs = (4, 5)

    @classmethod
    def eval(cls, powers: Any, *rest: sp.Expr) -> sp.Expr | None:
        sums = pair_monomial(tuple(item) for item in powers)
        variance, gap, tokens, extra = (*rest, sp.S.Zero)[:4]
        if not sums:
            return sp.S.One
        if len(rest) == 4 and extra == 0:
            return cls(powers, *rest[:3])
        if extra == 0 and all(m == 0 for _, m in sums):
            return WeightMoment(tuple((k, 0) for k, _ in sums), variance, tokens)
        if extra == 0 and all(k == 0 for k, _ in sums):
            return WeightMoment(tuple((m, 0) for _, m in sums), variance, tokens)
        if extra == 0 and (gap == 0 or variance == 0 or tokens == 1):
            return WeightMoment(tuple((k + m, 0) for k, m in sums), variance, tokens)
        if extra == 0 and sum(k for k, _ in sums) > sum(m for _, m in sums):
            return cls(tuple((m, k) for k, m in sums), *rest)
        if sums == ((1, 1),):
            return RowOverlap(*rest)
        canonical = sp.Tuple(*(sp.Tuple(*pair) for pair in sums))
        return cls(canonical, *rest) if canonical != powers else None

    @property
    def powers(self) -> Monomial:
        """The exponents of the two rows in every factor."""
        return pair_monomial(tuple(item) for item in self.args[0])

    @property
    def _numeric(self) -> tuple[sp.Expr, ...]:
        found: tuple[sp.Expr, ...] = self.args[1:]
        return found

    @property
    def leading(self) -> int:  # type: ignore[override]
        return sum(k + m - 1 for k, m in self.powers)

    def _eval_subs(self, old: sp.Basic, new: sp.Basic) -> sp.Expr:
        return self.func(self.args[0], *(argument._subs(old, new) for argument in self.args[1:]))

    def coefficients(self, order: int) -> tuple[PolyElement, ...]:
        self._refuse_unequal()
        return product_moment(self.powers, order)

    def moments(self) -> sp.Expr:
        return self

    def in_double(self) -> float:
        return self._double_pair()

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return _pair_slope(self, self.powers, argindex - 2)

    def _exact(self) -> mpmath.mpf:
        return self._exact_pair(self.powers)[0]

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        product = " ".join(f"S_{{{k}{m}}}" for k, m in self.powers)
        arguments = ", ".join(printer._print(item) for item in self.args[1:])
        text = rf"\mathbb{{E}}[{product}]\left({arguments}\right)"
        return text if exp is None else rf"\left[{text}\right]^{{{exp}}}"


def _pair_slope(node: PairNode, powers: Monomial, place: int) -> sp.Expr:
    """Derivative of a moment of two rows in the variance (0) or the gap (1)."""
    if place > 1:
        raise node._no_slope(("the number of tokens", "the number of additional keys")[place - 2])

    def moment(inner: Monomial) -> sp.Expr:
        return PairMoment(inner, *node.rest)

    across = _combined(cross_heat(powers), moment)
    if place == 1:
        return -across
    if node.rest[3] != 0:
        raise node._no_slope("the variance of rows of unequal length")
    return across + _combined(own_heat(powers), moment)


class RowOverlap(PairNode):
    r"""Overlap of two rows of softmax weights, :math:`E \sum_j A_{ij} A_{kj}`: 1/n uniform, 1 for a single token.

    Arguments: the variance a of a score about what its row shares, the gap g = a - c of the scores of two rows with
    covariance c, the number n of tokens, and how many more keys the second row has (0). Equal rows (g = 0) overlap as much as
    one row participates. The derivative in g is minus the :class:`JacobianOverlap`.

    >>> a, g, n = sp.symbols("a g n", positive=True)
    >>> RowOverlap(0, 0, n), RowOverlap(a, 0, n)
    (1/n, Participation(a, n))
    >>> RowOverlap(a, g, n).diff(g)
    -JacobianOverlap(a, g, n)
    """

    leading = 1

    @classmethod
    def eval(cls, variance: sp.Expr, score_gap: sp.Expr, tokens: sp.Expr, extra: sp.Expr = sp.S.Zero) -> sp.Expr | None:
        if variance == 0 or variance == score_gap:
            return 1 / (tokens + extra)
        if extra == 0 and tokens == 1:
            return sp.S.One
        return Participation(variance, tokens) if score_gap == 0 and extra == 0 else None

    def coefficients(self, order: int) -> tuple[PolyElement, ...]:
        self._refuse_unequal()
        return product_moment(((1, 1),), order)

    @property
    def powers(self) -> Monomial:
        """The exponents of the two rows."""
        return ((1, 1),)

    def moments(self) -> sp.Expr:
        return self

    def in_double(self) -> float:
        return self._double_pair()

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return -JacobianOverlap(*self.args) if argindex == 2 else _pair_slope(self, ((1, 1),), argindex - 1)

    def _exact(self) -> mpmath.mpf:
        return self._exact_pair(((1, 1),))[0]

    def _eval_is_positive(self) -> bool | None:
        return True if self.variance.is_nonnegative and self.tokens.is_positive else None


class JacobianOverlap(PairNode):
    r"""Overlap of the Jacobians of two rows, :math:`B = E\, \mathrm{tr}(J_i J_k)`, :math:`J = \mathrm{diag}(A) - A A^\top`.

    The derivative of :class:`RowOverlap` in the covariance of the scores; its arguments. :math:`(1 - Y)^2/(n - 1)` for
    independent rows.

    >>> a, g, n = sp.symbols("a g n", positive=True)
    >>> JacobianOverlap(0, 0, n), JacobianOverlap(a, a, n)
    ((n - 1)/n**2, (1 - Participation(a, n))**2/(n - 1))
    """

    leading = 1

    @classmethod
    def eval(cls, variance: sp.Expr, score_gap: sp.Expr, tokens: sp.Expr, extra: sp.Expr = sp.S.Zero) -> sp.Expr | None:
        if tokens == 1:
            return sp.S.Zero
        if variance == 0 and extra == 0:
            return (tokens - 1) / tokens**2
        if variance == score_gap:
            both = (1 - Participation(variance, tokens)) * (1 - Participation(variance, tokens + extra))
            return both / (tokens + extra - 1)
        return jacobian_square(variance, tokens) if score_gap == 0 and extra == 0 else None

    def moments(self) -> sp.Expr:
        return _combined(cross_heat(((1, 1),)), lambda powers: PairMoment(powers, *self.rest))

    def coefficients(self, order: int) -> tuple[PolyElement, ...]:
        self._refuse_unequal()
        total = list(product_moment(((1, 1),), order))
        more = [(powers, value) for powers, value in cross_heat(((1, 1),)).items() if powers != ((1, 1),)]
        for k in range(order):
            total[k + 1] += sum(value * product_moment(powers, order)[k] for powers, value in more)
        return tuple(total)

    def _exact(self) -> mpmath.mpf:
        polynomial = cross_heat(((1, 1),))
        values = self._exact_pair(*polynomial)
        return mpmath.fsum(int(factor) * value for factor, value in zip(polynomial.values(), values, strict=True))

    def _eval_is_nonnegative(self) -> bool | None:
        inside = (2 * self.variance - self.score_gap).is_nonnegative and (self.variance - self.score_gap).is_nonnegative
        return True if inside else None


class OverlapGap(PairNode):
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

    nargs = (3,)

    def coefficients(self, order: int) -> tuple[PolyElement, ...]:
        return over_others(excess(product_moment(((1, 1),), order)))

    def moments(self) -> sp.Expr:
        return (self.tokens * RowOverlap(*self.args) - 1) / (self.tokens - 1)

    def in_double(self) -> float:
        return float(softmax_numeric.overlap_gap(*map(_double, self.args)))

    def _exact(self) -> mpmath.mpf:
        count = int(self.tokens)
        with mpmath.extraprec(_lost_bits(_mp(self.variance) - _mp(self.score_gap))):
            return (count * self._exact_pair(((1, 1),))[0] - 1) / (count - 1)


class RowGap(PairNode):
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

    nargs = (3,)

    def coefficients(self, order: int) -> tuple[PolyElement, ...]:
        own, other = product_moment(((2, 0),), order), product_moment(((1, 1),), order)
        return tuple(one - two for one, two in zip(own, other, strict=True))

    def moments(self) -> sp.Expr:
        return Participation(self.variance, self.tokens) - RowOverlap(*self.args)

    def in_double(self) -> float:
        return float(softmax_numeric.row_gap(*map(_double, self.args)))

    def _exact(self) -> mpmath.mpf:
        with mpmath.extraprec(_lost_bits(_mp(self.score_gap))):
            own = _row(((2, 0),), _mp(self.variance), int(self.tokens))
            return own - self._exact_pair(((1, 1),))[0]


def expanded(expression: sp.Expr, order: int = 1) -> sp.Expr:
    """Every weight moment of an expression replaced by its expansion in 1/n.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> expanded(n*Participation(a, n), 0)
    ExpMinusOne(a) + 1
    """
    return expression.replace(lambda node: isinstance(node, WeightNode), lambda node: node.expansion(order))


def softmax_variance(variance: sp.Expr, tokens: sp.Expr) -> sp.Expr:
    r"""Variance of a softmax weight, :math:`E A^2 - 1/n^2 = (n - 1) W/n^2` with W the :class:`WeightGap`."""
    return (tokens - 1) * WeightGap(variance, tokens) / tokens**2


def softmax_gradient(variance: sp.Expr, tokens: sp.Expr) -> sp.Expr:
    r"""Second moment of dLoss/d(score) for a gradient on the weights with independent entries of second moment 1.

    :math:`E[S_2 - 2 S_3 + S_2^2]/n` with :math:`S_k = \sum_j A_j^k`; see :class:`SoftmaxSlope`.
    """
    return (tokens - 1) * SoftmaxSlope(variance, tokens) / tokens



def _lost_bits(small: Any) -> int:
    return 0 if small == 0 else max(0, -int(mpmath.mag(small))) + 5


# Named combinations of the moments of a row; the arguments are those of WeightMoment after the powers.


def participation(*arguments: sp.Expr) -> sp.Expr:
    r"""Y = E sum_j w_j^2."""
    return WeightMoment((2,), *arguments)


def jacobian_square(*arguments: sp.Expr) -> sp.Expr:
    r""":math:`J_2 = E\, \mathrm{tr} J^2` of the softmax Jacobian :math:`J = \mathrm{diag}(w) - w w^\top`.

    >>> n = sp.Symbol("n", positive=True)
    >>> sp.factor(jacobian_square(0, n))
    (n - 1)/n**2
    """
    return WeightMoment((2,), *arguments) - 2 * WeightMoment((3,), *arguments) + WeightMoment((2, 2), *arguments)


def jacobian_trace_square(*arguments: sp.Expr) -> sp.Expr:
    r""":math:`E (\mathrm{tr} J)^2`."""
    return WeightMoment((), *arguments) - 2 * WeightMoment((2,), *arguments) + WeightMoment((2, 2), *arguments)


def participation_slope(*arguments: sp.Expr) -> sp.Expr:
    r""":math:`s\, dY/ds = 2 s^2\, dY/ds^2`, s^2 the score variance."""
    variance, rest = sp.Dummy("a", positive=True), arguments[1:]
    at = arguments[0]
    if at == 0:
        return sp.S.Zero
    return 2 * at * Participation(variance, *rest).diff(variance).xreplace({variance: at})


__all__ = [
    "JacobianOverlap",
    "OverlapGap",
    "PairMoment",
    "PairNode",
    "Participation",
    "RowGap",
    "RowNode",
    "RowOverlap",
    "SoftmaxSlope",
    "WeightGap",
    "WeightMoment",
    "WeightNode",
    "expanded",
    "jacobian_square",
    "jacobian_trace_square",
    "key_moment",
    "participation",
    "participation_slope",
    "softmax_gradient",
    "softmax_variance",
]
