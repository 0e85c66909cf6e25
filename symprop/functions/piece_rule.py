r"""Gauss's rule on the pieces of the normal distribution: between kinks, and beyond the outermost ones.

A node is given by its standard score :math:`z = (x - m)/\sqrt{v}`. Nodes crowd at the ends of a piece, on the scale on which
the integrand changes there, so that both the function near its kinks and the density are resolved at every variance.

Nodes stay where they are in x when mean and variance change: only the density moves with them. Derivatives under the sum are
then right for functions that jump at a kink as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import mpmath
import sympy as sp

from symprop.functions.depth_nodes import ExpMinusOne
from symprop.functions.table_sum import Larger, Smaller, register_table

NODES, REACH = 48, sp.Rational(17, 2)
"""Nodes on a piece in each dimension, and how many standard deviations the rule reaches."""
_TINY = sp.Float("1e-290")


def gauss_rule(points: int) -> tuple[tuple[float, float], ...]:
    """Nodes and weights of Gauss's rule on [0, 1] in doubles.

    >>> gauss_rule(1)
    ((0.5, 1.0),)
    """
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(points)
    return tuple((float(1 + x) / 2, float(w) / 2) for x, w in zip(nodes, weights, strict=True))


def _code(columns: str, loops: str) -> str:
    rows = "".join(f"    ({x!r}, {w!r}),\n" for x, w in gauss_rule(NODES))
    return f"(lambda rows: tuple({columns} {loops}))((\n{rows}))"


LINE = register_table(
    "piece_line", lambda: [(mpmath.mpf(x), mpmath.mpf(w)) for x, w in gauss_rule(NODES)],
    _code("row", "for row in rows"), doubles=True,
)
PLANE = register_table(
    "piece_plane",
    lambda: [tuple(map(mpmath.mpf, (*one, *other))) for one in gauss_rule(NODES) for other in gauss_rule(NODES)],
    _code("(*one, *other)", "for one in rows for other in rows"), doubles=True,
)


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
    """Standard score of a node from ``end`` on, upwards or downwards: TailScore(node, direction, end, mean, variance, scale)."""

    nargs = (6,)


class TailWeight(PieceFunction):
    """Length that belongs to that node, in standard deviations."""

    nargs = (6,)


class InnerScore(_Score):
    """Standard score of a node on a finite piece: InnerScore(node, centre, half width, mean, variance, scale)."""

    nargs = (6,)


class InnerShift(PieceFunction):
    """Distance of that node from the centre, in standard deviations."""

    nargs = (6,)


class InnerWeight(PieceFunction):
    """Length that belongs to that node, in standard deviations."""

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
    # Sums of the two parts keep their digits for pieces that are narrow.
    above, below = Smaller(reach, REACH - middle), Smaller(reach, REACH + middle)
    width = Larger(above + below, 0)
    length = sp.log(1 + width / unit)
    at = length * (2 * node - 1)
    beyond = unit * ExpMinusOne(2 * length * node) / (1 + sp.exp(at))
    low = Larger(Smaller(middle, REACH + reach), -REACH - reach) - below
    inner = {
        InnerScore: low + beyond,
        InnerShift: beyond - below,
        InnerWeight: length * (width + 2 * unit) / (2 * sp.cosh(at / 2) ** 2),
    }
    kinds: dict[Any, sp.Lambda] = {kind: sp.Lambda((node, direction, end, mean, variance, scale), f) for kind, f in tail.items()}
    kinds |= {kind: sp.Lambda((node, centre, half, mean, variance, scale), f) for kind, f in inner.items()}
    return kinds
