"""Moments of softmax weights at one point in double precision, where fifty digits would take seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from symprop.core.errors import RefusedError
from symprop.functions import softmax_numeric
from symprop.functions.softmax_layer import LayerMoment
from symprop.functions.softmax_overlap import RowNode, WeightNode, evaluated
from symprop.functions.softmax_values import MEANS, value
from symprop.functions.token_means import outermost

DOUBLE = (WeightNode, LayerMoment, *MEANS)
"""The nodes that are evaluated in double precision."""
DOUBLE_DIGITS = 10
"""Their significant digits."""
ROUNDING = "relative rounding of 1e-10 in moments of softmax weights"


def in_double(expression: sp.Expr, point: Mapping[sp.Symbol, sp.Expr]) -> dict[sp.Expr, sp.Float]:
    """The value of every moment of softmax weights in an expression at a point.

    >>> from symprop.functions.softmax_overlap import Participation
    >>> a, n = sp.symbols("a n", positive=True)
    >>> {node: round(value, 4) for node, value in in_double(2*Participation(a, n), {a: 36, n: 10**6}).items()}
    {Participation(a, n): 0.2410}
    """
    nodes = sorted(outermost(expression, DOUBLE), key=sp.default_sort_key)
    at = {node: node.xreplace(dict(point)) for node in nodes}
    for node in at.values():
        if node.free_symbols:
            raise RefusedError(str(node), "it contains a symbol without a value", "give every symbol a number")
    rows = _row_values(node for node in at.values() if isinstance(node, RowNode))
    found = {}
    for node, moment in at.items():
        if isinstance(moment, RowNode):
            found[node] = sp.Float(evaluated(rows[moment], moment))
        elif isinstance(moment, (WeightNode, *MEANS)):
            found[node] = sp.Float(evaluated(_value(moment), moment))
        else:
            found[node] = sp.Float(value(moment)) if isinstance(moment, LayerMoment) else moment
    return found


def _row_values(nodes: Iterable[RowNode]) -> dict[RowNode, float]:
    """Moments of rows, with one evaluation for all of one row."""
    rows: dict[tuple[sp.Expr, ...], list[RowNode]] = {}
    for node in dict.fromkeys(nodes):
        rows.setdefault(node.rest[:4], []).append(node)
    found: dict[RowNode, float] = {}
    for arguments, members in rows.items():
        requests = tuple((node.powers, float(node.rest[4])) for node in members)
        found |= dict(zip(members, _row(requests, arguments), strict=True))
    return found


@lru_cache(maxsize=1024)
def _row(requests: tuple[Any, ...], arguments: tuple[sp.Expr, ...]) -> tuple[float, ...]:
    numbers = (np.float64(np.inf if item is sp.oo else float(item)) for item in arguments)
    return tuple(map(float, softmax_numeric.averaged_moments(requests, *numbers)))


@lru_cache(maxsize=1024)
def _value(node: Any) -> float:
    return float(node.in_double())
