"""A report as one web page that needs no network: formulas in MathML, figures in SVG, style and script inline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from symprop.claims import Paper
from symprop.report.document import (
    Block,
    Display,
    Document,
    Items,
    Paragraph,
    Picture,
    Proof,
    Reasons,
    Section,
    Statement,
    Sweep,
    Table,
    Target,
    joined,
    numbering,
)
from symprop.report.escape import escape as escaped
from symprop.report.layout import chain_rows
from symprop.report.mathml import inline_text, mathml, mathml_rows
from symprop.report.svg import figure_svg, legend_html, path, scales, svg

_PARTS = re.compile(
    r"(?P<escaped>\\[^A-Za-z])|\\[cC]ref\{(?P<labels>[^}]*)\}|\\cite(?:\[\{(?P<where>.*?)\}\])?\{(?P<key>[^}]*)\}"
    r"|\\emph\{(?P<emph>(?:[^{}\\]|\\.|\{[^{}]*\})*)\}|\\ensuremath\{(?P<ensured>(?:[^{}]|\{[^{}]*\})*)\}"
    r"|\$(?P<formula>(?:[^$\\]|\\.)+)\$",
    re.DOTALL,
)


def html_page(document: Document) -> str:
    """A report as the text of one ``.html`` file, the same on every machine.

    The anchors are the labels of the LaTeX form, and so are the numbers.
    """
    page = _Page(document)
    return _environment().get_template("page.html").render(
        title=Markup(page.text(document.title)),
        plain_title=inline_text(document.title),
        introduction=Markup(page.blocks(document.introduction)),
        contents=[(item.label, number, Markup(page.text(item.title))) for number, item in enumerate(document.sections, 1)],
        sections=[Markup(page.section(item)) for item in document.sections],
        papers=[Markup(page.paper(item)) for item in page.papers],
    )  # fmt: skip


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("symprop.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=True, keep_trailing_newline=True,
    )  # fmt: skip


class _Page:
    """The parts of one page, which know the numbers of what they refer to."""

    def __init__(self, document: Document) -> None:
        self.targets = numbering(document)
        self.papers = tuple(dict.fromkeys(document.papers))
        self.cited = {paper.key: number for number, paper in enumerate(self.papers, 1)}

    def text(self, latex: str) -> str:
        """Sentences in LaTeX as HTML."""
        parts: list[str] = []
        position = 0
        for found in _PARTS.finditer(latex):
            parts += [escape(inline_text(latex[position : found.start()])), self._inline(found)]
            position = found.end()
        return "".join([*parts, escape(inline_text(latex[position:]))])

    def _inline(self, found: re.Match[str]) -> str:
        if found["escaped"] is not None:
            return escape(inline_text(found["escaped"]))
        if found["labels"] is not None:
            return self._references(found["labels"].split(","))
        if found["key"] is not None:
            where = f", {self.text(found['where'])}" if found["where"] else ""
            links = (f'<a href="#{_paper_anchor(key)}">{self.cited[key]}</a>' for key in found["key"].split(","))
            return f"[{', '.join(links)}{where}]"
        if found["emph"] is not None:
            return f"<em>{self.text(found['emph'])}</em>"
        if found["ensured"] is not None:
            sign = inline_text(found[0])
            return mathml(found["ensured"]) if set(sign) & set("\\^_") else escape(sign)
        # A browser breaks no line inside a formula.
        return ", ".join(map(mathml, found["formula"].split(r",\ ")))

    def _references(self, labels: Sequence[str]) -> str:
        groups: dict[str, list[str]] = {}
        for label in labels:
            target = self.targets[label]
            groups.setdefault(target.word, []).append(f'<a href="#{escape(label)}">{target.number}</a>')
        return joined([f"{word}{'s' if len(links) > 1 else ''} {joined(links)}" for word, links in groups.items()])

    def section(self, section: Section) -> str:
        number = self.targets[section.label].number
        head = f"<h2>{number} {self.text(section.title)}</h2>"
        return f'<section id="{escape(section.label)}">{head}\n{self.blocks(section.blocks)}</section>'

    def blocks(self, blocks: Iterable[Block]) -> str:
        return "".join(self._block(block) + "\n" for block in blocks)

    def _block(self, block: Block) -> str:
        match block:
            case Paragraph(text, heading):
                head = f"<strong>{self.text(heading)}</strong> " if heading else ""
                return f"<p>{head}{self.text(text)}</p>"
            case Display(quantity, steps, indent):
                return f'<div class="display">{mathml_rows(chain_rows(quantity, steps, indent))}</div>'
            case Items(items):
                return f"<ol>{''.join(f'<li>{self.blocks(item)}</li>' for item in items)}</ol>"
            case Reasons(pairs):
                rows = (f"<div><dt>{mathml(rule)}</dt><dd>{self.text(reason)}</dd></div>" for rule, reason in pairs)
                return f'<dl class="reasons">{"".join(rows)}</dl>'
            case Statement():
                return self._statement(block)
            case Proof(inner):
                return f'<details class="proof" open=""><summary>Proof</summary>\n{self.blocks(inner)}</details>'
            case Table():
                return self._table(block)
            case Picture(figure, caption, label):
                return self._captioned(figure_svg(figure), self.targets[label], caption, label)
            case Sweep():
                return self._sweep(block)

    def _statement(self, statement: Statement) -> str:
        target = self.targets[statement.label]
        title = f" ({self.text(statement.title)})." if statement.title else "."
        head = f'<p class="head"><strong>{target.word} {target.number}</strong>{title}</p>'
        body = f"{head}\n{self.blocks(statement.blocks)}"
        return f'<div class="statement {statement.kind}" id="{escape(statement.label)}">{body}</div>'

    def _table(self, table: Table) -> str:
        kinds = ["number" if column == "r" else "words" if isinstance(column, float) else "name" for column in table.columns]

        def row(cells: Iterable[str], tag: str) -> str:
            return "".join(
                f'<{tag} class="{kind}">{self.text(cell)}</{tag}>'
                for cell, kind in zip(cells, kinds, strict=True)
            )

        head = f"<thead><tr>{row(table.heads, 'th')}</tr></thead>"
        body = "".join(f"<tr>{row(cells, 'td')}</tr>\n" for cells in table.rows)
        return f'<div class="scroll"><table>{head}\n<tbody>{body}</tbody></table></div>'

    def _captioned(self, body: str, target: Target, caption: str, label: str, kind: str = "plot") -> str:
        words = f"<figcaption><strong>{target.word} {target.number}.</strong> {self.text(caption)}</figcaption>"
        return f'<figure class="{kind}" id="{escape(label)}">{body}{words}</figure>'

    def _sweep(self, sweep: Sweep) -> str:
        across, up = scales((curve for curves in sweep.curves for curve in curves), logy=sweep.logy)
        paths = [[path(curve, across, up) for curve in curves] for curves in sweep.curves]
        shown = len(sweep.values) // 2
        drawn = [f'<path class="line c{index}" d="{item}"/>' for index, item in enumerate(paths[shown])]
        names = [f"{value:g}" for value in sweep.values]
        plot = svg(sweep.xlabel, sweep.ylabel, across, up, drawn, inline_text(sweep.caption))
        entries = [(index, curve.label, True) for index, curve in enumerate(sweep.curves[shown])]
        legend = legend_html(entries) if len(entries) > 1 else ""
        slider = (
            f'<label class="slider">{mathml(sweep.parameter)} = <output>{names[shown]}</output>'
            f'<input type="range" min="0" max="{len(names) - 1}" value="{shown}" aria-valuetext="{names[shown]}"/></label>'
        )
        content = json.dumps({"names": names, "paths": paths}, separators=(",", ":"))
        data = f'<script type="application/json">{content}</script>'
        return self._captioned(slider + plot + legend + data, self.targets[sweep.label], sweep.caption, sweep.label, "sweep")

    def paper(self, paper: Paper) -> str:
        address = f' <a href="{escape(paper.url)}" rel="noreferrer">{escape(paper.url)}</a>' if _is_web(paper.url) else ""
        said = f"{paper.authors.replace(' and ', '; ')}. {paper.title}. {paper.venue}, {paper.year}."
        return f'<li id="{_paper_anchor(paper.key)}">{self.text(escaped(said))}{address}</li>'


def _paper_anchor(key: str) -> str:
    return f"ref:{escape(key)}"


def _is_web(address: str) -> bool:
    return re.fullmatch(r"https?://[^\s\"'<>]+", address) is not None
