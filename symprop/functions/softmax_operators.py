r"""Derivatives of polynomials in power sums of softmax weights, as polynomials in power sums.

:math:`T(k, p) = \sum_j w_j^k c_j^p` is written (k, p), a monomial is a sorted tuple of these and a polynomial a dictionary
{monomial: coefficient}. All rules follow from :math:`\partial w_i/\partial a_j = w_i (\delta_{ij} - w_j)`; expectations of
polynomials then obey the heat equation in the variances of the scores.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

Power = tuple[int, int]
Monomial = tuple[Power, ...]
Polynomial = dict[Monomial, Any]
_Local = dict[tuple[Power, Monomial], Any]
"""Terms w_j^k c_j^p times a monomial, for one token j."""


def monomial(powers: Any) -> Monomial:
    """Sorted, without the factors T(1, 0) = 1."""
    return tuple(sorted((int(k), int(p)) for k, p in powers if (k, p) != (1, 0)))


def add_term(terms: dict[Any, Any], key: Any, value: Any) -> None:
    """Add to a coefficient."""
    total = terms.get(key, 0) + value
    if total == 0:
        terms.pop(key, None)
    else:
        terms[key] = total


def _score_slope(terms: _Local) -> _Local:
    """d/da_j with every c held fixed."""
    found: _Local = {}
    for ((k, p), sums), value in terms.items():
        if k:
            add_term(found, ((k, p), sums), k * value)
            add_term(found, ((k + 1, p), sums), -k * value)
        for place, (m, q) in enumerate(sums):
            rest = sums[:place] + sums[place + 1 :]
            add_term(found, ((k + m, p + q), rest), m * value)
            add_term(found, ((k + 1, p), sums), -m * value)
    return found


def _key_slope(terms: _Local) -> _Local:
    """d/dc_j with every weight held fixed."""
    found: _Local = {}
    for ((k, p), sums), value in terms.items():
        if p:
            add_term(found, ((k, p - 1), sums), p * value)
        for place, (m, q) in enumerate(sums):
            if q:
                rest = sums[:place] + sums[place + 1 :]
                add_term(found, ((k + m, p + q - 1), rest), q * value)
    return found


def _summed(terms: _Local) -> Polynomial:
    """The sum over j; every term has a positive power of w_j."""
    found: Polynomial = {}
    for (local, sums), value in terms.items():
        add_term(found, monomial((local, *sums)), value)
    return found


def heat(powers: Monomial, sphere: bool = False) -> Polynomial:
    r"""d/ds^2 of the expectation of a monomial without powers of c, s^2 the variance of the scores.

    For normal keys :math:`\tfrac12 \sum_j \partial^2/\partial a_j^2`. For keys on a sphere the weight
    :math:`(1 - \zeta^2/D)^{(D-3)/2}` gives :math:`\tfrac12 \tfrac{D}{D-1} \sum_j (1 - c_j^2) \partial^2/\partial a_j^2`; the
    factor D/(D - 1) is left to the caller.

    >>> heat(((2, 0),))
    {((2, 0),): Fraction(1, 1), ((3, 0),): Fraction(-4, 1), ((2, 0), (2, 0)): Fraction(3, 1)}
    """
    terms = _score_slope(_score_slope({((0, 0), powers): Fraction(1, 2)}))
    if sphere:
        plain = dict(terms)
        for ((k, p), sums), value in plain.items():
            add_term(terms, ((k, p + 2), sums), -value)
    return _summed(terms)


def stretch(powers: Monomial) -> Polynomial:
    r"""d/ds of a monomial for scores a_j = s c_j: :math:`\sum_j c_j \partial/\partial a_j`.

    >>> stretch(((2, 0),))
    {((2, 1),): 2, ((1, 1), (2, 0)): -2}
    """
    terms = _score_slope({((0, 0), powers): 1})
    return _summed({((k, p + 1), sums): value for ((k, p), sums), value in terms.items()})


def by_parts(powers: Monomial) -> dict[int, Polynomial]:
    r"""The expectation of a monomial over normal keys without powers of c: {power of s: polynomial}.

    Stein's lemma: :math:`E \zeta_j f = E\, \partial f/\partial \zeta_j` with :math:`a_j = s \zeta_j`.

    >>> by_parts(((1, 1),))
    {1: {(): 1, ((2, 0),): -1}}
    """
    place = next((k for k, (_, p) in enumerate(powers) if p), None)
    if place is None:
        return {0: {powers: 1}}
    k, p = powers[place]
    local: _Local = {((k, p - 1), powers[:place] + powers[place + 1 :]): 1}
    found: dict[int, Polynomial] = {}
    for shift, polynomial in ((0, _summed(_key_slope(local))), (1, _summed(_score_slope(local)))):
        for sums, value in polynomial.items():
            for power, inner in by_parts(sums).items():
                for key, coefficient in inner.items():
                    add_term(found.setdefault(power + shift, {}), key, value * coefficient)
    return {power: polynomial for power, polynomial in sorted(found.items()) if polynomial}


def _row_slope(terms: _Local, side: int) -> _Local:
    """d/da_j of one of two rows, for powers (k, l) of w_j and v_j."""
    unit = ((1, 0), (0, 1))[side]
    found: _Local = {}
    for (local, sums), value in terms.items():
        up = (local[0] + unit[0], local[1] + unit[1])
        if local[side]:
            add_term(found, (local, sums), local[side] * value)
            add_term(found, (up, sums), -local[side] * value)
        for place, power in enumerate(sums):
            if power[side]:
                rest = sums[:place] + sums[place + 1 :]
                joined = (local[0] + power[0], local[1] + power[1])
                add_term(found, (joined, rest), power[side] * value)
                add_term(found, (up, sums), -power[side] * value)
    return found


def pair_monomial(powers: Any) -> Monomial:
    """Sorted, without the factors sum w = sum v = 1."""
    return tuple(sorted((int(k), int(m)) for k, m in powers if (k, m) not in ((1, 0), (0, 1))))


def _pair_sum(terms: _Local) -> Polynomial:
    """The sum over j for two rows."""
    found: Polynomial = {}
    for (local, sums), value in terms.items():
        add_term(found, pair_monomial((local, *sums)), value)
    return found


def cross_heat(powers: Monomial) -> Polynomial:
    r"""d/dc of the expectation of a monomial of two rows, c their score covariance: :math:`\sum_j \partial_j \partial'_j`.

    >>> cross_heat(((1, 1),))
    {((1, 1),): 1, ((1, 2),): -1, ((2, 1),): -1, ((1, 1), (1, 1)): 1}
    """
    return dict(sorted(_pair_sum(_row_slope(_row_slope({((0, 0), powers): 1}, 0), 1)).items(), key=_by_length))


def own_heat(powers: Monomial) -> Polynomial:
    r"""Derivative in the variance of both rows at fixed covariance: :math:`\tfrac12 \sum_j (\partial_j^2 + \partial_j'^2)`."""
    found: Polynomial = {}
    for side in (0, 1):
        terms = _row_slope(_row_slope({((0, 0), powers): Fraction(1, 2)}, side), side)
        for key, value in _pair_sum(terms).items():
            add_term(found, key, value)
    return found


def _by_length(item: tuple[Monomial, Any]) -> tuple[int, Monomial]:
    """Short monomials first."""
    return len(item[0]), item[0]
