"""What a formula stands on: where it was published, what it assumes, what it neglects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from symprop.core.display import latex

EXACT = "exact"
"""The value of ``Derived.neglected`` for a result without approximation."""


@dataclass(frozen=True, order=True)
class Source:
    """A place in the literature.

    ``key`` is the bibliography key (``noci2022``), ``where`` the equation, lemma or section.
    """

    key: str
    where: str

    def __str__(self) -> str:
        return f"{self.key}, {self.where}" if self.where else self.key


@dataclass(frozen=True, order=True)
class Assumption:
    """A named hypothesis, with the sentence that a report prints."""

    name: str
    statement: str

    def __str__(self) -> str:
        return f"{self.name}: {self.statement}"


@dataclass(frozen=True)
class Derived:
    """A derived formula with everything it stands on.

    ``expression`` is the SymPy expression, ``neglected`` the order of what was left out (``"exact"`` where nothing
    was), ``tags`` the order of limits and the gradient mode where they matter.
    """

    expression: sp.Expr
    assumptions: tuple[Assumption, ...] = ()
    neglected: str = EXACT
    sources: tuple[Source, ...] = ()
    tags: tuple[str, ...] = ()

    def with_expression(self, expression: sp.Expr, neglected: str | None = None, *tags: str) -> Derived:
        """The same provenance under another expression, with what the last step neglected added."""
        lost = neglected_order(self.neglected, neglected or EXACT)
        return Derived(expression, self.assumptions, lost, self.sources, (*self.tags, *tags))

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {latex(self.expression)}$"

    def __str__(self) -> str:
        return str(self.expression)


def neglected_order(*orders: str) -> str:
    """Join several neglected orders; ``"exact"`` is the neutral element.

    >>> neglected_order("exact", "O(1/L)", "exact")
    'O(1/L)'
    """
    kept = dict.fromkeys(order for order in orders if order != EXACT)
    return ", ".join(kept) or EXACT


def merge_unique(*groups: tuple[Any, ...]) -> tuple[Any, ...]:
    """Concatenate tuples, keeping the first of equal items and the order of first appearance."""
    return tuple(dict.fromkeys(item for group in groups for item in group))
