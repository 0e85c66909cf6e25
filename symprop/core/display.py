"""How results show themselves: equations in LaTeX and tables in HTML for a notebook, aligned columns for a terminal."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import sympy as sp

from symprop.core import symbols
from symprop.core.expression import with_factored_denominators

COLUMNS = 80
"""Width of a terminal that everything printed fits."""
MANY = 2000
"""Operations beyond which an expression is counted, not typeset: a browser would take seconds over it."""


def latex(expression: Any) -> str:
    r"""An expression in LaTeX, its symbols as registered and the moments of a signal as q_X and Delta_X.

    >>> latex(symbols.sigma_v2 * sp.Symbol("gap_X", nonnegative=True))
    '\\Delta_{X} \\sigma_v^2'
    """
    value = sp.sympify(expression)
    if value.count_ops() > MANY:
        return rf"\text{{({value.count_ops()} operations)}}"
    value = with_factored_denominators(value)
    return str(sp.latex(value, symbol_names={item: _name(item) for item in value.free_symbols if isinstance(item, sp.Symbol)}))


def _name(symbol: sp.Symbol) -> str:
    if symbols.is_registered(symbol):
        return symbols.info(symbol).latex
    moment, _, label = symbol.name.partition("_")
    sign = {"q": "q", "gap": r"\Delta", "mean": r"\mu"}.get(moment)
    return rf"{sign}_{{{label}}}" if sign and label else str(sp.latex(symbol))


def equations(rows: Iterable[tuple[str, Any]]) -> str:
    r"""Aligned equations between dollars, as ``_repr_latex_`` returns them: pairs of a left-hand side and an expression.

    >>> equations([("q", sp.Integer(2)), (r"\Delta", sp.Integer(1))])
    '$\\displaystyle \\begin{aligned} q &= 2 \\\\ \\Delta &= 1 \\end{aligned}$'
    """
    body = r" \\ ".join(f"{left} &= {latex(right)}" for left, right in rows)
    return rf"$\displaystyle \begin{{aligned}} {body} \end{{aligned}}$"


def html_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as ``_repr_html_`` returns it; everything in it is escaped, floats have four digits and None is empty.

    >>> html_table("a < b", ["x"], [[0.5], [None]])
    '<table><caption>a &lt; b</caption><tr><th>x</th></tr><tr><td>0.5</td></tr><tr><td></td></tr></table>'
    """
    lines = [_row("th", headings), *(_row("td", row) for row in rows)]
    return f"<table><caption>{html.escape(title)}</caption>{''.join(lines)}</table>"


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "layer"), counted(0, "layer")
    ('1 layer', '0 layers')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def aligned(table: Sequence[Sequence[str]], columns: int = COLUMNS) -> list[str]:
    """Rows of cells as lines of at most ``columns`` characters; a wider table continues below, its first column repeated.

    >>> aligned([("layer", "q", "gap"), ("1", "0.25", "1")], columns=12)
    ['layer     q', '    1  0.25', '', 'layer  gap', '    1    1']
    """
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    parts: list[list[int]] = [[0]]
    for k in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[j] + 2 for j in parts[-1]) + widths[k] > columns:
            parts.append([0])
        parts[-1].append(k)
    lines: list[str] = []
    for part in parts:
        lines += [""] if lines else []
        lines += ["  ".join(row[k].rjust(widths[k]) for k in part).rstrip() for row in table]
    return lines


def _row(tag: str, cells: Iterable[Any]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(_cell(cell))}</{tag}>' for cell in cells)}</tr>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
