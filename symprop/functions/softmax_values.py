"""Fast values of formulas in softmax moments: double precision, all rows of a formula in one integral, kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import sympy as sp
from sympy.codegen.cfunctions import log1p

from symprop.core.errors import InputError
from symprop.functions.piece_rule import gauss_rule
from symprop.functions.rotary_means import RotaryAverage, RotaryMean
from symprop.functions.softmax_layer import (
    AVERAGES,
    LEGENDRE,
    LINEAR,
    PAIR_ARGUMENTS,
    ROW_ARGUMENTS,
    SINGLE,
    SMALLEST,
    Geometry,
    LayerMoment,
    formulas,
)
from symprop.functions.softmax_numeric import gamma_nodes, pair_moments, row_moments
from symprop.functions.softmax_operators import Monomial, cross_heat, heat
from symprop.functions.softmax_overlap import (
    JacobianOverlap,
    OverlapGap,
    PairMoment,
    Participation,
    RowGap,
    RowOverlap,
    SoftmaxSlope,
    WeightGap,
    WeightMoment,
    evaluated,
)
from symprop.functions.table_sum import extremes
from symprop.functions.token_means import PairMean, RowMean, outermost, special_functions

MEANS = (RowMean, PairMean, RotaryMean, RotaryAverage)
"""Averages over rows, pairs of rows and lags, which evaluate the moments inside themselves."""
_Key: TypeAlias = tuple[Any, ...]
"""A moment at a point: ("row", powers, a, n, D), ("pair", powers, a, g, n, m) or ("layer", name, level, arguments)."""
_Terms: TypeAlias = list[tuple[float, _Key | None]]
"""A linear combination of moments; None stands for 1."""

_NODES = (Participation, WeightMoment, WeightGap, SoftmaxSlope, RowOverlap, RowGap, OverlapGap, JacobianOverlap, PairMoment,
          LayerMoment)
_SMALL = 0.02
"""A score variance, gap or covariance below this: a difference of moments is the integral of its derivative."""
_PLACES, _WEIGHTS = np.array(gauss_rule(5)).T
_BETWEEN = np.array([[float(item) for item in node] for node in LEGENDRE])
_TABLE: dict[_Key, float] = {}
_TABLE_SIZE = 500_000


class Evaluator:
    """Values of ``expressions`` at numbers for ``arguments``, as floats.

    A call evaluates the integrals of all moments of a row together; moments met before are looked up. Relative accuracy 1e-10;
    gaps keep it as they vanish.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> [float(f"{x:.9g}") for x in Evaluator([64*Participation(a, n), WeightGap(a, n)], [a, n])(1e-12, 64.0)]
    [1.0, 1.5625e-14]
    """

    def __init__(self, expressions: Sequence[sp.Expr], arguments: Sequence[sp.Symbol]) -> None:
        plain = [sp.sympify(item).replace(sp.log, _logarithm) for item in expressions]
        nodes = sorted(set().union(*(outermost(item, (*_NODES, *MEANS)) for item in plain)), key=sp.default_sort_key)
        names = [sp.Dummy(f"m{k}") for k in range(len(nodes))]
        table = dict(zip(nodes, names, strict=True))
        self._nodes = [_terms(node) for node in nodes]
        modules: list[Any] = [special_functions(), "numpy"]
        places = [_place(node) for node in nodes]
        self._inner = sp.lambdify(tuple(arguments), places, modules, cse=True)
        self._outer = sp.lambdify((*arguments, *names), [item.xreplace(table) for item in plain], modules, cse=True)

    def __call__(self, *values: float) -> list[float]:
        return self.many([values])[0]

    def many(self, points: Sequence[Sequence[float]]) -> list[list[float]]:
        """Values at several points, with one evaluation of the integrals for all."""
        points = [[float(value) for value in values] for values in points]
        places = [self._inner(*numbers) for numbers in points]
        terms = [[node(*map(float, at)) for node, at in zip(self._nodes, row, strict=True)] for row in places]
        _tabulate({key for row in terms for part in row for _, key in part if key is not None})
        found = []
        for numbers, row in zip(points, terms, strict=True):
            moments = [sum(factor if key is None else factor * _TABLE[key] for factor, key in part) for part in row]
            found.append([float(item) for item in self._outer(*numbers, *moments)])
        return found


@lru_cache(maxsize=3)
def _rules(unit: int) -> Callable[..., Any]:
    """The nodes of one row and of two rows as a function of D, d_k, deficit and bias."""
    names, item = Geometry.of_nodes(unit)
    numbers = [number for node in (*item.one_row, *item.two_rows) for number in node]
    # Written out, the nodes are a thousand times as long as their shared parts.
    shared, reduced = sp.cse(numbers, order="none")
    found = sp.lambdify(names, reduced, [extremes(np), "numpy"], cse=lambda rest, **_: (shared, rest))

    def nodes(*sizes: float) -> tuple[Any, Any]:
        values = np.array(found(*sizes), dtype=np.float64)
        own = 2 * len(item.one_row)
        return values[:own].reshape(-1, 2), values[own:].reshape(-1, 4)

    return nodes


@lru_cache(maxsize=16)
def _compiled(level: str, sphere: bool, normed: bool) -> tuple[Evaluator, Evaluator, list[str], list[str]]:
    row, pair = formulas(level, sphere, normed)
    return (Evaluator(list(row.values()), ROW_ARGUMENTS), Evaluator(list(pair.values()), PAIR_ARGUMENTS), list(row), list(pair))


@lru_cache(maxsize=20_000)
def _layer(level: str, a: float, n: float, dimension: float, key_width: float, deficit: float, bias: float, unit: float
           ) -> dict[str, float]:
    """All averages of a layer."""
    if n == 1:
        return {name: float(name in SINGLE) for name in AVERAGES}
    if a < SMALLEST:
        found = _layer(level, SMALLEST, n, dimension, key_width, deficit, bias, unit)
        return {name: item * a / SMALLEST if name in LINEAR else item for name, item in found.items()}
    if not unit or level == "closed_form":
        return _layer_of(level, False, a, n, dimension, key_width, deficit, bias, unit)
    one, two = (_layer_of(level, sphere, a, n, dimension, key_width, deficit, bias, unit) for sphere in (True, False))
    return {name: deficit**2 * one[name] + (1 - deficit**2) * two[name] for name in one}


def _layer_of(level: str, sphere: bool, a: float, n: float, *rest: float) -> dict[str, float]:
    sizes, unit = rest[:2], int(rest[-1])
    rows, pairs, row_names, pair_names = _compiled(level, sphere, unit == 2)
    one, two = (nodes.T for nodes in _rules(unit)(*rest[:-1]))
    shift, weight = one
    scale, wider, deficit, both = two
    between = [(s + x * w) for s, w in zip(scale, wider, strict=True) for x in _BETWEEN[:, 0]]
    # All points of one row first: what pairs need of it is then known.
    points = np.concatenate([1 + shift, between])
    found = np.array(rows.many([(a * point, n, *sizes) for point in points]))
    values = dict(zip(row_names, found[:3].T, strict=True))
    slopes = dict(zip(row_names, found[3:].reshape(9, 3, -1).transpose(2, 0, 1), strict=True))
    gathered = dict(zip(pair_names, np.array(pairs.many(
        [(a * s, n, *sizes, x) for s, x in zip(scale, deficit, strict=True)])).T, strict=True))
    averages = {}
    for name, average in AVERAGES.items():
        if average.kind == "row":
            averages[name] = float(weight @ ((1 + shift) ** average.power * values[average.formula]))
            continue
        total = both @ ((scale * (1 - deficit)) ** average.power * gathered[average.formula])
        if average.slope:
            total += both @ (a * wider * (slopes[average.slope] @ _BETWEEN[:, 1]))
        averages[name] = float(total)
    return averages


@lru_cache(maxsize=256)
def evaluator(expressions: tuple[sp.Expr, ...], arguments: tuple[sp.Symbol, ...]) -> Evaluator:
    """The compiled form of some formulas, kept."""
    return Evaluator(expressions, arguments)


def value(expression: sp.Expr, at: Mapping[sp.Symbol, Any] | None = None) -> float:
    """A formula in double precision; a missing number raises :class:`InputError`.

    >>> round(value(WeightMoment((3,), sp.Integer(4), sp.Integer(100))), 6)
    0.04214
    """
    names = tuple(sorted(expression.free_symbols, key=str))
    at = dict(at or {})
    for name in names:
        if name not in at:
            raise InputError(str(name), "missing", "a number")
    return evaluator((expression,), names)(*(at[name] for name in names))[0]


def _logarithm(x: sp.Expr) -> sp.Expr:
    """The logarithm, with log(1 + small) written so that it keeps its digits."""
    return log1p(x - 1) if isinstance(x, sp.Add) and 1 in x.args else sp.log(x)


def _place(node: Any) -> list[sp.Expr]:
    """The numeric arguments of a node."""
    if isinstance(node, MEANS):
        return list(node.numbers)
    return list(node.args[2:] if isinstance(node, LayerMoment) else node._numeric)


def _terms(node: sp.Expr) -> Callable[..., _Terms]:
    """How a node follows from moments, as a function of its numeric arguments."""
    if isinstance(node, MEANS):
        return lambda *at: [(evaluated(node.at(*at), node), None)]
    if isinstance(node, LayerMoment):
        return lambda *at: [(1.0, ("layer", node.name, node.level, *at))]
    if isinstance(node, (Participation, WeightMoment)):
        return lambda *at, powers=node.powers: list(_row(powers, *at))
    if isinstance(node, WeightGap):
        return _weight_gap
    if isinstance(node, SoftmaxSlope):
        return lambda a, n: [(f / (n - 1), ("row", p, a, n, np.inf)) for p, f in _JACOBIAN_SQUARE.items()]
    if isinstance(node, RowGap):
        return _row_gap
    if isinstance(node, OverlapGap):
        return _overlap_gap
    if isinstance(node, JacobianOverlap):
        return _jacobian
    powers = ((1, 1),) if isinstance(node, RowOverlap) else node.powers
    return lambda a, g, n, m=0.0: [(1.0, ("pair", powers, a, g, n, m))]


_JACOBIAN_SQUARE: dict[Monomial, float] = {((2, 0),): 1.0, ((3, 0),): -2.0, ((2, 0), (2, 0)): 1.0}


def _row(powers: Monomial, a: float, n: float, dimension: float = np.inf, spread: float = 0.0, power: float = 0.0
         ) -> Iterator[tuple[float, _Key]]:
    if spread == 0:
        yield 1.0, ("row", powers, a, n, dimension)
        return
    nodes, parts = gamma_nodes(np.array([spread]))
    for node, part in zip(nodes[0], parts[0], strict=True):
        yield float(part * node**power), ("row", powers, float(a * node), n, dimension)


def _weight_gap(a: float, n: float) -> _Terms:
    if a >= _SMALL:
        return [(n / (n - 1), ("row", ((2, 0),), a, n, np.inf)), (-1 / (n - 1), None)]
    slope = heat(((2, 0),))
    return [
        (n / (n - 1) * a * w * float(factor), ("row", powers, float(a * x), n, np.inf))
        for x, w in zip(_PLACES, _WEIGHTS, strict=True) for powers, factor in slope.items()
    ]


def _jacobian(a: float, g: float, n: float, m: float = 0.0) -> _Terms:
    return [(float(factor), ("pair", powers, a, g, n, m)) for powers, factor in cross_heat(((1, 1),)).items()]


def _row_gap(a: float, g: float, n: float) -> _Terms:
    if g >= _SMALL:
        return [(1.0, ("row", ((2, 0),), a, n, np.inf)), (-1.0, ("pair", ((1, 1),), a, g, n, 0.0))]
    return [
        (g * w * factor, key) for x, w in zip(_PLACES, _WEIGHTS, strict=True) for factor, key in _jacobian(a, float(g * x), n)
    ]


def _overlap_gap(a: float, g: float, n: float) -> _Terms:
    covariance = a - g
    if abs(covariance) >= _SMALL:
        return [(n / (n - 1), ("pair", ((1, 1),), a, g, n, 0.0)), (-1 / (n - 1), None)]
    return [
        (n / (n - 1) * covariance * w * factor, key)
        for x, w in zip(_PLACES, _WEIGHTS, strict=True) for factor, key in _jacobian(a, float(a - covariance * x), n)
    ]


def _tabulate(wanted: set[_Key]) -> None:
    """Evaluate what the table does not hold yet; points that want the same moments share a call."""
    missing = {key for key in wanted if key not in _TABLE}
    for key in [key for key in missing if key[0] == "layer"]:
        missing.remove(key)
        _TABLE[key] = _layer(*key[2:])[key[1]]
    if len(_TABLE) + len(missing) > _TABLE_SIZE:
        _TABLE.clear()
        missing = set(wanted)
    points: dict[_Key, set[Monomial]] = {}
    for kind, powers, *at in missing:
        points.setdefault((kind, *at), set()).add(powers)
    groups: dict[tuple[str, tuple[Monomial, ...]], list[_Key]] = {}
    for (kind, *place), wished in points.items():
        groups.setdefault((kind, tuple(sorted(wished))), []).append(tuple(place))
    for (kind, requests), places in groups.items():
        columns = [np.array(column, dtype=np.float64) for column in zip(*sorted(places), strict=True)]
        if kind == "row":
            found = row_moments(list(requests), *columns)
        else:
            variance, gap, *rest = columns
            deficit = np.divide(gap, variance, out=np.zeros_like(gap), where=variance > 0)
            found = pair_moments(list(requests), variance, variance, deficit, *rest)
        for k, point in enumerate(sorted(places)):
            for powers, number in zip(requests, found[:, k], strict=True):
                _TABLE[kind, powers, *point] = evaluated(float(number), f"moment {powers} of scores of variance {point[0]:g}")


__all__ = ["MEANS", "Evaluator", "evaluator", "value"]
