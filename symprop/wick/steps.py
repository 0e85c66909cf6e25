"""A derived formula together with its proof."""

from __future__ import annotations

from dataclasses import dataclass, field

import sympy as sp

from symprop.core.proof import ProofStep
from symprop.core.provenance import Derived

__all__ = ["Derivation", "ProofStep"]


@dataclass(frozen=True)
class Derivation(Derived):
    """A :class:`Derived` formula with the chain of steps that proves it.

    ``setup`` holds what is stated before the chain begins (the layer, its Jacobian, the Jacobian at the uniform
    point); ``quantity`` is the expression that the chain ``steps`` starts from, before any expectation. ``traces`` is
    the result in traces of the matrices, before it was written in named invariants.
    """

    steps: tuple[ProofStep, ...] = ()
    setup: tuple[ProofStep, ...] = ()
    quantity: sp.Expr | None = field(default=None, compare=False)
    traces: sp.Expr | None = field(default=None, compare=False)
