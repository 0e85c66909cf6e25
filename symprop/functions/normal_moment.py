r"""Moments of the positive part of a normal variable, right to every digit where hardly anything is positive."""

from __future__ import annotations

from typing import Any

import mpmath
import sympy as sp
from sympy.core.function import ArgumentIndexError


class NormalMoment(sp.Function):
    r"""NormalMoment(k, m, v) :math:`= E \max(x, 0)^k` for x normal of mean m and variance v; at k = 0, P(x > 0).

    Its derivatives follow from :math:`\partial_m E f = E f'` and :math:`\partial_v E f = E f''/2`.

    >>> m, v = sp.symbols("m v", positive=True)
    >>> NormalMoment(2, m, v).diff(m), NormalMoment(2, m, v).diff(v), NormalMoment(1, 0, v)
    (2*NormalMoment(1, m, v), NormalMoment(0, m, v), sqrt(2)*sqrt(v)/(2*sqrt(pi)))
    >>> sp.N(NormalMoment(1, -30, 1), 20)
    1.6319567340914011894e-199
    """

    nargs = (3,)

    @classmethod
    def eval(cls, k: sp.Expr, m: sp.Expr, v: sp.Expr) -> sp.Expr | None:
        if v == 0 and (k != 0 or m.is_nonzero):
            return sp.Max(m, 0) ** k if k != 0 else sp.Heaviside(m)
        if m != 0:
            return None
        return sp.S.Half * sp.sqrt(2 * v) ** k * sp.gamma((k + 1) / sp.Integer(2)) / sp.sqrt(sp.pi)

    def fdiff(self, argindex: int = 2) -> sp.Expr:
        k, m, v = self.args
        density = sp.exp(-(m**2) / (2 * v)) / sp.sqrt(2 * sp.pi * v)
        if argindex == 2:
            return k * NormalMoment(k - 1, m, v) if k != 0 else density
        if argindex == 3:
            if k > 1:
                return k * (k - 1) * NormalMoment(k - 2, m, v) / 2
            return density / 2 if k == 1 else -m * density / (2 * v)
        raise ArgumentIndexError(self, argindex)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        digits = int(prec / 3.3) + 20
        numbers = [sp.N(argument, digits) for argument in self.args]
        if any(not number.is_Float and not number.is_Integer for number in numbers):
            return None
        with mpmath.workprec(prec + 20):
            value = normal_moment(*(mpmath.mpf(number._to_mpmath(prec + 20)) for number in numbers))
            return sp.Float._new(mpmath.mpf(value)._mpf_, prec)

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[1].is_real and self.args[2].is_nonnegative else None

    def _eval_is_real(self) -> bool | None:
        return self._eval_is_nonnegative()

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        order, m, v = (printer._print(argument) for argument in self.args)
        text = rf"N_{{{order}}}\left({m}, {v}\right)"
        return text if exp is None else rf"\left[{text}\right]^{{{exp}}}"


def normal_moment(k: Any, m: Any, v: Any) -> Any:
    """The moment in mpmath numbers at the working precision, with guard digits for its cancellation at negative m."""
    k = int(k)
    spread = mpmath.sqrt(v)
    if spread == 0:
        return max(mpmath.mpf(m), mpmath.mpf(0)) ** k if k else mpmath.mpf(m > 0)
    h = mpmath.mpf(m) / spread
    with mpmath.workprec(mpmath.mp.prec + 20 + 2 * (k + 1) * max(0, int(mpmath.mag(h)) if h else 0)):
        # E (z + h)^(k+1) = h E (z + h)^k + k E (z + h)^(k-1) on the positive part.
        now, below = mpmath.ncdf(h), mpmath.npdf(h)
        for order in range(k):
            now, below = h * now + (order or 1) * below, now
    return now * spread**k
