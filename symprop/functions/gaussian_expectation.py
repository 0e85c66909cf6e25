r"""Gaussian expectations of products, derived: Stein's operator for powers, Price's theorem for the kernels below them.

A factor is a power of its variable times a base: one, the step H(x), or the normal cdf :math:`\Phi(kx)`. Both are ogives,
:math:`P(x + \tau z > 0)` with z standard normal: :math:`\tau = 0` for the step, :math:`\tau = 1/k` for the cdf. Hence for
jointly Gaussian x and y the product of two ogives has the orthant probability of correlation
:math:`c/\sqrt{(v_1 + \tau_1^2)(v_2 + \tau_2^2)}` as its expectation, and every power of x is one application of
:math:`x \to m_1 + v_1 \partial_{m_1} + c\, \partial_{m_2}` (Stein's lemma).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy as sp

M1, M2 = sp.symbols("m_x m_y", real=True)
V1, V2 = sp.symbols("v_x v_y", positive=True)
COV = sp.Symbol("c_xy", real=True)
GAP = sp.Symbol("gap_xy", nonnegative=True)


class NormalCdf(sp.Function):
    """Standard normal cumulative distribution.

    >>> x = sp.Symbol("x")
    >>> NormalCdf(x).diff(x), NormalCdf(0)
    (sqrt(2)*exp(-x**2/2)/(2*sqrt(pi)), 1/2)
    """

    nargs = (1,)

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        return sp.S.Half if x == 0 else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.exp(-(self.args[0] ** 2) / 2) / sp.sqrt(2 * sp.pi)

    def _eval_rewrite_as_erfc(self, *args: Any, **hints: Any) -> sp.Expr:
        return sp.erfc(-self.args[0] / sp.sqrt(2)) / 2

    _eval_rewrite_as_Pow = _eval_rewrite_as_erfc

    def _eval_evalf(self, prec: int) -> sp.Expr:
        return self.rewrite(sp.erfc)._eval_evalf(prec)


class OrthantProbability(sp.Function):
    r"""P(a > 0, b > 0) for Gaussians of unit variance, means h and k and correlation rho.

    >>> rho = sp.Symbol("rho")
    >>> OrthantProbability(0, 0, rho)
    asin(rho)/(2*pi) + 1/4
    """

    nargs = (3,)

    @classmethod
    def eval(cls, h: sp.Expr, k: sp.Expr, rho: sp.Expr) -> sp.Expr | None:
        if h == 0 and k == 0:
            return sp.Rational(1, 4) + sp.asin(rho) / (2 * sp.pi)
        return NormalCdf(h) * NormalCdf(k) if rho == 0 else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        h, k, rho = self.args
        if argindex == 3:
            quadratic = (h**2 - 2 * rho * h * k + k**2) / (2 * (1 - rho**2))
            return sp.exp(-quadratic) / (2 * sp.pi * sp.sqrt(1 - rho**2))
        own, other = (h, k) if argindex == 1 else (k, h)
        density = sp.exp(-(own**2) / 2) / sp.sqrt(2 * sp.pi)
        return density * NormalCdf((other - rho * own) / sp.sqrt(1 - rho**2))


@dataclass(frozen=True)
class Ogive:
    r"""The base :math:`\Phi(x/\tau)`; the step function at ``noise2`` = tau^2 = 0."""

    noise2: sp.Expr = sp.S.Zero


@dataclass(frozen=True)
class Bump:
    r"""The derivative of an ogive: the density of a normal variable of variance ``noise2``, Dirac's delta at zero."""

    noise2: sp.Expr = sp.S.Zero


STEP = Ogive()
Base = Ogive | Bump | None
Term = tuple[sp.Expr, int, Base]
"""Coefficient, power and base (None for one) of a term of a function."""


def noise2(terms: tuple[Term, ...]) -> sp.Expr:
    """tau^2 of the bases of a function, zero where there are none."""
    return next((base.noise2 for _, _, base in terms if base is not None), sp.S.Zero)


def derivative(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """The derivative of a function, as terms; a power of x times Dirac's delta is zero.

    >>> derivative(((sp.S.One, 1, STEP),)) == ((sp.S.One, 0, STEP),)
    True
    """
    found: dict[tuple[int, Base], sp.Expr] = {}

    def add(coefficient: sp.Expr, power: int, base: Base) -> None:
        if coefficient != 0 and not (base == Bump() and power > 0):
            found[power, base] = found.get((power, base), sp.S.Zero) + coefficient

    for coefficient, power, base in terms:
        add(coefficient * power, power - 1, base)
        if isinstance(base, Ogive):
            add(coefficient, power, Bump(base.noise2))
        elif isinstance(base, Bump):
            add(-coefficient / base.noise2, power + 1, base)
    return tuple((coefficient, power, base) for (power, base), coefficient in found.items())


@cache
def cross_moment(first: tuple[Term, ...], second: tuple[Term, ...]) -> sp.Expr:
    """E f(x) g(y) in ``M1, M2, V1, V2, COV``, for functions given as sums of terms."""
    return sp.Add(*(a * b * _moment(i, one, j, other) for a, i, one in first for b, j, other in second))


@cache
def single_moment(terms: tuple[Term, ...]) -> sp.Expr:
    """E f(x) in ``M1, V1``."""
    return cross_moment(terms, ((sp.S.One, 0, None),))


def product(first: tuple[Term, ...], second: tuple[Term, ...]) -> tuple[Term, ...]:
    """The product of two functions of one variable, where their bases allow it: a step squared is the step."""
    return tuple(
        (a * b, i + j, other if one is None else one)
        for a, i, one in first
        for b, j, other in second
        if one is None or other is None or (one == other == STEP) or _no_product(one, other)
    )


def _no_product(one: Base, other: Base) -> bool:
    raise ValueError(f"the product of {one} and {other} is not one base: take the two-variable moment at full covariance")


def _moment(i: int, one: Base, j: int, other: Base) -> sp.Expr:
    found = _base(one, other)
    for _ in range(i):
        found = M1 * found + V1 * sp.diff(found, M1) + COV * sp.diff(found, M2)
    for _ in range(j):
        found = M2 * found + V2 * sp.diff(found, M2) + COV * sp.diff(found, M1)
    return found


def _base(one: Base, other: Base) -> sp.Expr:
    spread = [None if base is None else sp.sqrt(v + base.noise2) for base, v in ((one, V1), (other, V2))]
    first, second = spread
    if first is not None and second is not None:
        return OrthantProbability(M1 / first, M2 / second, COV / (first * second))
    if first is not None:
        return NormalCdf(M1 / first)
    return sp.S.One if second is None else NormalCdf(M2 / second)
