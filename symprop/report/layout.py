"""Displayed mathematics that fits its line: chains of equalities with their rules."""

from __future__ import annotations

from collections.abc import Sequence

from symprop.notation import LINE
from symprop.report.width import broken, width


def chain_latex(
    quantity: str, steps: Sequence[tuple[str, str]], *, indent: float = 0.0, relation: str = "=", line: float = LINE
) -> str:
    """An ``align*`` of ``quantity`` = step = step ..., with each step's rule over its sign and long lines broken.

    ``steps`` holds pairs of LaTeX: the rule (may be empty) and the right-hand side. ``indent`` is the part of the
    ``line``, both in em, that is not available.
    """
    rows = (f"{left + ' ' if left else ''}& {right}" for left, right in chain_rows(quantity, steps, indent, relation, line))
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"


def chain_rows(
    quantity: str, steps: Sequence[tuple[str, str]], indent: float = 0.0, relation: str = "=", line: float = LINE
) -> list[tuple[str, str]]:
    """The lines of that chain, each with what stands left and right of where they are aligned."""
    room = line - indent
    if not quantity:
        return [("", line) for _, body in steps for line in _lines(body, room, 2.0)]
    signs = [rf"\stackrel{{{rule}}}{{{relation}}}" if rule else relation for rule, _ in steps]
    # A rule is set in script size over its sign.
    sign_width = max([1.3, *(0.68 * width(rule) + 0.5 for rule, _ in steps)])
    left = width(quantity)
    beside = left <= 0.25 * room or (len(steps) == 1 and left + sign_width + width(steps[0][1]) <= room)
    rows = [] if beside else [("", line) for line in _lines(quantity, room, 2.0)]
    lead = "" if beside else r"\quad "
    free = room - sign_width - (left if beside else 1.0)
    for sign, (_, body) in zip(signs, steps, strict=True):
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

