r"""Taylor's formula in the covariance: what the Gaussian moments of two tokens are beyond those of one.

By Price's theorem every derivative in the covariance c moves one derivative onto each factor. If the n-th derivative of an
activation is a Gaussian density times a polynomial, or Dirac's delta, then

.. math::

    E\phi(x)\phi(y) = \sum_{k<n} \frac{c^k}{k!}\, E\phi^{(k)}(x)\, E\phi^{(k)}(y)
        + \int_0^c \frac{(c-s)^{n-1}}{(n-1)!}\, K(s)\, ds, \qquad K(s) = E\phi^{(n)}(x)\phi^{(n)}(y)

with an elementary kernel K. Every term is positive for c > 0, so that no digit is lost in a difference or in a tail. For
n = 1 and two steps this is Owen's T function. The integrals run over a fixed Gauss rule in the logarithm of the distance
to full covariance (in its root for steps), cut where the density is below rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy as sp

from symprop.functions import gaussian_expectation as ge
from symprop.functions.depth_nodes import ExpMinusOne, Saturated
from symprop.functions.table_sum import REACH, Larger, Row, Smaller, register_table

NODES = 200
"""Nodes of the rule in double precision; beyond it the rule grows with the precision."""
GAUSS_BITS = 100
"""The bits up to which that rule serves."""
_NODE, _WEIGHT = sp.symbols("node weight", positive=True)
_TINY = sp.Float("1e-290")


def gauss_legendre(points: int) -> list[Row]:
    """Nodes and weights of Gauss's rule on [0, 1], to the working precision."""
    half = []
    for k in range((points + 1) // 2):
        x = mpmath.cos(mpmath.pi * (k + mpmath.mpf(3) / 4) / (points + mpmath.mpf(1) / 2))
        start: Any = float(x)
        for _ in range(4):
            value, slope = _legendre(points, start)
            start -= value / slope
        x = mpmath.mpf(start)
        for _ in range(max(1, (mpmath.mp.prec // 40).bit_length())):
            value, slope = _legendre(points, x)
            x -= value / slope
        half.append(((1 - x) / 2, 1 / ((1 - x * x) * slope**2)))
    return half + [(1 - x, weight) for x, weight in reversed(half[: points // 2])]


def _legendre(points: int, x: Any) -> tuple[Any, Any]:
    """The Legendre polynomial and its derivative, in the numbers of x."""
    before, now = 1, x
    for order in range(2, points + 1):
        before, now = now, ((2 * order - 1) * x * now - (order - 1) * before) / order
    return now, points * (x * now - before) / (x * x - 1)


def _double_exponential() -> list[Row]:
    """The tanh-sinh rule on [0, 1], to the working precision: its nodes cost one exponential each."""
    step = mpmath.mpf("1.8") / mpmath.mp.prec
    end = mpmath.asinh((mpmath.mp.prec + 10) * mpmath.ln(2) / mpmath.pi)
    rows = []
    for k in range(-int(end / step), int(end / step) + 1):
        t = k * step
        rise = mpmath.exp(mpmath.pi * mpmath.sinh(t))
        rows.append((rise / (1 + rise), step * mpmath.pi * mpmath.cosh(t) * rise / (1 + rise) ** 2))
    return rows


def _rows() -> list[Row]:
    return gauss_legendre(NODES) if mpmath.mp.prec <= GAUSS_BITS else _double_exponential()


GAUSS = register_table("gauss_legendre", _rows, nested_above=GAUSS_BITS)


@dataclass(frozen=True)
class Pair:
    """Two normal variables to which an ogive gives its noise: their means, and their variances with noise.

    ``sign`` is the sign of their covariance, which is ``sign`` (scale - distance): the distance is what the integrals run
    over, from ``noise2`` (one token) to the scale (independent tokens) where the variances are equal.
    """

    m1: sp.Expr
    m2: sp.Expr
    v1: sp.Expr
    v2: sp.Expr
    noise2: sp.Expr
    sign: int

    @property
    def scale(self) -> sp.Expr:
        """The geometric mean of the variances."""
        return self.v1 if self.v1 == self.v2 else sp.sqrt(self.v1 * self.v2)

    @property
    def near(self) -> sp.Expr:
        """What the exponent of the density has at independent tokens, from the sum of the means in their units."""
        return self._exponent(self.sign)

    @property
    def far(self) -> sp.Expr:
        """The same from the difference of the means; it grows without bound towards full covariance."""
        return self._exponent(-self.sign)

    def _exponent(self, sign: int) -> sp.Expr:
        if self.v1 == self.v2:
            total = (self.m1 + sign * self.m2) ** 2
            # It may be infinite at a variance of zero, where it meets that variance as a factor.
            return Saturated(total / (8 * self.v1 + _TINY)) if self.noise2 == 0 else total / (8 * self.v1)
        return (self.m1 / sp.sqrt(self.v1) + sign * self.m2 / sp.sqrt(self.v2)) ** 2 / 8

    def conditional(self, polynomial: tuple[ge.Term, ...], distance: sp.Expr) -> sp.Expr:
        """E P(x) P(y) where both variables are zero with their noise."""
        if self.noise2 == 0:
            return sp.Add(*(coefficient for coefficient, _, _ in polynomial)) ** 2
        near = sp.Dummy("distance", positive=True)
        return self._conditional(polynomial, near).xreplace({near: distance})

    def _conditional(self, polynomial: tuple[ge.Term, ...], distance: sp.Expr) -> sp.Expr:
        c, noise = self.sign * (self.scale - distance), self.noise2
        determinant = distance * (2 * self.scale - distance)
        means = (
            noise * sp.cancel((one * v - c * other) / determinant)
            for one, other, v in ((self.m1, self.m2, self.v2), (self.m2, self.m1, self.v1))
        )
        variances = (noise * (determinant - noise * v) / determinant for v in (self.v2, self.v1))
        at = dict(zip((ge.M1, ge.M2, ge.V1, ge.V2), (*means, *variances), strict=True)) | {ge.COV: noise**2 * c / determinant}
        return ge.cross_moment(polynomial, polynomial).subs(at, simultaneous=True)


Weight = Callable[[sp.Expr, sp.Expr], sp.Expr]
"""A factor of the integrand, given the distance beyond its least value, and tan^2 of half the angle of the two."""


def density_summand(
    pair: Pair,
    polynomial: tuple[ge.Term, ...],
    weight: Weight,
    lower: sp.Expr,
    upper: sp.Expr,
    arguments: tuple[sp.Symbol, ...],
    asymmetric: bool = False,
) -> sp.Lambda:
    """Summand, over the rows of ``GAUSS``, of an integral of ``weight`` times the kernel over the distance.

    ``lower`` and ``upper`` are distances beyond the least one, ``noise2``. ``asymmetric`` says that the weight has the factor
    of the density at the opposite covariance.
    """
    scale, least = pair.scale, pair.noise2
    low, high = _window(pair.near, pair.far, _odds(least + lower, scale), _odds(least + upper, scale))
    first = lower if low is None else Larger(lower, 2 * scale * low / (1 + low) - least)
    last = upper if high is None else Smaller(upper, 2 * scale * high / (1 + high) - least)
    if least == 0:
        # A step has no noise to set a scale near distance zero, where the kernel is a function of the root; the factor that
        # vanishes towards full covariance has its own scale there, above which the root moves in proportion to itself.
        start, end, far = sp.sqrt(first), sp.sqrt(last), pair.near if asymmetric else pair.far
        if far == 0:
            root, rate = start + (end - start) * _NODE, end - start
        else:
            size = sp.sqrt(2 * scale * (far + sp.Float("1e-32"))) + _TINY
            begin, finish = sp.asinh(start / size), sp.asinh(end / size)
            at = begin + (finish - begin) * _NODE
            # Hyperbolic functions by exponentials: SymPy's own divide their arguments by pi at every question of sign.
            rise = sp.exp(at)
            root, rate = size * ExpMinusOne(2 * at) / (2 * rise), size * (rise + 1 / rise) / 2 * (finish - begin)
        beyond = root**2
        measure = 2 * rate / sp.sqrt(2 * scale - beyond + _TINY)
    else:
        start = least + first
        length = sp.log(1 + (last - first) / start)
        beyond = first + start * ExpMinusOne(length * _NODE)
        measure = length * sp.sqrt(_odds(least + beyond, scale))
    odds = _odds(least + beyond, scale)
    exponent = -pair.near * (1 + odds) - (pair.far * (1 + 1 / (odds + _TINY)) if pair.far != 0 else 0)
    kernel = sp.exp(exponent) / (2 * sp.pi) * pair.conditional(polynomial, least + beyond)
    return sp.Lambda((_NODE, _WEIGHT, *arguments), _WEIGHT * measure * kernel * weight(beyond, odds + _TINY))


def density(pair: Pair, polynomial: tuple[ge.Term, ...], distance: sp.Expr) -> sp.Expr:
    """The kernel at a distance."""
    odds = distance / (2 * pair.scale - distance)
    exponent = -pair.near * (1 + odds) - pair.far * (1 + 1 / odds)
    root = sp.sqrt(distance * (2 * pair.scale - distance))
    return sp.exp(exponent) / (2 * sp.pi * root) * pair.conditional(polynomial, distance)


def _odds(distance: sp.Expr, scale: sp.Expr) -> sp.Expr:
    """tan^2 of half the angle whose cosine is the correlation."""
    return distance / (2 * scale - distance + _TINY)


def _window(near: sp.Expr, far: sp.Expr, low: sp.Expr, high: sp.Expr) -> tuple[sp.Expr | None, sp.Expr | None]:
    """Where near w + far/w is within reach of its least value on [low, high]; None where that is no bound."""
    if near == 0 and far == 0:
        return None, None
    if far == 0:
        return None, low + REACH / (near + _TINY)
    if near == 0:
        return far / (far / (high + _TINY) + REACH), None
    best = Larger(Smaller(sp.sqrt(far / (near + _TINY)), high), low) + _TINY
    most = near * best + far / best + REACH
    root = sp.sqrt(most**2 - 4 * near * far)
    return 2 * far / (most + root), (most + root) / (2 * near + _TINY)
