r"""Rows and pairs of rows of softmax weights under a causal mask, in double precision and for many points at once.

Row w sees the first t keys, row v these and ``extra`` more. Their overlap :math:`O(\rho) = E \sum_j w_j v_j` at score variance
a and score correlation :math:`\rho` grows at the rate :math:`a B`, :math:`B = E\, \mathrm{tr}(J_w J_v)` (with the Gram matrix
of keys on a sphere, but for a factor that belongs to one row). Four numbers are known: O and B for independent scores, and O
and B for equal scores, where a key enters through

.. math:: \varphi_k(\tau) = E\, e^{k a_j} e^{-\tau e^{a_j}}

alone: with :math:`Z_w^{-K} Z_v^{-L}` as two integrals over x, y (:mod:`symprop.functions.softmax_numeric`) a common key has
:math:`\tau = e^x + e^y` and an additional one :math:`\tau = e^y`. Between the ends :math:`\log O` is the
polynomial of degree 4 with these values and slopes and with the exact middle value of normal keys, which is smooth in t and
in t + extra and therefore computed at few pairs. Below a = 1/16 the middle value is that of the cubic (within a relative 1e-5).
O is right to 1e-5 for a <= 1, 6e-4 at a = 4, 7e-3 at a = 12 and 3e-2 at a = 25; B to 1e-4, 4e-3, 4e-2 and 1e-1.

Means over rows and over pairs are weighted sums over few of them, with weights that depend on the length alone. The functions
use what numpy and torch have in common, so that generated modules of both backends contain their text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from symprop.functions.softmax_numeric import (
    _bounds,
    _key_nodes,
    _logarithm,
    _one_shape,
    _reach,
    pair_moments,
    row_moments,
)


def token_nodes(last: int, count: int, first: int) -> Any:
    """Whole numbers from ``first`` to ``last``, dense at both ends of their logarithm; all of them where these are few.

    >>> token_nodes(5, 12, 1).tolist(), token_nodes(1000, 6, 1).tolist()
    ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 11.0, 92.0, 517.0, 1000.0])
    """
    if last - first < count + 4:
        return np.arange(first, last + 1, dtype=np.float64)
    ends = np.log(np.asarray([float(first), float(last)], dtype=np.float64))
    place = np.cos(np.arange(count, dtype=np.float64) * (np.pi / (count - 1)))
    return np.unique(np.round(np.exp((ends[1] + ends[0]) / 2 - (ends[1] - ends[0]) / 2 * place)))


def basis(nodes: Any, targets: Any) -> Any:
    """Values at ``targets`` (first axis) of the polynomials in log t that are 1 at one of the ``nodes`` and 0 at the others."""
    x, y = np.log(nodes), np.log(targets)
    difference = x[:, None] - x[None, :] + np.eye(len(x), dtype=np.float64)
    weight = 1 / (difference / abs(difference).mean()).prod(1)
    gap = y[:, None] - x[None, :]
    hit = 1.0 * (gap == 0)
    ratio = np.where(hit.sum(1)[:, None] > 0, hit, weight / (gap + hit))
    return ratio / ratio.sum(1)[:, None]


def _basis_mean(nodes: Any, first: int, last: int, power: Any) -> Any:
    """The mean over first <= t <= last of the functions of :func:`basis` times t^power, by blocks of t."""
    total = 0.0 * nodes
    for start in range(first, last + 1, 65536):
        every = np.arange(start, min(start + 65536, last + 1), dtype=np.float64)
        total = total + (basis(nodes, every) * (every**power)[:, None]).sum(0)
    return total / (last + 1 - first)


def row_rule(last: int) -> Any:
    """Nodes t and weights of a mean over t = 1, ..., last of what is smooth in log t, over t.

    >>> nodes, weights = row_rule(1000)
    >>> len(nodes), bool(abs((weights/nodes).sum() - (1/np.arange(1, 1001)).mean()) < 1e-12)
    (12, True)
    """
    nodes = token_nodes(last, 14, 1)
    return nodes, nodes * _basis_mean(nodes, 1, last, -1.0)


def pair_rule(last: int) -> Any:
    """Nodes t < u and weights of a mean over 1 <= t < u <= last of what is smooth in log t and log u, over u."""
    if last < 2:
        one = np.ones(1, dtype=np.float64)
        return one, 2 * one, 0 * one
    later = token_nodes(last, 10, 2)
    outer = (_basis_mean(later, 2, last, 0.0) - _basis_mean(later, 2, last, -1.0)) * 2 / last
    first, second, weight = [], [], []
    for u, part in zip(later, outer, strict=True):
        nodes = token_nodes(int(u) - 1, 8, 1)
        first.append(nodes)
        second.append(0 * nodes + u)
        weight.append(part * u * _basis_mean(nodes, 1, int(u) - 1, 0.0))
    return np.concatenate(first), np.concatenate(second), np.concatenate(weight)


def normal_law(scale: Any, cosine: Any, scale_spread: Any, both: Any, cosine_spread: Any) -> Any:
    """Nodes P of shape (3, 1, points), rho (3, 3, points) and weights (3, 3, 1) of a normal law of means and (co)variances.

    Without a spread of the scale there is one node of P and rho.
    """
    if not bool((scale_spread > 0).any()):
        return scale[None, None], cosine[None, None], np.ones((1, 1, 1), dtype=np.float64)
    place = 3**0.5 * np.arange(-1, 2, dtype=np.float64)
    part = np.asarray([1 / 6, 2 / 3, 1 / 6], dtype=np.float64)
    spread = np.clip(scale_spread, 1e-300, None)
    moved = place[:, None, None] * np.sqrt(spread)
    turned = place[:, None] * np.sqrt(np.clip(cosine_spread - both * both / spread, 1e-300, None))
    rho = np.clip(cosine + both / spread * moved + turned, -1, 1 - 1e-9)
    return np.clip(scale + moved, 0.05, None), rho, (part[:, None] * part)[:, :, None]


def _table(values: Any, start: float, step: float, at: Any) -> Any:
    """Interpolation of degree 7 along the last axis of a table."""
    place = (at - start) / step
    left = np.clip(np.floor(place) - 3, 0, values.shape[-1] - 8)
    index = np.asarray(left, dtype=np.int64)
    offset = place - left
    total, norm = 0 * place, 0 * place
    hit = offset == np.round(offset)
    for k, weight in enumerate((1, -7, 21, -35, 35, -21, 7, -1)):
        part = np.where(hit, 1.0 * (offset == k), weight / np.where(hit, 1.0, offset - k))
        total, norm = total + part * values[:, index + k], norm + part
    return total / norm


def equal_scores(variance: Any, tokens: Any, extra: Any, dimension: Any) -> Any:
    """O and B of rows of ``tokens`` and of ``tokens`` + ``extra`` keys with the same scores, of shape (2, pairs, variances).

    ``dimension`` is that of the keys, for every variance, as in :mod:`symprop.functions.softmax_numeric`.

    >>> values = equal_scores(np.array([0.0169]), np.array([12.0]), np.array([12.0]), np.array([np.inf]))
    >>> (24*values).round(6).ravel().tolist()
    [1.015568, 0.927622]
    """
    step, fine = 0.36, 0.1
    scale = np.sqrt(variance)
    most = 2 * float((tokens + extra).max())
    low, high = _bounds(scale, 0 * scale + most, 1)[0], _bounds(scale, 0 * scale + 2, 1)[1]
    points = np.arange(int(low / step) - 1, int((high + 1) / step) + 2, dtype=np.float64) * step
    # The share of y in tau is e^-z/(1 + e^-z), that of x is the rest.
    reach = int(38 / step)
    z = np.arange(-reach, reach + 1, dtype=np.float64) * step
    one, other = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    shares = np.stack([one * other, one**2 * other, one * other**2, (one * other) ** 2]).T
    line = np.arange(int((float(points[0]) - 39) / fine) - 8, int(float(points[-1]) / fine) + 8, dtype=np.float64) * fine
    offset, c, weight = _key_nodes(scale, dimension, _reach(scale, 0 * scale + most, 4))
    offset, c, weight = offset.T, c.T, weight.T
    finite = np.where((dimension > 0) & ~np.isinf(dimension), dimension, 2.0)[:, None]
    lean = np.where(finite == dimension[:, None], (1 - c * c) * finite / (finite - 1), 1.0)
    rest = (-np.expm1(-np.exp(np.clip(line[None, :, None] + offset[:, None, :], None, 7.0))) @ weight[:, :, None])[:, :, 0]
    alone = -np.exp(_table(np.log(-_logarithm(1 - rest, rest)), float(line[0]), fine, points[:, None] + np.log(other)))
    grown = np.exp(np.clip(points[None, :, None] + offset[:, None, :], None, 7.0))
    decay = np.exp(-grown)
    plain = _logarithm((decay @ weight[:, :, None])[:, :, 0], (-np.expm1(-grown) @ weight[:, :, None])[:, :, 0])
    square, *leaned = [
        ((decay * grown**k) @ part[:, :, None])[:, :, 0]
        for k, part in ((2, weight), (2, weight * lean), (3, weight * lean), (4, weight * lean))
    ]
    overlaps, slopes = [], []
    for t, more in zip(tokens, extra, strict=True):
        inner = np.exp(more * alone) @ shares
        survival = np.exp((t - 1) * plain)[:, :, None] * inner
        overlaps.append(t * step**2 * (survival[:, :, 0] * square).sum(1))
        terms = leaned[0] * survival[:, :, 0] - leaned[1] * (survival[:, :, 1] + survival[:, :, 2])
        slope = t * step**2 * (terms + leaned[2] * survival[:, :, 3]).sum(1)
        if t > 1:
            both = np.exp((t - 2) * plain) * leaned[0] * square * inner[:, :, 3]
            slope = slope + t * (t - 1) * step**2 * both.sum(1)
        slopes.append(np.clip(slope, 0.0, None) if t > 1 else 0 * slope)
    return np.stack([np.stack(overlaps), np.stack(slopes)])


def _outer_ends(variance: Any, dimension: Any, tokens: Any, extra: Any) -> Any:
    """log of (t + extra) O at correlations 1 and 0, and its slopes at 0 and 1, of shape (4, pairs, variances)."""
    last, sphere = tokens + extra, (dimension > 0) & ~np.isinf(dimension)
    kinds, place = np.unique(np.concatenate([tokens, last]), return_inverse=True)
    a, law, count = ((item + 0 * kinds[:, None]).reshape(-1) for item in (variance, dimension, kinds[:, None] + 0 * variance))
    own, mean, second = row_moments([((2, 0),), ((1, 1),), ((1, 2),)], a, count, law)
    finite = np.where((law > 0) & ~np.isinf(law), law, 1.0)
    # By parts the mean score of normal keys is s (1 - Y), which keeps its digits.
    mean = np.where(finite == law, np.sqrt(finite) * mean, np.sqrt(a) * (1 - own)).reshape(len(kinds), -1)[place]
    excess = np.where(finite == law, finite * second - 1, 0.0).reshape(len(kinds), -1)[place]
    pairs, others = len(tokens), np.clip(last - 1, 1.0, None)[:, None]
    first = last[:, None] / others
    zero = np.log1p(-excess[:pairs] * excess[pairs:] * first / (2 * np.where(sphere, dimension, 1.0)))
    top, slope = equal_scores(variance, tokens, extra, dimension)
    several = (tokens > 1)[:, None]
    level = np.where(several, np.log(top * last[:, None]), 0 * top)
    end = np.where(several, variance * slope / top, 0 * top)
    return np.stack([level, zero, mean[:pairs] * mean[pairs:] * first, end])


def _middle(variance: Any, tokens: Any, extra: Any) -> Any:
    """log O of normal keys at correlation 1/2 beyond the cubic, of shape (pairs, variances)."""
    last = tokens + extra
    found = 0 * tokens[:, None] + 0 * variance
    large = variance >= 1 / 16
    if last.max() < 3 or not bool(large.any()):
        return found
    a = variance[large]
    rows = token_nodes(int(last.max()), 6, 2)
    # Equidistant in the ratio of the logarithms.
    share = np.arange(5, dtype=np.float64) / 4
    first = np.exp(share * np.log(rows)[:, None])
    more = (rows[:, None] - first).reshape(-1)
    first = first.reshape(-1)
    level, _, start, end = _outer_ends(a, 0 * a + float("inf"), first, more)
    columns = (a, first[:, None] + 0 * a, more[:, None] + 0 * a)
    each, keys, others = ((item + 0 * first[:, None]).reshape(-1) for item in columns)
    exact = pair_moments([((1, 1),)], each, each, 0 * each + 0.5, keys, others, 0.7)[0].reshape(len(first), -1)
    value = np.log(exact * (first + more)[:, None]) - (level / 2 + (start - end) / 8)
    value = np.where((first == 1)[:, None], 0 * value, value).reshape(len(rows), 5, -1)
    across = basis(rows, last)
    along = basis(np.exp(share), np.exp(np.log(tokens) / np.log(np.where(last > 1, last, 2.0))))
    found[:, large] = (across[:, :, None, None] * along[:, None, :, None] * value).sum(2).sum(1)
    return found


def pair_ends(variance: Any, dimension: Any, tokens: Any, extra: Any) -> Any:
    """What the overlap of pairs of rows is interpolated from, of shape (5, pairs, variances), by blocks of variances.

    nan beyond a variance of 400.
    """
    known = variance <= 400
    inside = np.where(known, variance, 1.0)
    size = max(1, int(320 / (20 + float(inside.max()))))
    parts = []
    for start in range(0, len(variance), size):
        a, law = inside[start : start + size], dimension[start : start + size]
        parts.append(np.concatenate([_outer_ends(a, law, tokens, extra), _middle(a, tokens, extra)[None]]))
    return np.where(known, np.concatenate(parts, 2), float("nan"))


def overlap_and_slope(
    variance: Any, gap: Any, tokens: Any, extra: Any, dimension: Any = None, evaluate: Any = pair_ends
) -> Any:
    """O and B of pairs of rows of ``tokens`` and ``tokens`` + ``extra`` keys, stacked.

    The numbers of tokens vary along the first axis alone, along which the score variance does not; ``gap`` is the variance
    less the covariance of two scores, ``dimension`` None a normal law of the keys.

    >>> pair = np.array([12.0])
    >>> (24*overlap_and_slope(np.array([0.0169]), np.array([0.0169])*0.2, pair, pair)).round(5).tolist()
    [[1.01244], [0.92503]]
    """
    # A variance of 1e-12 stands for vanishing scores.
    a = variance + 1e-12 + 0 * tokens[:1]
    law = np.zeros(a.shape, dtype=np.float64) + (float("inf") if dimension is None else dimension)
    first, more = ((item + 0 * tokens).reshape(-1) for item in (tokens, extra))
    ends = evaluate(a.reshape(-1), law.reshape(-1), first, more)
    level, zero, start, end, middle = ends.reshape(5, len(first), *a.shape[1:])
    share = gap / np.where(variance > 0, variance, 1.0)
    part, below = np.clip(share, None, 1.0), np.clip(share - 1, 0.0, 1.0)
    rho = 1 - part
    # The mean slope of log O; for small scores from the ends, which are one number up to O(variance^2).
    mean = np.where(a > 1e-5, level - zero, (start + end) / 2)
    exponent = rho**2 * (3 - 2 * rho) * mean + rho * part**2 * start - rho**2 * part * end
    slope = 6 * rho * part * mean + part * (1 - 3 * rho) * start + rho * (3 * rho - 2) * end
    # Below correlation 0 log O falls by its slope and curvature there, and does not turn.
    bent = np.clip(3 * mean - 2 * start - end + 16 * middle, None, 0.0)
    exponent = zero + exponent + 16 * (rho * part) ** 2 * middle - (start - bent * below) * below
    slope = slope + 32 * rho * part * (1 - 2 * rho) * middle - 2 * bent * below
    found = np.exp(exponent) / (tokens + extra)
    return np.stack([found, found * slope / a])


def overlap_growth(
    variance: Any, gap: Any, tokens: Any, extra: Any, dimension: Any = None, evaluate: Any = pair_ends
) -> Any:
    """s dO/ds at fixed correlation, by a central difference in log s."""
    size = 2.718281828459045**0.02
    up, down = (
        overlap_and_slope(variance * factor, gap * factor, tokens, extra, dimension, evaluate)[0]
        for factor in (size, 1 / size)
    )
    return (up - down) / 0.02


def _averages(mean: Any, columns: Any, shape: Any, count: int) -> Any:
    """``count`` averages at every point, by blocks of points of one length; ``columns`` are tokens and further arguments."""
    found = np.zeros((count, len(columns[0])), dtype=np.float64)
    for size in np.unique(columns[0]):
        places = np.arange(len(columns[0]))[columns[0] == size]
        for start in range(0, len(places), 256):
            at = places[start : start + 256]
            found[:, at] = np.stack(mean(int(size), [column[at] for column in columns[1:]]))
    return found.reshape(count, *shape)


def row_means(moment: Any, count: int, tokens: Any, *free: Any) -> Any:
    """The means over t = 1, ..., tokens of the ``count`` values of moment(t, ``free``), of shape (count, broadcast shape)."""
    def mean(last: int, at: Any) -> Any:
        """Over the rows of one length."""
        nodes, weights = row_rule(last)
        zero = 0 * sum(at) if at else 0.0
        return [(weights[:, None] * (value + zero) + 0 * nodes[:, None]).sum(0) for value in moment(nodes[:, None], *at)]

    shape, columns = _one_shape(tokens, *free)
    return _averages(mean, columns, shape, count)


def pair_means(moment: Any, count: int, tokens: Any, law: Any, *free: Any) -> Any:
    """The means over pairs t < u and the normal law of (P, rho) of the values of moment(t, u, P, rho, ``free``)."""
    def mean(last: int, at: Any) -> Any:
        """Over the pairs of rows of one length."""
        first, second, weights = (item[:, None, None, None] for item in pair_rule(last))
        scale, cosine, part = normal_law(*at[:5])
        values = moment(first, second, scale[None], cosine[None], *at[5:])
        return [(weights * part * (value + 0 * cosine)).sum(2).sum(1).sum(0) for value in values]

    shape, columns = _one_shape(tokens, *law, *free)
    return _averages(mean, columns, shape, count)
