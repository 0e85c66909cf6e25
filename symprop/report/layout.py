"""Displayed mathematics that fits its line: chains of equalities with their rules."""

from __future__ import annotations

from collections.abc import Sequence

from symprop.report.width import LINE, broken, flattened, width

BESIDE = 18.0
"""A chain whose lines have less room than this, in em, beside its left side begins below it."""


def chain_latex(
    quantity: str, steps: Sequence[tuple[str, str]], *, indent: float = 0.0, relation: str = "=", line: float = LINE
) -> str:
    """An ``align*`` of ``quantity`` = step = step ..., with each step's rule over its sign and long lines broken.

    ``steps`` holds pairs of LaTeX: the rule (may be empty) and the right-hand side. ``indent`` is the part of the
    ``line``, in em, that is not available.
    """
    rows = (f"{left + ' ' if left else ''}& {right}" for left, right in chain_rows(quantity, steps, indent, relation, line))
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"


def chain_rows(
    quantity: str, steps: Sequence[tuple[str, str]], indent: float = 0.0, relation: str = "=", line: float = LINE
) -> list[tuple[str, str]]:
    """The lines of that chain, each with what stands left and right of where they are aligned."""
    room = line - indent
    if not quantity:
        return [("", part) for _, body in steps for part in _lines(body, room, 2.0)]
    signs = [rf"\stackrel{{{rule}}}{{{relation}}}" if rule else relation for rule, _ in steps]
    # A rule is set in script size over its sign.
    sign_width = max([1.3, *(0.68 * width(rule) + 0.5 for rule, _ in steps)])
    left = width(quantity)
    beside = (left <= 0.25 * room and room - sign_width - left >= BESIDE) or (len(steps) == 1 and left + sign_width + width(steps[0][1]) <= room)
    rows = [] if beside else [("", part) for part in _lines(quantity, room, 2.0)]
    lead = "" if beside else r"\quad "
    free = room - sign_width - (left if beside else 1.0)
    for sign, (_, body) in zip(signs, steps, strict=True):
        for number, part in enumerate(_lines(body, free, 2.0)):
            head = quantity if beside and not rows else ""
            rows.append((head, f"{lead}{sign} {part}" if number == 0 else rf"{lead}\qquad {part}"))
    return rows


def _lines(body: str, room: float, indent: float) -> list[str]:
    return [body] if width(body) <= room else broken(flattened(body, room - indent), room, room - indent)

