"""A lowered program as a kernel in C that works on blocks of points, the depth of a recursion outside them.

A kernel is a list of passes over the points of a block. What the compiler can turn into vector instructions shares a pass;
a function that takes one point at a time, or sums a table, has one of its own. A value that another pass needs is
an array of the block, any other a local variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import count

import sympy as sp
from sympy.core.function import AppliedUndef

from symprop.codegen import lowering, special_cells
from symprop.codegen.loops import lambda_program, row_program
from symprop.codegen.lowering import Assignment, LoopProgram
from symprop.codegen.printers import POINT_BY_POINT, Code
from symprop.codegen.spec import FunctionSpec
from symprop.core.errors import RefusedError
from symprop.core.symbols import layer
from symprop.functions.normal_moment import NormalMoment
from symprop.functions.table_sum import SmoothSum, TableSum, in_doubles

_CODE = Code("compiled")


@dataclass
class _Pass:
    """One pass over a block: assignments, or a call that fills an array."""

    lines: list[tuple[sp.Symbol, sp.Expr]] = field(default_factory=list)
    call: tuple[str, tuple[sp.Symbol, ...]] | None = None


def each(expression: sp.Expr) -> str | None:
    """The name of the function that computes a node for a whole block, if it has one of its own."""
    if isinstance(expression, NormalMoment):
        return "each_normal_moment"
    if isinstance(expression, AppliedUndef) and expression.func.__name__ in lowering.LOOPS:
        return f"each{expression.func.__name__}"
    return f"each_{POINT_BY_POINT[expression.func]}" if expression.func in POINT_BY_POINT else None


class Block:
    """The text of consecutive stages that work on the arrays of one block.

    ``arrays`` are the names that are arrays already; those that a stage makes for later ones are declared by
    :meth:`declarations`.
    """

    def __init__(self, arrays: Iterable[sp.Symbol], names: Iterable[str]) -> None:
        taken = set(names)
        self.arrays = dict.fromkeys(arrays)
        self.made: dict[sp.Symbol, None] = {}
        self._fresh = (sp.Symbol(f"y{k}") for k in count() if f"y{k}" not in taken)

    def stage(
        self, assignments: Sequence[Assignment], results: Sequence[tuple[str, sp.Expr]], later: Set[sp.Symbol] = frozenset(),
        constants: Set[sp.Symbol] = frozenset(),
    ) -> list[str]:
        """The lines of a stage: all passes, with the results written by the last one.

        A result is a template in which ``{}`` is the place of its text. Names in ``later`` become arrays; ``constants``
        are plain variables around the passes.
        """
        passes = list(self._passes(assignments))
        if not passes or passes[-1].call or not results:
            passes.append(_Pass())
        used_in: dict[sp.Symbol, set[int]] = {}
        for position, item in enumerate(passes):
            symbols = set(item.call[1]) if item.call else set().union(*(value.free_symbols for _, value in item.lines), set())
            for symbol in symbols:
                used_in.setdefault(symbol, set()).add(position)
        for _, value in results:
            for symbol in value.free_symbols:
                used_in.setdefault(symbol, set()).add(len(passes) - 1)
        for position, item in enumerate(passes):
            for name, _ in item.lines:
                if item.call or name in later or used_in.get(name, set()) - {position} or _called(name, passes):
                    self.arrays[name] = self.made[name] = None
        return [line for position, item in enumerate(passes)
                for line in self._text(item, results if position == len(passes) - 1 else (), constants)]

    def declarations(self) -> list[str]:
        """The arrays that stages have made."""
        return [f"double a_{name}[BLOCK];" for name in self.made]

    def _passes(self, assignments: Sequence[Assignment]) -> Iterator[_Pass]:
        own = _Pass()
        for item in assignments:
            called = each(item.expression)
            if called is None:
                own.lines.append((item.name, item.expression))
                continue
            arguments = []
            for argument in item.expression.args:
                if not argument.is_Symbol:
                    name = next(self._fresh)
                    own.lines.append((name, argument))
                    argument = name
                arguments.append(argument)
            if own.lines:
                yield own
            yield _Pass([(item.name, item.expression)], (called, tuple(arguments)))
            own = _Pass()
        if own.lines:
            yield own

    def _text(
        self, item: _Pass, results: Sequence[tuple[str, sp.Expr]], constants: Set[sp.Symbol]
    ) -> list[str]:
        if item.call:
            called, arguments = item.call
            listed = ", ".join(f"a_{symbol}" for symbol in (*arguments, item.lines[0][0]))
            return [f"{called}(count, {listed});"]
        local = {name for name, _ in item.lines}
        needed = set().union(*(value.free_symbols for _, value in (*item.lines, *results)), set()) - local - constants
        lines = [f"const double {symbol}_ = a_{symbol}[i];" for symbol in sorted(needed, key=str)]
        for name, value in item.lines:
            lines.append(f"const double {name}_ = {_CODE.text(value)};")
            if name in self.arrays:
                lines.append(f"a_{name}[i] = {name}_;")
        fresh = [f"const double next_{k} = {_CODE.text(value)};" for k, (_, value) in enumerate(results)]
        written = [template.format(f"next_{k}") for k, (template, _) in enumerate(results)]
        body = [*lines, *fresh, *written]
        return ["for (long i = 0; i < count; i++) {", *(f"    {line}" for line in body), "}"] if body else []


def _called(name: sp.Symbol, passes: Sequence[_Pass]) -> bool:
    return any(item.call is not None and name in item.call[1] for item in passes)


def block_function(spec: FunctionSpec) -> list[str]:
    """The lines of ``static void block(count, in, out, settle)``: one block of points of a spec, from arguments to outputs."""
    parameters = [parameter.symbol for parameter in spec.signature]
    outputs = [f"result_{k}[i] = {{}};" for k in range(len(spec.outputs))]
    if spec.recursion is None:
        program = lowering.program(spec)
        block = Block(parameters, _names(parameters, program.assignments))
        body = block.stage(program.assignments, list(zip(outputs, program.results, strict=True)))
    else:
        whole = lowering.loop_program(spec, spec.recursion)
        state = list(spec.recursion.state)
        block = Block([*parameters, *state], _names([*parameters, *state], [*whole.before, *whole.body,
                                                                            *whole.after.assignments]))
        body = _loop(spec, whole, block, outputs)
        body[:0] = [f"double a_{symbol}[BLOCK];" for symbol in state]
    inputs = [f"const double *restrict a_{symbol} = in[{k}];" for k, symbol in enumerate(parameters)]
    results = [f"double *restrict result_{k} = out[{k}];" for k in range(len(spec.outputs))]
    head = "static void block(long count, double (*in)[BLOCK], double (*out)[BLOCK], double settle)"
    return [f"{head} {{", *(f"    {line}" for line in (*inputs, *results, *block.declarations(), *body)), "}"]


def _names(symbols: Iterable[sp.Symbol], assignments: Iterable[Assignment]) -> set[str]:
    return {*map(str, symbols), *(str(item.name) for item in assignments)}


def _loop(spec: FunctionSpec, whole: LoopProgram, block: Block, outputs: Sequence[str]) -> list[str]:
    loop = spec.recursion
    assert loop is not None
    state, counted = list(loop.state), f"a_{loop.count}[i]"
    inputs = [*state, *(parameter.symbol for parameter in spec.signature)]
    inside = set().union(*(item.expression.free_symbols for item in whole.body),
                         *(value.free_symbols for value in whole.updates))
    lines = block.stage(whole.before, [(f"a_{symbol}[i] = {{}};", value)
                                       for symbol, value in zip(state, whole.starts, strict=True)], inside)
    updates = list(zip(state, whole.updates, strict=True))
    # Where no point of the block has ended, nothing is masked: a third of the time of a short body.
    all_go_on = [(f"a_{symbol}[i] = {{0}};", value) for symbol, value in updates]
    some_have_ended = [(f"a_{symbol}[i] = at < until[i] ? {{0}} : a_{symbol}[i];", value) for symbol, value in updates]
    body = [f"const double {layer}_ = at;"]
    for head, results in (("if (at < fewest) {", all_go_on), ("} else {", some_have_ended)):
        body += [head, *(f"    {line}" for line in block.stage(whole.body, results, constants={layer}))]
    body += ["}", "at += 1.0;"]
    ends, kept = [], []
    if loop.settled is not None:
        settled = lowering.lower_together([loop.settled], inputs, {*map(str, block.arrays), str(layer)})
        checks = block.stage(settled.assignments, [("worst = {0} > worst || {0} != {0} ? {0} : worst;", settled.results[0])])
        ends += ["if (settle > 0.0) {", "    double worst = -INFINITY;", *(f"    {line}" for line in checks),
                 "    if (worst <= settle) break;", "}"]
    if not loop.varies:
        same = " && ".join(f"!memcmp(a_{symbol}, kept_{symbol}, count*sizeof(double))" for symbol in state)
        ends += [f"if ({same}) {{", *(f"    {line}" for line in _REPEATED), "}"]
        copied = [f"memcpy(kept_{symbol}, a_{symbol}, count*sizeof(double));" for symbol in state]
        ends += copied
        kept = [*(f"double kept_{symbol}[BLOCK];" for symbol in state), *copied]
    if ends:
        body += ["if ((long)at % SETTLE_EVERY == 0) {", *(f"    {line}" for line in ends), "}"]
    after = block.stage(whole.after.assignments, list(zip(outputs, whole.after.results, strict=True)))
    return [*lines, *kept, "double until[BLOCK], layers = 0.0, fewest = INFINITY;",
            f"for (long i = 0; i < count; i++) until[i] = {counted};", *_BOUNDED,
            "for (double at = 0.0; at < layers;) {", *(f"    {line}" for line in body), "}", *after]


_BOUNDED = (
    "for (long i = 0; i < count; i++) layers = until[i] > layers ? until[i] : layers;",
    "for (long i = 0; i < count; i++) fewest = until[i] < fewest ? until[i] : fewest;",
)
_REPEATED = (
    "/* The states of SETTLE_EVERY layers ago: what is left repeats itself. */",
    "for (long i = 0; i < count; i++) until[i] = until[i] > at ? at + fmod(until[i] - at, SETTLE_EVERY) : until[i];",
    "layers = 0.0, fewest = INFINITY;", *_BOUNDED,
)


def table_name(node: TableSum) -> str:
    """The name of the rows of a sum."""
    return f"TABLE_{node.table.upper()}"


def table_function(name: str) -> str:
    """The function that sums a table for a block: itself, or by polynomials on cells where the sum is smooth."""
    node = lowering.LOOPS[name]
    if not isinstance(node, SmoothSum):
        return _sum(node, f"each{name}")
    signature = node.formal_factor.signature
    lowered = lambda_program(node.formal_factor)
    block = Block(signature, _names(signature, lowered.assignments))
    factor = block.stage(lowered.assignments, [("to[i] = {};", lowered.results[0])])
    return "\n".join((
        _sum(node, f"sum{name}"),
        *_function(f"factor{name}", signature, [*block.declarations(), *factor]),
        special_cells.smooth(name, len(signature), float(node.scale)),
    ))


def _function(name: str, signature: Iterable[sp.Symbol], body: Iterable[str]) -> list[str]:
    arguments = "".join(f"const double *restrict a_{symbol}, " for symbol in signature)
    head = f"static __attribute__((noinline)) void {name}(long count, {arguments}double *restrict to)"
    return [f"{head} {{", *(f"    {line}" for line in body), "}"]


def _sum(node: TableSum, name: str) -> str:
    """Rows outside, points inside."""
    if in_doubles(node.table):
        raise RefusedError(node.label, "the compiled backend has no rules of quadrature", "use the numpy backend")
    table, rowwise = table_name(node), row_program(node)
    columns = (1 << len(rowwise.columns)) - 1
    fixed = [item for item in rowwise.within if not item.depends & ~columns]
    within = [item for item in rowwise.within if item.depends & ~columns]
    constants = {*rowwise.columns, *(item.name for item in fixed)}
    block = Block(rowwise.arguments, _names(node.summand.signature, (*rowwise.before, *rowwise.within)))
    later = set().union(*(item.expression.free_symbols for item in within), rowwise.term.free_symbols)
    start = block.stage(rowwise.before, [("to[i] = {};", sp.S.Zero)], later)
    row = [
        *(f"const double {column}_ = {table}[row][{k}];" for k, column in enumerate(rowwise.columns)),
        *(f"const double {item.name}_ = {_CODE.text(item.expression)};" for item in fixed),
        *block.stage(within, [("to[i] += {};", rowwise.term)], constants=constants),
    ]
    return "\n".join(_function(name, rowwise.arguments, [
        *block.declarations(), *start,
        f"for (size_t row = 0; row < sizeof {table}/sizeof {table}[0]; row++) {{", *(f"    {line}" for line in row), "}",
    ]))
