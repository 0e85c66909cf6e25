"""A proof as a reader sees it: a chain of equal expressions, each with the rule that gives it."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp


@dataclass(frozen=True)
class ProofStep:
    """One link of a chain of equalities.

    ``rule`` is the word over the equals sign (``skip``), ``reason`` the sentence behind it, ``expression`` what the
    chain equals after the step.
    """

    rule: str
    reason: str
    expression: sp.Expr
