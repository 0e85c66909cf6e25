"""Proofs that follow a Trace: a chain of equalities whose every step names its rule."""

from __future__ import annotations

import re
from dataclasses import dataclass

import sympy as sp

from symprop.core.proof import ProofStep
from symprop.core.signal import Signal
from symprop.network.trace import Step, Trace
from symprop.notation.view import Coordinate, View


@dataclass(frozen=True)
class LatexName:
    """How a symbol prints: in a terminal and in LaTeX."""

    text: str
    latex: str


def step_equations(step: Step, inputs: tuple[Signal, ...], view: View) -> dict[sp.Symbol, sp.Expr]:
    """The coordinates of a step's output in terms of those of its inputs, both in a view's symbols."""
    values = view.values(step.component.forward(*(view.opaque(signal) for signal in inputs)))
    return {atom: view.tidy(value, inputs) for atom, value in zip(view.symbols(step.atoms), values, strict=True)}


def trace_chain(trace: Trace, view: View, coordinate: Coordinate) -> tuple[ProofStep, ...]:
    """Walk from a coordinate of the output back to the input, one rule a link."""
    signals = (trace.input, *(step.atoms for step in trace.steps))
    expression: sp.Expr = coordinate.symbol(trace.result.label)
    links: list[ProofStep] = []
    for step in reversed(trace.steps):
        equations = step_equations(step, tuple(trace.signal(item) for item in step.inputs), view)
        if not expression.has(*equations):
            continue
        expression = view.tidy(expression.xreplace(equations), signals)
        links.append(ProofStep(step.component.rule, step.component.reason, expression))
    return _merged(links)


def names_of(trace: Trace, view: View) -> dict[sp.Symbol, LatexName]:
    """How the view's symbols of a block print: signals of layer l inside the block, X for its given input."""
    names: dict[sp.Symbol, LatexName] = {}

    def add(signal: Signal, label: str, text: str, latex: str) -> None:
        for coordinate in view.coordinates:
            names[coordinate.symbol(label)] = LatexName(
                coordinate.text.format(X=text), coordinate.latex.format(X=latex)
            )

    add(trace.input, trace.input.label, "X^l", r"X^{\ell}")
    for step in trace.steps:
        label = step.atoms.label
        add(step.atoms, label, f"{label}^l", rf"{label}^{{\ell}}")
    add(trace.result, trace.result.label, "X^(l+1)", r"X^{\ell+1}")
    for coordinate in view.coordinates:
        names[coordinate.initial] = LatexName(
            coordinate.text.removeprefix("E").strip().format(X="X"),
            coordinate.latex.removeprefix(r"\mathbb{{E}}").removeprefix(r"\,").format(X="X")
        )
    return names


def indexed(label: str) -> str:
    """The name of a signal in LaTeX, with the number of one that a block leaves unnamed as an index.

    >>> indexed("H12"), indexed("X'")
    ('H_{12}', "X'")
    """
    return re.sub(r"^([A-Za-z]+?)(\d+)$", r"\1_{\2}", label)


def _merged(links: list[ProofStep]) -> tuple[ProofStep, ...]:
    """Join neighbours with the same rule, so that two linear layers of one branch are one link."""
    merged: list[ProofStep] = []
    for link in links:
        if merged and merged[-1].rule == link.rule:
            merged[-1] = link
        else:
            merged.append(link)
    return tuple(merged)
