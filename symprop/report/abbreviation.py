"""Names for what repeats in long formulas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sympy as sp

LINES = 4
"""A formula over more lines than this is worth names for its parts."""
MOST = 5
"""Names for the formulas of one statement."""
_SHORTEST = 5.0
"""What takes less room than this, in em, needs no name."""


@dataclass(frozen=True)
class Abbreviated:
    """Formulas in which repeated parts have names: ``names`` are pairs of a name and its part, each in earlier names."""

    formulas: tuple[sp.Basic, ...]
    names: tuple[tuple[sp.Symbol, sp.Basic], ...] = ()


def abbreviated(formulas: Sequence[sp.Basic], width: Callable[[sp.Basic], float], line: float) -> Abbreviated:
    """Names for the parts that repeat, the widest first, where one of the formulas is longer than ``LINES`` lines.

    ``width`` measures an expression as it prints, in em. Matrices keep their spelling.

    >>> x, y = sp.symbols("x y", positive=True)
    >>> found = abbreviated([sp.sqrt(1 + x*y)*y + sp.log(1 + x*y)/(2 + x*y)], lambda item: 10.0*sp.count_ops(item), 20.0)
    >>> found.formulas, found.names
    ((sqrt(u_1)*y + log(u_1)/(x*y + 2),), ((u_1, x*y + 1),))
    """
    current = tuple(formulas)
    if not any(not item.atoms(sp.MatrixSymbol) and width(item) > LINES * line for item in current):
        return Abbreviated(current)
    names: list[tuple[sp.Dummy, sp.Basic]] = []
    while len(names) < MOST:
        # Steps of a proof repeat one another; what counts is how often a part stands in one formula.
        counts: Counter[sp.Basic] = Counter()
        for item in (*current, *(value for _, value in names)):
            counts |= Counter(_parts(item))
        worth = [
            ((count - 1) * (size - 1.5), str(part), part)
            for part, count in counts.items() if count > 1 and (size := width(part)) >= _SHORTEST
        ]
        if not worth:
            break
        part = max(worth, key=lambda item: item[:2])[2]
        name = sp.Dummy("u")
        current = tuple(item.xreplace({part: name}) for item in current)
        names = [(symbol, value.xreplace({part: name})) for symbol, value in names] + [(name, part)]
    # A part that was named later stands inside one that was named before.
    numbered = {name: sp.Symbol(f"u_{number}") for number, (name, _) in enumerate(_ordered(names), 1)}
    return Abbreviated(
        tuple(item.xreplace(numbered) for item in current),
        tuple((numbered[name], value.xreplace(numbered)) for name, value in _ordered(names)),
    )


def _parts(expression: sp.Basic) -> Iterator[sp.Basic]:
    """The scalar parts that may have a name, each as often as it stands there."""
    for node in () if expression.atoms(sp.MatrixSymbol) else sp.preorder_traversal(expression):
        if isinstance(node, sp.Add | sp.Mul | sp.Pow | sp.Function) and node.free_symbols and not _is_plain(node):
            yield node


def _is_plain(node: sp.Basic) -> bool:
    """A product without sums, roots or functions says more than a name."""
    return isinstance(node, sp.Mul | sp.Pow) and not node.atoms(sp.Add, sp.Function)


def _ordered(names: Sequence[tuple[sp.Dummy, sp.Basic]]) -> Iterator[tuple[sp.Dummy, sp.Basic]]:
    pending = list(names)
    while pending:
        waiting = {symbol for symbol, _ in pending}
        ready = [pair for pair in pending if not pair[1].free_symbols & waiting]
        yield from ready
        pending = [pair for pair in pending if pair not in ready]
