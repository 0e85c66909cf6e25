"""What the appendix of a derivation says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from symprop.claims import Claim, Figure, Paper, PaperDerivation, Result, Status, Verdict
from symprop.core.proof import ProofStep
from symprop.core.provenance import EXACT, Assumption, Source, merge_unique
from symprop.core.symbols import L, SymbolInfo
from symprop.functions.softmax_layer import LayerMoment
from symprop.notation import View
from symprop.report.abbreviation import abbreviated
from symprop.report.content import (
    BlockReport,
    BlockStep,
    Formula,
    Names,
    block_report,
    claim_names,
    dynamics,
    occurring_symbols,
    setting,
    stated_formula,
)
from symprop.report.document import (
    Block,
    Display,
    Document,
    Items,
    Link,
    Paragraph,
    Picture,
    Proof,
    Reasons,
    Section,
    Statement,
    Sweep,
    Table,
    joined,
    label_of,
)
from symprop.report.escape import escape
from symprop.report.printer import FUNCTIONS, MATRIX_MEANINGS, latex
from symprop.report.prose import prose, rule_name
from symprop.report.width import width
from symprop.simulate.measurement import Measurement, rms_z


@dataclass(frozen=True)
class Part:
    """A derivation with what was found about it: verdicts of its claims, rows of its study, figures."""

    derivation: PaperDerivation
    verdicts: Sequence[Verdict]
    measurements: Sequence[Measurement] = ()
    figures: Sequence[Figure] = ()


def appendix(parts: Sequence[Part], view: View) -> Document:
    """What derivations say: notation, assumptions, block, depth limit, claims with proofs, verification, errata.

    Several share notation, assumptions, bibliography and numbering; the labels of each then carry its key.
    """
    assumptions: dict[Assumption, str] = {}
    papers = {paper.key: paper for part in parts for paper in (part.derivation.paper, *part.derivation.references)}
    contexts = [
        _Context(part.derivation, view, papers, assumptions, part.derivation.key if len(parts) > 1 else "") for part in parts
    ]
    occurring: list[Any] = []
    own = [_part_sections(context, part, occurring) for context, part in zip(contexts, parts, strict=True)]
    sections = (
        _notation_section(view, occurring),
        Section("Assumptions", "sec:assumptions", assumption_statements(assumptions)),
        *(section for sections in own for section in sections),
    )
    keys = ",".join(part.derivation.key for part in parts)
    introduction = Paragraph(
        rf"This appendix derives the results of \cite{{{keys}}} on the propagation of signals through a "
        "residual block at initialisation, checks each against the published formula, and compares the theory with simulation."
    )
    titles = joined([part.derivation.paper.title for part in parts])
    return Document(
        prose(f"Derivations for: {titles}"), (introduction,), tuple(section for section in sections if section.blocks),
        tuple(papers.values()), view.line,
    )  # fmt: skip


def _part_sections(context: _Context, part: Part, occurring: list[Any]) -> tuple[Section, ...]:
    """The sections of one derivation; ``occurring`` gathers the expressions whose symbols the notation explains."""
    block = block_report(part.derivation, context.view)
    results = [verdict.claim.derived() for verdict in part.verdicts]
    occurring += [formula.expression for formula in (*block.closed, *block.limit)]
    occurring += [item.expression for item in part.derivation.dynamics]
    occurring += [item.expression for step in block.steps for item in step.equations]
    for verdict, result in zip(part.verdicts, results, strict=True):
        occurring += [result.expression, *(step.expression for step in (*result.setup, *result.steps))]
        occurring += [] if verdict.claim.stated is None else [verdict.claim.stated]
        point = verdict.comparison.witness or {}
        occurring += [*verdict.claim.domain, *verdict.claim.domain.values(), *(key for key in point if key.is_Symbol)]
    return (
        _block_section(context, block),
        _limit_section(context, block),
        _dynamics_section(context, part.derivation.dynamics),
        _claims_section(context, part.verdicts, results),
        *_measurement_sections(context, part.measurements),
        _figure_section(context, part.figures),
        _errata_section(context, part.verdicts),
    )


def with_sweeps(document: Document, found: Sequence[Sweep]) -> Document:
    """The same report with plots that a reader moves through, for a page that has sliders."""
    section = Section("Explore", "sec:explore", (Paragraph("The slider changes a parameter of the theory."), *found))
    return replace(document, sections=(*document.sections, section)) if found else document


@dataclass(frozen=True)
class _Context:
    """What the sections of one derivation share with those of the others; ``key`` tells its labels from theirs."""

    derivation: PaperDerivation
    view: View
    papers: Mapping[str, Paper]
    assumptions: dict[Assumption, str]
    key: str

    def label(self, prefix: str, name: str) -> str:
        """The label of a part of this derivation."""
        return label_of(prefix, f"{self.key} {name}")

    def section(self, title: str, label: str, blocks: Iterable[Block]) -> Section:
        """A section of this derivation."""
        paper = self.derivation.paper
        first, *others = paper.authors.split(" and ")
        whose = f" ({first.partition(',')[0]}{' et al.' if others else ''} {paper.year})" if self.key else ""
        return Section(title + escape(whose), self.label("sec", label), tuple(blocks))

    def assume(self, items: Iterable[Assumption]) -> str:
        """References to assumptions, which are thereby listed."""
        items = tuple(items)
        label_assumptions(items, self.assumptions)
        labels = [self.assumptions[item] for item in items]
        return rf"\cref{{{','.join(labels)}}}" if labels else ""

    def cite(self, source: Source) -> str:
        where = f"[{{{prose(source.where)}}}]" if source.where else ""
        return rf"\cite{where}{{{source.key}}}" if source.key in self.papers else prose(str(source))


def label_assumptions(items: Iterable[Assumption], known: dict[Assumption, str]) -> dict[Assumption, str]:
    """Labels of assumptions, added to those that are known; two of one name get two labels."""
    for item in items:
        label = known.get(item, label_of("asm", item.name))
        while item not in known and label in known.values():
            label += "-x"
        known[item] = label
    return known


def _notation_section(view: View, occurring: Iterable[Any]) -> Section:
    table = notation_table(occurring, view)
    return Section("Notation", "sec:notation", (Paragraph(f"{prose(_capital(view.title))}."), table))


def notation_table(formulas: Iterable[Any], view: View) -> Table:
    """What symbols in formulas mean and which values they take, shapes of matrices, and functions with a sign of their own."""
    formulas = tuple(formulas)
    rows = [_notation(item, view) for item in occurring_symbols(formulas)]
    nodes = set().union(*(sp.sympify(formula, strict=True).atoms(sp.Function, sp.MatrixExpr) for formula in formulas))
    rows += _matrices({node for node in nodes if isinstance(node, sp.MatrixSymbol)}, view)
    used = {type(node).__name__ for node in nodes}
    rows += [(f"${sign}$", meaning, "") for name, (sign, meaning) in FUNCTIONS.items() if name in used]
    return Table(("l", 0.58, "l"), ("symbol", "meaning", "range"), tuple(rows))


def _matrices(occurring: Iterable[sp.MatrixSymbol], view: View) -> list[tuple[str, ...]]:
    """A row for every matrix of a known meaning, with the shapes it has."""
    rows: list[tuple[str, ...]] = []
    for name, meaning in MATRIX_MEANINGS.items():
        named = sorted((item for item in occurring if item.name == name), key=lambda item: str(item.shape))
        if named:
            shapes = (r" \times ".join(latex(size, view=view) for size in item.shape) for item in named)
            rows.append((f"${latex(named[0], view=view)}$", meaning, f"${', '.join(shapes)}$"))
    return rows


def assumption_statements(items: Mapping[Assumption, str]) -> tuple[Statement, ...]:
    """Assumptions in full, under their labels."""
    return tuple(
        Statement("assumption", prose(item.name), label, (Paragraph(f"{prose(_capital(item.statement))}."),))
        for item, label in items.items()
    )


def _block_section(context: _Context, block: BlockReport) -> Section:
    provenance, view = context.derivation.provenance, context.view
    under = context.assume(provenance.assumptions)
    throughout = f" Throughout this section, {under} hold." if under else ""
    blocks: list[Block] = [
        Paragraph(rf"The signal $X^{{\ell}}$ enters the block of layer $\ell$ and $X^{{\ell+1}}$ leaves it.{throughout}"),
        Items(tuple(map(step_blocks, block.steps))),
        *moments_note(block.steps),
    ]
    if block.chains:
        blocks.append(Paragraph("From the output back to the input, one rule at a time:", "One block."))
    for chain in block.chains:
        formulas = [step.expression for step in chain.steps]
        blocks.append(Display(chain.quantity, chain_links(chain.steps, formulas, chain.names, view)))
    if block.closed:
        neglected = "" if provenance.neglected == EXACT else f" up to {prose(provenance.neglected)}"
        cited = ", ".join(context.cite(source) for source in provenance.sources)
        rules = f"; the rules are those of {cited}." if cited else "."
        blocks += [
            Paragraph("Solving the recursion over depth gives", "All blocks."), *map(_display, block.closed),
            Paragraph(f"Expectations are over the weights, given the tokens{neglected}{rules}"),
        ]  # fmt: skip
    return context.section("The block", "block", blocks)


def moments_note(steps: Sequence[BlockStep]) -> tuple[Paragraph, ...]:
    """What the moments of softmax weights are, where a step has any."""
    if not any(equation.expression.has(LayerMoment) for step in steps for equation in step.equations):
        return ()
    return (Paragraph(
        r"Here $\mathcal{M}(a, \delta, n)$ are averages over the softmax weights of $n$ tokens whose scores have variance $a$ "
        r"about what a row shares; $\delta$ is one minus the correlation of two tokens."
    ),)  # fmt: skip


def step_blocks(step: BlockStep) -> tuple[Block, ...]:
    """One step of a block: what is applied to what, why, and the equations of its result."""
    inputs = ", ".join(step.inputs)
    ending = ":" if step.equations else "."
    component = step.component.replace(r",\, ", r",\allowbreak\, ")
    applied = rf"${step.signal} = {component}$ of ${inputs}$ (\emph{{{prose(step.rule)}}}): {prose(step.reason)}{ending}"
    return (Paragraph(applied), *(_display(equation, 3.0) for equation in step.equations))


def _limit_section(context: _Context, block: BlockReport) -> Section:
    blocks: list[Block] = []
    if block.limit:
        order = re.fullmatch(r"O\([\w/^]+\)", block.limit_neglected)
        neglected = f"${block.limit_neglected}$" if order else prose(block.limit_neglected)
        deep = rf"{latex(L, view=context.view)} \to \infty"
        blocks.append(Paragraph(rf"With ${_inline(block.scaling)}$ and ${deep}$, up to {neglected},"))
        blocks += map(_display, block.limit)
    if block.correlation:
        blocks += [Paragraph("With residual weights that do not shrink with depth,"), _display(block.correlation)]
    return context.section("Depth limit", "limit", blocks)


def _dynamics_section(context: _Context, results: Sequence[Result]) -> Section:
    blocks: list[Block] = []
    if results:
        under = context.assume(merge_unique(*(item.assumptions for item in results)))
        blocks.append(Paragraph(rf"The map of a block has these exponents and boundaries{f' under {under}' if under else ''}:"))
        blocks += map(_display, dynamics(context.derivation, context.view))
    return context.section("Exponents and boundaries over depth", "dynamics", blocks)


def _claims_section(context: _Context, verdicts: Sequence[Verdict], results: Sequence[Result]) -> Section:
    rows = tuple(
        (rf"\cref{{{context.label('claim', item.claim.id)}}}", prose(item.claim.where), prose(_capital(item.claim.title)),
         item.status.value + ("" if item.as_expected else " (unexpected)"))
        for item in verdicts
    )  # fmt: skip
    blocks: list[Block] = [Table(("l", 0.24, 0.42, "l"), ("here", "in the paper", "statement", "verdict"), rows)]
    for verdict, result in zip(verdicts, results, strict=True):
        blocks += _claim(context, verdict, result)
    return context.section("Results", "results", blocks)


def _measurement_sections(context: _Context, measurements: Sequence[Measurement]) -> Iterator[Section]:
    held = tuple(row for row in measurements if row.expected_to_hold)
    failing = tuple(row for row in measurements if not row.expected_to_hold)
    if held:
        text = (
            "Each row compares an expectation with the mean of independent draws; $z$ is their difference in standard errors "
            f"(s.e.). The root mean square of $z$ over the rows that fluctuate is ${rms_z(measurements):.2f}$."
        )
        yield context.section("Verification", "verification", (Paragraph(text), _measurement_table(held, scored=True)))
    if failing:
        text = (
            "These rows set the theory beside a network that does not satisfy its assumptions; no agreement is expected."
        )
        yield context.section(
            "Where the assumption fails", "failing", (Paragraph(text), _measurement_table(failing, scored=False))
        )


def _measurement_table(rows: Sequence[Measurement], *, scored: bool) -> Table:
    heads = ("quantity", "setting", "predicted", "measured", "s.e.", *(("$z$",) if scored else ()))
    columns = (0.2, 0.21, *"rrr", *("r" if scored else ""))
    return Table(columns, heads, tuple(_measurement(row)[: len(heads)] for row in rows), "footnotesize")


def _figure_section(context: _Context, figures: Sequence[Figure]) -> Section:
    pictures = tuple(Picture(figure, prose(figure.caption), context.label("fig", figure.name)) for figure in figures)
    lines = (Paragraph("Lines are theory, points are simulation with one standard error."),) if pictures else ()
    return context.section("Figures", "figures", (*lines, *pictures))


def _claim(context: _Context, verdict: Verdict, result: Result) -> list[Block]:
    claim, view = verdict.claim, context.view
    names = claim_names(context.derivation, view, result)
    stated = stated_formula(claim, names, view)
    (expression, *chain), parts = _abbreviated([result.expression, *(step.expression for step in result.steps)], names, view)
    derived = latex(expression, names, view)
    where = _where(parts, names, view)
    domain = _inline(setting(claim.domain, names, view))
    relation = r"\le" if claim.relation == "<=" else "="
    quantity = view.quantity(result.quantity)
    compared = _as_stated(claim, "" if stated == derived else stated, relation)
    refuted = verdict.status is Status.REFUTED
    under = context.assume(result.assumptions)
    here = f" at ${domain}$" if domain else ""
    blocks: list[Block] = []
    if refuted:
        whole = claim.stated_whole
        blocks += [Paragraph(f"As printed{here},"), Display("" if whole else quantity, (Link("", stated, relation),))]
        blocks.append(Paragraph("does not hold" + _witness(verdict, names, view)))
    else:
        blocks += [Paragraph(f"Under {under}," if under else "We have"), Display(quantity, (Link("", derived),))]
        blocks += where
        if compared:
            blocks += [Paragraph(compared + here), Display("", (Link("", stated if relation == "=" else rf"\le {stated}"),))]
        if result.neglected != EXACT:
            blocks.append(Paragraph(f"The result neglects {prose(result.neglected)}."))
    if claim.note:
        blocks.append(Paragraph(f"{prose(_sentence(claim.note))}."))
    if refuted and claim.corrected_by:
        blocks.append(Paragraph(rf"\Cref{{{context.label('claim', claim.corrected_by)}}} replaces it."))
    if not result.steps and not refuted:
        blocks.append(Paragraph(f"Decided by: {prose(verdict.detail)}."))
    title = f"{prose(_capital(claim.title))}; {prose(claim.where)}"
    kind = "remark" if refuted else _kind(claim.where)
    statement = Statement(kind, title, context.label("claim", claim.id), tuple(blocks))
    if not result.steps or (refuted and claim.corrected_by):
        return [statement]
    return [statement, Proof((*(where if refuted else ()), *_proof(context, result, chain, names)))]


def _as_stated(claim: Claim, stated: str, relation: str) -> str:
    """What leads from a derived formula to the one that it is compared with, if that is another."""
    if not stated:
        return ""
    if claim.stated_whole:
        return "so that, as printed," if claim.printed else "so that"
    if relation != "=":
        return "which is bounded as printed" if claim.printed else "which is bounded"
    return "which is the printed formula" if claim.printed else "which equals"


def chain_links(
    steps: Sequence[ProofStep], formulas: Sequence[sp.Basic], names: Names, view: View
) -> tuple[Link, ...]:
    """The steps of a proof, with the ``formulas`` as they are to print."""
    return tuple(
        Link(rule_name(step.rule), latex(formula, names, view), step.relation, view.quantity(step.quantity))
        for step, formula in zip(steps, formulas, strict=True)
    )


def _abbreviated(
    formulas: Sequence[sp.Basic], names: Names, view: View
) -> tuple[tuple[sp.Basic, ...], tuple[tuple[sp.Symbol, sp.Basic], ...]]:
    found = abbreviated(formulas, lambda item: width(latex(item, names, view)), view.line)
    return found.formulas, found.names


def _where(parts: Sequence[tuple[sp.Symbol, sp.Basic]], names: Names, view: View) -> list[Block]:
    """What the names of repeated parts stand for."""
    displays = [Display(latex(name, names, view), (Link("", latex(part, names, view)),)) for name, part in parts]
    return [Paragraph("with"), *displays] if displays else []


def _proof(context: _Context, result: Result, formulas: Sequence[sp.Basic], names: Names) -> tuple[Block, ...]:
    """The proof, with the ``formulas`` of its steps as they are to print."""
    view = context.view
    blocks: list[Block] = []
    for step in result.setup:
        rule = prose(_capital(step.rule))
        blocks.append(Paragraph(rf"\emph{{{rule}}}: {prose(step.reason)}."))
        blocks.append(Display("", (Link("", latex(step.expression, names, view)),)))
    reasons = dict.fromkeys((step.rule, step.reason) for step in result.steps)
    blocks += [
        Display(view.quantity(result.quantity), chain_links(result.steps, formulas, names, view)), Paragraph("Here"),
        Reasons(tuple((rule_name(rule), prose(reason)) for rule, reason in reasons)),
    ]  # fmt: skip
    if result.sources:
        blocks.append(Paragraph(f"See {', '.join(context.cite(source) for source in result.sources)}."))
    return tuple(blocks)


def _witness(verdict: Verdict, names: Names, view: View) -> str:
    found = verdict.comparison
    if found.witness is None:
        return "."
    at = _inline(setting(found.witness, names, view))
    values = ""
    if found.left is not None and found.right is not None and not verdict.claim.stated_whole:
        values = f" the printed side is ${_number(found.left)}$ and the derived one ${_number(found.right)}$"
    if not values:
        return f": it fails at ${at}$." if at else "."
    return f": at ${at}$," + values + "." if at else f": {values.strip()}."


def _errata_section(context: _Context, verdicts: Sequence[Verdict]) -> Section:
    rows: list[tuple[str, ...]] = []
    for claim in (verdict.claim for verdict in verdicts if verdict.status is Status.REFUTED):
        replaced = rf" See \cref{{{context.label('claim', claim.corrected_by)}}}." if claim.corrected_by else ""
        note = f"{prose(_sentence(claim.note))}." if claim.note else ""
        printed = rf"{prose(_sentence(claim.title))} (\cref{{{context.label('claim', claim.id)}}})"
        rows.append((prose(claim.where), printed, note + replaced))
    rows += [(prose(slip.where), prose(slip.printed), prose(slip.correct)) for slip in context.derivation.slips]
    table = Table((0.2, 0.36, 0.36), ("in the paper", "as printed", "correct"), tuple(rows))
    return context.section("Errata", "errata", (table,) if rows else ())


def _notation(item: SymbolInfo, view: View) -> tuple[str, ...]:
    domain = item.domain
    low = "" if domain.lower is None else latex(domain.lower, view=view)
    high = r"\infty" if domain.upper is None else latex(domain.upper, view=view)
    if domain.integer and domain.upper is None and low.isdigit():
        values = rf"\{{{low}, {int(low) + 1}, \dots\}}"
    elif not low and domain.upper is None:
        values = r"\mathbb{Z}" if domain.integer else r"\mathbb{R}"
    else:
        values = f"{'(' if domain.open_lower or not low else '['}{low or '-' + chr(92) + 'infty'}, {high}"
        values += ")" if domain.upper is None else "]"
    return f"${latex(item.symbol, view=view)}$", prose(item.meaning), f"${values}$"


def _measurement(row: Measurement) -> tuple[str, ...]:
    z = f"{row.z:.2f}" if math.isfinite(row.z) else r"\infty"
    numbers = (_number(row.predicted), _number(row.measured), _number(row.stderr, 2), z)
    return prose(row.quantity), prose(row.setting), *(f"${number}$" for number in numbers)


def _number(value: Any, digits: int = 6) -> str:
    if not (isinstance(value, float) or getattr(value, "is_real", False)):
        return latex(value)
    body = f"{float(value):.{digits}g}"
    mantissa, _, exponent = body.partition("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if exponent else mantissa


def _display(formula: Formula, indent: float = 0.0) -> Display:
    return Display(formula.quantity, (Link("", formula.latex),), indent=indent)


def _inline(formula: str) -> str:
    """Simple fractions with a slash, for formulas inside a sentence."""
    return re.sub(r"\\frac\{([^{}\s]+|\\tilde\{[^{}]*\}\w*)\}\{(\w+)\}", r"\1/\2", formula)


def _capital(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if re.fullmatch("a|[a-z-]{2,}", first) else text


def _kind(where: str) -> str:
    word = where.split()[0].lower() if where.split() else ""
    return word if word in ("theorem", "lemma") else "proposition"


def _sentence(text: str) -> str:
    return text.strip().rstrip(".")
