r"""Iterated integrals of the angle between two tokens, which every kernel of a kinked activation is made of."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import mpmath
import sympy as sp
from sympy.core.function import ArgumentIndexError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class ArcCosine(sp.Function):
    r"""ArcCosine(k, gap, v) :math:`= v^k A_k(\Delta/v)`, with :math:`A_0(t) = \arccos(1 - t)`, :math:`A_k' = A_{k-1}` and
    :math:`A_k(0) = 0`, for k = 0, 1, 2 and :math:`0 \le \Delta \le 2v`.

    With :math:`\theta = A_0` the angle of two tokens of variance v and covariance v - gap:
    :math:`A_1 = \sin\theta - \theta\cos\theta` and :math:`4 A_2 = \theta(1 + 2\cos^2\theta) - 3\sin\theta\cos\theta`.
    They vanish like :math:`t^{k+1/2}` as the tokens align, so that kernels written in them lose no digit there. Cho & Saul
    2009, whose kernels are these functions of the supplement of the angle.

    >>> g, v = sp.symbols("g v", positive=True)
    >>> ArcCosine(1, g, v).diff(g), ArcCosine(1, 2*v, v), ArcCosine(1, g*v, v)
    (ArcCosine(0, g, v), pi*v, v*ArcCosine(1, g, 1))
    >>> sp.limit(ArcCosine(1, g, 1)/g**sp.Rational(3, 2), g, 0)
    2*sqrt(2)/3
    """

    nargs = (3,)

    @classmethod
    def eval(cls, k: sp.Expr, gap: sp.Expr, v: sp.Expr) -> sp.Expr | None:
        if gap == 0:
            return sp.S.Zero
        if v == 0:
            return sp.S.Zero
        ratio = sp.cancel(gap / v) if gap.free_symbols & v.free_symbols else gap / v
        if ratio == 1:
            return v**k * (sp.pi / 2, sp.S.One, sp.pi / 8)[int(k)]
        if ratio == 2:
            return v**k * (sp.pi, sp.pi, 3 * sp.pi / 4)[int(k)]
        if v != 1 and v.is_nonnegative and not ratio.has(*v.free_symbols):
            return v**k * cls(k, ratio, sp.S.One)
        return None

    def without_scale(self) -> sp.Expr:
        r"""The same with factors that are not negative and that gap and v share taken out: :math:`s^k` times another one.

        The angle keeps them, which is zero where they are.

        >>> g, v, s = sp.symbols("g v s", nonnegative=True)
        >>> ArcCosine(1, 2*s*g, s*v).without_scale(), ArcCosine(0, s*g, s*v).without_scale()
        (s*ArcCosine(1, 2*g, v), ArcCosine(0, g*s, s*v))
        """
        k, gap, v = self.args
        if k == 0:
            return self
        own = set(sp.Mul.make_args(gap))
        shared = sp.Mul(*(item for item in sp.Mul.make_args(v) if item in own and item.free_symbols and item.is_nonnegative))
        return shared**k * ArcCosine(k, gap / shared, v / shared)

    def elementary(self) -> sp.Expr:
        """The definition in arccos and square roots."""
        k, gap, v = self.args
        cosine = 1 - gap / v
        angle, sine = sp.acos(cosine), sp.sqrt(gap * (2 * v - gap)) / v
        return v**k * (
            angle,
            sine - angle * cosine,
            (angle * (1 + 2 * cosine**2) - 3 * sine * cosine) / 4,
        )[int(k)]

    def _eval_rewrite_as_Pow(self, *args: Any, **hints: Any) -> sp.Expr:
        return self.elementary()

    _eval_rewrite_as_acos = _eval_rewrite_as_Pow

    def fdiff(self, argindex: int = 2) -> sp.Expr:
        k, gap, v = self.args
        if argindex == 2:
            return 1 / sp.sqrt(gap * (2 * v - gap)) if k == 0 else ArcCosine(k - 1, gap, v)
        if argindex == 3:
            return (k * self - gap * self.fdiff(2)) / v
        raise ArgumentIndexError(self, argindex)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        if any(not argument.is_number for argument in self.args):
            return None
        k, gap, v = self.args
        ratio = sp.N(gap / v, int(prec / 3.3) + 20)
        if not ratio.is_real:
            return None
        with mpmath.workprec(prec + 30):
            value = arc_cosine(int(k), mpmath.mpf(ratio._to_mpmath(prec + 30)), mpmath.mpf(1))
            scale = mpmath.mpf(sp.N(v, int(prec / 3.3) + 20)._to_mpmath(prec + 30)) ** int(k)
            return sp.Float._new((value * scale)._mpf_, prec)

    def _eval_as_leading_term(self, x: sp.Symbol, logx: Any = None, cdir: int = 0) -> sp.Expr:
        k, gap, v = self.args
        start, scale = gap.as_leading_term(x, logx=logx, cdir=cdir), v.as_leading_term(x, logx=logx, cdir=cdir)
        if start.subs(x, 0) == 0 and scale.subs(x, 0) != 0:
            return _coefficient(int(k), 0) * start ** (k + sp.S.Half) / sp.sqrt(scale)
        return self.elementary().as_leading_term(x, logx=logx, cdir=cdir)

    def _eval_nseries(self, x: sp.Symbol, n: int, logx: Any, cdir: int = 0) -> sp.Expr:
        k, gap, v = self.args
        if gap.subs(x, 0) != 0 or v.subs(x, 0) == 0:
            return self.elementary()._eval_nseries(x, n, logx, cdir)
        t = gap / v
        order = sp.Order(x**n, x)
        terms = sp.Add(*(_coefficient(int(k), j) * t ** (k + j + sp.S.Half) for j in range(n + 1)))
        return (v**k * terms)._eval_nseries(x, n, logx, cdir) + order

    def _eval_is_real(self) -> bool | None:
        return True if all(argument.is_nonnegative for argument in self.args) else None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if all(argument.is_nonnegative for argument in self.args) else None


class AbsoluteGap(sp.Function):
    r"""AbsoluteGap(gap, v) :math:`= \Delta - 2 A_1(\Delta)/\pi`, which is :math:`E x^2 - E|x||y|` at zero mean.

    The same for opposite tokens, :math:`\Delta \to 2v - \Delta`: its value vanishes at both ends, with all its digits.

    >>> g, v = sp.symbols("g v", positive=True)
    >>> AbsoluteGap(g, v).diff(g), AbsoluteGap(2*v, v), sp.N(AbsoluteGap(2 - sp.Rational(1, 10**20), 1), 10)
    (-2*ArcCosine(0, g, v)/pi + 1, 0, 9.999999999e-21)
    """

    nargs = (2,)

    @classmethod
    def eval(cls, gap: sp.Expr, v: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if gap == 0 or v == 0 or sp.expand(gap - 2 * v) == 0 else None

    def in_angle(self, gap: sp.Expr) -> sp.Expr:
        """The definition, in the gap or in that of opposite tokens."""
        return gap - 2 * ArcCosine(1, gap, self.args[1]) / sp.pi

    def elementary(self) -> sp.Expr:
        """The definition in arccos and square roots."""
        return self.in_angle(self.args[0]).replace(lambda node: isinstance(node, ArcCosine), lambda node: node.elementary())

    def _eval_rewrite_as_Pow(self, *args: Any, **hints: Any) -> sp.Expr:
        return self.elementary()

    _eval_rewrite_as_acos = _eval_rewrite_as_Pow

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        gap, v = self.args
        slope = 1 - 2 * ArcCosine(0, gap, v) / sp.pi
        return slope if argindex == 1 else (self - gap * slope) / v

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        digits = int(prec / 3.3) + 20
        gap, v = (sp.N(argument, 2 * digits) for argument in self.args)
        if not gap.is_real or not v.is_real or not gap.is_number or not v.is_number:
            return None
        with mpmath.workprec(2 * prec + 60):
            value = absolute_gap(*(mpmath.mpf(item._to_mpmath(2 * prec + 60)) for item in (gap, v)))
            return sp.Float._new(value._mpf_, prec)

    def _eval_as_leading_term(self, x: sp.Symbol, logx: Any = None, cdir: int = 0) -> sp.Expr:
        return self.in_angle(self.args[0]).as_leading_term(x, logx=logx, cdir=cdir)

    def _eval_nseries(self, x: sp.Symbol, n: int, logx: Any, cdir: int = 0) -> sp.Expr:
        return self.in_angle(self.args[0])._eval_nseries(x, n, logx, cdir)

    def _eval_is_real(self) -> bool | None:
        return True if all(argument.is_nonnegative for argument in self.args) else None

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = rf"\left({printer._print(self.in_angle(self.args[0]))}\right)"
        return text if exp is None else rf"{text}^{{{exp}}}"


def absolute_gap(gap: Any, v: Any) -> Any:
    """The function in mpmath numbers at the working precision."""
    near = min(gap, 2 * v - gap)
    return near - 2 * arc_cosine(1, near, v) / mpmath.pi


def arc_cosine(k: Any, gap: Any, v: Any) -> Any:
    """The function in mpmath numbers at the working precision, with guard digits near gap = 0."""
    if gap == 0 or v == 0:
        return mpmath.mpf(0)
    k = int(k)
    ratio = mpmath.mpmathify(gap) / v
    lost = max(0, -int(mpmath.mag(ratio))) * (k + 1)
    with mpmath.workprec(mpmath.mp.prec + lost + 20):
        half = mpmath.sqrt(ratio / 2)
        angle = 2 * mpmath.asin(half)
        sine, cosine = mpmath.sqrt(ratio * (2 - ratio)), 1 - ratio
        value = (
            angle,
            sine - angle * cosine,
            (angle * (1 + 2 * cosine**2) - 3 * sine * cosine) / 4,
        )[k]
        value = v**k * value
    return +value


SERIES_BELOW, SERIES_TERMS = 0.5, 28
"""Where arrays use the series in t = gap/v, whose terms fall like (t/2)^j, and how many terms that needs."""


def arc_cosine_array(k: int, gap: npt.ArrayLike, v: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The function for arrays, to a few roundings: by its series near gap = 0, where the definition cancels.

    >>> float(arc_cosine_array(1, 1e-200, 1.0) / 1e-300).__round__(15)
    0.942809041582063
    """
    import numpy as np

    scale = np.asarray(v, dtype=float)
    t = np.minimum(np.asarray(gap, dtype=float) / np.where(scale > 0, scale, 1.0), 2.0)
    near = np.minimum(t, SERIES_BELOW)
    series = np.zeros_like(near)
    for coefficient in reversed(_coefficients(int(k))):
        series = series * near + coefficient
    angle, cosine = 2 * np.arcsin(np.sqrt(t / 2)), 1 - t
    sine = np.sqrt(t * (2 - t))
    far = (angle, sine - angle * cosine, (angle * (1 + 2 * cosine**2) - 3 * sine * cosine) / 4)[int(k)]
    return np.asarray(scale**k * np.where(t < SERIES_BELOW, near**k * np.sqrt(near) * series, far))


@lru_cache
def _coefficients(k: int) -> tuple[float, ...]:
    return tuple(float(_coefficient(k, j)) for j in range(SERIES_TERMS))


def _coefficient(k: int, j: int) -> sp.Rational:
    """Coefficient of t^(k+j+1/2) in A_k(t), over sqrt(2) of A_0' = 1/sqrt(t(2 - t)), integrated k + 1 times."""
    base = sp.binomial(2 * j, j) / sp.Integer(8) ** j / sp.sqrt(2)
    for step in range(k + 1):
        base = base / (j + sp.S.Half + step)
    return sp.sympify(base)
