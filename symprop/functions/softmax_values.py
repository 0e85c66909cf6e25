"""Fast values of formulas in softmax moments: double precision, all rows of a formula in one integral, kept for the next call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import sympy as sp
from sympy.codegen.cfunctions import log1p

from symprop.core.errors import InputError
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
)

_Key: TypeAlias = tuple[Any, ...]
"""A moment at a point: ("row", powers, a, n, D) or ("pair", powers, a, g, n, m)."""
_Terms: TypeAlias = list[tuple[float, _Key | None]]
"""A linear combination of moments; None stands for 1."""

_NODES = (Participation, WeightMoment, WeightGap, SoftmaxSlope, RowOverlap, RowGap, OverlapGap, JacobianOverlap, PairMoment)
_SMALL = 0.02
"""A score variance, gap or covariance below this: a difference of moments is the integral of its derivative."""
_PLACES, _WEIGHTS = (part / 2 for part in np.polynomial.legendre.leggauss(5))
_PLACES = _PLACES + 0.5
_TABLE: dict[_Key, float] = {}
_TABLE_SIZE = 500_000


class Evaluator:
    """Values of ``expressions`` at numbers for ``arguments``, as floats.

    Compiling takes about a second for the moments of a layer. A call evaluates the integrals of all moments of a row together;
    moments met before are looked up. Relative accuracy 1e-10; gaps keep it as they vanish.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> Evaluator([64*Participation(a, n), WeightGap(a, n)], [a, n])(1e-12, 64.0)
    [1.000000000001..., 1.562...e-14]
    """

    def __init__(self, expressions: Sequence[sp.Expr], arguments: Sequence[sp.Symbol]) -> None:
        plain = [sp.sympify(item).replace(sp.log, _logarithm) for item in expressions]
        nodes = sorted(set().union(*(item.atoms(*_NODES) for item in plain)), key=sp.default_sort_key)
        names = [sp.Dummy(f"m{k}") for k in range(len(nodes))]
        table = dict(zip(nodes, names, strict=True))
        self._nodes: list[Callable[..., _Terms]] = [_terms(node) for node in nodes]
        modules: list[Any] = [{"ExpMinusOne": np.expm1}, "numpy"]
        places = [list(node._numeric) for node in nodes]
        self._inner = sp.lambdify(tuple(arguments), places, modules, cse=True)
        self._outer = sp.lambdify((*arguments, *names), [item.xreplace(table) for item in plain], modules, cse=True)

    def __call__(self, *values: float) -> list[float]:
        numbers = [float(value) for value in values]
        places = self._inner(*numbers)
        terms = [node(*map(float, at)) for node, at in zip(self._nodes, places, strict=True)]
        _tabulate({key for part in terms for _, key in part if key is not None})
        found = [sum(factor if key is None else factor * _TABLE[key] for factor, key in part) for part in terms]
        return [float(item) for item in self._outer(*numbers, *found)]


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


def _terms(node: sp.Expr) -> Callable[..., _Terms]:
    """How a node follows from moments, as a function of its numeric arguments."""
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
    return [(g * w * factor, key) for x, w in zip(_PLACES, _WEIGHTS, strict=True) for factor, key in _jacobian(a, float(g * x), n)]


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
    if len(_TABLE) + len(missing) > _TABLE_SIZE:
        _TABLE.clear()
        missing = set(wanted)
    points: dict[_Key, set[Monomial]] = {}
    for kind, powers, *at in missing:
        points.setdefault((kind, *at), set()).add(powers)
    groups: dict[tuple[str, tuple[Monomial, ...]], list[_Key]] = {}
    for (kind, *at), powers in points.items():
        groups.setdefault((kind, tuple(sorted(powers))), []).append(tuple(at))
    for (kind, requests), places in groups.items():
        columns = [np.array(column, dtype=np.float64) for column in zip(*sorted(places), strict=True)]
        if kind == "row":
            found = row_moments(list(requests), *columns)
        else:
            variance, gap, *rest = columns
            deficit = np.divide(gap, variance, out=np.zeros_like(gap), where=variance > 0)
            found = pair_moments(list(requests), variance, variance, deficit, *rest)
        for k, at in enumerate(sorted(places)):
            for powers, number in zip(requests, found[:, k], strict=True):
                _TABLE[kind, powers, *at] = float(number)


__all__ = ["Evaluator", "evaluator", "value"]
