"""A derivation as a person reads it in a terminal, and as data."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from symprop.claims import Claim, PaperDerivation, Verdict, check
from symprop.core.display import COLUMNS
from symprop.core.errors import UnknownNameError
from symprop.core.proof import ProofStep
from symprop.core.provenance import EXACT, merge_unique
from symprop.notation import View
from symprop.report.content import Formula, Names, block_report, claim_names, dynamics, setting, stated_formula, verdict_rows
from symprop.report.document import Link
from symprop.report.layout import chain_latex
from symprop.report.prose import pretty, prose, rule_name
from symprop.report.unicode import unicode_of
from symprop.simulate.measurement import Accuracy, Measurement, rms_z, visible_error

FORMATS = ("unicode", "latex", "sympy", "json")


def listing(
    derivation: PaperDerivation,
    claim_id: str | None = None,
    view: View | None = None,
    format: str = "unicode",
) -> str:
    """The derivation of a paper's block with its list of claims, or one claim in full.

    ``format`` is ``unicode`` (80 columns), ``latex``, ``sympy`` or ``json``. Only a claim that is shown in full is
    checked.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    view = view or derivation.view
    data = _overview(derivation, view) if claim_id is None else _claim(derivation, derivation.claim(claim_id), view)
    if format == "json":
        return json.dumps(_plain_data(data), ensure_ascii=False, indent=2)
    writer = _Writer(format)
    (writer.overview if claim_id is None else writer.claim)(data)
    return "\n".join(writer.lines).rstrip() + "\n"


def measurement_rows(measurements: Iterable[Measurement]) -> list[dict[str, Any]]:
    """Theory beside simulation as plain data."""
    return [
        {
            "quantity": row.quantity, "setting": row.setting, "predicted": row.predicted, "measured": row.measured,
            "stderr": row.stderr, "z": row.z, "draws": row.draws, "expected_to_hold": row.expected_to_hold,
            "published": row.published,
        }
        for row in measurements
    ]  # fmt: skip


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Claims and verdicts; a verdict other than the expected one is marked."""
    table = Table("claim", "where", "title", "verdict", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row, item in zip(verdict_rows(verdicts), verdicts, strict=True):
        mark = "" if item.as_expected else " (unexpected)"
        table.add_row(row["id"], row["where"], pretty(row["title"]), f"{row['verdict']}{mark}")
    return table


def measurement_table(measurements: Sequence[Measurement]) -> Table:
    """Predicted and measured values with standard errors and z-scores, and the root mean square of the scores.

    Where a paper's own formula differs from ours, its error and ours stand side by side, in percent of the measured value,
    and the moments of one block and setting stand together.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        caption=f"rms z = {rms_z(measurements):.2f}; rows without z document a failing assumption",
    )
    published = any(row.published is not None for row in measurements)
    names = ("block and setting", "moment") if published else ("quantity", "setting")
    values = ("measured", "publ. %", "ours %", "s.e. %") if published else ("predicted", "measured", "s.e.")
    for heading in names:
        table.add_column(heading)
    for heading in (*values, "z"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (block, where), members in groupby(measurements, lambda row: (row.quantity.partition(": ")[0], row.setting)):
        for index, row in enumerate(members):
            if published:
                labels = ({0: block, 1: where}.get(index, ""), row.quantity.partition(": ")[2])
                numbers = (f"{row.measured:.6g}", *map(_percent, _relative(row)))
            else:
                labels, numbers = (row.quantity, where), (f"{row.predicted:.6g}", f"{row.measured:.6g}", f"{row.stderr:.1e}")
            z = f"{row.z:.2f}" if row.expected_to_hold else "-"
            table.add_row(*map(pretty, labels), *numbers, z)
    return table


def accuracy_table(rows: Sequence[Accuracy]) -> Table:
    """Measures of the error in percent, each with its limit and the simulation's standard error there."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("error of", "settings"):
        table.add_column(heading)
    for heading in ("measure", "error %", "limit %", "s.e. %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        for index, (at, limit) in enumerate(row.limits.items()):
            labels = ("", "") if index else (pretty(row.quantity), str(row.settings))
            numbers = (f"{100 * item:.2f}" for item in (row.errors[at], limit, row.noise[at]))
            table.add_row(*labels, f"{at}%" if isinstance(at, int) else at, *numbers)
    return table


def _relative(row: Measurement) -> tuple[float | None, float | None, float | None]:
    """Error of the published value and of ours, and the standard error, over the measured value."""
    if row.measured == 0:
        return None, None, None
    off = None if row.published is None else row.published / row.measured - 1
    return off, row.predicted / row.measured - 1, row.stderr / abs(row.measured)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def sensitivity(measurements: Sequence[Measurement], limit: float) -> str:
    """What the draws behind a table can detect and what not, with ``abs(z) > limit`` as the test."""
    judged = [(visible_error(row, limit), row) for row in measurements if row.expected_to_hold and row.stderr > 0]
    finite = sorted((size, number) for number, (size, _) in enumerate(judged) if math.isfinite(size))
    if not finite:
        return "What these draws detect: no relative error of a formula, as every row predicts zero within its standard error."
    size, number = finite[-1]
    middle, worst = finite[len(finite) // 2][0], judged[number][1]
    text = (f"What these draws detect: a formula wrong by {middle:.2%} in half of the {len(finite)} rows that predict more "
            f"than a standard error, one wrong by {size:.2%} in all of them ({worst.quantity} at {worst.setting} needs the "
            "most); less may pass unseen.")  # fmt: skip
    zero = len(judged) - len(finite)
    return f"{text} {zero} more predict zero within theirs, and have no relative error." if zero else text


def plain(renderable: RenderableType, width: int = COLUMNS) -> str:
    """A rich table as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True, force_terminal=False, highlight=False).print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def wrapped(body: str, first: str = "", rest: str | None = None, columns: int = COLUMNS) -> list[str]:
    """A formula or a sentence in lines of ``columns`` characters, broken before + and - outside brackets if it can be.

    >>> wrapped("aaa (b + c) + dddd eeee", columns=16)
    ['aaa (b + c)', '+ dddd eeee']
    """
    rest = " " * len(first) if rest is None else rest
    lines, prefix = [], first
    while len(prefix) + len(body) > columns:
        room = columns - len(prefix)
        depth, best = 0, (-1, -1)
        for index, character in enumerate(body[: room + 1]):
            depth += (character in "([{") - (character in ")]}")
            if character != " " or index == 0:
                continue
            sign = body[index + 1 : index + 3] in ("+ ", "- ", "= ")
            score = 3 if sign and depth == 0 else 2 if sign else 1 if depth == 0 else 0
            if score == 3 and index < room / 3:
                score = 1
            best = max(best, (score, index))
        cut = best[1] if best[1] > 0 else room
        lines.append((prefix + body[:cut]).rstrip())
        body, prefix = body[cut:].lstrip(), rest
    return [*lines, (prefix + body).rstrip()]


def _overview(derivation: PaperDerivation, view: View) -> dict[str, Any]:
    block = block_report(derivation, view)
    provenance = derivation.provenance
    paper = derivation.paper
    return {
        "paper": {"key": paper.key, "authors": paper.authors, "title": paper.title, "venue": paper.venue,
                  "year": paper.year},
        "notation": {"name": view.name, "title": view.title},
        "block": [
            {"signal": step.signal, "inputs": list(step.inputs), "component": step.component, "rule": step.rule,
             "reason": step.reason, "equations": list(step.equations)}
            for step in block.steps
        ],
        "assumptions": [{"name": item.name, "statement": item.statement} for item in provenance.assumptions],
        "chains": [
            {"quantity": chain.quantity, "steps": _steps(chain.steps, chain.names, view)} for chain in block.chains
        ],
        "closed_form": list(block.closed),
        "scaling": block.scaling,
        "depth_limit": list(block.limit),
        "limit_neglected": block.limit_neglected,
        "correlation_limit": block.correlation,
        "dynamics": list(dynamics(derivation, view)),
        "neglected": provenance.neglected,
        "sources": [str(source) for source in provenance.sources],
        "claims": [
            {"id": claim.id, "where": claim.where, "title": claim.title, "expected": claim.expected.value,
             "corrected_by": claim.corrected_by}
            for claim in derivation.claims
        ],
    }  # fmt: skip


def _claim(derivation: PaperDerivation, claim: Claim, view: View) -> dict[str, Any]:
    result, verdict = claim.derived(), check(claim)
    names = claim_names(derivation, view, result)
    return {
        "id": claim.id, "where": claim.where, "title": claim.title, "relation": claim.relation,
        "quantity": view.quantity(result.quantity), "stated": stated_formula(claim, names, view),
        "stated_whole": claim.stated_whole, "printed": claim.printed, "domain": setting(claim.domain, names, view),
        "setup": _steps(result.setup, names, view), "steps": _steps(result.steps, names, view),
        "result": Formula(view.quantity(result.quantity), result.expression, names, view),
        "assumptions": [{"name": item.name, "statement": item.statement} for item in result.assumptions],
        "neglected": result.neglected, "sources": [str(item) for item in result.sources],
        "verdict": verdict.status.value, "as_expected": verdict.as_expected, "detail": verdict.detail,
        "note": claim.note, "corrected_by": claim.corrected_by,
    }  # fmt: skip


def _steps(steps: Iterable[ProofStep], names: Names, view: View) -> list[dict[str, Any]]:
    return [
        {"rule": step.rule, "reason": step.reason, "quantity": view.quantity(step.quantity), "relation": step.relation,
         "formula": Formula("", step.expression, names, view)}
        for step in steps
    ]  # fmt: skip


def _plain_data(item: Any) -> Any:
    if isinstance(item, Formula):
        forms = {"unicode": item.unicode, "latex": item.latex, "sympy": item.sympy}
        return {"quantity": item.quantity, **forms} if item.quantity else forms
    if isinstance(item, dict):
        return {key: _plain_data(value) for key, value in item.items()}
    return [_plain_data(value) for value in item] if isinstance(item, list) else item


class _Writer:
    """Writes gathered data as lines in one format."""

    def __init__(self, format: str) -> None:
        self.format = format
        self.lines: list[str] = []

    def overview(self, data: dict[str, Any]) -> None:
        paper = data["paper"]
        self._heading(f"{paper['title']} ({paper['key']})")
        self._text(f"Notation {data['notation']['name']}: {data['notation']['title']}.")
        self._heading("Block")
        for step in data["block"]:
            left = rf"{step['signal']} = {step['component']} \text{{ of }} {', '.join(step['inputs'])}"
            self._note(left, step["rule"])
            for formula in step["equations"]:
                self._equation(formula.quantity, formula)
        self._assumptions(data)
        if data["chains"]:
            self._heading("One block")
        for chain in data["chains"]:
            self._chain(chain["quantity"], chain["steps"])
        self._reasons([step for chain in data["chains"] for step in chain["steps"]])
        if data["closed_form"]:
            self._heading("After L blocks")
        for formula in data["closed_form"]:
            self._equation(formula.quantity, formula)
        if data["depth_limit"]:
            self._heading("Infinite depth, " + self._math(data["scaling"]))
            for formula in data["depth_limit"]:
                self._equation(formula.quantity, formula)
            self._text(f"Neglected: {data['limit_neglected']}.")
        if data["correlation_limit"]:
            self._heading("Infinite depth, residual weights that do not shrink")
            self._equation(data["correlation_limit"].quantity, data["correlation_limit"])
        if data["dynamics"]:
            self._heading("Exponents and boundaries over depth")
        for formula in data["dynamics"]:
            self._equation(formula.quantity, formula)
        self._provenance(data)
        if data["claims"]:
            self._heading("Claims")
            for claim in data["claims"]:
                state = "holds" if claim["expected"] in ("proved", "agrees") else claim["expected"]
                after = f" -> {claim['corrected_by']}" if claim["corrected_by"] else ""
                self._text(f"{claim['where']}: {claim['title']}. [{state}{after}]", head=f"{claim['id']:<15} ")

    def claim(self, data: dict[str, Any]) -> None:
        self._heading(f"{data['id']} - {data['where']}: {self._words(data['title'])}")
        if data["stated"]:
            head = "Stated in the paper" if data["printed"] else "Compared with"
            self._text(head + (f" (at {self._math(data['domain'])})" if data["domain"] else "") + ":", raw=True)
            sign = r"\le" if data["relation"] == "<=" else "="
            self._relation("" if data["stated_whole"] else f"{data['quantity']} {sign}", data["stated"])
        if data["setup"]:
            self._heading("Setup")
            for step in data["setup"]:
                self._text(f"{step['rule']}: {step['reason']}.")
                self._equation("", step["formula"])
        if data["steps"]:
            self._heading("Proof")
            self._chain(data["quantity"], data["steps"])
            self._reasons(data["steps"])
        self._heading("Result")
        self._equation(data["quantity"], data["result"])
        self._assumptions(data)
        self._provenance(data)
        self._heading(f"Verdict: {data['verdict']}" + ("" if data["as_expected"] else " (unexpected)"))
        self._text(data["detail"])
        if data["note"]:
            self._text(data["note"])
        if data["corrected_by"]:
            self._text(f"Corrected by {data['corrected_by']}.")

    def _heading(self, title: str) -> None:
        if self.format == "latex":
            self.lines += ["", rf"\paragraph{{{title if '$' in title else prose(title)}}}"]
            return
        self.lines.append("")
        self.lines += wrapped(title)

    def _words(self, sentence: str) -> str:
        return sentence if self.format == "latex" else pretty(sentence)

    def _text(self, sentence: str, head: str = "", raw: bool = False) -> None:
        if self.format == "latex":
            self.lines.append(sentence if raw else prose(head + sentence) + r"\par")
        else:
            self.lines += wrapped(sentence if raw else pretty(sentence), "  " + head)

    def _math(self, formula: str) -> str:
        return f"${formula}$" if self.format == "latex" else unicode_of(formula)

    def _note(self, formula: str, rule: str) -> None:
        if self.format == "latex":
            self.lines.append(rf"\noindent ${formula}$ \hfill ({prose(rule)})\par")
        else:
            left = "  " + unicode_of(formula)
            self.lines += ["", f"{left:<{max(0, COLUMNS - len(rule) - 2)}}[{rule}]"]

    def _form(self, formula: Formula) -> str:
        return formula.sympy if self.format == "sympy" else formula.unicode

    def _equation(self, quantity: str, formula: Formula) -> None:
        if self.format == "latex":
            self.lines.append(chain_latex(quantity, [Link("", formula.latex)]))
        else:
            left = f"{unicode_of(quantity)} = " if quantity else ""
            first = "    " + left
            self.lines += wrapped(self._form(formula), first, " " * min(len(first), 12))

    def _relation(self, left: str, body: str) -> None:
        if self.format == "latex":
            self.lines.append(rf"\[ {left} {body} \]")
        else:
            self.lines += wrapped(unicode_of(body), f"    {unicode_of(left)} " if left else "    ", " " * 8)

    def _chain(self, quantity: str, steps: Sequence[dict[str, Any]]) -> None:
        if self.format == "latex":
            links = [Link(rule_name(s["rule"]), s["formula"].latex, s["relation"], s["quantity"]) for s in steps]
            self.lines.append(chain_latex(quantity, links))
            return
        self.lines.append("")
        room = max([len(pretty(step["rule"])) for step in steps], default=0)
        for own, members in groupby(steps, lambda step: str(step["quantity"])):
            self.lines += wrapped(unicode_of(own or quantity), "  ")
            for step in members:
                first = f"    {'[' + pretty(step['rule']) + ']':<{room + 2}} {unicode_of(step['relation'])} "
                self.lines += wrapped(self._form(step["formula"]), first, " " * min(len(first) + 2, 26))

    def _reasons(self, steps: Sequence[dict[str, Any]]) -> None:
        self.lines.append("")
        for rule, reason in dict.fromkeys((step["rule"], step["reason"]) for step in steps):
            self._text(f"{rule}: {reason}.")

    def _assumptions(self, data: dict[str, Any]) -> None:
        if data["assumptions"]:
            self._heading("Assumptions")
            for item in data["assumptions"]:
                self._text(f"{item['name']}: {item['statement']}.")

    def _provenance(self, data: dict[str, Any]) -> None:
        self._heading("Neglected: " + (data["neglected"] if data["neglected"] != EXACT else "nothing (exact)"))
        if data["sources"]:
            self._text("Sources: " + "; ".join(merge_unique(tuple(data["sources"]))) + ".")
