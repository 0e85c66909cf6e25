r"""Weight gap and row gap of softmax weights for many points: Chebyshev interpolation of their exact values.

The square root of the score variance a is divided into the panels [0, 2], [2, 4], [4, 8], [8, 16], [16, 20]; on each, the
logarithms of n Y(a), over a on the first panel, and of the row gap over g (n - 1)/n^2 are polynomials of degree 23 and 9, in
a on the first panel and in sqrt(a) on the others; the latter also in log(1 + g) over its largest value. Their coefficients
come from exact values. Relative error of the weight gap (n Y - 1)/(n - 1) below 1e-7 (2e-7 for two tokens), of the row gap
below 1e-4 for 16 tokens and more and 1e-3 for fewer (tested); from sqrt(a) = 20 on the values are nan. A table belongs to
one number of tokens, and is made when a point first needs it: a value does not depend on the other points. The text of this
module is part of generated code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from symprop.functions.softmax_numeric import (
    _chebyshev_nodes,
    _chebyshev_series,
    _chebyshev_values,
    _one_shape,
    pair_moments,
    row_moments,
)


def _panel_table(low: Any, high: Any, tokens: Any) -> Any:
    """Coefficients on one panel of sqrt(a): of log(n Y), over a on the first panel, and of log(n^2 (Y - V)/((n - 1) g))."""
    coefficients: Any = []
    for count in (24, 10):
        nodes, unit = _chebyshev_nodes(count), _chebyshev_series(count)
        variance = high * high * nodes if low == 0 else (low + (high - low) * nodes) ** 2
        flat = 0 * variance
        own = row_moments([((2, 0),)], variance, flat + tokens, flat + float("inf"))[0]
        grown = np.log(tokens * own)
        coefficients.append(unit @ (grown / variance if low == 0 else grown))
    a = (variance[:, None] + 0 * nodes).reshape(-1)
    widest = tokens / (tokens - 1)
    gap = np.expm1(np.log1p(a * widest) * (0 * variance[:, None] + nodes).reshape(-1))
    # A step of 0.4 is exact to 1e-12 here, and ten to a hundred times as fast as that of single moments.
    other = pair_moments([((1, 1),)], a, a, gap / a, 0 * a + tokens, 0 * a, 0.4)[0].reshape(10, 10)
    ratio = np.log((own[:, None] - other) / gap.reshape(10, 10) * (tokens * widest))
    return coefficients[0], unit @ ratio @ unit.T


def _table_values(kind: Any, variance: Any, gap: Any, tokens: Any, tables: Any) -> Any:
    """The interpolated logarithms at vectors of points; kind 0 is n times the participation, 1 the row gap."""
    scale = np.sqrt(variance)
    found = np.where((scale < 20) | (tokens == 1), 0 * tokens, float("nan"))
    for size in sorted(set(tokens.tolist())):
        low, high = 0.0, 2.0
        reach = np.where(tokens == size, scale, 0 * tokens).max().tolist()
        while size > 1 and low <= reach and low < high:
            here = (tokens == size) & (scale >= low) & (scale < high)
            if bool(here.any()):
                if (size, low) not in tables:
                    tables[size, low] = _panel_table(low, high, size)
                a, table = variance[here], tables[size, low][kind]
                place = _chebyshev_values(a / (high * high) if low == 0 else (scale[here] - low) / (high - low), len(table))
                if kind == 0:
                    found[here] = table @ place * (a if low == 0 else 1)
                else:
                    widest = np.log1p(a * size / (size - 1))
                    # Equal scores have no gap: any place will do.
                    share = np.log1p(gap[here]) / np.where(a > 0, widest, 1 + 0 * a)
                    found[here] = (place * (table @ _chebyshev_values(share, 10))).sum(0)
            low, high = high, min(2 * high, 20.0)
    return found


def table_weight_gap(variance: Any, tokens: Any, tables: Any) -> Any:
    """Gap of the weights of a row, proportional to the variance as that vanishes; ``tables`` keeps what has been tabulated.

    >>> round(float(table_weight_gap(np.array(4.0), np.array(8.0), {})), 5)
    0.34817
    """
    shape, (a, n) = _one_shape(variance, tokens)
    others = np.where(n > 1, n - 1, 1 + 0 * n)
    return (np.expm1(_table_values(0, a, 0 * n, n, tables)) / others).reshape(shape)


def table_row_gap(variance: Any, gap: Any, tokens: Any, tables: Any) -> Any:
    """Participation minus overlap of two rows, proportional to the gap of their scores as that vanishes.

    >>> round(float(table_row_gap(np.array(4.0), np.array(4.0), np.array(8.0), {})), 4)
    0.3047
    """
    shape, (a, g, n) = _one_shape(variance, gap, tokens)
    return (np.exp(_table_values(1, a, g, n, tables)) * g * (n - 1) / n**2).reshape(shape)
