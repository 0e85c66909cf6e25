"""Displayed mathematics that fits its line: chains of equalities with their rules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from symprop.notation import LINE
from symprop.report.document import Link
from symprop.report.width import broken, width


def chain_latex(quantity: str, steps: Sequence[Link], *, indent: float = 0.0, line: float = LINE) -> str:
    """An ``align*`` of ``quantity`` = step = step ..., with each step's rule over its sign and long lines broken.

    ``indent`` is the part of the ``line``, both in em, that is not available.
    """
    rows = (f"{left + ' ' if left else ''}& {right}" for left, right in chain_rows(quantity, steps, indent, line))
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"


def chain_rows(
    quantity: str, steps: Sequence[Link], indent: float = 0.0, line: float = LINE
) -> list[tuple[str, str]]:
    """The lines of that chain, each with what stands left and right of where they are aligned."""
    room = line - indent
    if not quantity:
        return [("", line) for step in steps for line in _lines(step.body, room, 2.0)]
    chains = [(key or quantity, list(links)) for key, links in groupby(steps, lambda step: step.quantity)]
    # A rule is set in script size over its sign.
    sign_width = max([1.3, *(0.68 * width(step.rule) + 0.5 for step in steps)])
    left = max(width(item) for item, _ in chains)
    (_, first), *others = chains
    beside = left <= 0.25 * room or (
        len(first) == 1 and not others and left + sign_width + width(first[0].body) <= room
    )
    free = room - sign_width - (left if beside else 1.0)
    return [row for item, links in chains for row in _chain_rows(item, links, room, free, sign_width, beside=beside)]


def _chain_rows(
    quantity: str, steps: Sequence[Link], room: float, free: float, sign_width: float, *, beside: bool
) -> list[tuple[str, str]]:
    """The lines of one quantity, which stands left of the first sign where ``beside``, above it otherwise."""
    rows = [] if beside else [("", line) for line in _lines(quantity, room, 2.0)]
    lead = "" if beside else r"\quad "
    for rule, body, relation, _ in steps:
        sign = rf"\stackrel{{{rule}}}{{{relation}}}" if rule else relation
        head, lines = quantity if beside and not rows else "", _lines(body, free, 2.0)
        if max(map(width, lines)) > free and sign_width > 2.0:
            # What cannot be broken has more room below its sign.
            rows.append((head, f"{lead}{sign}"))
            rows += [("", rf"{lead}\quad {line}") for line in _lines(body, free + sign_width - 1.0, 1.0)]
            continue
        rows += [(head if number == 0 else "", f"{lead}{sign} {line}" if number == 0 else rf"{lead}\qquad {line}")
                 for number, line in enumerate(lines)]
    return rows


def _lines(body: str, room: float, indent: float) -> list[str]:
    return [body] if width(body) <= room else broken(body, room, room - indent)

