r"""Expansion in 1/n of moments of softmax weights, by the delta method.

Numerator and denominator of a weight are sums of lognormal variables, expanded about their means.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb, factorial

import sympy as sp
from sympy.polys.rings import PolyElement, ring

from symprop.functions.softmax_numeric import set_partitions

_RING, _TOKENS, _SAME, _CROSS = ring("m, X, Y", sp.QQ)
"""Other tokens m, X = e^a and Y = e^c: every moment of the normalised exponentials is a monomial in X and Y."""

_Bivariate = dict[tuple[int, int], PolyElement]


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


@lru_cache(maxsize=64)
def product_moment(powers: tuple[tuple[int, int], ...], order: int) -> tuple[PolyElement, ...]:
    r"""Expansion of :math:`n^{K-B} E \prod_b \sum_j A_j^{k_b} B_j^{l_b}` in 1/n, B the number of factors.

    >>> product_moment(((2, 0), (2, 0)), 0) == (_SAME**2,)
    True
    """
    total = [_RING.zero] * (order + 1)
    for blocks, times in set_partitions(powers).items():
        coefficients = list(weight_moment(blocks, order))
        for k in range(1, len(blocks)):
            coefficients = [c - (k * coefficients[i - 1] if i else 0) for i, c in enumerate(coefficients)]
        shift = len(powers) - len(blocks)
        for i in range(order + 1 - shift):
            total[i + shift] += times * coefficients[i]
    return tuple(total)


def excess(coefficients: tuple[PolyElement, ...]) -> tuple[PolyElement, ...]:
    """Minus 1, the leading coefficient of a moment of uniform weights."""
    return (coefficients[0] - 1, *coefficients[1:])


def over_others(coefficients: tuple[PolyElement, ...]) -> tuple[PolyElement, ...]:
    """Times n/(n - 1), as a series in 1/n."""
    total, sums = _RING.zero, []
    for coefficient in coefficients:
        total = total + coefficient
        sums.append(total)
    return tuple(sums)
