"""A report as LaTeX: a folder of files with the same bytes on every machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from symprop.claims import Paper
from symprop.core.errors import UnknownNameError
from symprop.notation import LINE
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
from symprop.report.escape import escape
from symprop.report.figures import figure_file
from symprop.report.layout import chain_latex

STYLES = ("article", "input-only")
"""Forms of ``appendix.tex``: a document of its own, or sections for a document of any class."""


def latex_files(document: Document, style: str = "article") -> dict[str, str | bytes]:
    """The files of a report, by relative path: ``appendix.tex``, ``macros.tex``, ``references.bib``, figures.

    With the style ``input-only`` a document of any class takes ``macros.tex`` into its preamble and ``appendix.tex`` into its
    body; statements that the class or the document defines already stay its own. A document whose formulas are broken for less
    than a line of one column is set in two, or asks for a class that has two; its tables then are floats over both. Raises
    :class:`~symprop.core.errors.UnknownNameError` for another style and
    :class:`~symprop.core.errors.MissingExtraError` for figures without matplotlib.
    """
    if style not in STYLES:
        raise UnknownNameError("style", style, STYLES)
    environment, writer = _environment(), _Writer(document.line)
    files: dict[str, str | bytes] = {
        "appendix.tex": environment.get_template("appendix.tex").render(
            title=document.title, introduction=writer.blocks(document.introduction), own=style == "article",
            body="\n".join(map(writer.section, document.sections)), keys=sorted(paper.key for paper in document.papers),
            narrow=writer.narrow,
        ),
        "macros.tex": environment.get_template("macros.tex").render(),
        "references.bib": bibliography(document.papers),
    }  # fmt: skip
    for block in document.blocks():
        if isinstance(block, Picture):
            files[_figure_path(block)] = figure_file(block.figure)
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


@dataclass
class _Writer:
    """Writes blocks for a line of ``line`` em; ``title`` is the section that it is in."""

    line: float
    title: str = ""

    @property
    def narrow(self) -> bool:
        """Whether the lines are those of two columns."""
        return self.line < LINE

    def section(self, section: Section) -> str:
        self.title = section.title
        return f"\\section{{{section.title}}}\\label{{{section.label}}}\n{self.blocks(section.blocks)}\n"

    def blocks(self, blocks: Iterable[Block]) -> str:
        return "\n".join(filter(None, map(self._block, blocks)))

    def _block(self, block: Block) -> str:
        match block:
            case Paragraph(text, heading):
                return f"\\paragraph{{{heading}}} {text}" if heading else text
            case Display(quantity, steps, indent):
                return chain_latex(quantity, steps, indent=indent, line=self.line)
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
                return self._floats(block) if self.narrow else _long_table(block)
            case Picture(_, caption, label):
                image = rf"\includegraphics[width=0.85\linewidth]{{{_figure_path(block)}}}"
                return f"\\begin{{figure}}[H]\n\\centering\n{image}\n\\caption{{{caption}}}\\label{{{label}}}\n\\end{{figure}}"
            case Sweep():
                # Paper has no slider.
                return ""

    def _floats(self, table: Table) -> str:
        """The table over both columns, in as many floats as it needs: a table that breaks over pages cannot stand there."""
        floats = []
        for number, rows in enumerate(_pages(table)):
            caption = rf"\caption{{{self.title}{', continued' if number else ''}.}}"
            body = _environment_of(table.size, _environment_of_table("tabular", table, rows, r"\midrule"))
            floats.append(f"\\begin{{table*}}[tp]\n\\centering\n{caption}\n{body}\n\\end{{table*}}")
        return "\n".join(floats)


_PAGE, _LETTERS = 30, 110
"""Lines of a table in a float, and letters in one of them."""


def _pages(table: Table) -> list[list[tuple[str, ...]]]:
    """The rows of a table, as many together as leave room for text on their page."""
    pages: list[list[tuple[str, ...]]] = [[]]
    used = 0
    for row in table.rows:
        widths = zip(row, table.columns, strict=True)
        lines = max((1 + int(len(cell) / (share * _LETTERS)) for cell, share in widths if isinstance(share, float)), default=1)
        if pages[-1] and used + lines > _PAGE:
            pages.append([])
            used = 0
        pages[-1].append(row)
        used += lines
    return pages


def _environment_of(name: str, body: str) -> str:
    return f"\\begin{{{name}}}\n{body}\n\\end{{{name}}}"


def _long_table(table: Table) -> str:
    return _environment_of(table.size, _environment_of_table("longtable", table, table.rows, r"\midrule \endhead"))


def _environment_of_table(name: str, table: Table, rows: Iterable[tuple[str, ...]], rule: str) -> str:
    columns = "".join(rf"L{{{item}\linewidth}}" if isinstance(item, float) else item for item in table.columns)
    lines = [rf"\begin{{{name}}}{{@{{}}{columns}@{{}}}}", rf"\toprule {' & '.join(table.heads)} \\ {rule}"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", rf"\end{{{name}}}"])


def _figure_path(picture: Picture) -> str:
    return f"figures/{picture.label.partition(':')[2]}.pdf"
