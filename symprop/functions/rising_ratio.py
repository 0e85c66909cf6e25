"""Products over depth of factors linear in the layer."""

from __future__ import annotations

from typing import Any

import mpmath
import sympy as sp


class RisingRatio(sp.Function):
    r"""RisingRatio(u, v, N), the product of (u + l)/(v + l) over l = 0 ... N - 1.

    .. math:: \prod_{l=0}^{N-1} \frac{u + l}{v + l} = \frac{\Gamma(N+u)\,\Gamma(v)}{\Gamma(u)\,\Gamma(N+v)}

    For u, v > 0. Where u - v is a small integer the product telescopes to a rational function.

    >>> v, N = sp.symbols("v N", positive=True)
    >>> RisingRatio(v + 1, v, N), RisingRatio(v, v, N)
    ((N + v)/v, 1)
    >>> RisingRatio(3, sp.Rational(5, 2), 4)
    128/77
    """

    nargs = (3,)

    @classmethod
    def eval(cls, u: sp.Expr, v: sp.Expr, count: sp.Expr) -> sp.Expr | None:
        if count == 0:
            return sp.S.One
        step = sp.cancel(u - v)
        if step.is_Integer and abs(step) <= 3:
            if step < 0:
                return 1 / cls(v, u, count)
            return sp.Mul(*(sp.together((count + v + k) / (v + k)) for k in range(int(step))))
        if count.is_Integer and count <= 8:
            return sp.Mul(*((u + k) / (v + k) for k in range(int(count))))
        return None

    def elementary(self) -> sp.Expr:
        """The definition in gamma functions."""
        u, v, count = self.args
        return sp.gamma(count + u) * sp.gamma(v) / (sp.gamma(u) * sp.gamma(count + v))

    def _eval_rewrite_as_gamma(self, *args: Any, **hints: Any) -> sp.Expr:
        return self.elementary()

    _eval_rewrite_as_Pow = _eval_rewrite_as_gamma

    def power_law(self) -> sp.Expr:
        """The leading term as N grows, up to a relative O(1/N)."""
        u, v, count = self.args
        return sp.gamma(v) / sp.gamma(u) * count ** sp.cancel(u - v)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        u, v, count = self.args
        if argindex == 1:
            return self * ReciprocalSum(u, count)
        if argindex == 2:
            return -self * ReciprocalSum(v, count)
        return self * (sp.digamma(count + u) - sp.digamma(count + v))

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        if any(not argument.is_number for argument in self.args):
            return None
        digits = int(prec / 3.3) + 30
        with mpmath.workprec(prec + 60):
            u, v, count = (mpmath.mpf(sp.N(item, digits)._to_mpmath(prec + 90)) for item in self.args)
            return sp.Float._new((+rising_ratio(u, v, count))._mpf_, prec)

    def _eval_is_positive(self) -> bool | None:
        return True if all(argument.is_positive for argument in self.args) else None


class ReciprocalSum(sp.Function):
    r"""ReciprocalSum(v, N), the sum of 1/(v + l) over l = 0 ... N - 1, for v > 0: :math:`\psi(v + N) - \psi(v)`.

    It is the logarithmic derivative of a :class:`RisingRatio`.

    >>> ReciprocalSum(1, 4).rewrite(sp.digamma).expand(func=True), sp.N(ReciprocalSum(sp.Rational(1, 2), 10**6), 12)
    (25/12, 15.7790205840)
    """

    nargs = (2,)

    @classmethod
    def eval(cls, v: sp.Expr, count: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if count == 0 else None

    def elementary(self) -> sp.Expr:
        """The definition in digamma functions."""
        v, count = self.args
        return sp.digamma(count + v) - sp.digamma(v)

    def _eval_rewrite_as_digamma(self, *args: Any, **hints: Any) -> sp.Expr:
        return self.elementary()

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        v, count = self.args
        if argindex == 1:
            return sp.polygamma(1, count + v) - sp.polygamma(1, v)
        return sp.polygamma(1, count + v)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        if any(not argument.is_number for argument in self.args):
            return None
        digits = int(prec / 3.3) + 30
        with mpmath.workprec(prec + 60):
            v, count = (mpmath.mpf(sp.N(item, digits)._to_mpmath(prec + 90)) for item in self.args)
            return sp.Float._new((+reciprocal_sum(v, count))._mpf_, prec)

    def _eval_is_positive(self) -> bool | None:
        return True if all(argument.is_positive for argument in self.args) else None


def reciprocal_sum(v: Any, count: Any) -> Any:
    """The function in mpmath numbers, with guard digits for large arguments."""
    v, count = mpmath.mpmathify(v), mpmath.mpmathify(count)
    with mpmath.workprec(mpmath.mp.prec + 30 + max(0, 2 * int(mpmath.mag(count + v)))):
        value = mpmath.digamma(v + count) - mpmath.digamma(v)
    return +value


def rising_ratio(u: Any, v: Any, count: Any) -> Any:
    """The function in mpmath numbers, with guard digits for large arguments."""
    u, v, count = (mpmath.mpmathify(item) for item in (u, v, count))
    with mpmath.workprec(mpmath.mp.prec + 30 + max(0, 2 * int(mpmath.mag(count + u + v)))):
        logs = (mpmath.loggamma(x) for x in (count + u, v, u, count + v))
        one, two, three, four = logs
        value = mpmath.exp(one + two - three - four)
    return +value
