r"""Gaussian moments at any mean of a polynomial times a step or a normal cdf, plus a polynomial.

Taylor's formula in the covariance (:mod:`symprop.functions.covariance_integral`), with n the order of the derivative of phi
that is a density times a polynomial, :math:`f_k = E\phi^{(k)}` and c = v - gap:

.. math::

    E\phi^2 - E\phi(x)\phi(y) = \sum_{k<n} \frac{v^k - c^k}{k!} f_k^2
        + \int_0^v \frac{(v-s)^{n-1} - (c-s)_+^{n-1}}{(n-1)!} K(s)\, ds
        - (-1)^n \int_0^{-c} \frac{(-c-s)^{n-1}}{(n-1)!} K(-s)\, ds

where the last integral counts for c < 0 only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import sympy as sp

from symprop.functions import gaussian_expectation as ge
from symprop.functions.covariance_integral import GAUSS, Pair, density, density_summand
from symprop.functions.depth_nodes import ExpMinusOne
from symprop.functions.normal_moment import NormalMoment
from symprop.functions.table_sum import TableSum

Terms = tuple[ge.Term, ...]


@dataclass(frozen=True)
class OgiveMoments:
    """The moments of a function given by its terms.

    ``second`` and ``gap`` are right to every digit from aligned to opposite tokens and in the tails, ``cross`` where the
    covariance is positive: a negative one costs the digits by which it is smaller than the product of the means.
    """

    name: str
    terms: Terms

    @property
    def slope(self) -> OgiveMoments:
        """The moments of the derivative."""
        return OgiveMoments(f"{self.name} slope", ge.derivative(self.terms))

    @property
    def _noise2(self) -> sp.Expr:
        return ge.noise2(self.terms)

    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        """E phi(x)."""
        return _mean(self.terms, m, v)

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        """E phi(x)^2."""
        n = len(_derivatives(self.terms))
        if n and self._noise2 == 0:
            return _mean(ge.product(self.terms, self.terms), m, v)
        if n == 0:
            return self._density(m, m, v, v, v)
        powers = (v**k * _mean(part, m, v) ** 2 / sp.factorial(k) for k, part in enumerate(_derivatives(self.terms)))
        return sp.Add(*powers, self._sum("second", _second, (m, v)))

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        """E phi(x)^2 - E phi(x) phi(y)."""
        derivatives = _derivatives(self.terms)
        n = len(derivatives)
        if gap == 0:
            return sp.S.Zero
        if n == 0:
            # The logarithm of the density at v - gap over that at v.
            twice = 2 * (v + self._noise2) - self._noise2
            ratio = gap * (2 * v - gap) / (self._noise2 * twice)
            loss = -sp.log(1 + ratio) / 2 - m**2 * gap / (twice * (twice - gap))
            return -ExpMinusOne(loss) * self.second(m, v)
        powers = sp.Add(*(
            _power_change(k, v, gap) * _mean(part, m, v) ** 2 / sp.factorial(k)
            for k, part in enumerate(derivatives) if k > 0
        ))  # fmt: skip
        if n % 2 == 0 and self._noise2 == 0:
            # Opposite tokens of an even function are alike: nothing may be subtracted.
            opposite = self._sum("asymmetry", _asymmetry, (m, v)) + self._loss(-1, m, v, 2 * v - gap)
            return powers + sp.Piecewise((self._loss(1, m, v, gap), gap <= v), (opposite, True))
        beyond = self._sum("opposite", _opposite, (m, v, sp.Min(v, 2 * v - gap)))
        return powers + self._loss(1, m, v, sp.Min(gap, v)) - (-1) ** n * beyond

    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        """E phi(x) phi(y)."""
        derivatives = _derivatives(self.terms)
        if not derivatives:
            return self._density(m1, m2, v1, v2, c)
        total = sp.Add(*(
            c**k * _mean(part, m1, v1) * _mean(part, m2, v2) / sp.factorial(k) for k, part in enumerate(derivatives)
        ))  # fmt: skip
        arguments: tuple[sp.Expr, ...] = (m1, v1) if (m1, v1) == (m2, v2) else (m1, m2, v1, v2)
        for sign in (1, -1):
            what = "cross aligned" if sign == 1 else "cross opposed"
            part = self._sum(what, _crossed(sign, len(arguments) == 2), (*arguments, sp.Max(sign * c, 0)))
            total += sign ** len(derivatives) * part
        return total

    def _density(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        pair = Pair(m1, m2, v1 + self._noise2, v2 + self._noise2, self._noise2, 1)
        return density(pair, _polynomial(self.terms), pair.scale - c)

    def _loss(self, sign: int, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        name = "same" if sign == 1 else "opposite"
        return self._sum(f"{name} far", _far(sign), (m, v, gap)) + self._sum(f"{name} near", _near(sign), (m, v, gap))

    def _sum(self, what: str, build: Callable[[Terms], sp.Lambda], arguments: tuple[sp.Expr, ...]) -> sp.Expr:
        """One of the integrals below at its arguments."""
        return TableSum(f"{self.name} {what}", GAUSS, build(self.terms), *arguments)


@cache
def _derivatives(terms: Terms) -> tuple[Terms, ...]:
    """The function and its derivatives, up to the last that is not a density times a polynomial."""
    found = []
    while any(not isinstance(base, ge.Bump) for _, _, base in terms):
        found.append(terms)
        terms = ge.derivative(terms)
    return tuple(found)


@cache
def _polynomial(terms: Terms) -> Terms:
    """The polynomial before the density in the first derivative that has one."""
    while any(not isinstance(base, ge.Bump) for _, _, base in terms):
        terms = ge.derivative(terms)
    return tuple((coefficient, power, None) for coefficient, power, _ in terms)


def _power_change(k: int, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
    """v^k - (v - gap)^k, with the factor gap."""
    return gap * sp.Add(*(v**j * (v - gap) ** (k - 1 - j) for j in range(k)))


def _mean(terms: Terms, m: sp.Expr, v: sp.Expr) -> sp.Expr:
    """The expectation of a function of one normal variable."""
    parts: dict[tuple[int, ge.Base], sp.Expr] = {}
    for coefficient, power, base in terms:
        parts[power, base] = parts.get((power, base), sp.S.Zero) + coefficient
    total = sp.S.Zero
    for (power, base), coefficient in parts.items():
        if isinstance(base, ge.Ogive) and power == 0 and 2 * parts.get((0, None), sp.S.Zero) + coefficient == 0:
            # a Phi - a/2 in one piece.
            total += coefficient * (sp.erf(m / sp.sqrt(2 * (v + base.noise2))) + 1) / 2
        else:
            total += coefficient * _power_mean(power, base, m, v)
    return sp.expand(total) if total.has(sp.erf) else total


def _power_mean(power: int, base: ge.Base, m: sp.Expr, v: sp.Expr) -> sp.Expr:
    """The expectation of a power times a base, given the variable with its noise where there is one."""
    moment = ge.single_moment(((sp.S.One, power, None),))
    if base is None:
        return moment.subs({ge.M1: m, ge.V1: v}, simultaneous=True)
    noisy, total = sp.Dummy("noisy"), v + base.noise2
    given = {ge.M1: v / total * noisy + base.noise2 / total * m, ge.V1: v * base.noise2 / total}
    polynomial = sp.Poly(moment.subs(given, simultaneous=True), noisy)
    if isinstance(base, ge.Bump):
        return polynomial.nth(0) * sp.exp(-(m**2) / (2 * total)) / sp.sqrt(2 * sp.pi * total)
    return sp.Add(*(factor * NormalMoment(k, m, total) for (k,), factor in polynomial.terms()))


def _pair(terms: Terms, sign: int) -> Pair:
    noise2 = ge.noise2(terms)
    return Pair(ge.M1, ge.M1, ge.V1 + noise2, ge.V1 + noise2, noise2, sign)


def _over(terms: Terms) -> tuple[int, sp.Expr]:
    """n - 1 and its factorial."""
    power = len(_derivatives(terms)) - 1
    return power, sp.factorial(power)


@cache
def _second(terms: Terms) -> sp.Lambda:
    """The integral of (v - s)^(n-1) K(s)."""
    power, factorial = _over(terms)
    return density_summand(
        _pair(terms, 1), _polynomial(terms), lambda beyond, _: beyond**power / factorial, sp.S.Zero, ge.V1,
        (ge.M1, ge.V1),
    )  # fmt: skip


@cache
def _asymmetry(terms: Terms) -> sp.Lambda:
    """The integral of (v - s)^(n-1) (K(s) - K(-s))."""
    power, factorial = _over(terms)
    pair = _pair(terms, 1)
    return density_summand(
        pair, _polynomial(terms),
        lambda beyond, odds: -ExpMinusOne(-pair.near * (1 / odds - odds)) * beyond**power / factorial, sp.S.Zero, ge.V1,
        (ge.M1, ge.V1), asymmetric=True,
    )  # fmt: skip


@cache
def _opposite(terms: Terms) -> sp.Lambda:
    """The integral of (b - s)^(n-1) K(-s) up to b = v - gap_xy."""
    power, factorial = _over(terms)
    return density_summand(
        _pair(terms, -1), _polynomial(terms), lambda beyond, _: (beyond - ge.GAP) ** power / factorial, ge.GAP, ge.V1,
        (ge.M1, ge.V1, ge.GAP),
    )  # fmt: skip


@cache
def _near_summand(terms: Terms, sign: int) -> sp.Lambda:
    power, factorial = _over(terms)
    return density_summand(
        _pair(terms, sign), _polynomial(terms), lambda beyond, _: beyond**power / factorial, sp.S.Zero, ge.GAP,
        (ge.M1, ge.V1, ge.GAP),
    )  # fmt: skip


@cache
def _far_summand(terms: Terms, sign: int) -> sp.Lambda:
    power, factorial = _over(terms)
    return density_summand(
        _pair(terms, sign), _polynomial(terms), lambda beyond, _: _power_change(power, beyond, ge.GAP) / factorial, ge.GAP,
        ge.V1, (ge.M1, ge.V1, ge.GAP),
    )  # fmt: skip


@cache
def _crossed_summand(terms: Terms, sign: int, alike: bool) -> sp.Lambda:
    power, factorial = _over(terms)
    noise2 = ge.noise2(terms)
    pair = _pair(terms, sign) if alike else Pair(ge.M1, ge.M2, ge.V1 + noise2, ge.V2 + noise2, noise2, sign)
    lower = pair.scale - ge.COV - noise2
    return density_summand(
        pair, _polynomial(terms), lambda beyond, _: (beyond - lower) ** power / factorial, lower, pair.scale - noise2,
        (ge.M1, ge.V1, ge.COV) if alike else (ge.M1, ge.M2, ge.V1, ge.V2, ge.COV),
    )  # fmt: skip


def _near(sign: int) -> Callable[[Terms], sp.Lambda]:
    """The integral of (v - s)^(n-1) K(sign s) from v - gap to v."""
    return lambda terms: _near_summand(terms, sign)


def _far(sign: int) -> Callable[[Terms], sp.Lambda]:
    """The integral of ((v - s)^(n-1) - (v - gap - s)^(n-1)) K(sign s) up to v - gap."""
    return lambda terms: _far_summand(terms, sign)


def _crossed(sign: int, alike: bool) -> Callable[[Terms], sp.Lambda]:
    """The integral of (c - s)^(n-1) K(sign s) up to c."""
    return lambda terms: _crossed_summand(terms, sign, alike)
