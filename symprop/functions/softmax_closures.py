r"""Closures: what stands in for the moments of softmax weights where their exact value is not wanted.

A block's map is derived with the opaque moments :class:`Participation` (Y, of one row) and :class:`RowGap` (Y less the overlap
of two rows). A closure replaces both, names what it assumes and what it neglects. The scores of a row have the variance
a = s^2, those of two rows the gap g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp

from symprop.core.provenance import Assumption, Source
from symprop.functions.depth_nodes import ExpMinusOne
from symprop.functions.softmax_overlap import Participation, RowGap
from symprop.functions.softmax_tabulated import TabulatedRowGap, TabulatedWeightGap


@dataclass(frozen=True)
class Closure:
    """``participation(a, n)`` and ``row_gap(a, g, n)`` as formulas, with their assumption, neglected order and source.

    ``many`` says that they are those of infinitely many tokens.
    """

    name: str
    participation: Callable[[sp.Expr, sp.Expr], sp.Expr]
    row_gap: Callable[[sp.Expr, sp.Expr, sp.Expr], sp.Expr]
    assumption: Assumption
    neglected: str
    source: Source
    many: bool = False

    def __call__(self, expression: sp.Expr) -> sp.Expr:
        """The expression with both moments replaced.

        >>> a, g, n = sp.symbols("a g n", positive=True)
        >>> UNIFORM(Participation(a, n) + RowGap(a, g, n))
        1/n
        """
        found = sp.sympify(expression).replace(Participation, self.participation)
        return found.replace(RowGap, self.row_gap)


def _frozen(variance: sp.Expr, tokens: sp.Expr) -> sp.Expr:
    """1 - s_c/s above the freezing scale s_c = sqrt(2 log n), 0 below; both sides over sqrt(log n), so that it may cancel."""
    scale, critical = sp.sqrt(variance / sp.log(tokens)), sp.sqrt(2)
    return sp.Max(0, scale - critical) / sp.Max(scale, critical)


UNIFORM = Closure(
    "uniform", lambda a, n: 1 / n, lambda a, g, n: sp.S.Zero,
    Assumption("uniform weights", "every weight is 1/n"), "O(a)", Source("noci2022", "Assumption 3.1"),
)
ANNEALED = Closure(
    "annealed", lambda a, n: sp.exp(a) / n, lambda a, g, n: -sp.exp(a) * ExpMinusOne(-g) / n,
    Assumption("annealed weights", "numerator and denominator of a weight are averaged apart, which holds for a < log(n)/2"),
    "O(e^(2a)/n^2); nan where e^a leaves the range of doubles", Source("cowsik2024", "attention"),
)
REM = Closure(
    "rem", _frozen, lambda a, g, n: _frozen(a, n),
    Assumption("random energy model", "infinitely many tokens: a row's weights are those of independent energies, and two rows "
               "do not overlap"),
    "O(1/log n)", Source("giorlandino2025", "random energy model"), many=True,
)
EXACT = Closure(
    "exact", lambda a, n: 1 / n + (1 - 1 / n) * TabulatedWeightGap(a, n), lambda a, g, n: TabulatedRowGap(a, g, n),
    Assumption("exact softmax", "the scores of a row are Gaussian, and their moments those of any number of tokens"),
    "relative 1e-4 in interpolated moments; nan at score deviations of 20 and more", Source("noci2022", "Eq. 1"),
)
CLOSURES = {closure.name: closure for closure in (UNIFORM, ANNEALED, REM, EXACT)}
"""Every closure by name."""
