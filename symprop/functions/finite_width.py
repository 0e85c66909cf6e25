"""What a norm over finitely many coordinates does to the correlation of two tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mpmath
import sympy as sp


class CorrelationDeficit(sp.Function):
    r"""One minus the expected sample correlation of two Gaussian variables, with ``freedom`` degrees of freedom.

    CorrelationDeficit(t, f) at population correlation r = 1 - t is

    .. math::

        1 - \frac{2}{f} \Big[\frac{\Gamma((f+1)/2)}{\Gamma(f/2)}\Big]^2 r\,
        {}_2F_1(\tfrac12, \tfrac12; \tfrac f2 + 1; r^2)

    f is d - 1 where the mean of the d coordinates is removed first, d where it is known. It tends to t as f grows.
    Hotelling 1953.

    >>> t = sp.Symbol("t", positive=True)
    >>> CorrelationDeficit(0, 7), CorrelationDeficit(1, 7), sp.N(CorrelationDeficit(sp.Rational(1, 2), 7), 12)
    (0, 1, 0.527530572593)
    """

    nargs = (2,)

    @classmethod
    def eval(cls, t: sp.Expr, freedom: sp.Expr) -> sp.Expr | None:
        return t if t in (0, 1, 2) or freedom is sp.oo else None

    def elementary(self) -> sp.Expr:
        """The definition in gamma functions and a hypergeometric series."""
        t, freedom = self.args
        half, r = sp.S.Half, 1 - t
        scale = 2 / freedom * sp.exp(2 * (sp.loggamma((freedom + 1) / 2) - sp.loggamma(freedom / 2)))
        return 1 - scale * r * sp.hyper([half, half], [freedom / 2 + 1], r**2)

    def _eval_rewrite_as_hyper(self, *args: Any, **hints: Any) -> sp.Expr:
        return self.elementary()

    _eval_rewrite_as_Pow = _eval_rewrite_as_hyper

    def expansion(self) -> sp.Expr:
        """The value up to O(1/f^2)."""
        t, freedom = self.args
        return t * (1 + (1 - t) * (2 - t) / (2 * freedom))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        dummies = sp.symbols("t f", positive=True)
        written = CorrelationDeficit(*dummies).elementary()
        return sp.diff(written, dummies[argindex - 1]).subs(dict(zip(dummies, self.args, strict=True)))

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        return _evaluated(correlation_deficit, self.args, prec)

    def _eval_is_real(self) -> bool | None:
        t, freedom = self.args
        return True if _deficit(t) and freedom.is_positive else None

    def _eval_is_nonnegative(self) -> bool | None:
        return self._eval_is_real()


def _deficit(t: sp.Expr) -> bool:
    """Whether t is known to be one minus a correlation."""
    return bool(t.is_nonnegative and (2 - t).is_nonnegative)


@lru_cache(maxsize=4096)
def _evaluated(function: Callable[[Any, Any], Any], arguments: tuple[sp.Expr, sp.Expr], prec: int) -> sp.Expr | None:
    """Kept, as moments under a norm have the same deficit tens of thousands of times."""
    if any(not argument.is_number for argument in arguments):
        return None
    digits = int(prec / 3.3) + 20
    with mpmath.workprec(prec + 60):
        t, freedom = (mpmath.mpf(sp.N(item, digits)._to_mpmath(prec + 60)) for item in arguments)
        try:
            value = +function(t, freedom)
        except ZeroDivisionError:
            return None
        # Beyond t = 2 the series is complex.
        return sp.Float._new(value._mpf_, prec) if isinstance(value, mpmath.mpf) else None


def correlation_deficit(t: Any, freedom: Any) -> Any:
    """The function in mpmath numbers, with guard digits near t = 0."""
    t = mpmath.mpmathify(t)
    if t == 0:
        return t
    with mpmath.workprec(mpmath.mp.prec + 20 + max(0, -int(mpmath.mag(t)))):
        r, half = 1 - t, mpmath.mpf(1) / 2
        scale = 2 / freedom * mpmath.exp(2 * (mpmath.loggamma((freedom + 1) * half) - mpmath.loggamma(freedom * half)))
        value = 1 - scale * r * mpmath.hyp2f1(half, half, freedom * half + 1, r**2)
    return +value


class CorrelationSlopeDeficit(sp.Function):
    r"""What the derivative of :class:`CorrelationDeficit` loses between t = 0 and t.

    .. math:: E_f(t) = D_f'(0) - D_f'(t), \qquad D_f'(t) = \frac{2}{f} \Big[\frac{\Gamma((f+1)/2)}{\Gamma(f/2)}\Big]^2
        {}_2F_1(\tfrac12, \tfrac32; \tfrac f2 + 1; r^2), \qquad D_f'(0) = \frac{f - 1}{f - 2}

    with r = 1 - t and f > 2 the degrees of freedom. By Price's theorem for the map :math:`x \mapsto x/|x|` of a Gaussian
    vector, D' is v times the factor by which a norm multiplies the gradient moment of two tokens: with J its Jacobian,
    :math:`E\, \mathrm{tr}\, J(x) J(y)^\top` is the derivative of :math:`E\, x \cdot y/(|x||y|)` in their covariance.

    >>> sp.N(CorrelationSlopeDeficit(sp.Rational(1, 2), 7), 12)
    0.226177505181
    >>> CorrelationSlopeDeficit(0, 7), CorrelationSlopeDeficit(2, 7)
    (0, 0)
    """

    nargs = (2,)

    @classmethod
    def eval(cls, t: sp.Expr, freedom: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if t in (0, 2) or freedom is sp.oo else None

    def elementary(self) -> sp.Expr:
        """The definition in gamma functions and a hypergeometric series."""
        t, freedom = self.args
        half = sp.S.Half
        scale = 2 / freedom * sp.exp(2 * (sp.loggamma((freedom + 1) / 2) - sp.loggamma(freedom / 2)))
        slope = scale * sp.hyper([half, 3 * half], [freedom / 2 + 1], (1 - t) ** 2)
        return (freedom - 1) / (freedom - 2) - slope

    def _eval_rewrite_as_hyper(self, *args: Any, **hints: Any) -> sp.Expr:
        return self.elementary()

    _eval_rewrite_as_Pow = _eval_rewrite_as_hyper

    def expansion(self) -> sp.Expr:
        """The value up to O(1/f^2)."""
        t, freedom = self.args
        return 3 * t * (2 - t) / (2 * freedom)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        dummies = sp.symbols("t f", positive=True)
        written = CorrelationSlopeDeficit(*dummies).elementary()
        return sp.diff(written, dummies[argindex - 1]).subs(dict(zip(dummies, self.args, strict=True)))

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        return _evaluated(correlation_slope_deficit, self.args, prec)

    def _eval_is_real(self) -> bool | None:
        t, freedom = self.args
        return True if _deficit(t) and freedom.is_positive and (freedom - 2).is_nonzero else None

    def _eval_is_nonnegative(self) -> bool | None:
        t, freedom = self.args
        return True if _deficit(t) and (freedom - 2).is_positive else None


def correlation_slope_deficit(t: Any, freedom: Any) -> Any:
    """The function in mpmath numbers, with guard digits near t = 0."""
    t = mpmath.mpmathify(t)
    if t == 0 or t == 2:
        return mpmath.mpf(0)
    # Both terms tend to (f - 1)/(f - 2) as t tends to 0 or 2, and their difference is of order t(2 - t)/f.
    small = max(0, -int(mpmath.mag(t * (2 - t)))) + max(0, int(mpmath.mag(freedom)))
    with mpmath.workprec(mpmath.mp.prec + 20 + small):
        freedom, half = mpmath.mpmathify(freedom), mpmath.mpf(1) / 2
        scale = 2 / freedom * mpmath.exp(2 * (mpmath.loggamma((freedom + 1) * half) - mpmath.loggamma(freedom * half)))
        slope = scale * mpmath.hyp2f1(half, 3 * half, freedom * half + 1, (1 - t) ** 2)
        value = (freedom - 1) / (freedom - 2) - slope
    return +value
