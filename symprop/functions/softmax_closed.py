r"""Moments of softmax weights in closed form, with Gamma variables in place of the exponentials of the scores.

The exponentials of normal scores of variance a have the relative variance :math:`v = e^a - 1`. Weights
:math:`X_j/\sum_k X_k` of independent Gamma variables of that relative variance have a Dirichlet law, with moments
rational in v:

.. math:: E \prod_b \sum_j w_j^{k_b} = \sum_{\text{partitions}} n (n-1) \cdots (n-m+1)
    \frac{\prod_{i \le m} \prod_{l < k_i} (1 + l v)}{\prod_{l < K} (n + l v)}

The participation becomes :math:`e^a/(n - 1 + e^a)`: the ratio of the means of numerator and denominator (the annealed value).
Right at small a and, for fixed a, at large n; a lognormal variable has a heavier tail.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from symprop.core.errors import RefusedError
from symprop.functions.depth_nodes import ExpMinusOne
from symprop.functions.softmax_numeric import set_partitions
from symprop.functions.softmax_overlap import Participation, WeightGap, WeightMoment


def gamma_moment(powers: Any, variance: sp.Expr, tokens: sp.Expr) -> sp.Expr:
    """E prod_b sum_j w_j^k_b of Dirichlet weights, for powers (k_b, 0).

    >>> a, n = sp.symbols("a n", positive=True)
    >>> gamma_moment(((2, 0),), a, n)
    (ExpMinusOne(a) + 1)/(n + ExpMinusOne(a))
    """
    v = ExpMinusOne(variance)
    total = sp.S.Zero
    for blocks, times in set_partitions(powers).items():
        term = sp.Integer(times)
        for place, (k, _) in enumerate(blocks):
            term *= (tokens - place) * sp.prod([1 + level * v for level in range(1, k)])
        total += term
    return total / (tokens * sp.prod([tokens + level * v for level in range(1, sum(k for k, _ in powers))]))


def closed_form(expression: sp.Expr) -> sp.Expr:
    """Every moment of one row of a formula in closed form; a moment of two rows or of keys on a sphere is refused.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> closed_form(WeightGap(a, n))
    ExpMinusOne(a)/(n + ExpMinusOne(a))
    """
    found = expression.replace(lambda node: isinstance(node, WeightMoment), lambda node: node.by_parts())
    return found.replace(lambda node: isinstance(node, (Participation, WeightMoment, WeightGap)), _closed)


def _closed(node: sp.Expr) -> sp.Expr:
    if isinstance(node, WeightGap):
        v = ExpMinusOne(node.variance)
        return v / (node.tokens + v)
    if len(node._numeric) != 2 or any(p for _, p in node.powers):
        raise RefusedError(str(node), "the closed form is that of normal keys without a random scale",
                           "use the level exact, or average over the scale outside")
    return gamma_moment(node.powers, node.variance, node.tokens)


__all__ = ["closed_form", "gamma_moment"]
