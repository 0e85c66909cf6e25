"""A formula with kinks as smooth formulas on intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from symprop.core.errors import RefusedError

KINKED = (sp.Abs, sp.Max, sp.Min, sp.sign, sp.Heaviside, sp.Piecewise)
"""The functions that have kinks or jumps."""
_STEPPED = (sp.floor, sp.ceiling, sp.frac, sp.Mod)


@dataclass(frozen=True)
class Pieces:
    """A function of one variable: ``formulas[i]`` between ``kinks[i - 1]`` and ``kinks[i]``; the kinks ascend.

    >>> x = sp.Symbol("x", real=True)
    >>> split(sp.Max(0, sp.Min(x, 6)), x, "relu6")
    Pieces(variable=x, kinks=(0, 6), formulas=(0, x, 6))
    """

    variable: sp.Symbol
    kinks: tuple[sp.Expr, ...]
    formulas: tuple[sp.Expr, ...]

    def map(self, function: Callable[[sp.Expr], sp.Expr]) -> Pieces:
        """The same intervals with other formulas."""
        return Pieces(self.variable, self.kinks, tuple(function(formula) for formula in self.formulas))

    @property
    def slope(self) -> Pieces:
        """The derivative between the kinks."""
        return self.map(lambda formula: _bell(sp.diff(formula, self.variable)))

    def at(self, index: int, x: sp.Expr) -> sp.Expr:
        """The formula of an interval at x; its limit where it is a quotient of zeros."""
        formula = self.formulas[index]
        value = formula.subs(self.variable, x)
        return sp.limit(formula, self.variable, x) if value.has(sp.nan, sp.zoo) else value

    def index(self, x: sp.Expr) -> int:
        """The interval in which a number lies."""
        return sum(bool(kink < x) for kink in self.kinks)

    @property
    def jumps(self) -> tuple[sp.Expr, ...]:
        """By how much the function jumps at every kink; zero where it is continuous."""
        return _jumps(self)

    @property
    def odd(self) -> bool:
        """Whether f(-x) = -f(x)."""
        mirrored = zip(self.formulas, reversed(self.formulas), strict=True)
        return all(sp.simplify(one + other) == 0 for one, other in zip(self.kinks, reversed(self.kinks), strict=True)) and all(
            sp.expand(one + other.subs(self.variable, -self.variable)) == 0 for one, other in mirrored
        )


@lru_cache(maxsize=64)
def _jumps(pieces: Pieces) -> tuple[sp.Expr, ...]:
    found = []
    for index, kink in enumerate(pieces.kinks):
        jump = sp.simplify(pieces.at(index + 1, kink) - pieces.at(index, kink))
        found.append(sp.S.Zero if abs(sp.N(jump, 30)) < sp.Float("1e-25") else jump)
    return tuple(found)


@lru_cache(maxsize=64)
def split(formula: sp.Expr, variable: sp.Symbol, name: str) -> Pieces:
    """The pieces of a formula.

    Kinks are the real roots of the arguments of Abs, sign and Heaviside, of differences of the arguments of Max and Min, and
    of both sides' differences in the conditions of a Piecewise. Raises ``RefusedError`` where SymPy does not find them all.
    """
    formula = _plain(formula)
    if formula.has(*_STEPPED):
        raise RefusedError(name, "its formula has infinitely many jumps", "write the jumps that matter as Heaviside functions")
    candidates = sorted({root for gap in _switches(formula) for root in _roots(gap, variable, name)}, key=sp.N)
    probes = _probes(candidates)
    formulas = [_branch(formula, variable, probe, name) for probe in probes]
    kinks, kept = [], formulas[:1]
    for kink, following in zip(candidates, formulas[1:], strict=True):
        if sp.expand(following - kept[-1]) != 0:
            kinks.append(kink)
            kept.append(following)
    return Pieces(variable, tuple(kinks), tuple(kept))


def _plain(formula: sp.Expr) -> sp.Expr:
    """The formula without functions that are quotients of others, and with whole numbers as exponents that are whole."""
    written = {
        sp.sinc: lambda u: sp.sin(u) / u, sp.sech: lambda u: 1 / sp.cosh(u), sp.csch: lambda u: 1 / sp.sinh(u),
        sp.coth: lambda u: sp.cosh(u) / sp.sinh(u),
    }
    for function, quotient in written.items():
        formula = formula.replace(function, quotient)
    return formula.replace(
        lambda node: node.is_Pow and node.exp.is_Float and float(node.exp).is_integer(), lambda node: node.base ** int(node.exp)
    )


def _probes(kinks: list[sp.Expr]) -> list[sp.Expr]:
    """One number in every interval."""
    if not kinks:
        return [sp.S.Zero]
    between = [(one + other) / 2 for one, other in pairwise(kinks)]
    return [kinks[0] - 1, *between, kinks[-1] + 1]


def _switches(formula: sp.Expr) -> set[sp.Expr]:
    """Expressions whose sign decides which branch holds."""
    found: set[sp.Expr] = set()
    for node in formula.atoms(*KINKED):
        if isinstance(node, (sp.Max, sp.Min)):
            found |= {one - other for i, one in enumerate(node.args) for other in node.args[:i]}
        elif isinstance(node, sp.Piecewise):
            relations = (item for _, condition in node.args for item in condition.atoms(Relational))
            found |= {item.lhs - item.rhs for item in relations}
        else:
            found.add(node.args[0])
    return found


def _roots(switch: sp.Expr, variable: sp.Symbol, name: str) -> list[sp.Expr]:
    if not switch.has(variable):
        return []
    # A switch inside a kinked function: its roots are those of its own pieces.
    pieces = split(switch, variable, name) if switch.has(*KINKED) else Pieces(variable, (), (switch,))
    ends = (-sp.oo, *pieces.kinks, sp.oo)
    found: list[sp.Expr] = []
    for index, formula in enumerate(pieces.formulas):
        low, high = ends[index : index + 2]
        found += [root for root in smooth_roots(formula, variable, name) if low <= root <= high]
    return [*found, *pieces.kinks]


def smooth_roots(switch: sp.Expr, variable: sp.Symbol, name: str) -> list[sp.Expr]:
    """The real roots of a formula without kinks; ``RefusedError`` where SymPy does not find them all."""
    if not switch.has(variable):
        return []
    if switch.is_polynomial(variable):
        return list(sp.real_roots(sp.Poly(switch, variable), multiple=True))
    roots = sp.solveset(switch, variable, sp.S.Reals)
    if roots is sp.S.EmptySet:
        return []
    if not isinstance(roots, sp.FiniteSet):
        raise RefusedError(
            name, f"the kinks, where {switch} = 0, are not found", "write it as a Piecewise with conditions variable < number"
        )
    return [root for root in roots.args if root.is_real]


def _branch(node: sp.Expr, variable: sp.Symbol, probe: sp.Expr, name: str) -> sp.Expr:
    """The formula that holds around a number."""
    if not node.has(*KINKED):
        return node
    if isinstance(node, sp.Piecewise):
        for value, condition in node.args:
            if _holds(condition, variable, probe):
                return _branch(value, variable, probe, name)
        raise RefusedError(name, f"it has no value at {probe}", "end the Piecewise with (value, True)")
    arguments = [_branch(argument, variable, probe, name) for argument in node.args]
    if isinstance(node, (sp.Max, sp.Min)):
        choose = max if isinstance(node, sp.Max) else min
        return choose(arguments, key=lambda item: sp.N(item.subs(variable, probe), 30))
    if isinstance(node, (sp.Abs, sp.sign, sp.Heaviside)):
        sign = sp.sign(sp.N(arguments[0].subs(variable, probe), 30))
        if isinstance(node, sp.Abs):
            return sign * arguments[0]
        return sign if isinstance(node, sp.sign) else (1 + sign) / 2
    return node.func(*arguments)


def _holds(condition: Boolean, variable: sp.Symbol, probe: sp.Expr) -> bool:
    return bool(condition.subs(variable, probe))


def _bell(slope: sp.Expr) -> sp.Expr:
    """1 - tanh^2 as 1/cosh^2, which keeps its digits where it is small."""
    return slope.xreplace({1 - node**2: sp.cosh(node.args[0]) ** -2 for node in slope.atoms(sp.tanh)})
