"""The layer of a loop as numpy calls that write into arrays made once for a block of points.

An array that every call makes anew costs more than the arithmetic in it: memory comes and goes, and leaves the cache.
Arrays have the shape that the parameters they depend on have together, so that nothing is computed more often than it varies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sympy as sp

from symprop.codegen import lowering
from symprop.codegen.lowering import LoopProgram
from symprop.codegen.printers import NUMPY, Code
from symprop.codegen.recursion import Recursion
from symprop.codegen.spec import FunctionSpec
from symprop.core.symbols import layer
from symprop.functions.table_sum import Larger, Smaller

_CODE = Code("numpy")
_SCRATCH: Mapping[type, int] = {lowering.ArcCosine0: 1, lowering.ArcCosine1: 3, lowering.ArcCosine2: 3}
"""Functions that work in arrays they are given: one for the result, and so many more."""
_EXTREMES = (sp.Max, sp.Min, Larger, Smaller)


@dataclass(frozen=True)
class Layer:
    """A layer as text.

    ``shapes`` are names of shapes with the parameters that make them; ``arrays`` are names of arrays with those of their
    shapes, the states with that of theirs in ``states``. ``lines`` leave the next state of each in the array ``following``.
    """

    shapes: tuple[tuple[str, tuple[str, ...]], ...]
    arrays: tuple[tuple[str, str], ...]
    states: tuple[str, ...]
    lines: tuple[str, ...]
    following: tuple[str, ...]


def layer_in_place(spec: FunctionSpec, loop: Recursion, program: LoopProgram) -> Layer:
    """The layer of a recursion."""
    writer = _Writer(_dependence(spec, loop, program), program)
    for item in program.body:
        writer.assign(item.name, item.expression)
    following = [writer.update(symbol, value) for symbol, value in zip(loop.state, program.updates, strict=True)]
    order = [parameter.symbol for parameter in spec.signature]
    masks = sorted({*writer.arrays.values(), *(writer.masks[symbol] for symbol in loop.state)})
    return Layer(
        shapes=tuple((_shape(mask), tuple(str(s) for k, s in enumerate(order) if mask >> k & 1)) for mask in masks),
        arrays=tuple((name, _shape(mask)) for name, mask in writer.arrays.items()),
        states=tuple(_shape(writer.masks[symbol]) for symbol in loop.state),
        lines=tuple(writer.lines), following=tuple(following),
    )


def _shape(mask: int) -> str:
    return f"_shape_{mask}"


def _dependence(spec: FunctionSpec, loop: Recursion, program: LoopProgram) -> dict[sp.Symbol, int]:
    """The parameters that every symbol depends on, through all layers, as bits."""
    masks = {parameter.symbol: 1 << k for k, parameter in enumerate(spec.signature)} | {layer: 0}
    seen = (1 << len(spec.signature)) - 1
    masks |= {item.name: item.depends & seen for item in (*program.before, *program.body)}
    states = dict(zip(loop.state, program.updates, strict=True))
    for symbol, start in zip(loop.state, program.starts, strict=True):
        masks[symbol] = masks[loop.count] | _union(masks, start)
    for _ in states:
        for item in program.body:
            masks[item.name] |= _union(masks, item.expression)
        for symbol, value in states.items():
            masks[symbol] |= _union(masks, value)
    for item in program.body:
        masks[item.name] |= _union(masks, item.expression)
    return masks


def _union(masks: Mapping[sp.Symbol, int], expression: sp.Expr) -> int:
    found = 0
    for symbol in expression.free_symbols:
        found |= masks[symbol]
    return found


class _Writer:
    """Writes lines; an operand is its text, and where that names an array, it is counted how often that will be read."""

    def __init__(self, masks: Mapping[sp.Symbol, int], program: LoopProgram) -> None:
        self.masks = masks
        self.lines: list[str] = []
        self.arrays: dict[str, int] = {}
        self.idle: list[str] = []
        self.place: dict[sp.Symbol, str] = {}
        self.reads: Counter[str] = Counter()
        self.uses = Counter(
            node for item in (*(item.expression for item in program.body), *program.updates)
            for node in sp.preorder_traversal(item) if node.is_Symbol
        )

    def assign(self, name: sp.Symbol, expression: sp.Expr) -> None:
        """Compute what the program calls ``name``."""
        value = self.value(expression, self.masks[name])
        if value in self.arrays:
            self.place[name] = value
            self.reads[value] += self.uses[name] - 1
        else:
            self.lines.append(f"{name} = {value}")

    def update(self, state: sp.Symbol, expression: sp.Expr) -> str:
        """Compute the next value of a state; the name of the array that holds it, which nothing else is written to."""
        mask = self.masks[state]
        value = self.value(expression, mask)
        if value in self.read([value]) and self.arrays[value] == mask:
            return value
        array = self.array(mask)
        self.lines.append(f"np.copyto({array}, {value})")
        return array

    def array(self, mask: int) -> str:
        """An array that is free to be written."""
        found = next((name for name in self.idle if self.arrays[name] == mask), None)
        if found is None:
            found = f"_array_{len(self.arrays)}"
            self.arrays[found] = mask
        else:
            self.idle.remove(found)
        return found

    def read(self, operands: Iterable[str]) -> list[str]:
        """Note that operands are read; the arrays among them that are so for the last time."""
        last = []
        for operand in operands:
            if operand in self.arrays:
                self.reads[operand] -= 1
                last += [operand] if self.reads[operand] == 0 else []
        return last

    def value(self, expression: sp.Expr, mask: int | None = None) -> str:
        """Write the calls that compute an expression, into an array for ``mask`` if the last one may choose."""
        if expression.is_Symbol:
            return self.place.get(expression, str(expression))
        own = _union(self.masks, expression)
        if not own:
            return f"({_CODE.text(expression)})" if expression.free_symbols else _CODE.text(expression)
        mask = own if mask is None else mask
        if expression.is_Add:
            return self.sum(expression, mask)
        if expression.is_Mul or (expression.is_Pow and expression.exp == -1):
            return self.product(expression, mask)
        kind = type(expression)
        if kind is lowering.ArcTangent:
            return self.call("np.arctan", [self.value(expression.args[0] / expression.args[1])], mask)
        if kind in _SCRATCH:
            return self.with_scratch(expression, mask)
        function = NUMPY.get(kind, "")
        if kind in _EXTREMES:
            first, *rest = sorted(expression.args, key=lambda item: (item.is_number, sp.default_sort_key(item)))
            return self.chain(self.value(first), [(function, item) for item in rest], mask)
        if function.startswith("np.") and kind is not sp.Piecewise:
            return self.call(function, [self.value(item) for item in expression.args], mask)
        return self.elsewhere(expression)

    def call(self, function: str, operands: Sequence[str], mask: int) -> str:
        """One numpy call, into one of its operands where that is not needed any more."""
        last = self.read(operands)
        into = next((name for name in last if self.arrays[name] == mask), None) or self.array(mask)
        self.idle += [name for name in last if name != into]
        self.lines.append(f"{function}({', '.join(operands)}, out={into})")
        self.reads[into] = 1
        return into

    def chain(self, first: str, rest: Iterable[tuple[str, sp.Expr]], mask: int) -> str:
        """A value and further operands, one call for each."""
        for function, operand in rest:
            first = self.call(function, [first, self.value(operand)], mask)
        return first

    def sum(self, expression: sp.Add, mask: int) -> str:
        """Terms in the order of the printer: what is subtracted comes last."""
        first, *terms = sorted(
            expression.as_ordered_terms(), key=lambda term: term.could_extract_minus_sign() and not term.is_Add
        )
        rest = [("np.subtract", -term) if term.could_extract_minus_sign() else ("np.add", term) for term in terms]
        return self.chain(self.value(first), rest, mask)

    def product(self, expression: sp.Expr, mask: int) -> str:
        """Factors, then divisors; numbers and what a layer does not change are multiplied first, where that is less work."""
        factors: list[sp.Expr] = []
        divisors: list[tuple[str, sp.Expr]] = []
        for item in sp.Mul.make_args(expression):
            if item.is_Pow and item.exp == -1:
                divisors.append(("np.divide", item.base))
            else:
                factors.append(item)
        factors.sort(key=lambda item: (_union(self.masks, item).bit_count(), not item.is_number))
        if factors[:1] == [-1] and len(factors) > 1:
            first, rest = self.call("np.negative", [self.value(factors[1])], mask), factors[2:]
        else:
            first, rest = self.value(factors[0]) if factors else "1.0", factors[1:]
        return self.chain(first, [*(("np.multiply", item) for item in rest), *divisors], mask)

    def with_scratch(self, expression: sp.Expr, mask: int) -> str:
        """A function that is given the arrays it needs."""
        operands = [self.value(item) for item in expression.args]
        result, *scratch = (self.array(mask) for _ in range(1 + _SCRATCH[type(expression)]))
        self.lines.append(f"{NUMPY[type(expression)]}({', '.join((*operands, result, *scratch))})")
        self.idle += [*self.read(operands), *scratch]
        self.reads[result] = 1
        return result

    def elsewhere(self, expression: sp.Expr) -> str:
        """An expression that makes its own arrays."""
        name = f"_made_{len(self.lines)}"
        self.lines.append(f"{name} = {_CODE.text(expression.xreplace({k: sp.Symbol(v) for k, v in self.place.items()}))}")
        symbols = (node for node in sp.preorder_traversal(expression) if node.is_Symbol)
        self.idle += self.read(self.place.get(symbol, "") for symbol in symbols)
        return name
