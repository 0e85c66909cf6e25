"""The LaTeX appendix of a derivation: a folder of files with the same bytes on every machine."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from symprop.claims import Figure, Paper, PaperDerivation, Result, Status, Verdict
from symprop.core.provenance import EXACT, Assumption, Source
from symprop.core.symbols import SymbolInfo
from symprop.notation import View
from symprop.report.content import (
    Formula,
    Names,
    block_report,
    claim_names,
    occurring_symbols,
    setting,
    stated_formula,
)
from symprop.report.figures import figure_pdf
from symprop.report.layout import chain_latex
from symprop.report.printer import latex
from symprop.report.prose import escape, prose, rule_name
from symprop.simulate.measurement import Measurement, rms_z


class Latex(str):
    """Text that is LaTeX already; a template escapes everything else."""


def appendix(
    derivation: PaperDerivation,
    view: View,
    verdicts: Sequence[Verdict],
    measurements: Sequence[Measurement] = (),
    figures: Sequence[Figure] = (),
) -> dict[str, str | bytes]:
    """The files of the appendix, by relative path: ``appendix.tex``, ``macros.tex``, ``references.bib``, figures.

    Raises :class:`~symprop.core.errors.MissingExtraError` for figures without matplotlib.
    """
    files: dict[str, str | bytes] = {
        "appendix.tex": _document(derivation, view, verdicts, measurements, figures),
        "macros.tex": _environment().get_template("macros.tex").render(),
        "references.bib": bibliography((derivation.paper, *derivation.references)),
    }
    for figure in figures:
        files[_figure_path(figure)] = figure_pdf(figure)
    return files


def bibliography(papers: Iterable[Paper]) -> str:
    """BibTeX entries."""
    entries = []
    for paper in dict.fromkeys(papers):
        fields = {
            "author": escape(paper.authors), "title": f"{{{escape(paper.title)}}}",
            "howpublished": escape(paper.venue), "year": str(paper.year),
        }  # fmt: skip
        if paper.url:
            address = paper.url.replace("{", "").replace("}", "").replace("\\", "")
            fields["note"] = rf"\url{{{address}}}"
        body = ",\n".join(f"  {key} = {{{value}}}" for key, value in fields.items())
        entries.append(f"@misc{{{paper.key},\n{body}\n}}\n")
    return "\n".join(entries)


def label_of(prefix: str, name: str) -> str:
    """A stable label: ``claim:eq12`` for the claim of that id."""
    return f"{prefix}:{re.sub('[^A-Za-z0-9]+', '-', name).strip('-').lower()}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("symprop.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        block_start_string=r"\BLOCK{", block_end_string="}", variable_start_string=r"\VAR{", variable_end_string="}",
        comment_start_string=r"\COMMENT{", comment_end_string="}", keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Latex) else escape(str(value)),
    )  # fmt: skip
    environment.globals["table"] = lambda rows, scored: Latex(
        environment.get_template("measurements.tex").render(rows=rows, scored=scored)
    )
    return environment


class _Context:
    """The parts of one appendix that others refer to."""

    def __init__(self, derivation: PaperDerivation, view: View) -> None:
        self.derivation, self.view = derivation, view
        self.known = {paper.key for paper in (derivation.paper, *derivation.references)}
        self.assumptions: dict[Assumption, str] = {}

    def assume(self, items: Iterable[Assumption]) -> str:
        """References to assumptions, which are thereby listed."""
        labels = []
        for item in items:
            label = self.assumptions.get(item, label_of("asm", item.name))
            while item not in self.assumptions and label in self.assumptions.values():
                label += "-x"
            self.assumptions[item] = label
            labels.append(label)
        return rf"\cref{{{','.join(labels)}}}" if labels else ""

    def cite(self, source: Source) -> str:
        where = f"[{{{prose(source.where)}}}]" if source.where else ""
        return rf"\cite{where}{{{source.key}}}" if source.key in self.known else prose(str(source))


def _document(
    derivation: PaperDerivation,
    view: View,
    verdicts: Sequence[Verdict],
    measurements: Sequence[Measurement],
    figures: Sequence[Figure],
) -> str:
    context = _Context(derivation, view)
    block, provenance = block_report(derivation, view), derivation.provenance
    results = [verdict.claim.derived() for verdict in verdicts]
    block_assumptions = context.assume(provenance.assumptions)
    claims = [_claim(context, verdict, result) for verdict, result in zip(verdicts, results, strict=True)]
    occurring = [formula.expression for formula in (*block.closed, *block.limit)]
    occurring += [item.expression for step in block.steps for item in step.equations]
    for verdict, result in zip(verdicts, results, strict=True):
        occurring += [result.expression, *(step.expression for step in (*result.setup, *result.steps))]
        occurring += [] if verdict.claim.stated is None else [verdict.claim.stated]
    steps = [
        {
            "left": Latex(step.signal), "component": Latex(step.component), "inputs": Latex(", ".join(step.inputs)),
            "rule": _prose(step.rule), "reason": _prose(step.reason),
            "equations": [_display(equation, 3.0) for equation in step.equations],
        }
        for step in block.steps
    ]  # fmt: skip
    chains = [
        Latex(chain_latex(chain.quantity, [
            (rule_name(step.rule), latex(step.expression, chain.names, view)) for step in chain.steps
        ]))
        for chain in block.chains
    ]  # fmt: skip
    neglected = "" if provenance.neglected == EXACT else f" up to {prose(provenance.neglected)}"
    rows = [(row, _measurement(row)) for row in measurements]
    cited = ", ".join(context.cite(source) for source in provenance.sources)
    return _environment().get_template("appendix.tex").render(
        title=_prose(f"Derivations for: {derivation.paper.title}"),
        paper=Latex(rf"\cite{{{derivation.paper.key}}}"),
        view_title=_prose(view.title[:1].upper() + view.title[1:] if view.title[1:2] != "(" else view.title),
        notation=[_notation(item, view) for item in occurring_symbols(occurring)],
        assumptions=[
            {"name": _prose(item.name), "statement": _prose(_capital(item.statement)), "label": Latex(label)}
            for item, label in context.assumptions.items()
        ],
        block_assumptions=Latex(f"Throughout this section, {block_assumptions} hold." if block_assumptions else ""),
        steps=steps, chains=chains, closed=[_display(formula) for formula in block.closed],
        closed_note=Latex(f"Expectations are over the weights, given the tokens{neglected}"
                          + (f"; the rules are those of {cited}." if cited else ".")),
        limit=[_display(formula) for formula in block.limit], scaling=Latex(_inline(block.scaling)),
        limit_neglected=Latex(f"${block.limit_neglected}$" if re.fullmatch(r"O\([\w/^]+\)", block.limit_neglected)
                              else prose(block.limit_neglected)),
        correlation=_display(block.correlation) if block.correlation else None,
        claims=claims,
        held=[row for item, row in rows if item.expected_to_hold],
        failing=[row for item, row in rows if not item.expected_to_hold],
        rms=f"{rms_z(measurements):.2f}",
        figures=[
            {"path": Latex(_figure_path(figure)), "caption": _prose(figure.caption),
             "label": Latex(label_of("fig", figure.name))}
            for figure in figures
        ],
        errata=_errata(context, verdicts, results),
        nocite=Latex("".join(rf"\nocite{{{key}}}" for key in sorted(context.known))),
    )  # fmt: skip


def _claim(context: _Context, verdict: Verdict, result: Result) -> dict[str, Any]:
    claim, view = verdict.claim, context.view
    names = claim_names(context.derivation, view, result)
    stated = stated_formula(claim, names, view)
    derived = latex(result.expression, names, view)
    domain = _inline(setting(claim.domain, names, view))
    relation = r"\le" if claim.relation == "<=" else "="
    refuted = verdict.status is Status.REFUTED
    under = context.assume(result.assumptions)
    opening = f"Under {under}," if under else "We have"
    here = f" at ${domain}$" if domain else ""
    shown = [_shown(result.quantity, "=", derived)]
    if refuted:
        body = [
            f"As printed{here},",
            _shown(result.quantity, relation, stated),
            "does not hold" + _witness(verdict, names, view),
        ]
        if claim.note:
            body.append(f"{prose(_sentence(claim.note))}.")
        if claim.corrected_by:
            body.append(rf"\Cref{{{label_of('claim', claim.corrected_by)}}} replaces it.")
        opening = ""
    else:
        body = [opening, *shown]
        if stated and stated != derived:
            verb = "which is bounded as printed" if relation == r"\le" else "which is the printed formula"
            body += [verb + here, _shown("", "" if relation == "=" else relation, stated)]
        if result.neglected != EXACT:
            body.append(f"The result neglects {prose(result.neglected)}.")
        if claim.note:
            body.append(f"{prose(_sentence(claim.note))}.")
    chain = [(rule_name(step.rule), latex(step.expression, names, view)) for step in result.steps]
    if not chain and not refuted:
        body.append(f"Decided by: {prose(verdict.detail)}.")
    corrected = refuted and bool(claim.corrected_by)
    sources = ", ".join(context.cite(source) for source in result.sources)
    return {
        "label": Latex(label_of("claim", claim.id)), "where": _prose(claim.where),
        "title": _prose(_capital(claim.title)),
        "kind": Latex("remark" if refuted else _kind(claim.where)), "body": Latex("\n".join(body)),
        "verdict": verdict.status.value + ("" if verdict.as_expected else " (unexpected)"),
        "proof": Latex(chain_latex(result.quantity, chain)) if chain and not corrected else None,
        "setup": [
            {"rule": _prose(step.rule[:1].upper() + step.rule[1:]), "reason": _prose(step.reason),
             "display": Latex(chain_latex("", [("", latex(step.expression, names, view))]))}
            for step in result.setup
        ],
        "reasons": [
            {"rule": Latex(rule_name(rule)), "reason": _prose(reason)}
            for rule, reason in dict.fromkeys((step.rule, step.reason) for step in result.steps)
        ],
        "after": Latex(f"See {sources}." if sources else ""),
    }  # fmt: skip


def _witness(verdict: Verdict, names: Names, view: View) -> str:
    found = verdict.comparison
    if found.witness is None:
        return "."
    at = _inline(setting(found.witness, names, view))
    values = ""
    if found.left is not None and found.right is not None:
        values = f" the printed side is ${_number(found.left)}$ and the derived one ${_number(found.right)}$"
    if not values:
        return f": it fails at ${at}$." if at else "."
    return f": at ${at}$," + values + "." if at else f": {values.strip()}."


def _errata(context: _Context, verdicts: Sequence[Verdict], results: Sequence[Result]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for verdict in verdicts:
        claim = verdict.claim
        if verdict.status is not Status.REFUTED:
            continue
        replaced = rf" See \cref{{{label_of('claim', claim.corrected_by)}}}." if claim.corrected_by else ""
        note = f"{prose(_sentence(claim.note))}." if claim.note else ""
        printed = rf"{prose(_sentence(claim.title))} (\cref{{{label_of('claim', claim.id)}}})"
        rows.append({"where": _prose(claim.where), "printed": Latex(printed), "correct": Latex(note + replaced)})
    rows += [
        {"where": _prose(slip.where), "printed": _prose(slip.printed), "correct": _prose(slip.correct)}
        for slip in context.derivation.slips
    ]
    return rows


def _notation(item: SymbolInfo, view: View) -> dict[str, Any]:
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
    name = latex(item.symbol, view=view)
    return {"latex": Latex(name), "meaning": _prose(item.meaning), "range": Latex(f"${values}$")}


def _measurement(row: Measurement) -> dict[str, Any]:
    return {
        "quantity": _prose(row.quantity), "setting": _prose(row.setting), "predicted": Latex(_number(row.predicted)),
        "measured": Latex(_number(row.measured)), "stderr": Latex(_number(row.stderr, 2)),
        "z": Latex(f"{row.z:.2f}" if math.isfinite(row.z) else r"\infty"),
    }  # fmt: skip


def _number(value: Any, digits: int = 6) -> str:
    if not (isinstance(value, float) or getattr(value, "is_real", False)):
        return latex(value)
    body = f"{float(value):.{digits}g}"
    mantissa, _, exponent = body.partition("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if exponent else mantissa


def _shown(quantity: str, relation: str, body: str) -> str:
    if relation and quantity:
        return chain_latex(quantity, [("", body)], relation=relation)
    return chain_latex("", [("", f"{relation} {body}".strip())])


def _display(formula: Formula, indent: float = 0.0) -> Latex:
    return Latex(chain_latex(formula.quantity, [("", formula.latex)], indent=indent))


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


def _prose(text: str) -> Latex:
    return Latex(prose(text))


def _figure_path(figure: Figure) -> str:
    return f"figures/{re.sub('[^A-Za-z0-9]+', '-', figure.name).strip('-').lower()}.pdf"
