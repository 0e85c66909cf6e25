"""Plots that a reader moves through: what a derivation predicts as one of its parameters changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import sympy as sp

from symprop.claims import Curve, PaperDerivation
from symprop.depth import DepthSolution
from symprop.depth.iterate import numpy_compile
from symprop.notation import View
from symprop.report.content import depth_scaling
from symprop.report.diagram import compute
from symprop.report.document import Sweep, label_of
from symprop.report.printer import latex
from symprop.report.prose import prose

STEPS = 21
"""Positions of a slider."""
DEPTH, TOKENS, FIRST_COSINE = 48, 32, 0.1
"""Where a solved block is evaluated: layers, tokens, and the cosine of two tokens at the input."""


def sweeps(derivation: PaperDerivation, view: View) -> tuple[Sweep, ...]:
    """The plots of a derivation with a slider: over its diagram, and over depth where its block is solved."""
    found = [_over_diagram(derivation, view)] if derivation.diagram is not None else []
    if derivation.solution is not None:
        found += _over_depth(derivation, derivation.solution, view)
    return tuple(found)


def _over_diagram(derivation: PaperDerivation, view: View) -> Sweep:
    """The first approximation of the diagram over its x axis, with a slider for the other one."""
    assert derivation.diagram is not None
    diagram = replace(derivation.diagram, x=replace(derivation.diagram.x, points=81),
                      y=replace(derivation.diagram.y, points=STEPS))  # fmt: skip
    level = next(iter(diagram.evaluators))
    picture = compute(derivation, diagram, level)
    x = tuple(picture.x.tolist())
    given = ", ".join(f"${latex(key, view=view)} = {value:g}$" for key, value in picture.values.items())
    return Sweep(
        "diagram", f"{prose(picture.title)}, at {given}.", label_of("fig", f"{derivation.key} diagram"),
        latex(diagram.y.symbol, view=view), tuple(float(value) for value in picture.y),
        tuple((Curve(level, x, tuple(row.tolist())),) for row in picture.output), diagram.x.name, diagram.label,
    )  # fmt: skip


def _over_depth(derivation: PaperDerivation, solution: DepthSolution, view: View) -> list[Sweep]:
    """1 - cosine over depth, with a slider for the first residual weight; none where other parameters stay open."""
    weights = sorted(depth_scaling(solution), key=str)
    signal, start = solution.signal, solution.input
    given = {**derivation.values, start.q: sp.S.One, start.gap: 1 - sp.Float(FIRST_COSINE), solution.trace.input.tokens: TOKENS}
    deficit = (signal.gap / signal.q).subs(given, simultaneous=False)
    depth = solution.stack.depth
    if not weights or deficit.free_symbols - {depth, *weights} or depth not in deficit.free_symbols:
        return []
    evaluate = numpy_compile((depth, *weights), (deficit,))
    layers = np.arange(DEPTH + 1.0)
    values = np.linspace(0.0, 1.0, STEPS)
    curves = []
    for value in values:
        row = np.broadcast_to(evaluate(layers, value, *(1.0 for _ in weights[1:]))[0], layers.shape)
        curves.append((Curve("1 - rho", tuple(layers.tolist()), tuple(row.tolist())),))
    others = "".join(f", ${latex(weight, view=view)} = 1$" for weight in weights[1:])
    caption = (
        f"One minus the cosine of two tokens over depth, by the closed form, at ${latex(start.tokens, view=view)} = {TOKENS}$ "
        f"tokens{others}, with cosine ${FIRST_COSINE:g}$ at the input."
    )
    return [Sweep("depth", caption, label_of("fig", f"{derivation.key} cosine over depth"), latex(weights[0], view=view),
                  tuple(float(f"{value:.6g}") for value in values), tuple(curves), "layer", "1 - rho", logy=True)]  # fmt: skip
