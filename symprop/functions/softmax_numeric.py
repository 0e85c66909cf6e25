r"""Moments of softmax weights in double precision: one-dimensional integrals for one row, two-dimensional ones for two rows.

With :math:`Z = \sum_j e^{a_j}` and :math:`Z^{-K} = \int t^{K-1} e^{-tZ} dt/\Gamma(K)`, :math:`t = e^x`, the tokens of a row
factorise, and a product of sums over tokens is a sum over the set partitions of its factors:

.. math::

    E \prod_b \sum_j w_j^{k_b} c_j^{p_b} = \sum_{\text{partitions}} \frac{n (n-1) \cdots (n-m+1)}{\Gamma(K)}
        \int dx\, g_{00}(x)^{n-m} \prod_{i \le m} g_{k_i p_i}(x), \qquad
    g_{kp}(x) = E\, c^p e^{k(x + s\zeta)} e^{-e^{x + s\zeta}}

Both integrals are sums over equidistant points (the trapezoid rule, which converges exponentially). The functions use what
numpy and torch have in common, so that generated modules of both backends contain their text.

The law of a key is that of :math:`\zeta`: normal for ``dimension`` oo; one coordinate, times :math:`\sqrt D`, of a uniform
vector on the unit sphere in ``dimension`` D > 1; and for D < 0 a normal law whose variance has a Gamma distribution of mean 1
and variance -2/D, so that the excess kurtosis is -6/D (-6/(D + 2) on a sphere). :math:`c = \zeta` for oo and D < 0,
:math:`c = \zeta/\sqrt D` on a sphere.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def set_partitions(powers: Any) -> Any:
    """Sums over distinct tokens whose sum is a product of sums over tokens: {exponents of each token: how often}.

    >>> set_partitions(((2, 0), (2, 0)))
    {((2, 0), (2, 0)): 1, ((4, 0),): 1}
    """
    found: Any = {(): 1}
    for k, p in powers:
        grown: Any = {}
        for blocks, times in found.items():
            for place in range(len(blocks) + 1):
                new = [*blocks, (k, p)]
                if place < len(blocks):
                    new = [*blocks]
                    new[place] = (blocks[place][0] + k, blocks[place][1] + p)
                key = tuple(sorted(new))
                grown[key] = grown.get(key, 0) + times
        found = grown
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def gamma_nodes(spread: Any) -> Any:
    """Gauss nodes and weights, along a new last axis, of a Gamma law of mean 1 and given variances (a vector)."""
    count = 5
    matrix = np.zeros((len(spread), count, count), dtype=np.float64)
    for k in range(count):
        matrix[:, k, k] = 1 + 2 * k * spread
        if k + 1 < count:
            matrix[:, k, k + 1] = matrix[:, k + 1, k] = np.sqrt((k + 1) * spread * (1 + k * spread))
    nodes, vectors = np.linalg.eigh(matrix)
    return nodes, vectors[:, 0, :] ** 2


def _normal_step(scale: Any) -> Any:
    """Step of a sum over a normal variable z of functions of e^(scale z) that decay for large arguments: error e^-33."""
    strip = np.clip(1.5707963267948966 / np.clip(scale, 1e-9, None), None, 8.1)
    return 6.283185307179586 * strip / (33 + strip * strip / 2)


def _reach(scale: Any, tokens: Any, power: Any) -> Any:
    """Largest |zeta| that counts: a factor e^(power s zeta) moves the mean to power s, until the weight of a key saturates."""
    size = np.log(tokens)
    sharp = np.clip(scale, 1e-9, None)
    typical, largest = (size + scale * scale / 2 + 3) / sharp, np.sqrt(2 * size) + 3 / sharp
    limit = np.where(typical < largest, typical, largest)
    moved = np.where(power * scale < limit, power * scale, limit)
    return max(9.2, 7.6 + float(moved.max()))


def _key_nodes(scale: Any, dimension: Any, reach: Any) -> Any:
    """Offsets s zeta, values c and weights of a rule for the law of a key, each of shape (nodes, points)."""
    if float(dimension.max()) < 0:
        variance, part = gamma_nodes(-2 / dimension)
        normal = 0 * scale + float("inf")
        kinds = [_key_nodes(scale * np.sqrt(variance[:, k]), normal, reach) for k in range(5)]
        return (
            np.concatenate([offset for offset, _, _ in kinds]),
            np.concatenate([c * np.sqrt(variance[:, k]) for k, (_, c, _) in enumerate(kinds)]),
            np.concatenate([weight * part[:, k] for k, (_, _, weight) in enumerate(kinds)]),
        )
    if bool(np.isinf(dimension).any()):
        half = int((reach / _normal_step(scale)).max()) + 1
        c = np.arange(-half, half + 1, dtype=np.float64)[:, None] * (reach / half) + 0 * scale
        weight = np.exp(-c * c / 2)
        return scale * c, c, weight / weight.sum(0)
    # c = tanh(y) has the density cosh(y)^(1 - D), without an edge.
    radius = scale * np.sqrt(dimension)
    strip = np.clip(np.arctan(1.5707963267948966 / np.clip(radius, 1e-9, None)), None, 1.4)
    strip = np.where(strip * np.sqrt(dimension) > 8.1, 8.1 / np.sqrt(dimension), strip)
    step = 6.283185307179586 * strip / (33 - (dimension - 1) * np.log(np.cos(strip)))
    end = np.arccosh(np.exp((reach * reach / 2 + 3) / (dimension - 1)))
    half = int((end / step).max()) + 1
    y = np.arange(-half, half + 1, dtype=np.float64)[:, None] * (end / half)
    weight = np.exp((1 - dimension) * np.log(np.cosh(y)))
    c = np.tanh(y)
    return radius * c, c, weight / weight.sum(0)


def _common_weights(scale: Any, dimension: Any, offset: Any) -> Any:
    """Values c and weights of equidistant offsets s zeta that many scales share, of shape (nodes, points)."""
    zeta = offset[:, None] / scale
    flat = np.isinf(dimension)
    finite = np.where(flat, 4.0, dimension)
    inside = np.clip(1 - zeta * zeta / finite, 0.0, None)
    sphere = np.exp((finite - 3) / 2 * np.log(np.clip(inside, 1e-300, None)))
    weight = np.where(flat, np.exp(-zeta * zeta / 2), np.where(inside > 0, sphere, 0 * sphere))
    return np.where(flat, zeta, zeta / np.sqrt(finite)), weight / weight.sum(0)


def _logarithm(plain: Any, rest: Any) -> Any:
    """log(plain) with rest = 1 - plain, accurate for both near zero."""
    return np.where(rest < 0.5, np.log1p(-np.clip(rest, None, 0.5)), np.log(np.clip(plain, 1e-300, None)))


def _bounds(scale: Any, tokens: Any, lowest: Any) -> Any:
    """Range of x = log t of the integral over t, for total powers of at least ``lowest``."""
    size = np.log(tokens)
    typical = size + scale * scale / 2 + 42
    largest = size + scale * (np.sqrt(2 * size) + 9) + 42 / lowest
    many = float(tokens.min()) > 128
    return -float(np.where(typical < largest, typical, largest).max()), 3.0 if many else float(8.7 * scale.max() + 5)


def _row_block(requests: Any, scale: Any, tokens: Any, dimension: Any, shared: Any, step: Any) -> Any:
    """Moments of a block of points, by one matrix product where they share a grid."""
    plans = [set_partitions(powers) for powers in requests]
    wanted = sorted({block for plan in plans for blocks in plan for block in blocks} | {(0, 0)})
    totals = [sum(k for k, _ in powers) for powers in requests]
    first, last = _bounds(scale, tokens, min(totals))
    reach = _reach(scale, tokens, max(totals))
    start = int(first / step) - 1
    x = np.arange(start, int(last / step) + 2, dtype=np.float64) * step
    averages = {}
    if shared:
        half = int(reach * float(scale.max()) / step) + 1
        c, weight = _common_weights(scale, dimension, np.arange(-half, half + 1, dtype=np.float64) * step)
        line = np.arange(start - half, start + len(x) + half, dtype=np.float64) * step
        place = np.arange(len(x))[:, None] + np.arange(2 * half + 1)[None, :]
        grown = np.exp(np.clip(line, None, 7.0))
        for k in sorted({k for k, _ in wanted}):
            kernel = (grown**k * np.exp(-grown))[place]
            for p in sorted({p for other, p in wanted if other == k}):
                averages[k, p] = kernel @ (weight * c**p)
        rest = -np.expm1(-grown)[place] @ weight
    else:
        offset, c, weight = _key_nodes(scale, dimension, reach)
        grown = np.exp(np.clip(x[:, None, None] + offset, None, 7.0))
        decay = np.exp(-grown)
        for k in sorted({k for k, _ in wanted}):
            kernel = decay * grown**k
            for p in sorted({p for other, p in wanted if other == k}):
                averages[k, p] = (kernel * (weight * c**p)).sum(1)
        rest = -(np.expm1(-grown) * weight).sum(1)
    logarithm = _logarithm(averages[0, 0], rest)
    survival = {}
    found = []
    for powers, plan in zip(requests, plans, strict=True):
        total = 0 * tokens
        for blocks, times in plan.items():
            count = len(blocks)
            if count not in survival:
                survival[count] = np.exp(np.clip(tokens - count, 0.0, None) * logarithm)
            term = survival[count]
            for block in blocks:
                term = term * averages[block]
            factor = times * step + 0 * tokens
            for k in range(count):
                factor = factor * (tokens - k)
            total = total + factor * term.sum(0)
        for k in range(2, sum(k for k, _ in powers)):
            total = total / k
        found.append(total)
    return np.stack(found)


def row_moments(requests: Any, variance: Any, tokens: Any, dimension: Any, step: Any = 0.27) -> Any:
    """E prod_b sum_j w_j^(k_b) c_j^(p_b) of a row of softmax weights, of shape (requests, points).

    ``requests`` lists tuples of pairs (k, p) with k >= 1; ``variance``, ``tokens`` (whole numbers >= 1) and ``dimension`` are
    float64 vectors of one length. Relative error 1e-11 for scales up to 20 and tokens up to 1e6 (checked by halving ``step``);
    nan beyond a scale of 64, where the grid would be too large.

    >>> row_moments([((2, 0),)], np.array([0.0, 36.0]), np.array([4.0, 1e6]), np.array([np.inf, np.inf])).round(4).tolist()
    [[0.25, 0.241]]
    """
    scale = np.sqrt(variance)
    found = np.zeros((len(requests), len(scale)), dtype=np.float64) + np.where(scale <= 64, 0 * tokens, float("nan"))
    smooth = np.isinf(dimension) | (dimension >= 64)
    shared = smooth & (scale >= 0.7)
    kind = np.where(shared, 0, np.where(dimension < 0, 1, np.where(np.isinf(dimension), 2, 3)))
    kind = np.where(scale <= 64, kind, 4)
    for code in range(4):
        places = np.arange(len(scale))[kind == code]
        key = scale[places] + np.where(tokens[places] > 128, 0.0, 1e6)
        places = places[np.argsort(key)]
        key = key[np.argsort(key)]
        begin = 0
        while begin < len(places):
            # Scales that differ by less than a factor 1.5 share one grid; the block bounds the memory.
            size = 512 if code == 0 else max(1, int(64 / (1 + float(scale[places[begin]]))**2))
            same = int((key[begin:] <= key[begin] + 0.5 * scale[places[begin]] + 0.1).sum())
            here = places[begin : begin + max(1, min(size, same))]
            found[:, here] = _row_block(requests, scale[here], tokens[here], dimension[here], code == 0, step)
            begin += len(here)
    for k, powers in enumerate(requests):
        if all(p == 0 for _, p in powers):
            uniform = tokens ** float(sum(1 - k for k, _ in powers))
            found[k] = np.where((variance == 0) | (tokens == 1), uniform, found[k])
    return found


def _tabulate(wanted: Any, load: Any, private: Any, normal: Any, bounds: Any, reach: Any, step: Any, times: Any) -> Any:
    """E e^(k u) e^(-e^u) over the private part of one row, with u = x + load c: {k: array of shape (points, x, nodes c)}.

    With ``times`` > 0 every u is on one line of step/times; x has the vector ``step``.
    """
    start = int(bounds[0] / float(step.min())) - 1
    count = int(bounds[1] / float(step.min())) + 2 - start
    nodes = normal.shape[1]
    if times > 0:
        half = (nodes - 1) // 2
        line = np.arange(times * start - half, times * (start + count - 1) + half + 1, dtype=np.float64)[None, :]
        line = line * (step / times)[:, None]
        place = times * np.arange(count)[:, None] + np.arange(nodes)[None, :]
    else:
        x = np.arange(start, start + count, dtype=np.float64)[None, :] * step[:, None]
        line = (x[:, :, None] + (load[:, None] * normal)[:, None, :]).reshape(len(load), -1)
        place = np.arange(count * nodes).reshape(count, nodes)
    offset, _, weight = _key_nodes(private, 0 * private + float("inf"), reach)
    shift, part = offset.T[:, None, :], weight.T[:, :, None]
    size = max(1, 1000000 // (len(load) * len(offset)))
    tables: Any = {}
    for begin in range(0, line.shape[1], size):
        grown = np.exp(np.clip(line[:, begin : begin + size, None] + shift, None, 7.0))
        decay = np.exp(-grown)
        tables.setdefault("rest", []).append((-np.expm1(-grown) @ part)[:, :, 0])
        for k in wanted:
            tables.setdefault(k, []).append(((decay * grown**k) @ part)[:, :, 0])
    return {k: np.concatenate(parts, 1)[:, place] for k, parts in tables.items()}


def _pair_block(requests: Any, rows: Any, private: Any, opposite: Any, tokens: Any, extra: Any, width: Any, reach: Any) -> Any:
    """Moments of a block of points; ``rows`` lists variance, load, step and multiple of the common grid of both rows."""
    plans = [set_partitions(powers) for powers in requests]
    wanted = sorted({block for plan in plans for blocks in plan for block in blocks} | {(0, 0)})
    half = int((reach / width).max()) + 1
    normal = np.arange(-half, half + 1, dtype=np.float64)[None, :] * width[:, None]
    weight = np.exp(-normal * normal / 2)
    weight = weight / weight.sum(1)[:, None]
    tables = []
    for side, (variance, load, step, times) in enumerate(rows):
        bounds = _bounds(np.sqrt(variance), tokens + side * extra, 1)
        powers = sorted({block[side] for block in wanted})
        tables.append(_tabulate(powers, load, np.sqrt(variance * private), normal, bounds, reach, step, times))
    one, two = tables
    if opposite:
        two = {k: np.flip(table, (2,)) for k, table in two.items()}
    cell = rows[0][2] * rows[1][2]
    averages = {(k, m): (one[k] * weight[:, None, :]) @ two[m].swapaxes(1, 2) for k, m in wanted}
    column = weight[:, :, None]
    rest_x, rest_y = one["rest"] @ column, (two["rest"] @ column).swapaxes(1, 2)
    both = (one["rest"] * weight[:, None, :]) @ two["rest"].swapaxes(1, 2)
    logarithm = _logarithm(averages[0, 0], rest_x + rest_y - both)
    more = extra[:, None, None] * _logarithm((two[0] @ column).swapaxes(1, 2), rest_y)
    survival: Any = {}
    found = []
    for powers, plan in zip(requests, plans, strict=True):
        total = 0 * tokens
        for blocks, times in plan.items():
            count = len(blocks)
            if count not in survival:
                survival[count] = np.exp(np.clip(tokens - count, 0.0, None)[:, None, None] * logarithm + more)
            term = survival[count]
            for block in blocks:
                term = term * averages[block]
            factor = times * cell
            for k in range(count):
                factor = factor * (tokens - k)
            total = total + factor * term.sum(2).sum(1)
        for side in (0, 1):
            for k in range(2, sum(block[side] for block in powers)):
                total = total / k
        found.append(total)
    return np.stack(found)


def pair_moments(
    requests: Any, first: Any, second: Any, deficit: Any, tokens: Any, extra: Any, step: Any = 0.27
) -> Any:
    """E prod_b sum_j w_j^(k_b) v_j^(l_b) of two rows of softmax weights over normal keys, of shape (requests, points).

    The scores of the rows have the variances ``first`` and ``second`` and the correlation 1 - ``deficit``; row w has ``tokens``
    keys, row v these and ``extra`` more (a causal mask). ``requests`` lists tuples of pairs (k, l); every request needs a
    positive total of both. All arguments are float64 vectors of one length. Points with like
    grids share matrix products: 1 to 100 ms a point for scales up to 6. nan beyond a scale of 32.

    >>> ends = np.array([4.0, 4.0])
    >>> pair_moments([((1, 1),)], ends, ends, np.array([1.0, 0.0]), 0*ends + 8, 0*ends).round(6).tolist()
    [[0.125, 0.429653]]
    """
    private = np.where(deficit > 1, 2 - deficit, deficit)
    common = np.clip(1 - private, 0.0, None)
    loads = [np.sqrt(variance * common) for variance in (first, second)]
    largest = np.clip(np.where(loads[0] > loads[1], loads[0], loads[1]), 1e-9, None)
    sharp = np.sqrt(np.where(first > second, first, second))
    # The step of the common variable divides that of both integrals, so that a row is tabulated on one line of points.
    natural = _normal_step(largest)
    width = np.where(natural * largest < step, natural, step / largest)
    times = [np.floor(step / (np.clip(load, 1e-9, None) * width) + 1e-9) for load in loads]
    times = [np.where(multiple <= 24, multiple, 0 * multiple) for multiple in times]
    steps = [
        np.where(multiple > 0, multiple * load * width, step + 0 * load) for multiple, load in zip(times, loads, strict=True)
    ]
    power = max(sum(k + m for k, m in powers) for powers in requests)
    found = np.zeros((len(requests), len(first)), dtype=np.float64) + np.where(sharp <= 32, 0 * tokens, float("nan"))
    code = np.where(deficit > 1, 1.0, 0.0) + 2 * times[0] + 64 * times[1] + np.where(tokens > 128, 0.0, 2048.0)
    for kind in sorted({float(item) for item in code[sharp <= 32]}):
        places = np.arange(len(first))[(code == kind) & (sharp <= 32)]
        key = sharp[places]
        places = places[np.argsort(key)]
        key = key[np.argsort(key)]
        begin = 0
        while begin < len(places):
            # Points share the ends of their grids where their scales differ by less than a factor 1.5.
            reach = _reach(1.5 * key[begin : begin + 1], (tokens + extra)[places].max(), power)
            cells = 400 * (2 * reach / float(width[places[begin:]].min()) + 1)
            same = int((key[begin:] <= 1.5 * key[begin] + 0.1).sum())
            here = places[begin : begin + max(1, min(same, int(1e6 / cells)))]
            rows = [
                (variance[here], load[here], grid[here], int(multiple[here][0]))
                for variance, load, grid, multiple in zip((first, second), loads, steps, times, strict=True)
            ]
            reach = _reach(sharp[here], (tokens + extra)[here], power)
            found[:, here] = _pair_block(
                requests, rows, private[here], bool(deficit[here][0] > 1), tokens[here], extra[here], width[here], reach
            )
            begin += len(here)
    return found


def _legendre_nodes(count: Any) -> Any:
    """Gauss nodes and weights on [0, 1]."""
    matrix = np.zeros((1, count, count), dtype=np.float64)
    for k in range(1, count):
        matrix[:, k, k - 1] = matrix[:, k - 1, k] = k / (4 * k * k - 1) ** 0.5
    nodes, vectors = np.linalg.eigh(matrix)
    return (1 + nodes[0]) / 2, vectors[0, 0] ** 2


def _chebyshev_nodes(count: Any) -> Any:
    """Chebyshev's nodes on [0, 1]."""
    return (1 + np.cos((np.arange(count, dtype=np.float64) + 0.5) * (3.141592653589793 / count))) / 2


def _chebyshev_values(place: Any, count: Any) -> Any:
    """Chebyshev's polynomials of degree below ``count`` on [0, 1], of shape (count, points)."""
    z = 2 * place - 1
    found = [1 + 0 * z, z]
    for _ in range(count - 2):
        found.append(2 * z * found[-1] - found[-2])
    return np.stack(found)


def _chebyshev_series(count: Any) -> Any:
    """The matrix that makes the coefficients of Chebyshev's polynomials from values at the nodes."""
    unit = _chebyshev_values(_chebyshev_nodes(count), count) * (2.0 / count)
    unit[0] = unit[0] / 2
    return unit


def _one_shape(*values: Any) -> Any:
    """The common shape of arrays that broadcast, and the arrays as float64 vectors of its size."""
    zero = sum(0.0 * np.clip(value, -1.0, 1.0) for value in values)
    return zero.shape, [(value + zero).reshape(-1) for value in values]


def averaged_moments(
    requests: Any, variance: Any, tokens: Any, dimension: Any, spread: Any, evaluate: Any = row_moments
) -> Any:
    """E over G of G^k times a moment of a row at the score variance G a, of shape (requests, broadcast shape).

    ``requests`` lists pairs of the exponents and of k; G has the variance ``spread``. ``dimension`` None is a normal law.
    """
    given = variance if dimension is None else dimension
    shape, (a, n, law, w) = _one_shape(variance, tokens, given, spread)
    law = 0 * a + float("inf") if dimension is None else law
    kinds = sorted({powers for powers, _ in requests})
    if bool((w > 0).any()):
        nodes, parts = gamma_nodes(w)
        wide = [(item[:, None] + 0 * nodes).reshape(-1) for item in (n, law)]
        values = evaluate(kinds, (a[:, None] * nodes).reshape(-1), *wide).reshape(len(kinds), len(a), 5)
        found = [(parts * nodes ** float(k) * values[kinds.index(powers)]).sum(1) for powers, k in requests]
    else:
        values = evaluate(kinds, a, n, law)
        found = [values[kinds.index(powers)] for powers, _ in requests]
    return np.stack(found).reshape(len(found), *shape)


def weight_gap(variance: Any, tokens: Any, evaluate: Any = row_moments) -> Any:
    """(n Y - 1)/(n - 1), as an integral of dY/da where a is small, so that it keeps its digits."""
    shape, (a, n) = _one_shape(variance, tokens)
    small = a < 0.5
    found = 0.0 * a
    if bool(small.any()):
        nodes, parts = _legendre_nodes(12)
        b, m = a[small], n[small]
        places = (b[:, None] * nodes).reshape(-1)
        square, cube, product = evaluate(
            [((2, 0),), ((3, 0),), ((2, 0), (2, 0))], places, (m[:, None] + 0 * nodes).reshape(-1), 0 * places + float("inf")
        )
        slope = ((square - 4 * cube + 3 * product).reshape(len(b), 12) * parts).sum(1)
        found[small] = b * m * slope / np.clip(m - 1, 1.0, None)
    if not bool(small.all()):
        b, m = a[~small], n[~small]
        found[~small] = (m * evaluate([((2, 0),)], b, m, 0 * b + float("inf"))[0] - 1) / np.clip(m - 1, 1.0, None)
    return found.reshape(shape)


def two_rows(requests: Any, variance: Any, gap: Any, tokens: Any, extra: Any) -> Any:
    """:func:`pair_moments` of rows of one variance, by the gap of their scores; all arguments are vectors."""
    flat = variance == 0
    deficit = np.where(flat, 0 * gap, gap) / np.where(flat, 1 + 0 * variance, variance)
    return pair_moments(requests, variance, variance, deficit, tokens, extra)


def overlap_moments(requests: Any, variance: Any, gap: Any, tokens: Any, extra: Any, evaluate: Any = two_rows) -> Any:
    """Moments of two rows, of shape (requests, broadcast shape)."""
    shape, (a, g, n, m) = _one_shape(variance, gap, tokens, extra)
    return evaluate(requests, a, g, n, m).reshape(len(requests), *shape)


def _jacobian_integral(variance: Any, first: Any, last: Any, tokens: Any, evaluate: Any) -> Any:
    """The integral of E tr(J_i J_k) over the score gap between two gaps that differ little."""
    nodes, parts = _legendre_nodes(4)
    a, n = ((item[:, None] + 0 * nodes).reshape(-1) for item in (variance, tokens))
    gaps = (first[:, None] + (last - first)[:, None] * nodes).reshape(-1)
    one, two, three = evaluate([((1, 1),), ((1, 2),), ((1, 1), (1, 1))], a, gaps, n, 0 * a)
    return (last - first) * ((one - 2 * two + three).reshape(len(first), 4) * parts).sum(1)


def row_gap(variance: Any, gap: Any, tokens: Any, evaluate: Any = two_rows) -> Any:
    """Overlap of a row with itself minus that of two rows; an integral of its slope where the gap is small."""
    shape, (a, g, n) = _one_shape(variance, gap, tokens)
    small = g < 0.02 * a
    found = 0.0 * a
    if bool(small.any()):
        found[small] = _jacobian_integral(a[small], 0 * g[small], g[small], n[small], evaluate)
    if not bool(small.all()):
        b, h, m = a[~small], g[~small], n[~small]
        found[~small] = evaluate([((1, 1),)], b, 0 * h, m, 0 * m)[0] - evaluate([((1, 1),)], b, h, m, 0 * m)[0]
    return found.reshape(shape)


def overlap_gap(variance: Any, gap: Any, tokens: Any, evaluate: Any = two_rows) -> Any:
    """(n V - 1)/(n - 1) of the overlap V of two rows; an integral of its slope where the covariance is small."""
    shape, (a, g, n) = _one_shape(variance, gap, tokens)
    small = abs(a - g) < 0.02
    found = 0.0 * a
    if bool(small.any()):
        b, h, m = a[small], g[small], n[small]
        found[small] = _jacobian_integral(b, h, b, m, evaluate) * m / np.clip(m - 1, 1.0, None)
    if not bool(small.all()):
        b, h, m = a[~small], g[~small], n[~small]
        found[~small] = (m * evaluate([((1, 1),)], b, h, m, 0 * m)[0] - 1) / np.clip(m - 1, 1.0, None)
    return found.reshape(shape)
