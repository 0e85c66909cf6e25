"""Functions of a generated module: formulas of their own, and sums of a formula over the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable

import sympy as sp

from symprop.codegen.lowering import LOOPS, Program, program
from symprop.codegen.printers import Code
from symprop.codegen.spec import FunctionSpec, Parameter
from symprop.core.symbols import Domain
from symprop.functions.table_sum import table_code


def loop_texts(used: str, backend: str) -> Iterable[str]:
    """The tables and functions that a text calls, in order of name."""
    names = [name for name in sorted(LOOPS) if re.search(rf"(?<![.\w]){name}\(", used)]
    for table in sorted({LOOPS[name].table for name in names}):
        yield f"{_constant(table)} = {table_code(table)}"
    yield from (_function(name, backend) for name in names)


def _constant(table: str) -> str:
    return f"_{table.upper()}"


def formula_text(name: str, title: str, formula: sp.Lambda, backend: str) -> str:
    """A function of tensors or arrays that computes one formula."""
    code, lowered = Code(backend), _program(formula)
    return "\n".join((
        f"def {name}({', '.join(str(symbol) for symbol in formula.signature)}):",
        f'    """{title}"""',
        *(f"    {item.name} = {code.text(item.expression)}" for item in lowered.assignments),
        f"    return {code.text(lowered.results[0])}",
    ))


def _program(formula: sp.Lambda) -> Program:
    parameters = tuple(Parameter(symbol, "", "", Domain()) for symbol in formula.signature)
    return program(FunctionSpec("formula", parameters, (("value", formula.expr),), ""))


def _function(name: str, backend: str) -> str:
    node, code = LOOPS[name], Code(backend)
    signature = node.summand.signature
    count = len(signature) - len(node.arguments)
    columns, arguments = ([str(symbol) for symbol in part] for part in (signature[:count], signature[count:]))
    lowered = _program(node.summand)
    inside = (1 << count) - 1
    before = [item for item in lowered.assignments if not item.depends & inside]
    within = [item for item in lowered.assignments if item.depends & inside]
    rows = _constant(node.table)
    like = []
    if backend == "torch":
        # An argument may be a number, and the functions below take tensors only.
        like = [
            f"zero = 0*({' + '.join(arguments)})",
            f"{', '.join(arguments)}{',' * (len(arguments) == 1)} = (item + zero for item in ({', '.join(arguments)},))",
        ]
        rows = f"torch.tensor({rows}, dtype=zero.dtype, device=zero.device)"
    lines = [
        f"def {name}({', '.join(arguments)}):",
        f'    """{node.label[0].upper() + node.label[1:]}, summed over the rows of a table."""',
        *(f"    {line}" for line in like),
        *(f"    {item.name} = {code.text(item.expression)}" for item in before),
        "    total = 0.0",
        f"    for {', '.join(columns)}{',' * (len(columns) == 1)} in {rows}:",
        *(f"        {item.name} = {code.text(item.expression)}" for item in within),
        f"        total = total + {code.text(lowered.results[0])}",
        "    return total",
    ]
    return "\n".join(lines)
