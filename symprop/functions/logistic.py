r"""SiLU, tanh and sigmoid: the logistic function as a finite mixture of normal cdfs, and its Gaussian moments.

:math:`\sigma(x) = \int \Phi(x/s)\, p(s)\, ds` is an exact scale mixture (Andrews & Mallows 1974). Here s takes twelve values
in geometric progression, whose weights are fitted to the density; the error is below 3e-10 on the real line and the
moments are those of ogives, in closed form.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import mpmath
import sympy as sp

from symprop.core.provenance import Source
from symprop.functions import gaussian_expectation as ge
from symprop.functions.activation import Activation, at_zero_mean
from symprop.functions.difference import Kernel
from symprop.functions.quadrature_activation import VARIABLE, QuadratureActivation
from symprop.functions.table_sum import SmoothSum, TableSum, register_table, table_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

TERMS, LOG_STEP, LOG_CENTRE = 12, "0.2", "0.55"
_SMALL_SHARE, _SMALL = sp.Rational(1, 10**8), sp.Rational(1, 10**300)
"""A covariance in units of the variance whose square is below the digits of a double, and one for no variance."""
_WEIGHT, _FIRST2, _SECOND2 = sp.symbols("weight noise_x noise_y", positive=True)


@lru_cache(maxsize=1)
def mixture() -> tuple[tuple[Any, Any], ...]:
    """Weights and squared scales s^2 of the mixture, to 40 digits.

    Least squares of the density at 121 points in [0, 20], weighed by its power -0.3, with weights that add to one and with
    the first, third and fifth derivative at the origin: small variances see nothing else.
    """
    with mpmath.workdps(60):
        middle = mpmath.mpf(TERMS - 1) / 2
        scales = [mpmath.exp(mpmath.mpf(LOG_CENTRE) + mpmath.mpf(LOG_STEP) * (k - middle)) for k in range(TERMS)]
        tied = mpmath.mpf(10) ** 8
        rows, wanted = [[tied] * TERMS], [tied]
        for power, odd_factorial, derivative in ((1, 1, 4), (3, -1, -8), (5, 3, 4)):
            rows.append([tied * odd_factorial * mpmath.npdf(0) / s**power for s in scales])
            wanted.append(tied / derivative)
        for k in range(121):
            x = 20 * mpmath.sin(mpmath.pi * k / 240) ** 2
            density = 1 / (4 * mpmath.cosh(x / 2) ** 2)
            weigh = density ** (-mpmath.mpf(3) / 10)
            rows.append([weigh * mpmath.npdf(x / s) / s for s in scales])
            wanted.append(weigh * density)
        matrix, right = mpmath.matrix(rows), mpmath.matrix(wanted)
        weights = mpmath.lu_solve(matrix.T * matrix, matrix.T * right)
        total = mpmath.fsum(weights)
        return tuple((weight / total, s**2) for weight, s in zip(weights, scales, strict=True))


def _singles() -> Sequence[tuple[Any, ...]]:
    return mixture()


def _pairs() -> Sequence[tuple[Any, ...]]:
    """Unordered pairs; a pair of different terms counts twice."""
    terms = mixture()
    return [
        ((1 if i == j else 2) * w * u, a, b)
        for i, (w, a) in enumerate(terms)
        for j, (u, b) in enumerate(terms[: i + 1])
    ]


def _ordered() -> Sequence[tuple[Any, ...]]:
    return [(w * u, a, b) for w, a in mixture() for u, b in mixture()]


SINGLES = register_table("logistic", _singles)
PAIRS = register_table("logistic_pairs", _pairs)
ORDERED = register_table("logistic_ordered", _ordered)


class LogisticActivation(Activation):
    """An activation that is linear in logistic functions; its moments are sums over the terms of the mixture.

    At a nonzero mean they follow from the quadrature rule of :class:`QuadratureActivation`.
    """

    neglected = "relative 1e-8, a finite mixture for the logistic function or a quadrature rule"
    sources = (Source("andrews1974", "Section 3"), Source("williams1997", "Eq. 11"))

    @staticmethod
    @abstractmethod
    def member(noise2: sp.Expr) -> tuple[ge.Term, ...]:
        """The activation with the normal cdf of squared scale ``noise2`` in place of the logistic function."""

    @classmethod
    def noise2(cls, squared: sp.Expr) -> sp.Expr:
        """The squared scale of the normal cdf in the member with that squared scale of the logistic function."""
        return ge.noise2(cls.member(squared))

    @property
    def by_rule(self) -> QuadratureActivation:
        """The same activation by quadrature, which takes any mean."""
        return QuadratureActivation(VARIABLE, self.expression(VARIABLE), self.name)

    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._single("mean", 0, v) if m == 0 else self.by_rule.mean(m, v)

    def slope_mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._single("slope mean", 1, v) if m == 0 else self.by_rule.slope_mean(m, v)

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._pair("second", 0, v) if m == 0 else self.by_rule.second(m, v)

    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._pair("slope second", 1, v) if m == 0 else self.by_rule.slope_second(m, v)

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self._pair("gap", 0, v, gap) if m == 0 else self.by_rule.gap(m, v, gap)

    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self._pair("slope gap", 1, v, gap) if m == 0 else self.by_rule.slope_gap(m, v, gap)

    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if m1 == 0 and m2 == 0:
            return self._crossed("cross", 0, v1, v2, c)
        return self.by_rule.cross(m1, m2, v1, v2, c)

    def slope_cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if m1 == 0 and m2 == 0:
            return self._crossed("slope cross", 1, v1, v2, c)
        return self.by_rule.slope_cross(m1, m2, v1, v2, c)

    def _single(self, what: str, order: int, v: sp.Expr) -> sp.Expr:
        summand = _single_summand(type(self), order)
        # The weights add to one.
        return self._smooth(what, SINGLES, summand, v) if summand.has(_FIRST2) else summand / _WEIGHT

    def _pair(self, what: str, order: int, v: sp.Expr, gap: sp.Expr | None = None) -> sp.Expr:
        kernel = _kernel(type(self), order)
        if gap is None:
            return self._smooth(what, PAIRS, _WEIGHT * kernel.full(), v)
        factor = ge.GAP
        if kernel.is_even:
            other = 2 * ge.V1 - ge.GAP
            factor *= other / ((ge.GAP + self._scale) * (other + self._scale))
        return self._smooth(what, PAIRS, _WEIGHT * kernel.difference(ge.GAP), v, gap, factor=factor)

    def _crossed(self, what: str, order: int, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if v1 == v2:
            # What independent tokens have is the square of the mean; the rest vanishes with the covariance.
            kernel = _kernel(type(self), order).expression()
            summand = _WEIGHT * (kernel - kernel.subs(ge.COV, 0)).subs(ge.COV, ge.V1 - ge.GAP)
            if self.odd and order == 0:
                # Odd in the covariance: that times a quotient which is even in it, and the same for all small ones.
                near = sp.Max(sp.Abs(c), _SMALL_SHARE * v1, _SMALL)
                quotient = summand / (ge.V1 - ge.GAP)
                return c * self._smooth(f"{what} over covariance", PAIRS, quotient, v1, v1 - near, factor=sp.S.One)
            label, zero = f"{what} beyond independence", sp.S.Zero
            rest = self._smooth(label, PAIRS, summand, v1, v1 - c, factor=ge.V1 - ge.GAP)
            return rest + (self.slope_mean if order else self.mean)(zero, v1) ** 2
        signature = (_WEIGHT, _FIRST2, _SECOND2, ge.V1, ge.V2, ge.COV)
        summand = sp.diff(_cross(type(self)), ge.COV, order)
        return TableSum(f"{self.name} {what}", ORDERED, sp.Lambda(signature, _WEIGHT * summand), v1, v2, c)

    @property
    def _scale(self) -> sp.Expr:
        """How far the nearest singularity of a moment is from real gaps."""
        return sp.Float(float(min(self.noise2(s2) for _, s2 in mixture())))

    def _smooth(
        self, what: str, table: str, summand: sp.Expr, *arguments: sp.Expr, factor: sp.Expr | None = None
    ) -> sp.Expr:
        """A sum over the mixture; without a gap its factor is the variance, if it vanishes there, or one."""
        formal = (ge.V1, ge.GAP)[: len(arguments)]
        columns = (_WEIGHT, _FIRST2, _SECOND2)[: len(table_rows(table)[0])]
        if factor is None:
            factor = ge.V1 if summand.subs(ge.V1, 0) == 0 else sp.S.One
        return SmoothSum(
            f"{self.name} {what}", table, sp.Lambda((*columns, *formal), summand), sp.Lambda(formal, factor),
            self._scale, *arguments,
        )


@cache
def _cross(kind: type[LogisticActivation]) -> sp.Expr:
    return at_zero_mean(ge.cross_moment(kind.member(_FIRST2), kind.member(_SECOND2)), ge.V1, ge.V2)


@cache
def _kernel(kind: type[LogisticActivation], order: int) -> Kernel:
    kernel = sp.diff(_cross(kind), ge.COV, order).subs(ge.V2, ge.V1)
    return Kernel.of(kernel, ge.COV, ge.V1, kind.noise2(_FIRST2), kind.noise2(_SECOND2))


@cache
def _single_summand(kind: type[LogisticActivation], order: int) -> sp.Expr:
    moment = sp.diff(ge.single_moment(kind.member(_FIRST2)), ge.M1, order)
    return _WEIGHT * sp.expand(at_zero_mean(moment, ge.V1, ge.V1))


@dataclass(frozen=True)
class Silu(LogisticActivation):
    r"""The sigmoid linear unit, :math:`x \sigma(x)`.

    >>> v = sp.Symbol("v", positive=True)
    >>> sp.N(Silu().mean(sp.S.Zero, v).subs(v, 1), 8)
    0.20662096
    """

    name = "silu"

    @staticmethod
    def member(noise2: sp.Expr) -> tuple[ge.Term, ...]:
        return ((sp.S.One, 1, ge.Ogive(noise2)),)

    def expression(self, x: sp.Expr) -> sp.Expr:
        return x / (1 + sp.exp(-x))

    def apply(self, x: Array) -> Array:
        import numpy as np
        from scipy.special import expit

        return np.asarray(x * expit(x))

    def slope(self, x: Array) -> Array:
        import numpy as np
        from scipy.special import expit

        s = expit(x)
        return np.asarray(s * (1 + x * expit(-x)))


@dataclass(frozen=True)
class Tanh(LogisticActivation):
    r"""The hyperbolic tangent, :math:`2 \sigma(2x) - 1`.

    >>> v = sp.Symbol("v", positive=True)
    >>> Tanh().mean(sp.S.Zero, v), sp.N(Tanh().second(sp.S.Zero, v).subs(v, 1), 8)
    (0, 0.39429449)
    """

    name = "tanh"
    odd = True

    @staticmethod
    def member(noise2: sp.Expr) -> tuple[ge.Term, ...]:
        return ((sp.Integer(2), 0, ge.Ogive(noise2 / 4)), (sp.S.NegativeOne, 0, None))

    def expression(self, x: sp.Expr) -> sp.Expr:
        return sp.tanh(x)

    def apply(self, x: Array) -> Array:
        import numpy as np

        return np.tanh(x)

    def slope(self, x: Array) -> Array:
        import numpy as np

        with np.errstate(over="ignore"):
            return np.cosh(x) ** -2.0


@dataclass(frozen=True)
class Sigmoid(LogisticActivation):
    r"""The logistic function :math:`\sigma(x) = 1/(1 + e^{-x})`."""

    name = "sigmoid"

    @staticmethod
    def member(noise2: sp.Expr) -> tuple[ge.Term, ...]:
        return ((sp.S.One, 0, ge.Ogive(noise2)),)

    def expression(self, x: sp.Expr) -> sp.Expr:
        return 1 / (1 + sp.exp(-x))

    def apply(self, x: Array) -> Array:
        import numpy as np
        from scipy.special import expit

        return np.asarray(expit(x))

    def slope(self, x: Array) -> Array:
        import numpy as np
        from scipy.special import expit

        return np.asarray(expit(x) * expit(-x))
