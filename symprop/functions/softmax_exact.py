"""Moments of softmax weights to any number of digits: the trapezoid rules of ``softmax_numeric`` in exact arithmetic.

Sums over the key law are products of matrices of integers in fixed point; they are split into limbs whose products a double
holds without rounding, so that one exact product is a few ordinary ones.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np

from symprop.functions.softmax_numeric import set_partitions

_LIMB = 20
"""Bits of a limb: a sum of 2^12 products of two limbs is exact in a double."""


def _limbs(values: Any) -> list[Any]:
    """Integers as arrays of doubles, 20 bits each, least significant first; signs go to every limb."""
    sign = np.where(values < 0, -1, 1)
    rest, found = abs(values), []
    for _ in range(-(-int(rest.max()).bit_length() // _LIMB)):
        found.append((sign * (rest & ((1 << _LIMB) - 1))).astype(float))
        rest = rest >> _LIMB
    return found


def fixed_product(left: Any, right: Any, bits: int, place: Any = None) -> Any:
    """The product of two matrices of fixed-point numbers (Python integers, dtype object), rounded down to fixed point.

    ``place`` takes the left matrix from a vector: its entries are left[place].

    >>> one = np.array([[2**70, -3 * 2**60]], dtype=object)
    >>> fixed_product(one, one.T, 60)[0, 0] == 2**80 + 9 * 2**60
    True
    """
    ones, twos = _limbs(left), _limbs(right)
    columns = right.shape[1]
    joined = np.concatenate(twos, axis=1) if twos else np.zeros((right.shape[0], 0))
    # Products of limbs far below the last bit are left out.
    least = bits // _LIMB - 2
    levels: dict[int, Any] = {}
    for k, limb in enumerate(ones):
        skipped = min(len(twos), max(0, least - k))
        part = ((limb if place is None else limb[place]) @ joined[:, skipped * columns :]).astype(np.int64)
        for m in range(len(twos) - skipped):
            levels[k + skipped + m] = levels.get(k + skipped + m, 0) + part[:, m * columns : (m + 1) * columns]
    shape = ((left if place is None else place).shape[0], columns)
    total = np.zeros(shape, dtype=object)
    for level, part in levels.items():
        total = total + (part.astype(object) << (_LIMB * level))
    return total >> bits


def _digits() -> Any:
    return mpmath.mp.prec * mpmath.log(2) + 6


def _normal_step(scale: Any) -> Any:
    """Step of a sum over a normal variable z for functions of e^(scale z) that are bounded in the strip |Im| < pi/2."""
    digits = _digits()
    strip = min(mpmath.pi / (2 * scale), mpmath.sqrt(2 * digits)) if scale else mpmath.sqrt(2 * digits)
    return 2 * mpmath.pi * strip / (digits + strip**2 / 2)


def _gauss_count(scale: Any) -> int | None:
    """Nodes that a Gauss rule needs for exp(-t e^(scale z)), None where more than 16 are needed."""
    if scale == 0:
        return 1
    wanted = -mpmath.mp.prec * mpmath.log(2) - 5
    for count in range(2, 17):
        if 2 * count * mpmath.log(2 * scale / mpmath.pi) + mpmath.loggamma(2 * count + 1) / 2 < wanted:
            return count
    return None


def gauss_rule(diagonal: list[Any], squares: list[Any]) -> list[tuple[Any, Any]]:
    """Nodes and weights of a Gauss rule from its recurrence, at the working precision."""
    with mpmath.extraprec(10):
        jacobi = mpmath.diag(diagonal)
        for k, square in enumerate(squares):
            jacobi[k, k + 1] = jacobi[k + 1, k] = mpmath.sqrt(square)
        places, vectors = mpmath.eigsy(jacobi)
        return [(places[k], vectors[0, k] ** 2) for k in range(len(diagonal))]


def gamma_rule(spread: Any, count: int = 5) -> list[tuple[Any, Any]]:
    """Gauss nodes and weights of a Gamma law of mean 1."""
    squares = [k * spread * (1 + (k - 1) * spread) for k in range(1, count)]
    return gauss_rule([1 + 2 * k * spread for k in range(count)], squares)


class _Rule:
    """Nodes of a normal variable: on a grid of offsets scale * z that others share, or few of a Gauss rule."""

    def __init__(self, scale: Any, tilt: int) -> None:
        self.scale, count = scale, _gauss_count(scale)
        self.few = None if count is None else gauss_rule([mpmath.mpf(0)] * count, [mpmath.mpf(k) for k in range(1, count)])
        self.reach = mpmath.sqrt(2 * _digits()) + 1 + tilt * scale

    def parts(self, step: Any) -> int:
        """How many grid steps there must be in one step of x."""
        return 1 if self.few is not None else int(mpmath.ceil(step / (self.scale * _normal_step(self.scale))))

    def nodes(self, unit: Any) -> list[tuple[Any, Any, Any]]:
        """Offset, z and weight; without a Gauss rule the offsets are multiples of ``unit``."""
        if self.few is not None:
            return [(self.scale * z, z, weight) for z, weight in self.few]
        last = int(self.reach * self.scale / unit) + 1
        norm = unit / self.scale / mpmath.sqrt(2 * mpmath.pi)
        places = (unit * k for k in range(-last, last + 1))
        return [(x, x / self.scale, norm * mpmath.exp(-((x / self.scale) ** 2) / 2)) for x in places]


def _sphere_nodes(scale: Any, dimension: Any) -> list[tuple[Any, Any, Any]]:
    """Nodes c = tanh(y) of one coordinate of a unit vector."""
    digits, radius = _digits(), scale * mpmath.sqrt(dimension)
    strip = min(mpmath.mpf(7) / 5, mpmath.sqrt(2 * digits / dimension), mpmath.atan(mpmath.pi / (2 * radius)))
    step = 2 * mpmath.pi * strip / (digits - (dimension - 1) * mpmath.log(mpmath.cos(strip)))
    last = int(mpmath.acosh(mpmath.exp(digits / (dimension - 1))) / step) + 2
    found = [(radius * mpmath.tanh(step * k), mpmath.tanh(step * k), mpmath.cosh(step * k) ** (1 - dimension))
             for k in range(-last, last + 1)]
    norm = mpmath.fsum(weight for _, _, weight in found)
    return [(offset, c, weight / norm) for offset, c, weight in found]


def _fixed(values: Any, bits: int) -> Any:
    return np.array([int(mpmath.ldexp(value, bits)) for value in values], dtype=object)


def _averages(
    places: tuple[Any, Any, int, int], nodes: list[tuple[Any, Any, Any]], on_grid: bool, wanted: list[tuple[int, int]],
    bits: int, stride: int = 1,
) -> dict[tuple[int, int], Any]:
    """E c^p e^(k v) e^(-e^v) in fixed point, v = u + s zeta, at every stride-th u = shift + unit*(first + i), i < count."""
    shift, unit, first, count = places
    if on_grid:
        half = (len(nodes) - 1) // 2
        grown = [mpmath.exp(shift + unit * k) for k in range(first - half, first + count + half)]
        place: Any = np.arange(0, count, stride)[:, None] + np.arange(len(nodes))[None, :]
    else:
        across = [mpmath.exp(offset) for offset, _, _ in nodes]
        down = [mpmath.exp(shift + unit * k) for k in range(first, first + count, stride)]
        grown = [t * e for t in down for e in across]
        place = np.arange(len(grown)).reshape(len(down), len(across))
    decay = [mpmath.exp(-x) for x in grown]
    found: dict[tuple[int, int], Any] = {}
    for k in sorted({k for k, _ in wanted}):
        line = _fixed((x**k * e for x, e in zip(grown, decay, strict=True)), bits)
        kinds = [p for other, p in wanted if other == k]
        columns = [_fixed((weight * c**p for _, c, weight in nodes), bits) for p in kinds]
        product = fixed_product(line, np.stack(columns, axis=1), bits, place)
        found |= {(k, p): product[:, column] for column, p in enumerate(kinds)}
    return found


def _range(scale: Any, tokens: int, lowest: int) -> tuple[Any, Any]:
    digits, size = _digits(), mpmath.log(tokens)
    typical = size + scale**2 / 2 + digits
    largest = size + scale * (mpmath.sqrt(2 * size) + mpmath.sqrt(2 * digits)) + digits / lowest
    return -min(typical, largest), mpmath.log(digits) + 1 + scale * mpmath.sqrt(2 * digits)


def _power(base: Any, exponent: int, bits: int) -> Any:
    """A power of fixed-point numbers in [0, 1]."""
    total = None
    while exponent:
        if exponent & 1:
            total = base if total is None else (total * base) >> bits
        base, exponent = (base * base) >> bits, exponent >> 1
    return total


def _assembled(plan: dict[Any, int], averages: dict[Any, Any], tokens: int, bits: int, extra: Any = None) -> Any:
    """Sum over set partitions and over the grid."""
    total = mpmath.mpf(0)
    for blocks, times in plan.items():
        if len(blocks) > tokens:
            continue
        term = _power(averages[0, 0], tokens - len(blocks), bits)
        for block in blocks:
            term = averages[block] if term is None else (term * averages[block]) >> bits
        if extra is not None:
            term = (term * extra) >> bits
        for k in range(len(blocks)):
            times *= tokens - k
        total += times * mpmath.ldexp(mpmath.mpf(int(term.sum())), -bits)
    return total


def row_moments(requests: list[Any], variance: Any, tokens: int, dimension: Any = None) -> list[Any]:
    """E prod_b sum_j w_j^k_b c_j^p_b at the working precision; ``dimension`` None is a normal law of keys.

    >>> with mpmath.workdps(30):
    ...     print(row_moments([((2, 0),)], mpmath.mpf(1), 2)[0])
    0.636838153968369454509140433902
    """
    scale = mpmath.sqrt(variance)
    plans = [set_partitions(powers) for powers in requests]
    wanted = sorted({block for plan in plans for blocks in plan for block in blocks} | {(0, 0)})
    totals = [sum(k for k, _ in powers) for powers in requests]
    step = mpmath.pi**2 / _digits()
    low, high = _range(scale, tokens, min(totals))
    bits = mpmath.mp.prec + (max(totals) + 2) * tokens.bit_length() + 20
    if dimension is None:
        rule = _Rule(scale, max(totals))
        parts = rule.parts(step)
        unit, on_grid = step / parts, rule.few is None
        nodes = rule.nodes(unit)
    else:
        parts, unit, on_grid, nodes = 1, step, False, _sphere_nodes(scale, dimension)
    first, count = parts * int(low / step), int((high - low) / step) + 3
    with mpmath.workprec(bits + 10):
        values = _averages((mpmath.mpf(0), unit, first, parts * (count - 1) + 1), nodes, on_grid, wanted, bits,
                           parts)
    return [
        step / mpmath.factorial(k - 1) * _assembled(plan, values, tokens, bits)
        for plan, k in zip(plans, totals, strict=True)
    ]


def pair_moments(requests: list[Any], variance: Any, gap: Any, tokens: int, extra: int = 0) -> list[Any]:
    """E prod_b sum_j w_j^k_b v_j^l_b of two rows of equal variance and score gap ``gap``, at the working precision.

    Row v has ``extra`` more keys than row w.
    """
    covariance = variance - gap
    opposite = covariance < 0
    common = mpmath.sqrt(abs(covariance))
    private = mpmath.sqrt(variance + covariance if opposite else gap)
    plans = [set_partitions(powers) for powers in requests]
    wanted = sorted({block for plan in plans for blocks in plan for block in blocks} | {(0, 0)})
    powers = sorted({(k, 0) for block in wanted for k in block} | {(0, 0)})
    totals = [(sum(k for k, _ in block), sum(k for _, k in block)) for block in requests]
    most = max(max(pair) for pair in totals)
    step = mpmath.pi**2 / _digits()
    low, high = _range(mpmath.sqrt(variance), tokens + extra, min(min(pair) for pair in totals))
    bits = mpmath.mp.prec + (2 * most + 2) * (tokens + extra).bit_length() + 20
    outer, inner = _Rule(common, most), _Rule(private, most)
    parts = max(outer.parts(step), inner.parts(step))
    unit = step / parts
    first, count = parts * int(low / step), int((high - low) / step) + 3
    with mpmath.workprec(bits + 10):
        across, nodes = outer.nodes(unit), inner.nodes(unit)
        if outer.few is None:
            half = (len(across) - 1) // 2
            line = _averages((mpmath.mpf(0), unit, first - half, parts * (count - 1) + 2 * half + 1), nodes,
                             inner.few is None, powers, bits)
            place = parts * np.arange(count)[:, None] + np.arange(2 * half + 1)[None, :]
            lines = {k: line[k, 0] for k, _ in powers}
        else:
            parted = [_averages((shift, unit, first, parts * (count - 1) + 1), nodes, inner.few is None, powers, bits, parts)
                      for shift, _, _ in across]
            lines = {k: np.stack([line[k, 0] for line in parted], axis=1).ravel() for k, _ in powers}
            place = np.arange(count * len(across)).reshape(count, len(across))
        weight = _fixed((w for _, _, w in across), bits)
        right = {k: (((lines[k][place] * weight) >> bits)[:, :: -1 if opposite else 1]).T for k, _ in powers}
        averages = {(k, m): fixed_product(lines[k], right[m], bits, place) for k, m in wanted}
        alone = _power(right[0].sum(axis=0), extra, bits)
    return [
        step**2 / (mpmath.factorial(k - 1) * mpmath.factorial(m - 1)) * _assembled(plan, averages, tokens, bits, alone)
        for plan, (k, m) in zip(plans, totals, strict=True)
    ]
