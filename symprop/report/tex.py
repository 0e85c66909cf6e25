"""A report as LaTeX: a folder of files with the same bytes on every machine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from symprop.claims import Paper
from symprop.core.errors import InputError, UnknownNameError
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
)
from symprop.report.figures import figure_pdf
from symprop.report.layout import chain_latex
from symprop.report.prose import escape
from symprop.report.width import COLUMN, LINE

STYLES = ("article", "input-only")
"""Forms of ``appendix.tex``: a document of its own, or sections for a document of any class."""
PAGE_LINES, LINE_SIGNS = 42, 90
"""What a page of two columns holds of a table that spans them: lines, and signs of a line."""


def latex_files(document: Document, style: str = "article", columns: int = 1) -> dict[str, str | bytes]:
    """The files of a report, by relative path: ``appendix.tex``, ``macros.tex``, ``references.bib``, figures.

    With the style ``input-only`` a document of any class takes ``macros.tex`` into its preamble and ``appendix.tex`` into its
    body; statements that the class or the document defines already stay its own. ``columns`` is 1 or 2, of the document or of the one that takes it in. Raises
    :class:`~symprop.core.errors.UnknownNameError` for another style, :class:`~symprop.core.errors.InputError` for another
    number of columns and
    :class:`~symprop.core.errors.MissingExtraError` for figures without matplotlib.
    """
    if style not in STYLES:
        raise UnknownNameError("style", style, STYLES)
    if columns not in (1, 2):
        raise InputError("columns", columns, "1 or 2")
    environment, writer = _environment(), _Writer(columns)
    files: dict[str, str | bytes] = {
        "appendix.tex": environment.get_template("appendix.tex").render(
            title=document.title, introduction=writer.blocks(document.introduction), own=style == "article",
            columns=columns,
            body="\n".join(map(writer.section, document.sections)), keys=sorted(paper.key for paper in document.papers),
        ),
        "macros.tex": environment.get_template("macros.tex").render(),
        "references.bib": bibliography(document.papers),
    }  # fmt: skip
    for block in document.blocks():
        if isinstance(block, Picture):
            files[_figure_path(block)] = figure_pdf(block.figure)
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


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("symprop.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        block_start_string=r"\BLOCK{", block_end_string="}", variable_start_string=r"\VAR{", variable_end_string="}",
        comment_start_string=r"\COMMENT{", comment_end_string="}", keep_trailing_newline=True,
    )  # fmt: skip


@dataclass(frozen=True)
class _Writer:
    """Writes the blocks of a report for pages of one or two columns."""

    columns: int

    @property
    def line(self) -> float:
        return LINE if self.columns == 1 else COLUMN

    def section(self, section: Section) -> str:
        written = (
            self._table(block, section.title) if isinstance(block, Table) else self._block(block) for block in section.blocks
        )
        body = "\n".join(filter(None, written))
        return f"\\section{{{section.title}}}\\label{{{section.label}}}\n{body}\n"

    def blocks(self, blocks: Iterable[Block]) -> str:
        return "\n".join(filter(None, map(self._block, blocks)))

    def _block(self, block: Block) -> str:
        match block:
            case Paragraph(text, heading):
                return f"\\paragraph{{{heading}}} {text}" if heading else text
            case Display(quantity, steps, relation, indent):
                return chain_latex(quantity, steps, indent=indent, relation=relation, line=self.line)
            case Items(items):
                return _environment_of("enumerate", "\n".join(f"\\item {self.blocks(item)}" for item in items))
            case Reasons(pairs):
                lines = [rf"\item[\normalfont${rule}$:] {reason}" for rule, reason in pairs]
                spacing = r"\setlength{\itemsep}{0pt}\setlength{\parskip}{0pt}"
                return f"\\begin{{description}}{spacing}\n" + ";\n".join(lines) + ".\n\\end{description}"
            case Statement(kind, title, label, inner):
                return f"\\begin{{{kind}}}[{{{title}}}]\\label{{{label}}}\n{self.blocks(inner)}\n\\end{{{kind}}}"
            case Proof(inner):
                return _environment_of("proof", self.blocks(inner)) + "\n"
            case Table():
                return self._table(block, "")
            case Picture(_, caption, label):
                image = rf"\includegraphics[width=0.85\linewidth]{{{_figure_path(block)}}}"
                return f"\\begin{{figure}}[H]\n\\centering\n{image}\n\\caption{{{caption}}}\\label{{{label}}}\n\\end{{figure}}"
            case Sweep():
                # Paper has no slider.
                return ""

    def _table(self, table: Table, title: str) -> str:
        if self.columns == 1:
            return _environment_of(table.size, _rows("longtable", table, table.rows, r" \endhead"))
        # No table breaks over the pages of two columns: it floats across both, in parts that a page can hold.
        caption = f"\\caption{{{title}}}\n" if title else ""
        parts = (f"\\centering\n{caption}\\{table.size}\n{_rows('tabular', table, rows, '')}" for rows in _paged(table))
        return "\n".join(_environment_of("table*", part) for part in parts)


def _environment_of(name: str, body: str) -> str:
    return f"\\begin{{{name}}}\n{body}\n\\end{{{name}}}"


def _rows(environment: str, table: Table, rows: Iterable[tuple[str, ...]], after_heads: str) -> str:
    columns = "".join(rf"L{{{item}\linewidth}}" if isinstance(item, float) else item for item in table.columns)
    lines = [rf"\begin{{{environment}}}{{@{{}}{columns}@{{}}}}", rf"\toprule {' & '.join(table.heads)} \\ \midrule{after_heads}"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", rf"\end{{{environment}}}"])


def _paged(table: Table) -> list[list[tuple[str, ...]]]:
    """The rows of a table in parts of at most ``PAGE_LINES`` lines, by an estimate from the length of the cells."""
    parts: list[list[tuple[str, ...]]] = []
    free = 0
    for row in table.rows:
        cells = zip(table.columns, row, strict=True)
        lines = max(math.ceil(len(cell) / (LINE_SIGNS * part)) if isinstance(part, float) else 1 for part, cell in cells)
        if not parts or lines > free:
            parts.append([])
            free = PAGE_LINES
        parts[-1].append(row)
        free -= lines
    return parts


def _figure_path(picture: Picture) -> str:
    return f"figures/{picture.label.partition(':')[2]}.pdf"
