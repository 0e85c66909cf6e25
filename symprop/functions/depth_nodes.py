"""Nodes that depth recursions end in, written so that nothing cancels when the per-layer change is small."""

from __future__ import annotations

from typing import Any

import mpmath
import sympy as sp

WRITTEN_OUT = 1000
"""Numbers of layers from here on stay the exponents of their powers: the digits of these would fill memory."""


class _DepthNode(sp.Function):
    """Common hooks: 50-digit evaluation and series go through the elementary form with guard digits."""

    def elementary(self) -> sp.Expr:
        """The definition in powers and exponentials."""
        raise NotImplementedError

    def _latex(self, printer: Any, exp: Any = None) -> str:
        text = rf"\left({printer._print(self.elementary())}\right)"
        return text if exp is None else f"{text}^{{{exp}}}"

    def _eval_rewrite_as_Pow(self, *args: Any, **hints: Any) -> sp.Expr:
        return self.elementary()

    def _eval_evalf(self, prec: int) -> sp.Expr:
        if any(not argument.is_number for argument in self.args):
            return None
        digits = int(prec / 3.3) + 10
        lost = max(0, -int(mpmath.mag(mpmath.mpf(str(sp.N(self.args[0], 15)))) / 3)) if self.args[0] != 0 else 0
        return sp.N(self._rounded(digits + lost).elementary(), digits + lost)._eval_evalf(prec)

    def _rounded(self, digits: int) -> sp.Expr:
        """The node with numbers of that many digits left after many layers, where exact powers would take too long."""
        depth = self.args[-1]
        if not is_deep(depth):
            return self
        more = digits + 2 * len(str(depth)) + self._cancelled()
        return self.func(*(sp.N(argument, more) for argument in self.args[:-1]), depth, evaluate=False)

    def _cancelled(self) -> int:
        """Digits that a difference in the definition takes."""
        return 0

    def _eval_nseries(self, x: sp.Symbol, n: int, logx: Any, cdir: int = 0) -> sp.Expr:
        return self.elementary()._eval_nseries(x, n, logx, cdir)

    def _eval_as_leading_term(self, x: sp.Symbol, logx: Any = None, cdir: int = 0) -> sp.Expr:
        return sp.expand(self.elementary()).as_leading_term(x, logx=logx, cdir=cdir)


def is_deep(depth: sp.Expr) -> bool:
    """Whether it is a number of layers whose powers are not written out."""
    return bool(depth.is_Integer) and depth >= WRITTEN_OUT


class DepthPower(_DepthNode):
    """A growth factor to the power of the depth, which stays unevaluated from a thousand layers on, and is a power below.

    >>> a, L = sp.symbols("a L", positive=True)
    >>> DepthPower(a, L), DepthPower(sp.Rational(1, 2), 3), DepthPower(1, 10**9)
    (a**L, 1/8, 1)
    >>> deep = DepthPower(1 + sp.Rational(1, 10**9), 10**9)
    >>> deep, sp.N(deep, 9)
    ((1000000001/1000000000)**1000000000, 2.71828183)
    """

    nargs = (2,)

    @classmethod
    def eval(cls, base: sp.Expr, depth: sp.Expr) -> sp.Expr | None:
        if not is_deep(depth) or base in (0, 1) or base.is_Float:
            return base**depth
        return None

    def elementary(self) -> sp.Expr:
        base, depth = self.args
        return self if base.is_Rational else base**depth

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        base, depth = self.args
        return depth * DepthPower(base, depth - 1) if argindex == 1 else self * sp.log(base)

    def _eval_is_real(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None

    def _eval_is_positive(self) -> bool | None:
        return True if self.args[0].is_positive else None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None

    def _plain(self) -> sp.Expr:
        return sp.Pow(*self.args, evaluate=False)

    def _sympystr(self, printer: Any) -> str:
        return str(printer._print(self._plain()))

    def _latex(self, printer: Any, exp: Any = None) -> str:
        text = str(printer._print(self._plain()))
        return text if exp is None else rf"\left({text}\right)^{{{exp}}}"


class GrowthMinusOne(_DepthNode):
    r"""Growth over depth beyond one, :math:`(1+x)^L - 1` for x > -1 and L >= 0, or x >= -1 and any other L.

    Code prints it as ``expm1(L*log1p(x))``, which keeps every digit as x tends to 0.

    >>> x, L = sp.symbols("x L", positive=True)
    >>> GrowthMinusOne(x, L).diff(x)
    L*(x + 1)**(L - 1)
    >>> GrowthMinusOne(0, L), GrowthMinusOne(x, 1)
    (0, x)
    >>> sp.limit(GrowthMinusOne(x, L)/x, x, 0)
    L
    """

    nargs = (2,)

    @classmethod
    def eval(cls, x: sp.Expr, depth: sp.Expr) -> sp.Expr | None:
        if x == 0 or depth == 0:
            return sp.S.Zero
        if depth == 1:
            return x
        if x.is_Rational and depth.is_Integer and depth < 64:
            return (1 + x) ** depth - 1
        return None

    def elementary(self) -> sp.Expr:
        return self.plus_one() - 1

    def plus_one(self) -> sp.Expr:
        """The node plus one, as a power."""
        x, depth = self.args
        return DepthPower(1 + x, depth)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x, depth = self.args
        return depth * DepthPower(1 + x, depth - 1) if argindex == 1 else DepthPower(1 + x, depth) * sp.log(1 + x)

    def _eval_is_real(self) -> bool | None:
        return True if all(argument.is_nonnegative for argument in self.args) else None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if all(argument.is_nonnegative for argument in self.args) else None


class ExpMinusOne(_DepthNode):
    r"""The depth limit of :class:`GrowthMinusOne`, :math:`e^{x} - 1`, printed as ``expm1(x)`` in code.

    >>> x = sp.Symbol("x")
    >>> ExpMinusOne(x).diff(x), ExpMinusOne(0)
    (exp(x), 0)
    """

    nargs = (1,)

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if x == 0 else None

    def elementary(self) -> sp.Expr:
        return sp.exp(self.args[0]) - 1

    def plus_one(self) -> sp.Expr:
        """The node plus one, as an exponential."""
        return sp.exp(self.args[0])

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.exp(self.args[0])

    def _eval_is_real(self) -> bool | None:
        return True if self.args[0].is_real else None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None


class GeometricSum(_DepthNode):
    r"""The drift of a linear recursion, :math:`\sum_{j<L} r^j s^{L-1-j}`, which is :math:`L r^{L-1}` at r = s.

    >>> r, s = sp.symbols("r s", positive=True)
    >>> GeometricSum(r, s, 2), GeometricSum(r, r, 5), GeometricSum(r, 0, 3)
    (r + s, 5*r**4, r**2)
    """

    nargs = (3,)

    @classmethod
    def eval(cls, r: sp.Expr, s: sp.Expr, depth: sp.Expr) -> sp.Expr | None:
        if depth == 0:
            return sp.S.Zero
        if r == s:
            return depth * DepthPower(r, depth - 1)
        if r == 0 or s == 0:
            return DepthPower(r + s, depth - 1)
        if depth.is_Integer and depth < 8:
            return sp.Add(*(r**j * s ** (depth - 1 - j) for j in range(int(depth))))
        return cls(s, r, depth) if sp.default_sort_key(s) < sp.default_sort_key(r) else None

    def _cancelled(self) -> int:
        r, s, _ = self.args
        return max(0, -int(mpmath.mag(mpmath.mpf(str(sp.N(r - s, 15)))) / 3))

    def elementary(self) -> sp.Expr:
        r, s, depth = self.args
        return (DepthPower(r, depth) - DepthPower(s, depth)) / (r - s)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        r, s, depth = self.args
        if argindex == 3:
            return (r**depth * sp.log(r) - s**depth * sp.log(s)) / (r - s)
        own, other = (r, s) if argindex == 1 else (s, r)
        return (depth * DepthPower(own, depth - 1) - self) / (own - other)

    def _eval_is_real(self) -> bool | None:
        return True if all(argument.is_nonnegative for argument in self.args) else None


class Saturated(_DepthNode):
    """A growth factor that stops at the largest double: symbolically its argument, in code ``minimum(x, 1.8e308)``.

    A ratio of two quantities that grow alike stays a number where each alone overflows.

    >>> x = sp.Symbol("x", positive=True)
    >>> Saturated(x).rewrite(sp.Pow), Saturated(0)
    (x, 0)
    """

    nargs = (1,)

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        return x if x.is_Number else None

    def elementary(self) -> sp.Expr:
        return self.args[0].rewrite(sp.Pow)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.One

    def _eval_is_real(self) -> bool | None:
        return True if self.args[0].is_real else None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None
