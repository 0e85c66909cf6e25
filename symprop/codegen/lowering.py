"""From the formulas of a spec to straight-line assignments that keep every digit and share every sub-expression.

Powers of a symbolic exponent become exponentials of logarithms and merge into one exponential per product; symbol-free
sub-expressions become correctly rounded doubles; integer powers become squares and products.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache, reduce
from hashlib import sha256
from itertools import count
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.operations import LatticeOp
from sympy.core.symbol import Str
from sympy.logic.boolalg import Boolean

from symprop.codegen import cells
from symprop.codegen.recursion import Recursion
from symprop.codegen.spec import FunctionSpec
from symprop.core.errors import RefusedError
from symprop.core.expression import is_share, without_cancellation
from symprop.core.symbols import info, is_registered, layer
from symprop.functions.arc_cosine import AbsoluteGap, ArcCosine
from symprop.functions.depth_nodes import DepthPower, ExpMinusOne, GeometricSum, GrowthMinusOne, Saturated
from symprop.functions.piece_rule import Place
from symprop.functions.rising_ratio import ReciprocalSum, RisingRatio
from symprop.functions.rotary_means import RotaryAverage, RotaryMean
from symprop.functions.softmax_layer import AVERAGES, LayerMoment
from symprop.functions.softmax_overlap import (
    JacobianOverlap,
    OverlapGap,
    PairNode,
    RowGap,
    RowNode,
    SoftmaxSlope,
    WeightGap,
    jacobian_square,
)
from symprop.functions.softmax_tabulated import TabulatedRowGap, TabulatedWeightGap
from symprop.functions.table_sum import Smaller, SmoothSum, TableSum, table_rows
from symprop.functions.token_means import PairMean, RowMean

_MEANS = (RowMean, PairMean, RotaryMean)
_OPAQUE = (TableSum, sp.Piecewise)
"""What a form without cancellation is not looked for in: its sign is unknown, and expanding it takes long."""

UNITS = ("", "_unit", "_normed")
"""Ends of the names for Gaussian tokens, tokens of fixed norm, and normalised queries and keys."""


def layer_name(level: str, unit: int) -> str:
    """The name of the function of a level and of ``Geometry.unit``."""
    return f"_softmax_layer_{level}{UNITS[unit]}"


class _Lowered(sp.Function):
    """A function that the printer tables know; SymPy does not rewrite it."""


class Exp(_Lowered):
    """e^x."""


class Expm1(_Lowered):
    """e^x - 1."""


class Log(_Lowered):
    """log(x)."""


class PowerLog(_Lowered):
    """log(max(x, tiny)) of a nonnegative base of a power: finite, so that 0^L and its gradient are not nan."""


class Log1p(_Lowered):
    """log(1 + x)."""


class GrowthLog(_Lowered):
    """log(1 + x) of x >= 0."""


class LogNearOne(_Lowered):
    """log(1 + x), given x and a form of 1 + x in which nothing cancels, for x near -1."""


class Complement(_Lowered):
    """1 - x of x in [0, 1], taken before anything is added to it."""


class OnePlusProduct(_Lowered):
    """1 + x*y of a product that is at least -1, rounded once."""


class BoundedExponent(_Lowered):
    """min(x, log of the largest finite number)."""


class TimesGrowth(_Lowered):
    """The product of x and of parts of growths that may overflow, from left to right: zero where x is."""


class Grouped(_Lowered):
    """x*y, each computed first: a growth y that may overflow and a quotient x that is small."""


class Square(_Lowered):
    """x^2."""


class Sqrt(_Lowered):
    """x^(1/2)."""


class Power(_Lowered):
    """x^y without any rewriting."""


class ArcCosine0(_Lowered):
    """ArcCosine(0, gap, v), given the gap and 2v - gap: neither is found from the other's rounded value."""


class ArcCosine1(_Lowered):
    """ArcCosine(1, gap, v)."""


class ArcCosine2(_Lowered):
    """ArcCosine(2, gap, v)."""


class ArcTangent(_Lowered):
    """The arc tangent of a quotient, given what is divided and by what: one division is enough for both."""


class RisingStep(_Lowered):
    """RisingRatio(u, v, N), given u - v, v, N and u: neither the step nor u is a difference of two large numbers."""


class Step(_Lowered):
    """0 below zero, 1 above, a half at zero: the derivative of a larger of two."""


class SoftmaxRow(_Lowered):
    """Moments of a row of softmax weights: (text of the requests, variance, tokens, dimension or None, spread)."""


class SoftmaxPair(_Lowered):
    """Moments of two rows: (text of the requests, variance, gap, tokens, additional keys)."""


class SoftmaxWeightGap(_Lowered):
    """WeightGap of (variance, tokens)."""


class SoftmaxRowGap(_Lowered):
    """RowGap of (variance, gap, tokens)."""


class SoftmaxOverlapGap(_Lowered):
    """OverlapGap of (variance, gap, tokens)."""


class TableWeightGap(_Lowered):
    """TabulatedWeightGap of (variance, tokens)."""


class TableRowGap(_Lowered):
    """TabulatedRowGap of (variance, gap, tokens)."""


class SoftmaxCall(_Lowered):
    """A function of the module that gives several averaged moments: (its name, its arguments)."""


class Entry(_Lowered):
    """The k-th of several values, given these and k."""


LOOPS: dict[str, TableSum] = {}
"""Table sums that a lowered expression calls by name."""


def _called(node: TableSum) -> Any:
    """The function of the arguments that sums a table; its name follows from the summand."""
    slug = "_".join(node.label.split())
    name = f"_{slug}_{_digest(node.table, node.summand, *node.args[3 : node.described_by])}"
    LOOPS[name] = node
    return sp.Function(name)


@lru_cache(maxsize=256)
def _digest(*parts: Any) -> str:
    return sha256("\n".join(map(_structure, parts)).encode()).hexdigest()[:10]


@lru_cache(maxsize=4096)
def _structure(part: Any) -> str:
    """A text that only equal expressions share: SymPy may order the terms of a sum by the hash seed."""
    if not isinstance(part, sp.Basic) or not part.args:
        return sp.srepr(part) if isinstance(part, sp.Number) else str(part)
    below = list(map(_structure, part.args))
    if isinstance(part, (sp.Add, sp.Mul, LatticeOp)):
        below.sort()
    return sha256(f"{part.func.__name__}({', '.join(below)})".encode()).hexdigest()


@dataclass(frozen=True)
class Means:
    """Moments that are averaged together: over what, bound symbols, moments, parameters, and how many numbers come first."""

    kind: type
    bound: tuple[sp.Symbol, ...]
    moments: tuple[sp.Expr, ...]
    free: tuple[sp.Symbol, ...]
    numbers: int


MEANS: dict[str, Means] = {}
"""Averages that a lowered expression calls by name."""


def _mean_key(node: sp.Expr) -> tuple[Any, ...]:
    """What averages that are evaluated together have in common: all but the moment."""
    return (node.func, *node.args[1:])


class LogGeometricSum(_Lowered):
    """The geometric sum of (e^a, e^b, depth), given a, b and the depth."""


_GROWTHS = (Exp, Expm1, LogGeometricSum)
_GROWING = (*_GROWTHS, RisingStep)
"""What may leave the range of doubles where its argument is ordinary."""


@dataclass(frozen=True)
class Assignment:
    """``name = expression``; ``depends`` has bit k set where it depends on the k-th parameter of the signature."""

    name: sp.Symbol
    expression: sp.Expr
    depends: int


@dataclass(frozen=True)
class Program:
    """The assignments of a spec in order of evaluation, its results, and how many operations they take."""

    assignments: tuple[Assignment, ...]
    results: tuple[sp.Expr, ...]
    operations: int


def program(spec: FunctionSpec) -> Program:
    """Lower all outputs of a spec together.

    Every elementary function gets its own assignment, sorted so that what depends on fewer parameters comes first: a
    backend can then compute it only when one of these parameters changes.
    """
    arguments = [parameter.symbol for parameter in spec.signature]
    return lower_together([expression for _, expression in spec.outputs], arguments, set())


def lower_together(expressions: Sequence[sp.Expr], arguments: Sequence[sp.Symbol], taken: Set[str]) -> Program:
    """Lower expressions in given arguments with shared parts, whose names are not among those taken."""
    return _program(tuple(expressions), tuple(arguments), frozenset(taken))


@dataclass(frozen=True)
class LoopProgram:
    """A function with a loop.

    ``before`` is computed once: all that no state enters, and the start of every state, which is in ``starts``. ``body``
    is one layer, whose results are ``updates``; ``after`` takes the final state to the results. ``operations`` is a
    layer's, ``other_operations`` what is done once.
    """

    before: tuple[Assignment, ...]
    starts: tuple[sp.Expr, ...]
    body: tuple[Assignment, ...]
    updates: tuple[sp.Expr, ...]
    after: Program
    operations: int
    other_operations: int


def loop_program(spec: FunctionSpec, loop: Recursion) -> LoopProgram:
    """Lower the loop of a spec, and its outputs for themselves, since they see another state than the last layer did."""
    own, inside = [parameter.symbol for parameter in spec.signature], [*loop.state, layer]
    layers = (_with_own_coefficients(item, inside) for item in loop.updates.values())
    first = _program((*loop.start.values(), *layers), (*own, *inside), frozenset(), frozenset(inside))
    seen = (1 << len(own)) - 1
    before = tuple(item for item in first.assignments if not item.depends & ~seen)
    body = tuple(item for item in first.assignments if item.depends & ~seen)
    count = len(loop.state)
    after = lower_together([expression for _, expression in spec.outputs], [*own, *loop.state],
                           {str(item.name) for item in first.assignments})
    starts, updates = first.results[:count], first.results[count:]
    repeated = _operations((*(item.expression for item in body), *updates))
    return LoopProgram(before, starts, body, updates, after, repeated, first.operations - repeated + after.operations)


def _with_own_coefficients(update: sp.Expr, varying: Iterable[sp.Symbol]) -> sp.Expr:
    """An update with factors that no layer changes multiplied into the terms of sums that have such a factor already.

    Terms without one are left together: their sum may be exact where every product is rounded.

    >>> a, b, x, y = sp.symbols("a b x y")
    >>> _with_own_coefficients(x + a*(b*x + 2*y) + a*(x - y), [x, y])
    a*b*x + 2*a*y + a*(x - y) + x
    """
    terms: list[sp.Expr] = []
    for term in sp.Add.make_args(update):
        factor, rest = term.as_independent(*varying, as_Add=False)
        inner = [item.as_independent(*varying, as_Add=False) for item in sp.Add.make_args(rest)]
        whole = factor == 1 or len(inner) == 1 or any(abs(coefficient) == 1 for coefficient, _ in inner)
        terms += [term] if whole else [factor * coefficient * part for coefficient, part in inner]
    return sp.Add(*terms)


# Every backend asks for the same.
@lru_cache(maxsize=128)
def _program(
    expressions: tuple[sp.Expr, ...], arguments: tuple[sp.Symbol, ...], taken: frozenset[str],
    varying: frozenset[sp.Symbol] = frozenset(),
) -> Program:
    names = {str(symbol) for symbol in arguments} | taken
    lowering = _Lowering(expressions)
    bound: dict[sp.Expr, sp.Symbol] = {}
    seen: dict[sp.Expr, sp.Expr] = {}
    results = [_bind(lowering.lower(expression), bound, seen, varying) for expression in expressions]
    shared, reduced = sp.cse([*bound, *results], symbols=(sp.Dummy(f"shared{k}") for k in count()), order="canonical")
    definitions = dict(zip(bound.values(), reduced, strict=False)) | dict(shared)
    bits = {symbol: 1 << k for k, symbol in enumerate(arguments)}
    depends, level = dict(bits), dict.fromkeys(bits, 0)

    def place(name: sp.Symbol) -> None:
        if name not in depends:
            inputs = _free(definitions[name])
            for symbol in inputs:
                place(symbol)
            depends[name] = sum({bit for s in inputs for bit in bits.values() if depends[s] & bit})
            level[name] = 1 + max(level[s] for s in inputs)

    for name in definitions:
        place(name)
    position = {name: k for k, name in enumerate(definitions)}
    order = sorted(definitions, key=lambda s: (depends[s].bit_count(), depends[s], level[s], position[s]))
    fresh = (sp.Symbol(f"x{k}") for k in count() if f"x{k}" not in names)
    rename = dict(zip(order, fresh, strict=False))
    assignments = tuple(Assignment(rename[s], definitions[s].xreplace(rename), depends[s]) for s in order)
    final = tuple(result.xreplace(rename) for result in reduced[len(bound):])
    return Program(assignments, final, _operations((*(a.expression for a in assignments), *final)))


def _operations(expressions: Iterable[sp.Expr]) -> int:
    """How many operations expressions take, the rows of the tables that they sum included."""
    listed = list(expressions)
    calls = [node for item in listed for node in item.atoms(AppliedUndef) if node.func.__name__ in LOOPS]
    return sum(int(sp.count_ops(item)) for item in listed) + sum(_summed(LOOPS[call.func.__name__]) for call in calls)


def _summed(loop: TableSum) -> int:
    if isinstance(loop, SmoothSum):
        return cells.operations(len(loop.arguments))
    return int(sp.count_ops(loop.summand.expr)) * len(table_rows(loop.table))


def lower(expression: sp.Expr) -> sp.Expr:
    """One expression in the classes that the printer tables know, without sharing.

    >>> x, L = sp.symbols("x L", positive=True)
    >>> lower((1 + x)**L*sp.exp(3*x))
    Exp(L*GrowthLog(x) + 3*x)
    """
    lowered: sp.Expr = _Lowering([expression]).lower(expression)
    return lowered


def _bind(
    expression: sp.Expr, bound: dict[sp.Expr, sp.Symbol], seen: dict[sp.Expr, sp.Expr],
    varying: Set[sp.Symbol] = frozenset(),
) -> sp.Expr:
    """Replace every elementary function by a name, innermost first; equal ones share it.

    Where symbols are ``varying``, the largest parts free of them get a name as well, to be computed once before a loop.
    """
    if expression.is_Atom:
        return expression
    if expression not in seen:
        arguments = list(expression.args)
        fixed = [argument for argument in arguments if varying and not argument.free_symbols & varying]
        alone = bool(varying) and len(fixed) == len(arguments)
        if not alone and isinstance(expression, (sp.Add, sp.Mul)) and sum(bool(item.free_symbols) for item in fixed):
            rest = [argument for argument in arguments if argument not in fixed]
            arguments = [expression.func(*fixed), *rest]
        found = expression.func(*(_bind(argument, bound, seen, varying) for argument in arguments))
        elementary = isinstance(found, sp.Function) and not isinstance(found, (Square, Entry, sp.Piecewise))
        if (elementary or alone) and not found.is_Atom and not isinstance(found, Boolean):
            found = bound.setdefault(found, sp.Dummy(f"bound{len(bound)}"))
        seen[expression] = found
    return seen[expression]


LARGEST = sp.Float(sys.float_info.max)


def _by_tangent(sine: sp.Expr) -> sp.Expr | None:
    """The angle of a sine that nears 1 where its terms are large, by its tangent; None for any other.

    >>> x = sp.Symbol("x", nonnegative=True)
    >>> _by_tangent(x/(x + sp.Rational(1, 2)))
    atan(2*x/sqrt(4*x + 1))
    """
    over, below = sp.fraction(sp.together(sine))
    apart = sp.expand(below - over)
    if _is_positive(over, or_zero=True) and _is_positive(apart):
        return sp.atan(over / sp.sqrt(sp.expand(apart * (below + over))))
    return None


class _Lowering:
    def __init__(self, expressions: Iterable[sp.Expr]) -> None:
        self.alone: set[sp.Expr] = set()
        self.known: dict[Any, Any] = {}
        self.requests: dict[tuple[type, tuple[sp.Expr, ...]], dict[Any, None]] = {}
        self.means: dict[tuple[Any, ...], dict[sp.Lambda, None]] = {}
        for node in _nodes(expressions):
            if isinstance(node, _MEANS):
                self.means.setdefault(_mean_key(node), {}).setdefault(node.args[0])
            for moment in _moments(node):
                kind, request, arguments = _request(moment)
                self.requests.setdefault((kind, arguments), {}).setdefault(request)
            if isinstance(node, GrowthMinusOne):
                self.alone.add(node.args[0])
            elif isinstance(node, GeometricSum):
                self.alone.update(base for r in node.args[:2] for _, base, _ in _log_terms(r))

    def lower(self, node: Any) -> Any:
        """The node in the classes of the printer tables; a node that occurs twice is lowered once."""
        if node not in self.known:
            self.known[node] = self._lowered(node)
        return self.known[node]

    def _lowered(self, node: Any) -> Any:
        if not _free(node):
            return node if isinstance(node, (Boolean, Str)) else _number(node)
        if node.is_Symbol:
            return node
        if node.is_Add:
            constants = [argument for argument in node.args if not _free(argument)]
            terms = [argument for argument in node.args if _free(argument)]
            constant = sp.Add(*constants)
            factors = _at_least_minus_one(terms[0]) if constant == 1 and len(terms) == 1 else None
            if factors is not None:
                return OnePlusProduct(*map(self.lower, factors))
            share = next((term for term in terms if constant != 0 and is_share(-term / constant)), None)
            if share is None or len(terms) == 1:
                return sp.Add(_number(constant), *map(self.lower, terms))
            terms.remove(share)
            return sp.Add(_number(constant) * Complement(-share / constant), *map(self.lower, terms))
        if node.is_Mul or node.is_Pow or isinstance(node, sp.exp):
            return self.product(sp.Mul.make_args(node))
        if isinstance(node, DepthPower):
            return Exp(self.lower(node.args[1]) * self.sum_of_logs(_log_terms(node.args[0])))
        if isinstance(node, GrowthMinusOne):
            return Expm1(self.lower(node.args[1]) * self.log_of_one_plus(node.args[0]))
        if isinstance(node, Place):
            return self.lower(node.args[0])
        if isinstance(node, ExpMinusOne):
            return Expm1(self.lower(node.args[0]))
        if isinstance(node, Saturated):
            inner = self.lower(node.args[0])
            return Expm1(BoundedExponent(inner.args[0])) if isinstance(inner, Expm1) else sp.Min(inner, LARGEST)
        if isinstance(node, GeometricSum):
            first, second = (self.sum_of_logs(_log_terms(argument)) for argument in node.args[:2])
            return LogGeometricSum(first, second, self.lower(node.args[2]))
        if isinstance(node, RisingRatio):
            u, v, count = node.args
            return RisingStep(*(self.lower(item) for item in (sp.cancel(u - v), v, count, u)))
        if isinstance(node, sp.Heaviside):
            return Step(self.lower(node.args[0]))
        if isinstance(node, ArcCosine):
            outside = node.without_scale()
            if not isinstance(outside, ArcCosine):
                return self.lower(outside)
            k, gap, v = outside.args
            if k == 0:
                return ArcCosine0(self.lower(gap), self.lower(2 * v - gap))
            return (ArcCosine1, ArcCosine2)[int(k) - 1](self.lower(gap), self.lower(v))
        if isinstance(node, AbsoluteGap):
            gap, v = node.args
            near = Smaller(self.lower(gap), self.lower(2 * v - gap))
            return near - _number(2 / sp.pi) * ArcCosine1(near, self.lower(v))
        if isinstance(node, TableSum):
            return _called(node)(*(self.lower(argument) for argument in node.arguments))
        if isinstance(node, LayerMoment):
            name = layer_name(node.level, node.geometry.unit)
            values = SoftmaxCall(Str(name), *(self.lower(argument) for argument in node.args[2:-1]))
            return Entry(values, sp.Integer(list(AVERAGES).index(node.name)))
        if isinstance(node, _MEANS):
            return self.averaged(node)
        if isinstance(node, RotaryAverage):
            values = SoftmaxCall(Str("_softmax_rotary_averages"), *(self.lower(argument) for argument in node.places))
            return Entry(values, sp.Integer(node.place))
        if isinstance(node, (SoftmaxSlope, JacobianOverlap)):
            return self.lower(_spelled(node))
        if isinstance(node, TabulatedWeightGap):
            return TableWeightGap(self.lower(node.variance), self.lower(node.tokens))
        if isinstance(node, TabulatedRowGap):
            return TableRowGap(*(self.lower(argument) for argument in node.args))
        if isinstance(node, (WeightGap, RowGap, OverlapGap)):
            gap = {WeightGap: SoftmaxWeightGap, RowGap: SoftmaxRowGap, OverlapGap: SoftmaxOverlapGap}[node.func]
            return gap(*(self.lower(argument) for argument in node.args))
        if isinstance(node, (RowNode, PairNode)):
            kind, request, arguments = _request(node)
            requests = sorted(self.requests[kind, arguments])
            values = kind(Str(repr(requests)), *(
                Str("None") if argument is sp.oo else self.lower(argument) for argument in arguments
            ))
            return Entry(values, sp.Integer(requests.index(request)))
        if isinstance(node, sp.harmonic) and len(node.args) == 1:
            return ReciprocalSum(sp.S.One, self.lower(node.args[0]))
        if isinstance(node, sp.log):
            terms = _log_terms(node.args[0])
            if sum(plus_one for *_, plus_one in terms) > 1:
                ordered = self.log_below_one(node.args[0])
                if ordered is not None:
                    return ordered
            kept = [term for term in terms if term[2]]
            rest = sp.Mul(*(base**k for k, base, plus_one in terms if not plus_one))
            return sp.Add(self.sum_of_logs(kept), *([] if rest == 1 else [Log(self.lower(rest))]))
        if isinstance(node, sp.asin):
            tangent = _by_tangent(node.args[0])
            if tangent is not None:
                return self.lower(tangent)
        if isinstance(node, sp.atan):
            return ArcTangent(*sp.fraction(self.lower(node.args[0])))
        if isinstance(node, sp.Piecewise):
            return sp.Piecewise(*((self.lower(value), self.lower(condition)) for value, condition in node.args))
        return node.func(*(self.lower(argument) for argument in node.args))

    def averaged(self, node: sp.Expr) -> sp.Expr:
        """One of the averages over the same rows, pairs or lags, by a function of their numbers and parameters."""
        functions = sorted(self.means[_mean_key(node)], key=lambda item: str(item.expr))
        bound = node.args[0].signature
        numbers = [part for item in node.args[1:] for part in (item if isinstance(item, sp.Tuple) else (item,))]
        free = sorted(set().union(*(_free(item.expr) for item in functions)) - set(bound), key=str)
        moments = tuple(item(*bound) for item in functions)
        name = f"_means_{_digest(node.func.__name__, *moments, *numbers)}"
        MEANS[name] = Means(node.func, bound, moments, tuple(free), len(numbers))
        values = SoftmaxCall(Str(name), *(self.lower(item) for item in numbers), *free)
        return Entry(values, sp.Integer(functions.index(node.args[0])))

    def product(self, factors: Iterable[sp.Expr]) -> sp.Expr:
        """A product with all its exponentials and powers of symbolic exponent merged into one exponential."""
        constants, plain, exponents = [], [], []
        powers: dict[sp.Expr, list[tuple[sp.Expr, sp.Expr, bool]]] = {}
        for factor in factors:
            if not _free(factor):
                constants.append(factor)
            elif isinstance(factor, sp.exp):
                exponents.append(self.lower(factor.args[0]))
            elif factor.is_Pow and _free(factor.exp):
                if all(_has_logarithm(base, plus_one) for _, base, plus_one in _log_terms(factor.base)):
                    sign = -1 if factor.exp.could_extract_minus_sign() else 1
                    terms = [(sign * k, base, plus_one) for k, base, plus_one in _log_terms(factor.base)]
                    powers.setdefault(sign * factor.exp, []).extend(terms)
                else:
                    plain.append(Power(self.lower(factor.base), self.lower(factor.exp)))
            else:
                plain.append(self.power(factor))
        exponents += [self.lower(exponent) * self.sum_of_logs(terms) for exponent, terms in powers.items()]
        if exponents:
            plain.append(Exp(sp.Add(*exponents)))
        growing = [f for f in plain if isinstance(f, (*_GROWING, sp.Add)) and f.has(*_GROWING) and _grows(f)]
        # A sum that can vanish is what the others multiply, where there are others.
        growths = [f for f in growing if not (f.is_Add and _can_vanish(f))] or growing
        unbounded = [f for f in growths if _overflows(f)]
        growths = unbounded or growths
        # What grows in a divisor may cancel the growth.
        rest = [f for f in plain if f not in growths and (_can_vanish(f) or not _growths(f))]
        others = [f for f in plain if f not in growths and f not in rest]
        if unbounded and any(map(_can_vanish, rest)):
            plain = [TimesGrowth(sp.Mul(*rest), *(part for growth in unbounded for part in _parts(growth))), *others]
        elif growths and any(factor.is_Pow and factor.exp.is_negative for factor in rest):
            plain = [reduce(Grouped, growths, sp.Mul(*rest)), *others]
        return sp.Mul(_number(sp.Mul(*constants)), *plain)

    def power(self, factor: sp.Expr) -> sp.Expr:
        if not factor.is_Pow:
            return self.lower(factor)
        base, exponent = self.lower(factor.base), factor.exp
        if not (2 * exponent).is_Integer:
            return Power(base, _number(exponent))
        whole, half = divmod(abs(int(2 * exponent)), 2)
        if half and exponent < 0 and isinstance(base, Expm1):
            # The root may be in range where e^x - 1 is not: it is e^(x/2) times that of 1 - e^-x.
            (x,) = base.args
            inverse = Exp(-_number(sp.S.Half) * x) / Sqrt(-Expm1(-x))
            return inverse / _integer_power(base, whole) if whole else inverse
        powered = (_integer_power(base, whole) if whole else 1) * (Sqrt(base) if half else 1)
        return powered if exponent > 0 else 1 / powered

    def log_of_one_plus(self, rest: sp.Expr) -> sp.Expr:
        if rest.is_nonnegative:
            return GrowthLog(self.lower(rest))
        opaque = rest.has(*_OPAQUE)
        if not opaque and (grown := without_cancellation(rest)) is not None:
            return GrowthLog(self.lower(grown))
        if (root := _smaller_root(rest)) is not None:
            return LogNearOne(self.lower(rest), self.lower(root))
        whole = None if (-rest).is_Symbol or opaque else without_cancellation(1 + rest)
        if whole is None:
            if rest.is_Add and any(is_share(-term) for term in rest.args):
                return LogNearOne(self.lower(rest), self.lower(1 + rest))
            return Log1p(self.lower(rest))
        over, under = sp.fraction(rest)
        sign = -1 if under.could_extract_minus_sign() else 1
        positive = without_cancellation(sign * under)
        return LogNearOne(self.lower(rest if positive is None else sign * over / positive), self.lower(whole))

    def log_below_one(self, product: sp.Expr) -> sp.Expr | None:
        """log of a product that is at most one for all parameters: logarithms of its factors may cancel."""
        if product.has(*_OPAQUE):
            return None
        whole, lost = without_cancellation(product), without_cancellation(1 - product)
        return None if whole is None or lost is None else LogNearOne(-self.lower(lost), self.lower(whole))

    def sum_of_logs(self, terms: list[tuple[sp.Expr, sp.Expr, bool]]) -> sp.Expr:
        """Sum k log(b) or k log(1 + b); logarithms of 1 + b that nothing else needs become one of the product."""
        once = [b for k, b, plus_one in terms if k == 1 and plus_one and b.is_nonnegative and b not in self.alone]
        rest = [term for term in terms if len(once) < 2 or not (term[2] and term[0] == 1 and term[1] in once)]
        total = []
        if len(once) > 1:
            grown = self.lower(once[0])
            for base in once[1:]:
                more = self.lower(base)
                grown = grown + more * (1 + grown)
            total.append(GrowthLog(grown))
        for coefficient, base, plus_one in rest:
            if not _free(base):
                total.append(_number(coefficient * sp.log(base)))
            else:
                logarithm = self.log_of_one_plus(base) if plus_one else PowerLog(self.lower(base))
                total.append(_number(coefficient) * logarithm)
        return sp.Add(*total)


def _nodes(expressions: Iterable[sp.Basic]) -> Iterator[sp.Basic]:
    """Every node of some expressions once."""
    seen: set[sp.Basic] = set()
    waiting = list(expressions)[::-1]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting += reversed(node.args)


@lru_cache(maxsize=2**16)
def _free(node: sp.Basic) -> frozenset[sp.Symbol]:
    """The free symbols of a node; those of its parts are known from before."""
    if type(node).free_symbols is sp.Basic.free_symbols:
        return frozenset().union(*map(_free, node.args))
    return frozenset(node.free_symbols)


@lru_cache(maxsize=2**16)
def _growths(node: sp.Basic) -> frozenset[sp.Basic]:
    """What grows in a node."""
    below: frozenset[sp.Basic] = frozenset().union(*map(_growths, node.args))
    return below | {node} if isinstance(node, _GROWTHS) else below


def _smaller_root(rest: sp.Expr) -> sp.Expr | None:
    """1 + x for x = a - sqrt(b), without the difference; None for any other x.

    >>> a, b = sp.symbols("a b", positive=True)
    >>> _smaller_root(a + b - sp.sqrt(a**2 + b**2))
    (2*a*b + 2*a + 2*b + 1)/(a + b + sqrt(a**2 + b**2) + 1)
    """
    roots = [term for term in sp.Add.make_args(rest) if isinstance(-term, sp.Pow) and (-term).exp == sp.S.Half]
    if len(roots) != 1:
        return None
    half = rest - roots[0]
    product = without_cancellation((1 + half) ** 2 - roots[0] ** 2) if half.is_nonnegative else None
    return None if product is None else product / (1 + half - roots[0])


def _spelled(node: sp.Expr) -> sp.Expr:
    """A node that is evaluated as a sum of moments; there is no division by zero for a single token."""
    if isinstance(node, SoftmaxSlope):
        return jacobian_square(*node.args) / sp.Max(node.tokens - 1, 1)
    spelled: sp.Expr = node.moments()
    return spelled


def _moments(node: sp.Expr) -> Iterator[RowNode | PairNode]:
    """The moments of softmax weights that a node needs."""
    if isinstance(node, (SoftmaxSlope, JacobianOverlap)):
        for inner in sp.preorder_traversal(_spelled(node)):
            yield from _moments(inner)
    elif isinstance(node, (RowNode, PairNode)) and not isinstance(node, (RowGap, OverlapGap)):
        yield node


def _request(node: RowNode | PairNode) -> tuple[type, Any, tuple[sp.Expr, ...]]:
    """What evaluates a moment, its exponents (with the power of G for a row), and the arguments that share an evaluation."""
    if isinstance(node, RowNode):
        *arguments, weight = node.rest
        power = int(weight) if weight.is_Integer else float(weight)
        return SoftmaxRow, (node.powers, power), tuple(arguments)
    return SoftmaxPair, node.powers, node.rest


def _log_terms(base: sp.Expr) -> list[tuple[sp.Expr, sp.Expr, bool]]:
    """log(base) as a sum of k log(b), or of k log(1 + b) where the flag is set."""
    found = []
    for factor in sp.Mul.make_args(base):
        inner, exponent = (factor.base, factor.exp) if factor.is_Pow and factor.exp.is_number else (factor, sp.S.One)
        constant, rest = inner.as_coeff_Add()
        plus_one = constant == 1 and rest != 0
        found.append((exponent, rest if plus_one else inner, plus_one))
    return found


def _grows(growth: sp.Expr) -> bool:
    """Whether it grows with a parameter: what a table sums over is bounded."""
    return any(map(is_registered, _free(growth)))


def _overflows(growth: sp.Expr) -> bool:
    exponents = (exponent for item in _growths(growth) for exponent in item.args[:2])
    return any(not isinstance(item, BoundedExponent) and not _is_positive(-item, or_zero=True) for item in exponents)


def _parts(growth: sp.Expr) -> tuple[sp.Expr, ...]:
    """Factors of a growth, each about its root, so that a small number can be multiplied by it before it overflows."""
    if growth.is_Add or not _overflows(growth):
        return (growth,)
    if isinstance(growth, LogGeometricSum):
        one, other, depth = growth.args
        return (*_parts(Exp((depth - 1) * sp.Max(one, other))), LogGeometricSum(0, -sp.Abs(one - other), depth))
    half = growth.func(_number(sp.S.Half) * growth.args[0])
    return (half, half) if isinstance(growth, Exp) else (half, half + 2)


def _at_least_minus_one(product: sp.Expr) -> tuple[sp.Symbol, sp.Expr] | None:
    """A symbol and its factor, by which its range is bounded so that the product is at least -1."""
    for symbol in sorted(filter(is_registered, sp.Mul.make_args(product)), key=str):
        lower, factor = info(symbol).domain.lower, product / symbol
        if lower is not None and _free(factor) and sp.cancel(lower * factor) == -1:
            return symbol, factor
    return None


def _can_vanish(factor: sp.Expr) -> bool:
    return not (_is_positive(factor) or _is_positive(-factor) or (factor.is_Pow and factor.exp.is_negative))


def _is_positive(expression: sp.Expr, *, or_zero: bool = False) -> bool:
    """What the signs of parts show; SymPy's answer for long expressions depends on the order in which it asks itself."""
    if expression.is_Atom:
        return bool(expression.is_nonnegative if or_zero else expression.is_positive)
    if expression.is_Add:
        return all(_is_positive(item, or_zero=True) for item in expression.args) and (
            or_zero or any(map(_is_positive, expression.args)))
    if expression.is_Mul:
        return all(_is_positive(item, or_zero=or_zero) for item in expression.args)
    if isinstance(expression, Exp) or (or_zero and isinstance(expression, (Square, Sqrt))):
        return True
    powers = expression.is_Pow or isinstance(expression, (Square, Sqrt))
    return powers and _is_positive(expression.args[0], or_zero=or_zero)


def _has_logarithm(base: sp.Expr, plus_one: bool) -> bool:
    return plus_one or bool(base.is_nonnegative)


def _integer_power(base: sp.Expr, exponent: int) -> sp.Expr:
    if exponent == 1:
        return base
    half = Square(_integer_power(base, exponent // 2))
    return half * base if exponent % 2 else half


def _number(value: sp.Expr) -> sp.Expr:
    """A symbol-free expression as an integer that doubles hold, or as the nearest double."""
    if value.is_Integer and abs(value) < 2**53:
        return value
    if not (value.is_number and value.is_finite and value.is_real):
        raise RefusedError(str(value), "a constant of a generated function must be a finite real number",
                           "take the limit before generating code")
    return sp.Float(float(sp.N(value, 40)))


def in_groups(assignments: Iterable[Assignment]) -> Iterator[tuple[int, list[Assignment]]]:
    """Runs of assignments that depend on the same parameters."""
    group: list[Assignment] = []
    for assignment in assignments:
        if group and group[0].depends != assignment.depends:
            yield group[0].depends, group
            group = []
        group.append(assignment)
    if group:
        yield group[0].depends, group
