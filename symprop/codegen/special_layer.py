"""Code of the averaged moments of a softmax layer: formulas of one and two rows, summed over scales and correlations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

import sympy as sp

from symprop.codegen.lowering import UNITS, layer_name, program
from symprop.codegen.printers import Code
from symprop.codegen.spec import FunctionSpec, Parameter
from symprop.core.symbols import Domain
from symprop.functions.softmax_layer import (
    AVERAGES,
    LEGENDRE,
    LEVELS,
    LINEAR,
    PAIR_ARGUMENTS,
    ROW_ARGUMENTS,
    SINGLE,
    SMALLEST,
    Geometry,
    formulas,
)

_LAYER = '''\
def {name}(a, n, D, d_k, deficit, bias):
    """Averaged moments of the softmax weights of a layer: {names}."""
    a, n, D, d_k, deficit, bias = {broadcast}
    single = n < 2
    n = {where}(single, 2 + 0*n, n)
    small = {where}(a < {smallest}, a/{smallest}, 1 + 0*a)
    a = {where}(a < {smallest}, {smallest} + 0*a, a)
    nodes = [item + 0*a for item in {rules}(D, d_k, deficit, bias)]
    shift, weight = {stack}(nodes[:3]), {stack}(nodes[3:6])
    scale, wider, x, both = ({stack}(nodes[k:k + 9]) for k in (6, 15, 24, 33))
    rows = {rows}(a*(1 + shift), n + 0*shift, D + 0*shift, d_k + 0*shift)
    pairs = {pairs}(a*scale, n + 0*scale, D + 0*scale, d_k + 0*scale, x)
    start, wide, share = scale[::3], wider[::3], both[0::3] + both[1::3] + both[2::3]
    slopes = [0*a, 0*a]
    for place, part in {legendre}:
        at = {rows}(a*(start + place*wide), n + 0*start, D + 0*start, d_k + 0*start)
        slopes = [slope + part*(share*a*wide*at[k]).sum(0) for slope, k in zip(slopes, {slopes})]
    values = [
{values}
    ]
    return {stack}([{where}(single, one + 0*a, value) for one, value in zip({ones}, values)])'''

_MIXED = '''\
def {name}(a, n, D, d_k, deficit, bias):
    """Averaged moments for tokens of fixed norm: keys on a sphere and normal keys, mixed by the squared deficit."""
    theta = deficit**2
    return theta*{name}_sphere(a, n, D, d_k, deficit, bias) + (1 - theta)*{name}_normal(a, n, D, d_k, deficit, bias)'''


def layer_texts(used: str, backend: str) -> Iterable[str]:
    """The functions of averaged moments that a text calls."""
    for level in LEVELS:
        for unit in range(len(UNITS)):
            name = layer_name(level, unit)
            if re.search(rf"(?<![.\w]){name}\(", used):
                yield from _texts(level, unit, backend)


@cache
def _texts(level: str, unit: int, backend: str) -> tuple[str, ...]:
    name = layer_name(level, unit)
    names, item = Geometry.of_nodes(unit)
    columns = [*zip(*item.one_row, strict=True), *zip(*item.two_rows, strict=True)]
    rules = list_function(f"{name}_nodes", "Nodes and weights of one row and of two rows.", names,
                      [value for column in columns for value in column], backend)
    if not unit or level == "closed_form":
        return (rules, *_kind(name, f"{name}_nodes", level, False, unit, backend))
    kinds = [text for sphere, end in ((True, "_sphere"), (False, "_normal"))
             for text in _kind(name + end, f"{name}_nodes", level, sphere, unit, backend)]
    return (rules, *kinds, _MIXED.format(name=name))


def _kind(name: str, rules: str, level: str, sphere: bool, unit: int, backend: str) -> Iterable[str]:
    row, pair = formulas(level, sphere, unit == 2)
    rows, pairs = list(row), list(pair)
    yield list_function(f"{name}_row", "Moments of one row of weights.", ROW_ARGUMENTS, list(row.values()), backend)
    yield list_function(f"{name}_pair", "Moments of two rows of weights.", PAIR_ARGUMENTS, list(pair.values()), backend)
    slopes = sorted({average.slope for average in AVERAGES.values() if average.slope})
    values = []
    for key, average in AVERAGES.items():
        if average.kind == "row":
            text = f"(weight*{'(1 + shift)*' * average.power}rows[{rows.index(average.formula)}]).sum(0)"
        else:
            text = f"(both*{'scale*(1 - x)*' * average.power}pairs[{pairs.index(average.formula)}]).sum(0)"
        if average.slope:
            text += f" + slopes[{slopes.index(average.slope)}]"
        values.append(f"        {f'small*({text})' if key in LINEAR else text},")
    library = "np" if backend == "numpy" else "torch"
    arguments = "a, n, D, d_k, deficit, bias"
    broadcast = f"np.broadcast_arrays({arguments})"
    if backend == "torch":
        broadcast = f"(item + 0*({arguments.replace(', ', ' + ')}) for item in ({arguments}))"
    yield _LAYER.format(
        name=name, names=", ".join(AVERAGES), broadcast=broadcast, where=f"{library}.where", stack=f"{library}.stack",
        smallest=SMALLEST, rules=rules, rows=f"{name}_row", pairs=f"{name}_pair", values="\n".join(values),
        legendre=tuple((float(place), float(part)) for place, part in LEGENDRE),
        slopes=tuple(rows.index(slope) for slope in slopes), ones=tuple(float(key in SINGLE) for key in AVERAGES),
    )


def list_function(name: str, title: str, arguments: Sequence[sp.Symbol], values: Sequence[sp.Expr], backend: str) -> str:
    """A function of arrays or tensors that returns a list of values."""
    plain = [sp.Symbol(symbol.name, **symbol.assumptions0) for symbol in arguments]
    put = {symbol: name for symbol, name in zip(arguments, plain, strict=True) if symbol != name}
    named = map(sp.sympify, values)
    outputs = tuple((f"v{k}", value.xreplace(put) if put else value) for k, value in enumerate(named))
    parameters = tuple(Parameter(symbol, "", "", Domain()) for symbol in plain)
    lowered, code = program(FunctionSpec("formula", parameters, outputs, "")), Code(backend)
    return "\n".join((
        f"def {name}({', '.join(map(str, plain))}):",
        f'    """{title}"""',
        *(f"    {item.name} = {code.text(item.expression)}" for item in lowered.assignments),
        "    return [",
        *(f"        {code.text(result)}," for result in lowered.results),
        "    ]",
    ))
