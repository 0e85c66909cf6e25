"""A report before it has a form: sections of sentences, formulas, statements, tables and figures.

Sentences and formulas are LaTeX as :mod:`symprop.report.prose` and :mod:`symprop.report.printer` write it. What writes a
``.tex`` file copies it, what writes a web page reads it; neither adds a sentence of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from symprop.claims import Curve, Figure, Paper
from symprop.notation import LINE

KINDS = ("theorem", "lemma", "proposition", "remark")
"""Statements that share one counter within their section."""


@dataclass(frozen=True)
class Paragraph:
    """Sentences, with a heading that runs into them where ``heading`` is not empty."""

    text: str
    heading: str = ""


class Link(NamedTuple):
    """A right-hand side with the rule over its sign (may be empty); a ``quantity`` begins a line of its own on the left."""

    rule: str
    body: str
    relation: str = "="
    quantity: str = ""


@dataclass(frozen=True)
class Display:
    """``quantity`` = body = body ...; without a quantity the bodies stand alone.

    ``indent`` is the part of the line, in em, that is not available.
    """

    quantity: str
    steps: tuple[Link, ...]
    indent: float = 0.0


@dataclass(frozen=True)
class Items:
    """A numbered list."""

    items: tuple[tuple[Block, ...], ...]


@dataclass(frozen=True)
class Reasons:
    """What the rules over the signs of a chain stand for: pairs of rule and sentence."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Statement:
    """An assumption, theorem, lemma, proposition or remark."""

    kind: str
    title: str
    label: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Proof:
    """The proof of the statement before it."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Table:
    """A table; a column is ``l``, ``r``, or the part of the line that its text may fill, and ``size`` a size of LaTeX."""

    columns: tuple[str | float, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    size: str = "small"


@dataclass(frozen=True)
class Picture:
    """A figure with its caption."""

    figure: Figure
    caption: str
    label: str


@dataclass(frozen=True)
class Sweep:
    """A plot that depends on a parameter: for each of its values the curves, which a reader moves through.

    ``parameter`` is the parameter in LaTeX; ``curves`` holds one tuple for each of ``values``, with the same labels in each.
    """

    name: str
    caption: str
    label: str
    parameter: str
    values: tuple[float, ...]
    curves: tuple[tuple[Curve, ...], ...]
    xlabel: str
    ylabel: str
    logy: bool = False


Block: TypeAlias = Paragraph | Display | Items | Reasons | Statement | Proof | Table | Picture | Sweep


@dataclass(frozen=True)
class Section:
    """A section, to which its label refers."""

    title: str
    label: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A report; ``papers`` are what it may cite, and ``line`` is the room that its formulas were broken for, in em."""

    title: str
    introduction: tuple[Block, ...]
    sections: tuple[Section, ...]
    papers: tuple[Paper, ...] = field(default=())
    line: float = LINE

    def blocks(self) -> Iterator[Block]:
        """Every block, outer ones before those they hold."""
        yield from _walk(self.introduction)
        for section in self.sections:
            yield from _walk(section.blocks)


def _walk(blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Statement | Proof):
            yield from _walk(block.blocks)
        elif isinstance(block, Items):
            for item in block.items:
                yield from _walk(item)


@dataclass(frozen=True)
class Target:
    """What a label refers to: the word and number with which it is referred to."""

    word: str
    number: str


def numbering(document: Document) -> dict[str, Target]:
    """The numbers that LaTeX gives to the labels of a document.

    >>> remark = Statement("remark", "", "claim:a", ())
    >>> found = numbering(Document("", (), (Section("", "sec:a", ()), Section("", "sec:b", (remark,)))))
    >>> found["claim:a"]
    Target(word='Remark', number='2.1')
    """
    found: dict[str, Target] = {}
    assumptions = figures = 0
    for number, section in enumerate(document.sections, 1):
        found[section.label] = Target("Section", str(number))
        statements = 0
        for block in _walk(section.blocks):
            if isinstance(block, Statement) and block.kind in KINDS:
                statements += 1
                found[block.label] = Target(block.kind.capitalize(), f"{number}.{statements}")
            elif isinstance(block, Statement):
                assumptions += 1
                found[block.label] = Target(block.kind.capitalize(), str(assumptions))
            elif isinstance(block, Picture | Sweep):
                figures += 1
                found[block.label] = Target("Figure", str(figures))
    return found


def label_of(prefix: str, name: str) -> str:
    """A stable label: ``claim:eq12`` for the claim of that id."""
    return f"{prefix}:{file_stem(name)}"


def file_stem(name: str) -> str:
    """Words as a part of a label or of the name of a file.

    >>> file_stem("norm over depth, L = 24")
    'norm-over-depth-l-24'
    """
    return re.sub("[^A-Za-z0-9]+", "-", name).strip("-").lower()


def joined(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    >>> joined(["1", "2", "3"])
    '1, 2 and 3'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
