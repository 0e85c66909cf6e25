r"""Smooth table sums of the compiled backend: a polynomial of each cell, made when a point first falls into it.

A length x (gap and 2v - gap, or 2v) has its cell by the leading bits of z = 1 + x/s: every octave of z is cut into equal parts,
so that no logarithm is needed. The sums are singular where z vanishes. Seen from a cell, the first of m parts of an octave,
the edge of an ellipse of parameter 4m + 2 (Bernstein's): interpolation with n terms at Chebyshev's nodes is right to about
(4m + 2)^(-n), which is below a relative 1e-10, where the rest of the sum is of order one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import mpmath

OCTAVES = 30
"""Octaves of 1 + x/s that have cells; beyond, the sum is evaluated itself."""
TERMS = 8
"""Coefficients in the second of two directions, or in the only one: they fill a vector."""
BITS, LINE_BITS = 2, 3
"""The logarithm of the parts of an octave there."""
FIRST_TERMS, FIRST_BITS = 6, 4
"""The same in the first of two directions."""


def _matrix(terms: int, nodes: int) -> list[list[float]]:
    """Values at Chebyshev's nodes on [-1, 1] to the coefficients of the polynomial, lowest power first."""
    with mpmath.workdps(40):
        at = [mpmath.cos(mpmath.pi * (j + mpmath.mpf(1) / 2) / nodes) for j in range(nodes)]
        powers = [[mpmath.mpf(1)], [mpmath.mpf(0), mpmath.mpf(1)]]
        for _ in range(terms - 2):
            shifted = [mpmath.mpf(0), *(2 * item for item in powers[-1])]
            powers.append([a - b for a, b in zip(shifted, powers[-2] + [mpmath.mpf(0)] * 2, strict=True)])
        rows = [[mpmath.mpf(0)] * nodes for _ in range(terms)]
        for k, power in enumerate(powers):
            for j, node in enumerate(at):
                weight = (1 if k == 0 else 2) * mpmath.chebyt(k, node) / nodes
                for term, coefficient in enumerate(power):
                    rows[term][j] += coefficient * weight
        return [[float(item) for item in row] for row in rows]


def _nodes(nodes: int) -> list[float]:
    with mpmath.workdps(40):
        return [float(mpmath.cos(mpmath.pi * (j + mpmath.mpf(1) / 2) / nodes)) for j in range(nodes)]


def _array(numbers: Sequence[float]) -> str:
    return "{" + ", ".join(item.hex() for item in numbers) + "}"


def _array_of_rows(rows: Sequence[Sequence[float]]) -> str:
    return "{" + ", ".join(map(_array, rows)) + "}"


@cache
def constants() -> str:
    """Nodes and transforms: one node more in the second direction, so that none has equal lengths."""
    return "\n".join((
        f"enum {{ OCTAVES = {OCTAVES}, FIRST_TERMS = {FIRST_TERMS}, FIRST_BITS = {FIRST_BITS} }};",
        f"enum {{ TERMS = {TERMS}, BITS = {BITS}, LINE_BITS = {LINE_BITS} }};",
        f"static const double FIRST_NODES[FIRST_TERMS] = {_array(_nodes(FIRST_TERMS))};",
        f"static const double SECOND_NODES[TERMS + 1] = {_array(_nodes(TERMS + 1))};",
        f"static const double FIRST[FIRST_TERMS][FIRST_TERMS] = {_array_of_rows(_matrix(FIRST_TERMS, FIRST_TERMS))};",
        f"static const double SECOND[TERMS][TERMS + 1] = {_array_of_rows(_matrix(TERMS, TERMS + 1))};",
        _PLACES,
    ))


_PLACES = '''\
typedef double row_of_terms __attribute__((vector_size(8*TERMS)));
typedef int64_t row_of_places __attribute__((vector_size(8*TERMS)));
#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (row_of_places){__VA_ARGS__})
#endif
/* The cell of z >= 1, and the place of z in it from -1 to 1, where an octave has 2^bits cells. */
static inline int64_t cell_of(double z, int bits) { return (bits_of(z) >> (52 - bits)) - (INT64_C(1023) << bits); }
static inline double place_of(double z, int bits) {
    const int64_t rest = bits_of(z) & ((INT64_C(1) << (52 - bits)) - 1);
    return (from_bits(rest | bits_of(1.0)) - 1.0)*(double)(2 << bits) - 1.0;
}
/* z - 1 at a place of a cell. */
static double beyond_one(int64_t cell, double place, int bits) {
    const double octave = ldexp(1.0, cell >> bits), part = ldexp(octave, -bits);
    return octave - 1.0 + part*((double)(cell & ((1 << bits) - 1)) + 0.5 + 0.5*place);
}
#define PAIR(a, b, k) (PICK(a, b, 0, 8, 2, 10, 4, 12, 6, 14) \\
    + PICK(a, b, 1, 9, 3, 11, 5, 13, 7, 15)*PICK(y, y, k, k + 1, k, k + 1, k, k + 1, k, k + 1))
#define QUARTET(a, b, k) (PICK(a, b, 0, 1, 8, 9, 4, 5, 12, 13) \\
    + PICK(a, b, 2, 3, 10, 11, 6, 7, 14, 15)*PICK(y2, y2, k, k + 1, k + 2, k + 3, k, k + 1, k + 2, k + 3))
/* The values at y of eight polynomials, whose coefficients are the rows. */
static inline row_of_terms values_of_rows(const row_of_terms *r, row_of_terms y) {
    const row_of_terms y2 = y*y;
    const row_of_terms a = PAIR(r[0], r[1], 0), b = PAIR(r[2], r[3], 2), c = PAIR(r[4], r[5], 4), d = PAIR(r[6], r[7], 6);
    const row_of_terms first = QUARTET(a, b, 0), last = QUARTET(c, d, 4);
    return PICK(first, last, 0, 1, 2, 3, 8, 9, 10, 11) + PICK(first, last, 4, 5, 6, 7, 12, 13, 14, 15)*(y2*y2);
}'''

_LINE = '''\
static void fit{name}(int64_t cell, double *coefficients) {{
    double v[TERMS + 1], total[TERMS + 1], factor[TERMS + 1];
    for (long j = 0; j <= TERMS; j++) v[j] = 0.5*{scale}*beyond_one(cell, SECOND_NODES[j], LINE_BITS);
    sum{name}(TERMS + 1, v, total);
    factor{name}(TERMS + 1, v, factor);
    for (long k = 0; k < TERMS; k++) {{
        coefficients[k] = 0.0;
        for (long j = 0; j <= TERMS; j++) coefficients[k] += SECOND[k][j]*(total[j]/factor[j]);
    }}
}}
'''

_PLANE = '''\
static void fit{name}(int64_t cell, double *coefficients) {{
    double v[FIRST_TERMS*(TERMS + 1)], gap[FIRST_TERMS*(TERMS + 1)];
    double total[FIRST_TERMS*(TERMS + 1)], factor[FIRST_TERMS*(TERMS + 1)], half[FIRST_TERMS][TERMS + 1];
    for (long j = 0; j < FIRST_TERMS; j++)
        for (long k = 0; k <= TERMS; k++) {{
            const double near = {scale}*beyond_one(cell/(OCTAVES << BITS), FIRST_NODES[j], FIRST_BITS);
            const double far = {scale}*beyond_one(cell%(OCTAVES << BITS), SECOND_NODES[k], BITS);
            gap[j*(TERMS + 1) + k] = near;
            v[j*(TERMS + 1) + k] = 0.5*(near + far);
        }}
    sum{name}(FIRST_TERMS*(TERMS + 1), v, gap, total);
    factor{name}(FIRST_TERMS*(TERMS + 1), v, gap, factor);
    for (long a = 0; a < FIRST_TERMS; a++)
        for (long k = 0; k <= TERMS; k++) {{
            half[a][k] = 0.0;
            for (long j = 0; j < FIRST_TERMS; j++)
                half[a][k] += FIRST[a][j]*(total[j*(TERMS + 1) + k]/factor[j*(TERMS + 1) + k]);
        }}
    for (long a = 0; a < FIRST_TERMS; a++)
        for (long b = 0; b < TERMS; b++) {{
            coefficients[a*TERMS + b] = 0.0;
            for (long k = 0; k <= TERMS; k++) coefficients[a*TERMS + b] += SECOND[b][k]*half[a][k];
        }}
}}
'''

_CELL = '''\
static row_of_terms table{name}[{cells}][{rows}];
static char state{name}[{cells}];
/* The first thread that needs a cell fits it, others wait for it. */
static __attribute__((noinline)) void fill{name}(int64_t cell) {{
    char empty = 0;
    if (__atomic_compare_exchange_n(&state{name}[cell], &empty, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {{
        double coefficients[{rows}*TERMS];
        fit{name}(cell, coefficients);
        memcpy(table{name}[cell], coefficients, sizeof coefficients);
        __atomic_store_n(&state{name}[cell], 2, __ATOMIC_RELEASE);
    }}
    while (__atomic_load_n(&state{name}[cell], __ATOMIC_ACQUIRE) != 2);
}}
'''

_EACH_LINE = '''\
static __attribute__((noinline)) void each{name}(long count, const double *restrict v, double *restrict to) {{
    double y[BLOCK], factor[BLOCK];
    int64_t cell[BLOCK], outside = 0;
    factor{name}(count, v, factor);
    for (long i = 0; i < count; i++) {{
        const double z = 1.0 + 2.0*v[i]*{per_scale};
        const int inside = z < {end};
        const double at = inside & (z > 1.0) ? z : 1.0;
        outside |= !inside;
        cell[i] = cell_of(at, LINE_BITS);
        y[i] = place_of(at, LINE_BITS);
    }}
    for (long i = count; i % TERMS; i++) {{
        cell[i] = cell[0];
        y[i] = 0.0;
    }}
    for (long i = 0; i < count; i += TERMS) {{
        row_of_terms row[TERMS], at;
#pragma GCC unroll 8
        for (long j = 0; j < TERMS; j++) {{
            if (__atomic_load_n(&state{name}[cell[i + j]], __ATOMIC_ACQUIRE) != 2) fill{name}(cell[i + j]);
            row[j] = table{name}[cell[i + j]][0];
        }}
        memcpy(&at, y + i, sizeof at);
        at = values_of_rows(row, at);
        memcpy(y + i, &at, sizeof at);
    }}
    for (long i = 0; i < count; i++) to[i] = factor[i]*y[i];
    for (long i = 0; i < count && outside; i++)
        if (!(1.0 + 2.0*v[i]*{per_scale} < {end})) sum{name}(1, v + i, to + i);
}}'''

_EACH_PLANE = '''\
static __attribute__((noinline)) void each{name}(
    long count, const double *restrict v, const double *restrict gap, double *restrict to
) {{
    double x[BLOCK], y[BLOCK], factor[BLOCK];
    int64_t cell[BLOCK], outside = 0;
    factor{name}(count, v, gap, factor);
    for (long i = 0; i < count; i++) {{
        const double z = 1.0 + gap[i]*{per_scale}, w = 1.0 + (2.0*v[i] - gap[i])*{per_scale};
        const int inside = (z < {end}) & (w < {end});
        const double near = inside & (z > 1.0) ? z : 1.0, far = inside & (w > 1.0) ? w : 1.0;
        outside |= !inside;
        cell[i] = cell_of(near, FIRST_BITS)*(OCTAVES << BITS) + cell_of(far, BITS);
        x[i] = place_of(near, FIRST_BITS);
        y[i] = place_of(far, BITS);
    }}
    for (long i = count; i % TERMS; i++) {{
        cell[i] = cell[0];
        x[i] = y[i] = 0.0;
    }}
    for (long i = 0; i < count; i += TERMS) {{
        row_of_terms row[TERMS], at;
#pragma GCC unroll 8
        for (long j = 0; j < TERMS; j++) {{
            if (__atomic_load_n(&state{name}[cell[i + j]], __ATOMIC_ACQUIRE) != 2) fill{name}(cell[i + j]);
            const row_of_terms *c = table{name}[cell[i + j]];
            row[j] = c[FIRST_TERMS - 1];
            for (long a = FIRST_TERMS - 2; a >= 0; a--) row[j] = row[j]*x[i + j] + c[a];
        }}
        memcpy(&at, y + i, sizeof at);
        at = values_of_rows(row, at);
        memcpy(y + i, &at, sizeof at);
    }}
    for (long i = 0; i < count; i++) to[i] = factor[i]*y[i];
    for (long i = 0; i < count && outside; i++)
        if (!((1.0 + gap[i]*{per_scale} < {end}) & (1.0 + (2.0*v[i] - gap[i])*{per_scale} < {end})))
            sum{name}(1, v + i, gap + i, to + i);
}}'''


def smooth(name: str, directions: int, scale: float) -> str:
    """The function that interpolates ``sum{name}/factor{name}``, of the variance or of variance and gap."""
    plane = directions == 2
    fit, evaluate = (_PLANE, _EACH_PLANE) if plane else (_LINE, _EACH_LINE)
    return (fit + _CELL + evaluate).format(
        name=name, scale=scale.hex(), per_scale=(1 / scale).hex(), end=(2.0**OCTAVES).hex(),
        cells="(OCTAVES << FIRST_BITS)*(OCTAVES << BITS)" if plane else "(OCTAVES << LINE_BITS)",
        rows="FIRST_TERMS" if plane else "1",
    )
