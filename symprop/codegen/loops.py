"""Functions of a generated module: formulas of their own, and sums of a formula over the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import sympy as sp

from symprop.codegen.lowering import LOOPS, Assignment, Program, program
from symprop.codegen.printers import Code
from symprop.codegen.spec import FunctionSpec, Parameter
from symprop.core.symbols import Domain
from symprop.functions.table_sum import SmoothSum, TableSum, in_doubles, table_code


def loop_texts(used: str, backend: str) -> Iterable[str]:
    """The tables and functions that a text calls, in order of name."""
    names = [name for name in sorted(LOOPS) if re.search(rf"(?<![.\w]){name}\(", used)]
    for table in sorted({LOOPS[name].table for name in names}):
        yield f"{_constant(table)} = {table_code(table)}"
    for name in names:
        yield from _smooth(name, backend) if isinstance(LOOPS[name], SmoothSum) else [_function(name, backend)]


def _constant(table: str) -> str:
    return f"_{table.upper()}"


def formula_text(name: str, title: str, formula: sp.Lambda, backend: str) -> str:
    """A function of tensors or arrays that computes one formula."""
    code, lowered = Code(backend), lambda_program(formula)
    return "\n".join((
        f"def {name}({', '.join(str(symbol) for symbol in formula.signature)}):",
        f'    """{title}"""',
        *(f"    {item.name} = {code.text(item.expression)}" for item in lowered.assignments),
        f"    return {code.text(lowered.results[0])}",
    ))


def lambda_program(formula: sp.Lambda) -> Program:
    """The lowered program of a formula of its own."""
    parameters = tuple(Parameter(symbol, "", "", Domain()) for symbol in formula.signature)
    return program(FunctionSpec("formula", parameters, (("value", formula.expr),), ""))


@dataclass(frozen=True)
class RowProgram:
    """The lowered summand of a table: ``before`` is free of the columns, ``within`` is done again for every row."""

    columns: tuple[sp.Symbol, ...]
    arguments: tuple[sp.Symbol, ...]
    before: tuple[Assignment, ...]
    within: tuple[Assignment, ...]
    term: sp.Expr


def row_program(node: TableSum) -> RowProgram:
    """The lowered summand of a sum over rows."""
    signature, lowered = node.summand.signature, lambda_program(node.summand)
    count = len(signature) - len(node.arguments)
    inside = (1 << count) - 1
    return RowProgram(
        signature[:count], signature[count:],
        tuple(item for item in lowered.assignments if not item.depends & inside),
        tuple(item for item in lowered.assignments if item.depends & inside),
        lowered.results[0],
    )


def _smooth(name: str, backend: str) -> Iterable[str]:
    """The sum itself, the factor in it, and the function that interpolates their ratio."""
    node = LOOPS[name]
    assert isinstance(node, SmoothSum)
    formal = ", ".join(str(symbol) for symbol in node.formal_factor.signature)
    yield _function(name, backend, "_sum")
    yield formula_text(f"{name}_factor", "What it vanishes with.", node.formal_factor, backend)
    yield "\n".join((
        f"def {name}({formal}):",
        f'    """{_title(node)}, by polynomials on cells."""',
        f"    return _on_cells({name}_sum, {name}_factor, {float(node.scale)!r}, {formal})",
    ))


def _title(node: TableSum) -> str:
    return node.label[0].upper() + node.label[1:]


def _function(name: str, backend: str, suffix: str = "") -> str:
    """The sum, row by row; over a fixed rule by blocks of rows in a last axis, as many as fit a cache."""
    node, code = LOOPS[name], Code(backend)
    blocks, rowwise = in_doubles(node.table), row_program(node)
    columns, arguments = ([str(symbol) for symbol in part] for part in (rowwise.columns, rowwise.arguments))
    listed = ", ".join(arguments) + "," * (len(arguments) == 1)
    rows = _constant(node.table)
    like = []
    if backend == "torch":
        # An argument may be a number, and the functions below take tensors only.
        item = "(item + zero)[..., None]" if blocks else "item + zero"
        like = [f"zero = 0*({' + '.join(arguments)})", f"{listed} = ({item} for item in ({listed}))"]
        rows = f"torch.tensor({rows}, dtype=zero.dtype, device=zero.device)"
        rows = f"_row_blocks({rows}, zero.numel())" if blocks else rows
    elif blocks:
        like = [f"{listed} = (item[..., None] for item in np.broadcast_arrays({', '.join(arguments)}))"]
        rows = f"_row_blocks(np.array({rows}), {arguments[0]}.size)"
    term = code.text(rowwise.term)
    if blocks:
        term = f"({term}).sum({'-1' if backend == 'torch' else 'axis=-1'})"
    lines = [
        f"def {name}{suffix}({', '.join(arguments)}):",
        f'    """{_title(node)}, summed over the rows of a table."""',
        *(f"    {line}" for line in like),
        *(f"    {item.name} = {code.text(item.expression)}" for item in rowwise.before),
        "    total = 0.0",
        f"    for {', '.join(columns)}{',' * (len(columns) == 1)} in {rows}:",
        *(f"        {item.name} = {code.text(item.expression)}" for item in rowwise.within),
        f"        total = total + {term}",
        "    return total",
    ]
    return "\n".join(lines)


BLOCK = 1 << 13
"""Numbers in a block of rows: arrays of that size stay in a cache."""


def helpers(backend: str) -> dict[str, str]:
    """The function that cuts a table into blocks of rows."""
    columns = "rows[start:start + count].T" if backend == "numpy" else "rows[start:start + count].unbind(-1)"
    return {
        "_row_blocks": "\n".join((
            "def _row_blocks(rows, points):",
            '    """The columns of blocks of rows, with fewer rows for more points."""',
            f"    count = max(1, {BLOCK}//max(1, points))",
            "    for start in range(0, len(rows), count):",
            f"        yield {columns}",
        ))
    }
