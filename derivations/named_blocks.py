"""What the files on named blocks share: their branches, an activation as two numbers, and results with a short proof."""

from __future__ import annotations

from dataclasses import replace
from itertools import starmap
from typing import TypeAlias

import sympy as sp

from symprop.claims import Result
from symprop.components import Attention, Elementwise, Linear, UniformAttention
from symprop.core.proof import ProofStep
from symprop.core.provenance import Derived
from symprop.core.symbols import c_2, chi, d, d_k, gain_v, m_f, sigma_k2, sigma_q2, sigma_w
from symprop.functions.activation import Activation
from symprop.functions.generic_activation import GenericActivation, SlopeMoment
from symprop.network import Block, sequential, token_input

X = token_input(gaussian=True)
ATTENTION = UniformAttention(d, gain_v / d)
"""Attention near collapse, where all its weights are equal; values and output projection are one matrix of gain sigma_v^2."""
SCORED = Attention(d, gain_v / d, d_k, sigma_q2, sigma_k2)
"""The same with its softmax."""
MOMENTS = {SlopeMoment(0, sigma_w**2): m_f, SlopeMoment(1, sigma_w**2): chi / sigma_w**2,
           SlopeMoment(2, sigma_w**2): c_2 / sigma_w**4}
"""Moments of an unnamed activation behind a norm: second moment m and slope chi of the branch, and its curvature c_2."""


def feed_forward(activation: Activation | None = None, *, gain: sp.Expr | int = 1, bias: sp.Expr | int = 0) -> Block:
    """W_2 phi(W_1 x) + b_2 with gains sigma_w^2 and ``gain``; an unnamed activation unless given."""
    return sequential(Linear(d, sigma_w**2 / d), Elementwise(activation or GenericActivation()),
                      Linear(d, sp.sympify(gain) / d, bias))


Shown: TypeAlias = tuple[str, str, sp.Expr] | tuple[str, str, sp.Expr, str]
"""Rule, reason and expression of a step, and the quantity that it is of where that is not the result."""


def result(expression: sp.Expr, quantity: str, provenance: Derived, *steps: Shown,
           last: tuple[str, str] = ("result", "put together"), relation: str = "=") -> Result:
    """A derived expression in m and chi, with what it stands on; ``last`` is rule and reason of the step to itself."""
    links = [replace(step, expression=sp.sympify(step.expression).subs(MOMENTS)) for step in starmap(ProofStep, steps)]
    found = sp.sympify(expression).subs(MOMENTS)
    if not links or links[-1].quantity or links[-1].expression != found:
        links.append(ProofStep(*last, found, relation=relation))
    return Result(found, quantity, tuple(links), assumptions=provenance.assumptions, neglected=provenance.neglected,
                  sources=provenance.sources)
