"""Moments of softmax weights at one point in double precision, where fifty digits would take seconds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from symprop.functions import softmax_numeric
from symprop.functions.softmax_layer import LayerMoment
from symprop.functions.softmax_overlap import (
    JacobianOverlap,
    OverlapGap,
    PairNode,
    RowGap,
    RowNode,
    SoftmaxSlope,
    WeightGap,
    WeightNode,
)
from symprop.functions.softmax_values import value

DOUBLE = (WeightNode, LayerMoment)
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
    found: dict[sp.Expr, sp.Float] = {}
    for node in expression.atoms(*DOUBLE):
        at = node.xreplace(dict(point))
        found[node] = sp.Float(_value(at) if isinstance(at, WeightNode) else value(at))
    return found


@lru_cache(maxsize=4096)
def _value(node: WeightNode) -> float:
    if isinstance(node, (SoftmaxSlope, JacobianOverlap)):
        moments = node.moments()
        return float(sp.N(moments.xreplace({inner: sp.Float(_value(inner)) for inner in moments.atoms(RowNode, PairNode)})))
    if isinstance(node, RowNode):
        variance, tokens, dimension, spread, weight = (_array(item) for item in node.rest)
        moments = softmax_numeric.averaged_moments([(node.powers, float(weight))], variance, tokens, dimension, spread)
        return float(moments[0])
    arguments = [_array(item) for item in (node.args if isinstance(node, (WeightGap, RowGap, OverlapGap)) else node.rest)]
    if isinstance(node, WeightGap):
        return float(softmax_numeric.weight_gap(*arguments))
    if isinstance(node, (RowGap, OverlapGap)):
        gap = softmax_numeric.row_gap if isinstance(node, RowGap) else softmax_numeric.overlap_gap
        return float(gap(*arguments))
    return float(softmax_numeric.overlap_moments([node.powers], *arguments)[0])


def _array(value: sp.Expr) -> Any:
    return np.float64(np.inf if value is sp.oo else float(value))
