r"""Moments of rows and of pairs of rows under a causal mask, interpolated in the score variance between exact values.

The square root s of the score variance a is divided into panels that begin at 0, 1/4, 1/2, 1, 3/2, 2, 3, 4, 6, 8, 12, ...: two
for every factor of two from 1 on. On a panel a moment of a row is a Chebyshev series of 16 terms, and what the overlap of two
rows is interpolated from (:func:`symprop.functions.causal_numeric.pair_ends`) one of 8, in a on the first panel and in s on the
others. Moments that are odd in s are divided by s, and the ends, which vanish with the scores, by a. Relative error 1e-9 for
rows and 2e-5 for pairs; nan from s = 64 on for rows, and from s = 20 on for pairs.

A series belongs to one number of tokens (or list of pairs of them) and one dimension of the keys, and is made when a point
first needs it: a value does not depend on the other points, and a second layer costs matrix products alone. The text of this
module is part of generated code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from symprop.functions.causal_numeric import _middle, _outer_ends
from symprop.functions.softmax_numeric import _chebyshev_nodes, _chebyshev_series, _chebyshev_values, row_moments


def _panels(scale: Any) -> Any:
    """The lower ends and the widths of the panels of score deviations."""
    width = np.where(scale < 0.5, 0.25, 2 ** np.floor(np.log2(np.clip(scale, 1.0, None))) / 2)
    return np.floor(scale / width) * width, width


def _places(variance: Any, low: Any, width: Any) -> Any:
    """Where score variances are on their panels, from 0 to 1."""
    return np.where(low == 0, variance / width**2, (np.sqrt(variance) - low) / width)


def _variances(low: Any, count: Any) -> Any:
    """Score variances at the Chebyshev nodes of panels, of shape (panels, count)."""
    low, width = (item[:, None] for item in _panels(low))
    nodes = _chebyshev_nodes(count)
    return np.where(low == 0, width**2 * nodes, (low + width * nodes) ** 2)


def _different(*columns: Any) -> Any:
    """The different rows of some columns as tuples of numbers, and for every row which of them it is."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, index = np.unique(column, return_inverse=True)
        code = code * len(values) + index
    codes, place = np.unique(code, return_inverse=True)
    one = np.zeros(len(codes), dtype=np.int64)
    one[place] = np.arange(len(place))
    return list(zip(*(column[one].tolist() for column in columns), strict=True)), place


def _fill_rows(requests: Any, keys: Any, tables: Any) -> None:
    """Add the series of moments that ``tables`` has not, by panel, tokens and dimension."""
    if len(tables) > 100000:
        tables.clear()
    missing = [key for key in keys if any((powers, *key) not in tables for powers in requests)]
    if len(missing) == 0:
        return
    low, tokens, dimension = (np.asarray(column, dtype=np.float64) for column in zip(*missing, strict=True))
    variance = _variances(low, 16)
    flat = [(item[:, None] + np.zeros((1, 16), dtype=np.float64)).reshape(-1) for item in (tokens, dimension)]
    values = row_moments(requests, variance.reshape(-1), *flat).reshape(len(requests), len(missing), 16)
    for powers, each in zip(requests, values, strict=True):
        odd = sum(p for _, p in powers) % 2
        for key, series in zip(missing, (each / variance ** (odd / 2)) @ _chebyshev_series(16).T, strict=True):
            tables[(powers, *key)] = series.tolist()


def tabulated_rows(requests: Any, variance: Any, tokens: Any, dimension: Any, tables: Any) -> Any:
    """:func:`symprop.functions.softmax_numeric.row_moments`, interpolated; ``tables`` keeps the series.

    >>> one = np.array([1.0])
    >>> tabulated_rows([((2, 0),)], 4*one, 8*one, np.inf*one, {}).round(5).tolist()
    [[0.42965]]
    """
    known = variance < 4096
    inside = np.where(known, variance, 1.0)
    low, width = _panels(np.sqrt(inside))
    keys, place = _different(low, tokens, dimension)
    _fill_rows(requests, keys, tables)
    values = _chebyshev_values(_places(inside, low, width), 16)
    found = []
    for powers in requests:
        series = np.asarray([tables[(powers, *key)] for key in keys], dtype=np.float64).T
        total = sum(series[k][place] * values[k] for k in range(16))
        odd = sum(p for _, p in powers) % 2
        found.append(np.where(known, total * np.sqrt(inside) if odd else total, float("nan")))
    return np.stack(found)


def _pair_series(low: Any, dimension: Any, tokens: Any, extra: Any, tables: Any) -> Any:
    """The series of the ends of pairs on one panel, of shape (5, pairs, 8); those of the middle serve all dimensions."""
    key = low, tuple(tokens.tolist()), tuple(extra.tolist())
    panel = np.asarray([low], dtype=np.float64)
    if key not in tables:
        variance = _variances(panel, 4)[0]
        middle = _middle(variance, tokens, extra) / variance @ _chebyshev_series(4).T
        tables[key] = np.concatenate([middle, 0 * middle], 1)[None]
    if (*key, dimension) not in tables:
        variance = _variances(panel, 8)[0]
        outer = _outer_ends(variance, 0 * variance + dimension, tokens, extra) / variance
        tables[(*key, dimension)] = np.concatenate([outer @ _chebyshev_series(8).T, tables[key]])
    return tables[(*key, dimension)]


def tabulated_ends(variance: Any, dimension: Any, tokens: Any, extra: Any, tables: Any) -> Any:
    """:func:`symprop.functions.causal_numeric.pair_ends`, interpolated; ``tables`` keeps the series."""
    if len(tables) > 1000:
        tables.clear()
    known = variance < 400
    inside = np.where(known, variance, 1.0)
    low, width = _panels(np.sqrt(inside))
    keys, place = _different(low, dimension)
    values = _chebyshev_values(_places(inside, low, width), 8) * np.where(known, inside, float("nan"))
    found = np.zeros((5, len(tokens), len(variance)), dtype=np.float64)
    for k, (start, law) in enumerate(keys):
        found[:, :, place == k] = _pair_series(start, law, tokens, extra, tables) @ values[:, place == k]
    return found
