"""A derived formula together with its proof."""

from __future__ import annotations

from dataclasses import dataclass, field

import sympy as sp

from symprop.core.proof import ProofStep
from symprop.core.provenance import Derived

__all__ = ["Derivation", "ProofStep", "squared_norm"]

_LATEX = {"W_V": "W^V", "W_Q": "W^Q", "W_K": "W^K", "W_1": "W^{F_1}", "W_2": "W^{F_2}"}


def squared_norm(output: str, parameter: str, power: int = 2) -> str:
    r"""What the mean of a power of a gradient's norm is called in LaTeX.

    >>> squared_norm("S", "W_Q")
    '\\mathbb{E}\\left\\|\\frac{\\partial S}{\\partial W^Q}\\right\\|_F^{2}'
    """
    below = _LATEX.get(parameter, parameter)
    return rf"\mathbb{{E}}\left\|\frac{{\partial {output}}}{{\partial {below}}}\right\|_F^{{{power}}}"


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
