"""An activation that is not named: its Gaussian moments stay symbols, so that what is derived holds for every one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy as sp
from sympy.core.function import ArgumentIndexError

from symprop.core.errors import RefusedError
from symprop.functions.activation import Activation

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class SlopeMoment(sp.Function):
    r"""SlopeMoment(k, v) :math:`= E [\phi^{(k)}(x)]^2` at zero mean and variance v."""

    nargs = (2,)

    def _eval_is_nonnegative(self) -> bool:
        return True

    def fdiff(self, argindex: int = 2) -> sp.Expr:
        if argindex != 2:
            raise ArgumentIndexError(self, argindex)
        order, v = self.args
        return SlopeMoment(order + 1, v) + MixedMoment(order, order + 2, v)


class MixedMoment(sp.Function):
    r"""MixedMoment(j, k, v) :math:`= E \phi^{(j)}(x) \phi^{(k)}(x)` at zero mean and variance v.

    Twice the derivative of an expectation in the variance is that of the second derivative in x.

    >>> v = sp.Symbol("v", positive=True)
    >>> MixedMoment(1, 1, v), SlopeMoment(0, v).diff(v)
    (SlopeMoment(1, v), MixedMoment(0, 2, v) + SlopeMoment(1, v))
    """

    nargs = (3,)

    @classmethod
    def eval(cls, first: sp.Expr, second: sp.Expr, v: sp.Expr) -> sp.Expr | None:
        return SlopeMoment(first, v) if first == second else cls(second, first, v) if first > second else None

    def fdiff(self, argindex: int = 3) -> sp.Expr:
        if argindex != 3:
            raise ArgumentIndexError(self, argindex)
        first, second, v = self.args
        outer = MixedMoment(first + 2, second, v) + MixedMoment(first, second + 2, v)
        return outer / 2 + MixedMoment(first + 1, second + 1, v)


class SlopeDifference(sp.Function):
    r"""SlopeDifference(k, v, gap) :math:`= E [\phi^{(k)}(x)]^2 - E \phi^{(k)}(x) \phi^{(k)}(y)`, the covariance being v - gap.

    By Price's theorem its derivative in the gap is :math:`E \phi^{(k+1)}(x) \phi^{(k+1)}(y)`.

    >>> v, g = sp.symbols("v g", positive=True)
    >>> SlopeDifference(0, v, g).diff(g).subs(g, 0)
    SlopeMoment(1, v)
    """

    nargs = (3,)

    @classmethod
    def eval(cls, order: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if gap == 0 else None

    def fdiff(self, argindex: int = 3) -> sp.Expr:
        order, v, gap = self.args
        if argindex == 3:
            return SlopeMoment(order + 1, v) - SlopeDifference(order + 1, v, gap)
        return super().fdiff(argindex)

    def _eval_is_nonnegative(self) -> bool:
        return True


@dataclass(frozen=True)
class GenericActivation(Activation):
    """A smooth activation of zero mean coordinates with opaque moments; ``sample`` has no operation to apply.

    >>> v, g = sp.symbols("v g", positive=True)
    >>> GenericActivation().second(sp.S.Zero, v), GenericActivation().gap(sp.S.Zero, v, g)
    (SlopeMoment(0, v), SlopeDifference(0, v, g))
    """

    odd: bool = False  # type: ignore[misc]
    name = "phi"

    @property
    def takes_mean(self) -> bool:
        return False

    def expression(self, x: sp.Expr) -> sp.Expr:
        return sp.Function("phi")(x)

    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return sp.S.Zero if self.odd else sp.Function("phi_mean")(v)

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return SlopeMoment(0, v)

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return SlopeDifference(0, v, gap)

    def slope_mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return sp.Function("phi_slope_mean")(v)

    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return SlopeMoment(1, v)

    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return SlopeDifference(1, v, gap)

    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        return self._at_equal_variances(0, v1, v2, c)

    def slope_cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        return self._at_equal_variances(1, v1, v2, c)

    @staticmethod
    def _at_equal_variances(order: int, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if v1 != v2:
            raise RefusedError("phi", "its moments are opaque at unequal variances", "name the activation")
        return SlopeMoment(order, v1) - SlopeDifference(order, v1, v1 - c)

    def apply(self, x: Array) -> Array:
        raise RefusedError("phi", "it has no operation to apply", "name the activation")

    def slope(self, x: Array) -> Array:
        raise RefusedError("phi", "it has no operation to apply", "name the activation")
