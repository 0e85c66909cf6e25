r"""Gauss's rule on the pieces of the normal distribution: between kinks, and beyond the outermost ones.

A node is given by its standard score :math:`z = (x - m)/\sqrt{v}`. Nodes crowd at the ends of a piece, on the scale on which
the integrand changes there, so that both the function near its kinks and the density are resolved at every variance.

Nodes stay where they are in x when mean and variance change: only the density moves with them. Derivatives under the sum are
then right for functions that jump at a kink as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import mpmath
import sympy as sp

from symprop.functions.covariance_integral import gauss_legendre
from symprop.functions.depth_nodes import ExpMinusOne
from symprop.functions.table_sum import Larger, Smaller, register_table

OUTER, INNER, REACH = 48, 64, sp.Rational(17, 2)
"""Nodes on a piece of the outer and of the inner variable, and how many standard deviations the rule reaches."""
_TINY, _SLACK = sp.Float("1e-290"), sp.Float("1e-14")


@cache
def gauss_rule(points: int) -> tuple[tuple[float, float], ...]:
    """Nodes and weights of Gauss's rule on [0, 1] in doubles, the same on every machine.

    >>> gauss_rule(1)
    ((0.5, 1.0),)
    """
    with mpmath.workdps(25):
        return tuple((float(node), float(weight)) for node, weight in gauss_legendre(points))


def _code(points: int) -> str:
    rows = "".join(f"    ({x!r}, {w!r}),\n" for x, w in gauss_rule(points))
    return f"(\n{rows})"


LINE = register_table(
    "piece_line", lambda: [(mpmath.mpf(x), mpmath.mpf(w)) for x, w in gauss_rule(INNER)], doubles=True
)
PLANE = register_table(
    "piece_plane",
    lambda: [tuple(map(mpmath.mpf, (*one, *other))) for one in gauss_rule(OUTER) for other in gauss_rule(INNER)],
    lambda: f"tuple((*one, *other) for one in {_code(OUTER)} for other in {_code(INNER)})", doubles=True,
)


class Place(sp.Function):
    """Where a node is: a real number that stays when moments change. SymPy does not look into it, which would take long."""

    nargs = (1,)

    @classmethod
    def formula(cls) -> sp.Lambda:
        """The identity."""
        x = sp.Symbol("x", real=True)
        return sp.Lambda(x, x)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.Zero

    def _eval_is_real(self) -> bool:
        return True


class PieceFunction(sp.Function):
    """A number of the rule: a function of the node in [0, 1], the piece, the mean, the variance and the scale of crowding."""

    @classmethod
    def formula(cls) -> sp.Lambda:
        """The function written out."""
        return _rule()[cls]

    @property
    def variance(self) -> sp.Expr:
        """The variance, the last argument but one."""
        return self.args[-2]

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """The derivative at a fixed place of the node: a length in units of the standard deviation."""
        return -self / (2 * self.variance) if argindex == len(self.args) - 1 else sp.S.Zero

    def _eval_is_real(self) -> bool | None:
        return True if all(argument.is_real for argument in self.args) else None


class _Score(PieceFunction):
    def fdiff(self, argindex: int = 1) -> sp.Expr:
        if argindex == len(self.args) - 2:
            return -1 / sp.sqrt(self.variance)
        return super().fdiff(argindex)


class TailScore(_Score):
    """Standard score of a node from an end on, in direction 1 or -1; nodes crowd at the end."""

    nargs = (6,)


class TailWeight(PieceFunction):
    """Length that belongs to a node beyond an end, in standard deviations."""

    nargs = (6,)


class InnerScore(_Score):
    """Standard score of a node on a finite piece, given its centre and half its width; nodes crowd at both ends."""

    nargs = (6,)


class InnerShift(PieceFunction):
    """Distance of a node on a finite piece from its centre, in standard deviations."""

    nargs = (6,)


class InnerWeight(PieceFunction):
    """Length that belongs to a node on a finite piece, in standard deviations."""

    nargs = (6,)


@cache
def _rule() -> Mapping[type[PieceFunction], sp.Lambda]:
    """The rule as formulas: the one place where it is written."""
    node, mean, variance, scale = sp.symbols("node mean variance scale", real=True)
    spread = sp.sqrt(variance + _TINY)
    # The unit of the logarithms below, in standard deviations.
    unit = scale / spread

    direction, end = sp.symbols("direction end", real=True)
    start = Smaller(Larger(direction * (end - mean) / spread, -REACH), REACH)
    length = sp.log(1 + (REACH - start) / unit)
    tail = {
        TailScore: direction * (start + unit * ExpMinusOne(length * node)),
        TailWeight: unit * length * sp.exp(length * node),
    }

    centre, half = sp.symbols("centre half", real=True)
    middle, reach = (centre - mean) / spread, half / spread
    low, high = (Smaller(Larger((centre + side * half - mean) / spread, -REACH), REACH) for side in (-1, 1))
    # Rounding of the difference of ends may not shorten a narrow piece; one out of reach may have its ends swapped.
    width, below = Larger(Smaller(2 * reach, high - low + _SLACK), 0), Smaller(reach, middle - low + _SLACK)
    length = sp.log(1 + width / unit)
    at = length * (2 * node - 1)
    beyond = unit * ExpMinusOne(2 * length * node) / (1 + sp.exp(at))
    inner = {
        InnerScore: low + beyond,
        InnerShift: beyond - below,
        InnerWeight: length * (width + 2 * unit) / (2 * sp.cosh(at / 2) ** 2),
    }
    place = ((direction, end), (centre, half))
    return {
        kind: sp.Lambda((node, *where, mean, variance, scale), formula)
        for where, formulas in zip(place, (tail, inner), strict=True)
        for kind, formula in formulas.items()
    }


PIECE_FUNCTIONS: Mapping[type[PieceFunction], str] = {
    TailScore: "_tail_score",
    TailWeight: "_tail_weight",
    InnerScore: "_inner_score",
    InnerShift: "_inner_shift",
    InnerWeight: "_inner_weight",
}
"""The functions of the rule, and what code calls them."""
