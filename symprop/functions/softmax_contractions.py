r"""Contractions of softmax weights with the Gram matrix of their keys, for keys o_j that are uniform on a sphere.

Given the cosines c_j with the query, :math:`\Omega_{jk} = o_j \cdot o_k = c_j c_k + \sqrt{(1 - c_j^2)(1 - c_k^2)}\, \nu_{jk}`
for j != k, where :math:`\nu_{jk}` is a cosine of two directions in D - 1 dimensions: of mean 0 and variance 1/(D - 1),
uncorrelated for different pairs. A contraction therefore is a polynomial in :math:`T(k, p) = \sum_j w_j^k c_j^p`, found
here by summing over the tokens that coincide. Arguments of the named functions: score variance a, tokens n, dimension D of the
keys and, as in :class:`~symprop.functions.softmax_overlap.WeightMoment`, w and k. ``D = oo`` stands for normal keys
with :math:`c_j = \zeta_j`, where only the functions that say so are defined.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import factorial
from typing import Any

import sympy as sp

from symprop.core.errors import RefusedError
from symprop.functions.softmax_operators import Monomial, Polynomial, Power, add_term, monomial
from symprop.functions.softmax_overlap import WeightMoment, jacobian_square

_D = sp.Symbol("D", positive=True)
Edge = tuple[int, int]


def _groupings(count: int) -> Iterable[tuple[int, ...]]:
    """Which tokens coincide: every label gets the number of its group, groups numbered by first appearance."""
    found: list[tuple[int, ...]] = [()]
    for _ in range(count):
        found = [(*labels, group) for labels in found for group in range(max(labels, default=-1) + 2)]
    return found


def _merged(powers: Iterable[Power], groups: tuple[int, ...]) -> list[Power]:
    total = [(0, 0)] * (max(groups) + 1)
    for (k, p), group in zip(powers, groups, strict=True):
        total[group] = (total[group][0] + k, total[group][1] + p)
    return total


def _over_distinct(powers: list[Power]) -> Polynomial:
    """The sum of prod w^k c^p over distinct tokens, in sums over all tokens (Moebius inversion)."""
    found: Polynomial = {}
    for groups in _groupings(len(powers)):
        sign = 1
        for group in set(groups):
            size = groups.count(group)
            sign *= (-1) ** (size - 1) * factorial(size - 1)
        add_term(found, monomial(_merged(powers, groups)), sign)
    return found


@lru_cache(maxsize=64)
def contraction(powers: tuple[Power, ...], edges: tuple[Edge, ...]) -> tuple[tuple[Monomial, sp.Expr], ...]:
    r"""Expectation over directions of :math:`\sum_{j_1, ...} \prod_i w_{j_i}^{k_i} c_{j_i}^{p_i} \prod_e \Omega_{j_e j_e'}`.

    At most two edges. Returns pairs of a monomial and its coefficient, which depends on the symbol D.

    >>> dict(contraction(((1, 0), (1, 0)), ((0, 1),)))
    {((2, 0),): 1, ((2, 2),): -1, ((1, 1), (1, 1)): 1}
    """
    if len(edges) > 2:
        raise RefusedError(f"contraction of {len(edges)} inner products", "three of them may be dependent given the cosines",
                           "use at most two")
    found: Polynomial = {}
    for groups in _groupings(len(powers)):
        pairs = [tuple(sorted((groups[i], groups[j]))) for i, j in edges if groups[i] != groups[j]]
        terms: list[tuple[sp.Expr, list[Power]]] = [(sp.S.One, _merged(powers, groups))]
        for pair in dict.fromkeys(pairs):
            if pairs.count(pair) == 1:
                changes = [(sp.S.One, 1, 1)]
            else:
                rest = 1 / (_D - 1)
                changes = [(1 + rest, 2, 2), (rest, 0, 0), (-rest, 2, 0), (-rest, 0, 2)]
            grown = []
            for factor, base in terms:
                for value, one, two in changes:
                    raised = list(base)
                    for token, by in zip(pair, (one, two), strict=True):
                        raised[token] = (raised[token][0], raised[token][1] + by)
                    grown.append((factor * value, raised))
            terms = grown
        for factor, base in terms:
            for key, value in _over_distinct(base).items():
                add_term(found, key, factor * value)
    return tuple(found.items())


class _Sum:
    """A polynomial in the T under construction."""

    def __init__(self) -> None:
        self.terms: Polynomial = {}

    def add(self, factor: Any, powers: tuple[Power, ...], *edges: Edge, times: tuple[Power, ...] = ()) -> _Sum:
        """Add factor * (product of the T in ``times``) * contraction."""
        for key, value in contraction(powers, edges):
            add_term(self.terms, monomial((*key, *times)), sp.sympify(factor) * value)
        return self

    def expectation(self, a: Any, n: Any, dimension: Any, *rest: Any) -> sp.Expr:
        """Its expectation over a row."""
        if dimension is sp.oo:
            raise RefusedError("contraction with the Gram matrix", "normal keys have no cosines",
                               "give the dimension of the sphere")
        return sp.Add(*(
            sp.factor(value).subs(_D, dimension) * WeightMoment(key, a, n, dimension, *rest)
            for key, value in self.terms.items()
        ))


_ONE = (1, 0)


def private_square(*row: Any) -> sp.Expr:
    r""":math:`M = E\, w^\top \Omega w`: second moment of a weighted mean of unit keys."""
    return _Sum().add(1, (_ONE, _ONE), (0, 1)).expectation(*row)


def centre_overlap(a: Any, n: Any, dimension: Any, *rest: Any) -> sp.Expr:
    r""":math:`E\, w^\top \Omega \tfrac1n - \tfrac1n = \tfrac1n E \sum_{j \ne k} w_j c_j c_k`, for a weighted mean
    and the plain mean of the keys.

    Zero for normal keys, as the weights do not see a shift of all scores. By parts over the sphere,
    :math:`(D - 1) E\, c_k f = E\, (1 - c_k^2)\, \partial f/\partial c_k`.
    """
    def moment(*powers: Power) -> sp.Expr:
        return WeightMoment(powers, a, n, dimension, *rest)

    pulled = sp.sqrt(a * dimension) * (moment((1, 3)) - moment((1, 1), (1, 2)))
    return ((1 - moment((1, 2)) - pulled) / (dimension - 1) - moment((1, 2))) / n


def gram_jacobian_square(*row: Any) -> sp.Expr:
    r""":math:`J_{2k} = E\, \mathrm{tr}(J^2 \Omega)` with the softmax Jacobian :math:`J = \mathrm{diag}(w) - w w^\top`."""
    total = _Sum().add(1, ((2, 0),)).add(-2, ((2, 0), _ONE), (0, 1)).add(1, (_ONE, _ONE), (0, 1), times=((2, 0),))
    return total.expectation(*row)


def gram_jacobian_pair(*row: Any) -> sp.Expr:
    r""":math:`c_2 = E\, \mathrm{tr}(J \Omega J \Omega)`."""
    total = _Sum().add(1, (_ONE, _ONE), (0, 1), (0, 1)).add(-2, (_ONE, _ONE, _ONE), (0, 1), (1, 2))
    return total.add(1, (_ONE,) * 4, (0, 1), (2, 3)).expectation(*row)


def query_square(*row: Any) -> sp.Expr:
    r""":math:`E\, c^\top J \Omega J c`: squared length of :math:`\sum_j (J c)_j o_j`, per unit length of the query."""
    total = _Sum().add(1, ((1, 1), (1, 1)), (0, 1)).add(-2, ((1, 1), _ONE), (0, 1), times=((1, 1),))
    return total.add(1, (_ONE, _ONE), (0, 1), times=((1, 1), (1, 1))).expectation(*row)


def radial_key_square(*row: Any) -> sp.Expr:
    r""":math:`K_{22} = E \sum_j w_j^2 \zeta_j^2 |o_j - m|^2` with the weighted mean m of the keys."""
    total = _Sum().add(1, ((2, 2),)).add(-2, ((2, 2), _ONE), (0, 1)).add(1, ((2, 2), _ONE, _ONE), (1, 2))
    return row[2] * total.expectation(*row)


def radial_value_key(power: int, *row: Any) -> sp.Expr:
    r""":math:`s\, E \sum_j w_j^k \zeta_j\, o_j \cdot (o_j - m)` for a power k of the weights."""
    total = _Sum().add(1, ((power, 1),)).add(-1, ((power, 1), _ONE), (0, 1))
    return sp.sqrt(row[0] * row[2]) * total.expectation(*row)


def score_mean(a: Any, n: Any, dimension: Any = sp.oo, *rest: Any) -> sp.Expr:
    r""":math:`T = E \sum_j w_j \zeta_j`, also for normal keys, where it is :math:`s (1 - Y)`.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> sp.factor(score_mean(a, n))
    -sqrt(a)*(Participation(a, n) - 1)
    """
    mean = WeightMoment(((1, 1),), a, n, dimension, *rest)
    return mean.by_parts() if dimension is sp.oo and isinstance(mean, WeightMoment) else _unit(dimension) * mean


def score_mean_square(a: Any, n: Any, dimension: Any = sp.oo, *rest: Any) -> sp.Expr:
    r""":math:`\tau_2 = E (\sum_j w_j \zeta_j)^2`, also for normal keys."""
    return _unit(dimension) ** 2 * WeightMoment(((1, 1), (1, 1)), a, n, dimension, *rest)


def score_excess(a: Any, n: Any, dimension: Any = sp.oo, *rest: Any) -> sp.Expr:
    r""":math:`h = E \sum_j w_j \zeta_j^2 - 1`, also for normal keys."""
    return _unit(dimension) ** 2 * WeightMoment(((1, 2),), a, n, dimension, *rest) - WeightMoment((), a, n, dimension, *rest)


def score_jacobian_square(a: Any, n: Any, dimension: Any = sp.oo, *rest: Any) -> sp.Expr:
    r""":math:`E\, \zeta^\top J^2 \zeta = E \sum_j w_j^2 (\zeta_j - t)^2`, t the weighted mean; also for normal keys."""
    total = _Sum().add(1, ((2, 2),)).add(-2, ((2, 1),), times=((1, 1),)).add(1, ((2, 0),), times=((1, 1), (1, 1)))
    return _plain(total, 2, a, n, dimension, rest)


def score_variance_square(a: Any, n: Any, dimension: Any = sp.oo, *rest: Any) -> sp.Expr:
    r""":math:`v_2 = E (\zeta^\top J \zeta)^2`, the squared weighted variance of :math:`\zeta`; also for normal keys."""
    total = _Sum().add(1, ((1, 2),), times=((1, 2),)).add(-2, ((1, 2),), times=((1, 1), (1, 1)))
    return _plain(total.add(1, ((1, 1),), times=((1, 1),) * 3), 4, a, n, dimension, rest)


def pair_trace(a: Any, n: Any, dimension: Any = sp.oo, *rest: Any) -> tuple[sp.Expr, sp.Expr]:
    r"""Ends of :math:`E\, \mathrm{tr} J_i\, \mathrm{tr} J_k` in the correlation of two rows: independent rows and equal rows.

    :math:`((1 - Y)^2, E (\mathrm{tr} J)^2)` for normal keys, :math:`(T^2/a, D (c_2 - J_{2k}))` on a sphere.
    """
    if dimension is sp.oo:
        plain = WeightMoment((), a, n, dimension, *rest) - WeightMoment((2,), a, n, dimension, *rest)
        return plain**2, plain - WeightMoment((2,), a, n, dimension, *rest) + WeightMoment((2, 2), a, n, dimension, *rest)
    row = (a, n, dimension, *rest)
    return score_mean(*row) ** 2 / a, dimension * (gram_jacobian_pair(*row) - gram_jacobian_square(*row))


def aligned_slope(a: Any, n: Any, dimension: Any = sp.oo, *rest: Any) -> sp.Expr:
    r"""F, with a F the slope of the overlap of two rows in their correlation where they are equal.

    :math:`J_2` for normal keys, :math:`(J_{2k} - \zeta^\top J^2 \zeta/D) D/(D - 1)` on a sphere.
    """
    if dimension is sp.oo:
        return jacobian_square(a, n, dimension, *rest)
    row = (a, n, dimension, *rest)
    return (gram_jacobian_square(*row) - score_jacobian_square(*row) / dimension) * dimension / (dimension - 1)


def _unit(dimension: Any) -> sp.Expr:
    return sp.S.One if dimension is sp.oo else sp.sqrt(dimension)


def _plain(total: _Sum, power: int, a: Any, n: Any, dimension: Any, rest: tuple[Any, ...]) -> sp.Expr:
    """The expectation of a polynomial of total power ``power`` in zeta."""
    return _unit(dimension) ** power * sp.Add(*(
        value * WeightMoment(key, a, n, dimension, *rest) for key, value in total.terms.items()
    ))


__all__ = [
    "aligned_slope",
    "centre_overlap",
    "contraction",
    "gram_jacobian_pair",
    "gram_jacobian_square",
    "pair_trace",
    "private_square",
    "query_square",
    "radial_key_square",
    "radial_value_key",
    "score_excess",
    "score_jacobian_square",
    "score_mean",
    "score_mean_square",
    "score_variance_square",
]
