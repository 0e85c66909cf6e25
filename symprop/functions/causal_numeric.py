r"""Two rows of softmax weights under a causal mask, in double precision and for many pairs of rows at once.

Row w sees the first t keys, row v these and ``extra`` more. Their overlap :math:`O(\rho) = E \sum_j w_j v_j` at score variance
a and score correlation :math:`\rho` grows at the rate :math:`a B`, :math:`B = E\, \mathrm{tr}(J_w J_v)`. Four numbers are known
exactly: O and B for independent scores, and O and B for equal scores, where a key enters through

.. math:: \varphi_k(\tau) = E\, e^{k a_j} e^{-\tau e^{a_j}}

alone: with :math:`Z_w^{-K} Z_v^{-L}` as two integrals over x, y (:mod:`symprop.functions.softmax_numeric`) a common key has
:math:`\tau = e^x + e^y` and an additional one :math:`\tau = e^y`. Between the ends :math:`\log O` is the
polynomial of degree 4 with these values and slopes and with the exact middle value, which is smooth in t and in t + extra and
therefore computed at few pairs. Below a = 1/16 the middle value is that of the cubic (within a relative 1e-5).
O is right to 1e-5 for a <= 1, 6e-4 at a = 4, 7e-3 at a = 12 and 3e-2 at a = 25; B to 1e-4, 4e-3, 4e-2 and 1e-1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from symprop.functions.softmax_numeric import (
    _bounds,
    _key_nodes,
    _logarithm,
    _reach,
    gamma_nodes,
    pair_moments,
    row_moments,
)

STEP = 0.36
"""Step of both integrals."""
_FINE = 0.1
"""Step of the table of one key, which is interpolated by polynomials of degree 7."""


def token_nodes(last: int, count: int = 12, first: int = 1) -> Any:
    """Whole numbers from ``first`` to ``last``, dense at both ends of their logarithm; all of them where these are few.

    >>> token_nodes(5).tolist(), token_nodes(1000, 6).tolist()
    ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 11.0, 92.0, 517.0, 1000.0])
    """
    if last - first < count + 4:
        return np.arange(first, last + 1, dtype=np.float64)
    angle = np.pi * np.arange(count) / (count - 1)
    middle, half = (np.log(last) + np.log(first)) / 2, (np.log(last) - np.log(first)) / 2
    return np.unique(np.round(np.exp(middle - half * np.cos(angle))))


def interpolate(nodes: Any, values: Any, targets: Any) -> Any:
    """The polynomial in log t through ``values`` (first axis) at ``nodes``, at ``targets``."""
    x, y = np.log(nodes), np.log(targets)
    difference = x[:, None] - x
    np.fill_diagonal(difference, 1.0)
    size = np.abs(difference).mean()
    weight = 1 / np.prod(difference / size, axis=1)
    gap = y[:, None] - x
    hit = gap == 0
    ratio = weight / np.where(hit, 1.0, gap)
    exact = hit.any(axis=1)[:, None]
    ratio = np.where(exact, hit.astype(np.float64), ratio)
    return (ratio @ values) / ratio.sum(axis=1).reshape((-1,) + (1,) * (values.ndim - 1))


def _table(values: Any, start: float, at: Any) -> Any:
    """Interpolation of degree 7 in a table of step ``_FINE``."""
    place = (at - start) / _FINE
    left = np.clip(np.floor(place).astype(np.int64) - 3, 0, len(values) - 8)
    offset = place - left
    total, norm = 0 * at, 0 * at
    hit = offset == np.round(offset)
    for k, weight in enumerate((1, -7, 21, -35, 35, -21, 7, -1)):
        part = np.where(hit, (offset == k).astype(np.float64), weight / np.where(hit, 1.0, offset - k))
        total, norm = total + part * values[left + k], norm + part
    return total / norm


@lru_cache(maxsize=64)
def _key_tables(variance: float, most: float) -> Any:
    """log phi_0(tau), tau^k phi_k(tau) for k = 2, 3, 4 at grid points log tau; weights of shares of v; log phi_0(share tau)."""
    scale = np.array([np.sqrt(variance)])
    low, high = _bounds(scale, np.array([2.0, most]), 1)
    points = np.arange(int(low / STEP) - 1, int((high + 1) / STEP) + 2, dtype=np.float64) * STEP
    # The share of y in tau is e^-z/(1 + e^-z), that of x is the rest.
    z = np.arange(-int(38 / STEP), int(38 / STEP) + 1, dtype=np.float64) * STEP
    one, other = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    line = np.arange(int((points[0] - 39) / _FINE) - 8, int(points[-1] / _FINE) + 8, dtype=np.float64) * _FINE
    offset, _, weight = _key_nodes(scale, scale * 0 + np.inf, _reach(scale, np.array([most]), 4))
    offset, weight = offset[:, 0], weight[:, 0]
    rest = -np.expm1(-np.exp(np.clip(line[:, None] + offset, None, 7.0))) @ weight
    steep = np.log(-_logarithm(1 - rest, rest))
    grown = np.exp(np.clip(points[:, None] + offset, None, 7.0))
    decay = np.exp(-grown)
    below = -np.expm1(-grown) @ weight
    powers = [(decay * grown**k) @ weight for k in (2, 3, 4)]
    shares = np.stack([one * other, one**2 * other, one * other**2, (one * other) ** 2], axis=1)
    alone = -np.exp(_table(steep, line[0], points[:, None] + np.log(other)))
    return _logarithm(decay @ weight, below), powers, shares, alone


def equal_scores(variance: float, tokens: Any, extra: Any) -> tuple[Any, Any]:
    """O and B of rows of ``tokens`` and of ``tokens`` + ``extra`` keys with the same scores.

    >>> overlap, slope = equal_scores(0.0169, np.array([12.0]), np.array([12.0]))
    >>> (24*overlap).round(6).tolist(), (24*slope).round(6).tolist()
    ([1.015568], [0.927622])
    """
    if variance == 0:
        return 1 / (tokens + extra), (1 - 1 / tokens) / (tokens + extra)
    most = 2.0 ** int(np.ceil(np.log2(float((tokens + extra).max())) + 1))
    plain, powers, shares, alone = _key_tables(float(variance), most)
    overlaps, slopes = [], []
    for t, more in zip(tokens, extra, strict=True):
        inner = np.exp(more * alone) @ shares
        survival = np.exp((t - 1) * plain)
        first, second, third, fourth = (
            t * STEP**2 * float((survival * power * inner[:, k]).sum())
            for k, power in enumerate((powers[0], powers[1], powers[1], powers[2]))
        )
        if t > 1:
            fourth += t * (t - 1) * STEP**2 * float((np.exp((t - 2) * plain) * powers[0] ** 2 * inner[:, 3]).sum())
        overlaps.append(first)
        slopes.append(max(first - second - third + fourth, 0.0) if t > 1 else 0.0)
    return np.array(overlaps), np.array(slopes)


def row_moment(powers: Any, variance: float, tokens: Any, dimension: float, spread: float, weight: float) -> Any:
    """The moment of :class:`~symprop.functions.softmax_overlap.WeightMoment` at a vector of numbers of tokens."""
    key = float(variance), tuple(map(float, tokens)), float(dimension), float(spread), float(weight)
    return _row_moment(powers, *key)


@lru_cache(maxsize=2048)
def _row_moment(
    powers: Any, variance: float, count: tuple[float, ...], dimension: float, spread: float, weight: float
) -> Any:
    tokens = np.array(count)
    nodes, parts = np.ones(1), np.ones(1)
    if spread > 0:
        found, mass = gamma_nodes(np.array([spread]))
        nodes, parts = found[0], mass[0]
    grid = np.repeat(nodes, len(tokens))
    every = np.tile(tokens, len(nodes))
    values = row_moments([powers], variance * grid, every, 0 * grid + dimension, STEP)[0]
    values = values.reshape(len(nodes), len(tokens))
    return (parts * nodes**weight) @ values


def _participation(variance: float, tokens: Any) -> Any:
    """Y at every number of tokens, each of which is computed once."""
    kinds, place = np.unique(tokens, return_inverse=True)
    return row_moment(((2, 0),), variance, kinds, np.inf, 0.0, 0.0)[place]


@lru_cache(maxsize=64)
def _ends(variance: float, tokens: tuple[float, ...], extra: tuple[float, ...]) -> Any:
    """log of (t + extra) O and the slope of log O at correlations 0 and 1."""
    t, more = np.array(tokens), np.array(extra)
    last = t + more
    both = (1 - _participation(variance, t)) * (1 - _participation(variance, last))
    start = variance * both * last / np.where(last > 1, last - 1, 1.0)
    top, slope = equal_scores(variance, t, more)
    alone = t == 1
    level = np.where(alone, 0.0, np.log(top * last))
    return level, start, np.where(alone, 0.0, variance * slope / top)


@lru_cache(maxsize=64)
def _middle(variance: float, tokens: tuple[float, ...], extra: tuple[float, ...]) -> Any:
    """log O at correlation 1/2 beyond the cubic, at every pair."""
    t, last = np.array(tokens), np.array(tokens) + np.array(extra)
    if variance < 1 / 16 or last.max() < 3:
        return 0 * t
    rows = token_nodes(int(last.max()), 6, 2)
    # Equidistant in the ratio of the logarithms.
    share = np.linspace(0, 1, 5)
    first = np.exp(share * np.log(rows)[:, None]).ravel()
    more = np.repeat(rows, len(share)) - first
    level, start, end = _ends(variance, tuple(first), tuple(more))
    flat = 0 * first
    exact = pair_moments([((1, 1),)], flat + variance, flat + variance, flat + 0.5, first, more, 0.7)[0]
    found = np.log(exact * (first + more)) - (level / 2 + (start - end) / 8)
    found = np.where(first == 1, 0.0, found).reshape(len(rows), len(share))
    across = interpolate(rows, found, last)
    ratio = np.log(t) / np.log(np.where(last > 1, last, 2.0))
    return (across * interpolate(np.exp(share), np.eye(len(share)), np.exp(ratio))).sum(axis=1)


def overlap_and_slope(variance: float, correlation: float, tokens: Any, extra: Any) -> tuple[Any, Any]:
    """O and B of pairs of rows of ``tokens`` and ``tokens`` + ``extra`` keys, vectors of whole numbers.

    >>> values = overlap_and_slope(0.0169, 0.8, np.array([12.0]), np.array([12.0]))
    >>> [(24*item).round(5).tolist() for item in values]
    [[1.01244], [0.92503]]
    """
    last, rho = tokens + extra, correlation
    if variance == 0:
        return 1 / last, (1 - 1 / tokens) / last
    key = float(variance), tuple(map(float, tokens)), tuple(map(float, extra))
    level, start, end = _ends(*key)
    middle = _middle(*key)
    # The mean slope of log O; for small scores from the ends, which are one number up to O(variance^2).
    mean = level if variance > 1e-5 else (start + end) / 2
    logarithm = rho**2 * (3 - 2 * rho) * mean + rho * (1 - rho) ** 2 * start - rho**2 * (1 - rho) * end
    slope = 6 * rho * (1 - rho) * mean + (1 - rho) * (1 - 3 * rho) * start + rho * (3 * rho - 2) * end
    logarithm = logarithm + 16 * (rho * (1 - rho)) ** 2 * middle
    slope = slope + 32 * rho * (1 - rho) * (1 - 2 * rho) * middle
    found = np.exp(logarithm) / last
    return found, found * slope / variance


def normal_law(scale: float, cosine: float, scale_spread: float, both: float, cosine_spread: float) -> Any:
    """Nodes (P, rho, weight) of a normal law given by means, variances and covariance: 3 x 3, or one without spread."""
    if scale_spread <= 0 and cosine_spread <= 0:
        return [(scale, cosine, 1.0)]
    slope = both / scale_spread if scale_spread > 0 else 0.0
    rest = np.sqrt(max(cosine_spread - slope * both, 0.0))
    places, weights = np.sqrt(3) * np.array([-1.0, 0.0, 1.0]), np.array([1.0, 4.0, 1.0]) / 6
    found = []
    for x, one in zip(places, weights, strict=True):
        moved = np.sqrt(scale_spread) * x
        for y, two in zip(places, weights, strict=True):
            turned = min(cosine + slope * moved + rest * y, 1 - 1e-9)
            found.append((float(max(scale + moved, 0.05)), float(turned), float(one * two)))
    return found


def mean_over_rows(function: Any, last: int, count: int = 14) -> float:
    """The mean over t = 1, ..., last of a function of a vector of numbers of keys, smooth in log t.

    >>> mean_over_rows(lambda t: 1/t, 1000) - (1/np.arange(1, 1001)).mean() < 1e-12
    np.True_
    """
    nodes = token_nodes(last, count)
    every = np.arange(1, last + 1, dtype=np.float64)
    return float((interpolate(nodes, nodes * function(nodes), every) / every).mean())


def mean_over_pairs(function: Any, last: int, rows: int = 10, keys: int = 8) -> float:
    """The mean over 1 <= t < u <= last of a function of two vectors of numbers of keys, smooth in their logarithms."""
    if last < 2:
        return 0.0
    later = token_nodes(last, rows, 2)
    earlier = [token_nodes(int(u) - 1, keys) for u in later]
    first = np.concatenate(earlier)
    second = np.repeat(later, [len(item) for item in earlier])
    values = second * function(first, second)
    inner, begin = [], 0
    for nodes in earlier:
        part = values[begin : begin + len(nodes)]
        every = np.arange(1, nodes[-1] + 1)
        inner.append(interpolate(nodes, part, every).mean())
        begin += len(nodes)
    every = np.arange(2, last + 1, dtype=np.float64)
    return float((interpolate(later, np.array(inner), every) * (every - 1) / every).sum() * 2 / (last * (last - 1.0)))
