"""The audit of an architecture as a report: a web page, or LaTeX for an appendix."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from symprop import auditing
from symprop.architectures.audit import Audit, LayerRow, audit
from symprop.architectures.description import Architecture
from symprop.claims import Curve, Progress
from symprop.notation import view
from symprop.report.appendix import (
    assumption_statements,
    label_assumptions,
    moments_note,
    notation_table,
    step_blocks,
    with_sweeps,
)
from symprop.report.content import BlockStep, block_steps
from symprop.report.document import Block, Document, Items, Paragraph, Picture, Section, Sweep, Table, label_of
from symprop.report.escape import escape
from symprop.report.printer import latex
from symprop.report.prose import prose

FACTORS = (0.125, 0.25, 0.5, 0.707, 1.0, 1.41, 2.0, 4.0, 8.0)
"""Positions of the slider: what the residual branches are multiplied by."""
EXPLORED_TOKENS = 32
"""Tokens at most for the audits behind the slider."""
_COLUMNS: tuple[tuple[str, str, Callable[[LayerRow], float | None]], ...] = (
    (r"$\mathbb{E} x^2$", "second moment of the stream", lambda row: row.q),
    ("mean", "root mean square of a token's coordinate mean", lambda row: row.mean),
    ("cosine", "of two tokens", lambda row: row.cosine),
    ("logit sd", "deviation of a logit about its row", lambda row: row.logit_deviation),
    ("keys", r"number of keys that a query attends to, $1/\mathbb{E} \sum_j A_{ij}^2$", lambda row: row.participation),
    (r"$\mathbb{E} g^2$", "second moment of the gradient", lambda row: row.gradient),
    (r"$g$ cosine", "of two tokens' gradients", lambda row: row.gradient_cosine),
)


def report(found: Audit, *, columns: int = 1) -> Document:
    """The verdict, the model, its layers, a figure, and the formulas of one layer, broken for text in one or two columns.

    >>> from symprop.architectures.presets import preset
    >>> made = report(audit(preset("bert").replace(layers=1), tokens=2))
    >>> [section.label for section in made.sections]
    ['sec:verdict', 'sec:model', 'sec:layers', 'sec:figures', 'sec:layer', 'sec:assumptions', 'sec:notation']
    """
    model = found.architecture
    trace, own = auditing.layer_trace(model), view("symprop") if columns == 1 else view("symprop").in_columns()
    steps = block_steps(trace, own, tidy=False)
    figure = auditing.figure(found)
    origin = f"{escape(model.name)} ({prose(str(model.source))})"
    introduction = f"What the initialisation of {origin} does to tokens and gradients, layer by layer."
    occurring = [equation.expression for step in steps for equation in step.equations]
    sections = (
        Section("Verdict", "sec:verdict", tuple(map(_sentence, found.findings))),
        _model_section(found),
        _layers_section(found),
        Section("Figures", "sec:figures", (Picture(figure, prose(figure.caption), label_of("fig", figure.name)),)),
        _formula_section(model, steps),
        Section("Assumptions", "sec:assumptions", assumption_statements(label_assumptions(trace.assumptions, {}))),
        Section("Notation", "sec:notation", (notation_table(occurring, own),)),
    )
    return Document(f"Audit of {escape(model.name)}", (Paragraph(introduction),), sections, line=own.line)


def explored(found: Audit, progress: Progress | None = None) -> Document:
    """The same with a slider that scales the residual branches."""
    return with_sweeps(report(found), [_sweep(found, progress)])


def _sentence(text: str) -> Block:
    return Paragraph(prose(text))


def _model_section(found: Audit) -> Section:
    model = found.architecture
    sizes = (("layers", model.layers), ("width", model.width), ("heads", model.heads), ("width of a head", model.key_width),
             ("hidden width", model.hidden), ("vocabulary", model.vocabulary), ("tokens", found.tokens),
             ("of them padding", found.padding))  # fmt: skip
    words = (("order of the block", model.order), ("norm", model.norm), ("activation", str(model.activation)),
             ("gated", _yes(model.gated)), ("causal", _yes(model.causal)), ("positions", model.positions),
             ("gradients of", found.cotangent), ("state of the tokens", f"{found.state}: {found.reason}"))  # fmt: skip
    rows = [(escape(name), f"${value}$") for name, value in sizes] + [(escape(name), prose(value)) for name, value in words]
    given = [
        (escape(name.replace("_", " ")), f"${latex(value)}$") for name, value in auditing.initialisation(model).items()
    ]
    return Section("Model", "sec:model", (
        Table(("l", 0.6), ("what", "value"), tuple(rows)),
        Paragraph("Variances of the weights, and scales:"),
        Table(("l", 0.6), ("weight", "value"), tuple(given)),
    ))  # fmt: skip


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _layers_section(found: Audit) -> Section:
    rows = tuple(
        (str(row.layer) if row.logit_deviation is not None else "out", *(auditing.number(of(row)) for _, _, of in _COLUMNS))
        for row in auditing.shown_rows(found)
    )
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning, _ in _COLUMNS)
    heads = ("layer", *(name for name, _, _ in _COLUMNS))
    return Section("Layers", "sec:layers", (
        Paragraph(f"What enters a layer, and what leaves the last one. {meanings}. Moments are per coordinate, expectations "
                  "over the initialisation."),
        Table(("l", *"r" * len(_COLUMNS)), heads, rows, "footnotesize"),
    ))  # fmt: skip


def _formula_section(model: Architecture, steps: tuple[BlockStep, ...]) -> Section:
    return Section("One layer", "sec:layer", (
        Paragraph(r"The moments of one layer for exchangeable tokens, step by step; $\phi$ is "
                  rf"{escape(str(model.activation))}. "
                  "Tokens that a mask, a class token or positions tell apart have no closed map: for them these are the "
                  "formulas of the average token, and the numbers above come from the whole Gram matrix."),
        Items(tuple(map(step_blocks, steps))),
        *moments_note(steps),
    ))  # fmt: skip


def _sweep(found: Audit, progress: Progress | None) -> Sweep:
    model, tokens = found.architecture, min(found.tokens, EXPLORED_TOKENS)
    curves = []
    for done, factor in enumerate(FACTORS):
        scaled = model.replace(branch_scale=model.branch_scale * sp.Float(factor))
        # No growth of a gradient asks for a repair here.
        rows = audit(scaled, tokens=tokens, state=found.state, growth=1e300).rows
        curves.append(auditing.curves(rows))
        if progress is not None:
            progress("exploring", done + 1, len(FACTORS))
    labels = [label for label in (curve.label for curve in curves[0]) if all(label in _labels(item) for item in curves)]
    kept = tuple(tuple(curve for curve in item if curve.label in labels) for item in curves)
    caption = f"The same over depth with all residual branches multiplied by $c$; ${tokens}$ different tokens."
    return Sweep("branches", caption, label_of("fig", "scaled branches"), "c", FACTORS, kept,
                 *auditing.axis_labels(model.name, tokens), logy=True)  # fmt: skip


def _labels(curves: tuple[Curve, ...]) -> set[str]:
    return {curve.label for curve in curves}
