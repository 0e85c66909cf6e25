"""Depth without a closed form: a layer's map of moments, applied layer by layer, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import NDArray

from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import exact_value
from symprop.core.signal import Gradient
from symprop.functions.arc_cosine import ArcCosine, arc_cosine, arc_cosine_array
from symprop.functions.table_sum import TableSum, callable_sums, double_function
from symprop.network.trace import Trace

Values: TypeAlias = Mapping[sp.Symbol, Any]
Compile: TypeAlias = Callable[[Sequence[sp.Symbol], Sequence[sp.Expr]], Callable[..., Sequence[Any]]]


@dataclass(frozen=True)
class LayerMap:
    """One layer as a map of moments.

    ``updates`` takes each state symbol to its value after the layer, in terms of the state before it. ``transfer`` is
    the matrix that takes the gradient moments above the layer to those below it, as a function of the state *before*
    the layer; None where no gradient is wanted. Other symbols are parameters. Raises ``InputError`` for a transfer that
    is not square.

    >>> q, a = sp.symbols("q a", positive=True)
    >>> LayerMap({q: q + a}, sp.Matrix([[1 + a/q]])).parameters
    (a,)
    """

    updates: Mapping[sp.Symbol, sp.Expr]
    transfer: sp.ImmutableMatrix | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "updates", MappingProxyType({k: sp.sympify(v) for k, v in self.updates.items()}))
        if self.transfer is not None:
            matrix = sp.ImmutableMatrix(self.transfer)
            if matrix.rows != matrix.cols:
                raise InputError("transfer", matrix.shape, "a square matrix")
            object.__setattr__(self, "transfer", matrix)

    @property
    def state(self) -> tuple[sp.Symbol, ...]:
        """The state symbols, in the order of the updates."""
        return tuple(self.updates)

    @property
    def entries(self) -> tuple[sp.Expr, ...]:
        """The entries of the transfer matrix, row by row; none without one."""
        return () if self.transfer is None else tuple(self.transfer)

    @property
    def parameters(self) -> tuple[sp.Symbol, ...]:
        """Every symbol that is not a state, in order of name."""
        used = set().union(*(expression.free_symbols for expression in (*self.updates.values(), *self.entries)))
        return tuple(sorted(used - set(self.state), key=str))


def layer_map(trace: Trace, *, backward: bool = True) -> LayerMap:
    """The map of a block: (q, gap, mean) as far as they are symbols, and the transfer of the gradient's (q, gap).

    A single token, or a signal without a gap, has a one by one transfer.
    """
    start, end = trace.input, trace.expand()
    pairs = ((start.q, end.q), (start.gap, end.gap), (start.mean, end.mean))
    updates = {symbol: value for symbol, value in pairs if symbol.is_Symbol}
    if not backward:
        return LayerMap(updates)
    above = Gradient(sp.Dummy("g_q"), sp.Dummy("g_gap") if start.gap != 0 else sp.S.Zero)
    below = trace.backpropagate(above)
    names = [item for item in (above.q, above.gap) if item.is_Symbol]
    moments = [trace.substitute_moments(sp.expand(item)) for item in (below.q, below.gap)[: len(names)]]
    rows = [[sp.diff(moment, name) for name in names] for moment in moments]
    if any(entry.has(*names) for row in rows for entry in row):
        raise RefusedError("backward map of the block", "it is not linear in the gradient's moments", "iterate the trace")
    return LayerMap(updates, sp.ImmutableMatrix(rows))


@dataclass(frozen=True)
class Trajectory:
    """Moments at every depth: index 0 is the input, index ``depth`` the output; parameter arrays broadcast after it.

    ``forward`` maps a state symbol to an array of shape (depth + 1, ...). ``gradient`` has shape
    (depth + 1, moments, ...) and is None where no gradient was given. Exact trajectories hold mpmath numbers.
    """

    forward: Mapping[sp.Symbol, Any]
    gradient: Any | None = field(default=None)


def numpy_compile(arguments: Sequence[sp.Symbol], expressions: Sequence[sp.Expr]) -> Callable[..., Sequence[Any]]:
    """Compile with :func:`sympy.lambdify` for arrays.

    A function that numpy lacks is evaluated point by point through SymPy: right, and slow; the kernels of kinked
    activations and e^x - 1 are not among them. Pass another ``compile`` to :func:`iterate` where speed matters.
    """
    plain, sums = callable_sums(sp.Tuple(*expressions), double_function)
    own = _ARRAYS | {name: np.vectorize(function, otypes=[float]) for name, function in sums.items()}
    own |= {
        node.func.__name__: np.vectorize(_through_sympy(node.func), otypes=[float])
        for expression in expressions
        for node in expression.atoms(sp.Function)
        if not hasattr(np, _NUMPY_NAMES.get(node.func.__name__, node.func.__name__))
        and not issubclass(node.func, (sp.Piecewise, sp.Max, sp.Min, TableSum))
        and node.func.__name__ not in _ARRAYS
    }
    function: Callable[..., Sequence[Any]] = sp.lambdify(
        list(arguments), list(plain), modules=[own, "numpy"], cse=True
    )
    return function


_ARRAYS: dict[str, Callable[..., Any]] = {"ArcCosine": arc_cosine_array, "ExpMinusOne": np.expm1}

_NUMPY_NAMES = {"acos": "arccos", "asin": "arcsin", "atan": "arctan", "acosh": "arccosh", "asinh": "arcsinh",
                "atanh": "arctanh", "atan2": "arctan2", "Abs": "abs"}


def _through_sympy(function: Any) -> Callable[..., float]:
    return lambda *values: float(sp.N(function(*(_as_sympy(value) for value in values)), 17))


def _as_sympy(value: Any) -> sp.Expr:
    number = float(value)
    return sp.Integer(int(number)) if number.is_integer() else sp.Rational(number)


def iterate(
    layer: LayerMap,
    start: Values,
    depth: int,
    values: Values | Sequence[Values] = MappingProxyType({}),
    gradient: Sequence[Any] | None = None,
    compile: Compile = numpy_compile,
) -> Trajectory:
    """Propagate through ``depth`` layers: state from the bottom up, gradient moments from the top down.

    ``start`` gives every state symbol at the input, ``values`` every parameter, once or as one mapping per layer (from
    the bottom), ``gradient`` the moments at the top. Numbers and arrays broadcast against each other; the only Python
    loop is over depth. ``compile`` turns expressions into a function of arrays. Raises ``InputError`` for a missing
    value, one that nothing uses, or the wrong number of layers or moments.

    >>> q, a = sp.symbols("q a", positive=True)
    >>> found = iterate(LayerMap({q: q + a}, sp.Matrix([[1 + a/q]])), {q: 1}, 3, {a: [1, 2]}, [1.0])
    >>> found.forward[q][-1].tolist(), found.gradient[0, 0].round(12).tolist()
    ([4.0, 7.0], [4.0, 7.0])
    """
    rows = _rows(layer, start, depth, values, gradient)
    floats = [{key: np.asarray(item, dtype=float) for key, item in row.items()} for row in rows]
    begin = {symbol: np.asarray(start[symbol], dtype=float) for symbol in layer.state}
    top = [] if gradient is None else [np.asarray(item, dtype=float) for item in gradient]
    given = [item for row in floats for item in row.values()]
    shape = np.broadcast_shapes(*(item.shape for item in (*begin.values(), *top, *given)))
    arguments = (*layer.state, *layer.parameters)
    forward = np.empty((depth + 1, len(layer.state), *shape))
    for index, symbol in enumerate(layer.state):
        forward[0, index] = begin[symbol]
    step = compile(arguments, tuple(layer.updates.values()))
    for position in range(depth):
        for index, item in enumerate(step(*forward[position], *(floats[position][key] for key in layer.parameters))):
            forward[position + 1, index] = item
    states = MappingProxyType({symbol: forward[:, index] for index, symbol in enumerate(layer.state)})
    if gradient is None:
        return Trajectory(states)
    back = np.empty((depth + 1, len(top), *shape))
    for index, value in enumerate(top):
        back[depth, index] = value
    pull = compile(arguments, layer.entries)
    for position in reversed(range(depth)):
        entries = pull(*forward[position], *(floats[position][key] for key in layer.parameters))
        back[position] = _pulled(entries, back[position + 1])
    return Trajectory(states, back)


@dataclass(frozen=True)
class Reached:
    """Where points of a grid ended: their states, the layer at which each stopped, and why.

    ``collapsed`` says that gap/q fell below the given share, ``settled`` that no state moved any more; neither is set
    where the depth was used up.
    """

    states: Mapping[sp.Symbol, NDArray[np.float64]]
    layers: NDArray[np.int64]
    collapsed: NDArray[np.bool_]
    settled: NDArray[np.bool_]


def iterate_until(
    layer: LayerMap,
    start: Values,
    depth: int,
    values: Values = MappingProxyType({}),
    *,
    share: float = 0.0,
    change: float = 0.0,
    compile: Compile = numpy_compile,
) -> Reached:
    """Propagate a grid of parameters, and drop points that have collapsed or settled: what is left runs on.

    The first two states are q and gap. A point stops once gap/q < ``share`` or no state moves by more than the fraction
    ``change`` in a layer. Only the end is kept, in the shape that start and values broadcast to. Raises ``InputError`` as
    :func:`iterate` does.

    >>> q, gap, a = sp.symbols("q gap a", positive=True)
    >>> halves = LayerMap({q: q, gap: a*gap})
    >>> iterate_until(halves, {q: 1, gap: 1}, 100, {a: [0.5, 0.1, 1]}, share=1e-6).layers.tolist()
    [20, 7, 100]
    """
    (row,) = _rows(layer, start, 1, values, None)
    if depth != int(depth) or depth < 0:
        raise InputError("depth", depth, "an integer >= 0")
    wanted = (*(start[key] for key in layer.state), *(row[key] for key in layer.parameters))
    given = [np.asarray(item, dtype=float) for item in wanted]
    shape = np.broadcast_shapes(*(item.shape for item in given))
    flat = np.stack([np.broadcast_to(item, shape).ravel() for item in given])
    count = len(layer.state)
    end, layers = flat[:count].copy(), np.full(flat.shape[1], int(depth))
    collapsed, settled = (np.zeros(flat.shape[1], dtype=bool) for _ in range(2))
    step = compile((*layer.state, *layer.parameters), tuple(layer.updates.values()))
    active, state, parameters = np.arange(flat.shape[1]), flat[:count], flat[count:]
    for position in range(int(depth) + 1):
        fallen = state[1] < share * state[0]
        still = np.zeros_like(fallen)
        if position < depth:
            moved = np.stack([np.broadcast_to(item, state.shape[1:]) for item in step(*state, *parameters)])
            still = ~fallen & np.all(np.abs(moved - state) <= change * np.abs(state), axis=0) if change > 0 else still
        stop = fallen | still
        end[:, active], layers[active[stop]] = state, position
        collapsed[active], settled[active] = fallen, still
        if position == depth or stop.all():
            break
        active, state, parameters = active[~stop], moved[:, ~stop], parameters[:, ~stop]
    states = {symbol: end[index].reshape(shape) for index, symbol in enumerate(layer.state)}
    return Reached(MappingProxyType(states), *(item.reshape(shape) for item in (layers, collapsed, settled)))


def _pulled(entries: Sequence[Any], above: NDArray[np.float64]) -> NDArray[np.float64]:
    count = len(above)
    rows = [sum(entries[row * count + column] * above[column] for column in range(count)) for row in range(count)]
    return np.stack([np.broadcast_to(row, above.shape[1:]) for row in rows])


def iterate_exact(
    layer: LayerMap,
    start: Values,
    depth: int,
    values: Values | Sequence[Values] = MappingProxyType({}),
    gradient: Sequence[Any] | None = None,
    digits: int = 50,
) -> Trajectory:
    """The same as :func:`iterate` at one point in mpmath numbers, with ``digits`` working digits and guard digits.

    Numbers may be exact SymPy numbers; floats stand for their binary value. ``forward`` holds lists over depth,
    ``gradient`` a list over depth of lists of moments.
    """
    rows = _rows(layer, start, depth, values, gradient)
    arguments = (*layer.state, *layer.parameters)
    with mpmath.workdps(digits + 15):
        step, pull = (mpmath_compile(arguments, wanted) for wanted in (tuple(layer.updates.values()), layer.entries))
        fixed = [[_number(row[key]) for key in layer.parameters] for row in rows]
        states = [[_number(start[symbol]) for symbol in layer.state]]
        for row in fixed:
            states.append([mpmath.mpmathify(item) for item in step(*states[-1], *row)])
        forward = MappingProxyType(
            {symbol: [state[index] for state in states] for index, symbol in enumerate(layer.state)}
        )
        if gradient is None:
            return Trajectory(forward)
        back = [[_number(item) for item in gradient]]
        count = len(gradient)
        for state, row in zip(reversed(states[:-1]), reversed(fixed), strict=True):
            entries = pull(*state, *row)
            back.append([mpmath.fdot(entries[k * count : (k + 1) * count], back[-1]) for k in range(count)])
    return Trajectory(forward, back[::-1])


def mpmath_compile(arguments: Sequence[sp.Symbol], expressions: Sequence[sp.Expr]) -> Callable[..., Sequence[Any]]:
    """Compile for mpmath numbers at the working precision; nodes of this package go through SymPy."""
    return _mpmath_compiled(tuple(arguments), tuple(expressions))


@lru_cache(maxsize=128)
def _mpmath_compiled(arguments: tuple[sp.Symbol, ...], expressions: tuple[sp.Expr, ...]) -> Callable[..., Sequence[Any]]:
    def through_sympy(function: Any) -> Callable[..., Any]:
        def value(*values: Any) -> Any:
            numbers = [mpmath.mpmathify(item) for item in values]
            if any(mpmath.im(number) != 0 or mpmath.isnan(number) for number in numbers):
                return mpmath.nan
            exact = (sp.Integer(int(v)) if v == mpmath.floor(v) and abs(v) < 2**53 else sp.Float(v, mpmath.mp.dps)
                     for v in map(mpmath.re, numbers))
            return mpmath.mpmathify(sp.N(function(*exact), mpmath.mp.dps))

        return value

    plain, sums = callable_sums(sp.Tuple(*expressions))
    own = dict(sums) | {
        node.func.__name__: through_sympy(node.func)
        for expression in expressions
        for node in expression.atoms(sp.Function)
        if node.func.__module__.startswith("symprop.") and not issubclass(node.func, TableSum)
    } | {ArcCosine.__name__: arc_cosine}
    function: Callable[..., Sequence[Any]] = sp.lambdify(
        list(arguments), list(plain), modules=[own, "mpmath"], cse=True
    )
    return function


def _number(value: Any) -> Any:
    return mpmath.mpmathify(sp.N(exact_value(value), mpmath.mp.dps))


def _rows(
    layer: LayerMap, start: Values, depth: int, values: Values | Sequence[Values], gradient: Sequence[Any] | None
) -> list[Values]:
    """The parameters of every layer, after all arguments have been checked."""
    if depth != int(depth) or depth < 0:
        raise InputError("depth", depth, "an integer >= 0")
    if set(start) != set(layer.state):
        raise InputError("start", sorted(map(str, start)), f"values of {', '.join(map(str, layer.state))}")
    rows = [values] * depth if isinstance(values, Mapping) else list(values)
    if len(rows) != depth:
        raise InputError("values", f"{len(rows)} layers", f"one mapping, or {depth}")
    for row in rows:
        if set(row) != set(layer.parameters):
            raise InputError("values", sorted(map(str, row)), f"values of {', '.join(map(str, layer.parameters))}")
    size = 0 if layer.transfer is None else layer.transfer.rows
    if gradient is not None and (len(gradient) != size or size == 0):
        raise InputError("gradient", f"{len(gradient)} moments", f"{size} moments, as the transfer has rows")
    return rows
