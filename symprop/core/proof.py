"""A proof as a reader sees it: chains of equal expressions, each with the rule that gives it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import sympy as sp


@dataclass(frozen=True)
class ProofStep:
    r"""One link of a chain of equalities.

    ``rule`` is the word over the equals sign (``skip``), ``reason`` the sentence behind it, ``expression`` what the
    chain equals after the step. ``quantity`` is the LaTeX of what equals ``expression`` where that is not what the proof
    is of; steps with one quantity in succession are one chain. ``relation`` replaces the equals sign for a step that
    leaves something out, such as a limit (``\to``).
    """

    rule: str
    reason: str
    expression: sp.Expr
    quantity: str = ""
    relation: str = "="


def about(quantity: str, steps: Iterable[ProofStep]) -> tuple[ProofStep, ...]:
    """Steps of a proof as a part of the proof of something else: those that name no quantity are of this one."""
    return tuple(step if step.quantity else replace(step, quantity=quantity) for step in steps)
