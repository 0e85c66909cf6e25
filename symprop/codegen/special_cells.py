r"""Smooth table sums of the compiled backend: a polynomial of each cell, made when a point first falls into it.

A length x (gap and 2v - gap, or 2v) has its cell by the leading bits of z = 1 + x/s: every octave of z is cut into equal parts,
so that no logarithm is needed. The sums are singular where z vanishes. Seen from a cell, the first of m parts of an octave,
the edge of an ellipse of parameter 4m + 2 (Bernstein's): interpolation with n terms at Chebyshev's nodes is right to about
(4m + 2)^(-n), which is below a relative 1e-10, where the rest of the sum is of order one, and below 1e-9 for the derivatives
of a sum, which vary more. (Beyond variances of 10^6 the rounding of a sum is more than that in its derivatives.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import mpmath

OCTAVES = 30
"""Octaves of 1 + x/s that have cells; beyond, the sum is evaluated itself."""
LANES = 4
"""Numbers in a vector; wider ones would need other shuffles."""
TERMS = 2 * LANES
"""Coefficients in the second of two directions, or in the only one."""
BITS, LINE_BITS = 2, 3
"""The logarithm of the parts of an octave there."""
FIRST_TERMS, FIRST_BITS = 6, 4
"""The same in the first of two directions."""
HIGH_TERMS = 3
"""As many of them have all terms of the second direction; Chebyshev's terms beyond both are of the order of the error."""


def _matrix(terms: int, nodes: int, start: int = 0) -> list[list[float]]:
    """Values at Chebyshev's nodes on [-1, 1] to coefficients of powers, lowest first, of Chebyshev's terms from ``start``."""
    with mpmath.workdps(40):
        at = [mpmath.cos(mpmath.pi * (j + mpmath.mpf(1) / 2) / nodes) for j in range(nodes)]
        powers = [[mpmath.mpf(1)], [mpmath.mpf(0), mpmath.mpf(1)]]
        for _ in range(terms - 2):
            shifted = [mpmath.mpf(0), *(2 * item for item in powers[-1])]
            powers.append([a - b for a, b in zip(shifted, powers[-2] + [mpmath.mpf(0)] * 2, strict=True)])
        rows = [[mpmath.mpf(0)] * nodes for _ in range(terms)]
        for k, power in list(enumerate(powers))[start:]:
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
        f"enum {{ LANES = {LANES}, TERMS = {TERMS}, BITS = {BITS}, LINE_BITS = {LINE_BITS}, HIGH_TERMS = {HIGH_TERMS} }};",
        f"static const double FIRST_NODES[FIRST_TERMS] = {_array(_nodes(FIRST_TERMS))};",
        f"static const double SECOND_NODES[TERMS + 1] = {_array(_nodes(TERMS + 1))};",
        f"static const double FIRST[FIRST_TERMS][FIRST_TERMS] = {_array_of_rows(_matrix(FIRST_TERMS, FIRST_TERMS))};",
        f"static const double FIRST_HIGH[HIGH_TERMS][FIRST_TERMS] = {_array_of_rows(_matrix(HIGH_TERMS, FIRST_TERMS))};",
        f"static const double SECOND[TERMS][TERMS + 1] = {_array_of_rows(_matrix(TERMS, TERMS + 1))};",
        f"static const double LOW[LANES][TERMS + 1] = {_array_of_rows(_matrix(LANES, TERMS + 1))};",
        f"static const double HIGH[TERMS][TERMS + 1] = {_array_of_rows(_matrix(TERMS, TERMS + 1, LANES))};",
        _PLACES,
    ))


_PLACES = '''\
typedef double lanes __attribute__((vector_size(8*LANES)));
typedef int64_t places __attribute__((vector_size(8*LANES)));
#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (places){__VA_ARGS__})
#endif
/* The cell of z >= 1, and the place of z in it from -1 to 1, where an octave has 2^bits cells. */
static inline int64_t cell_of(double z, int bits) {
    return (int64_t)((uint64_t)bits_of(z) >> (52 - bits)) - (INT64_C(1023) << bits);
}
static inline double place_of(double z, int bits) {
    const int64_t rest = bits_of(z) & ((INT64_C(1) << (52 - bits)) - 1);
    return (from_bits(rest | bits_of(1.0)) - 1.0)*(double)(2 << bits) - 1.0;
}
/* z - 1 at a place of a cell. */
static double beyond_one(int64_t cell, double place, int bits) {
    const double octave = ldexp(1.0, cell >> bits), part = ldexp(octave, -bits);
    return octave - 1.0 + part*((double)(cell & ((1 << bits) - 1)) + 0.5 + 0.5*place);
}
#define PAIR(a, b, k) (PICK(a, b, 0, 4, 2, 6) + PICK(a, b, 1, 5, 3, 7)*PICK(y, y, k, k + 1, k, k + 1))
/* A polynomial in y of TERMS coefficients, as one of LANES. */
static inline lanes folded(lanes low, lanes high, double y) { return low + high*(y*y*(y*y)); }
/* The values at LANES numbers of as many polynomials, whose coefficients are the rows, in their place. */
static inline void values_of_rows(const lanes *r, double *numbers) {
    lanes y;
    memcpy(&y, numbers, sizeof y);
    const lanes a = PAIR(r[0], r[1], 0), b = PAIR(r[2], r[3], 2);
    y = PICK(a, b, 0, 1, 4, 5) + PICK(a, b, 2, 3, 6, 7)*(y*y);
    memcpy(numbers, &y, sizeof y);
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
    double total[FIRST_TERMS*(TERMS + 1)], factor[FIRST_TERMS*(TERMS + 1)];
    for (long j = 0; j < FIRST_TERMS; j++)
        for (long k = 0; k <= TERMS; k++) {{
            const double near = {scale}*beyond_one(cell/(OCTAVES << BITS), FIRST_NODES[j], FIRST_BITS);
            const double far = {scale}*beyond_one(cell%(OCTAVES << BITS), SECOND_NODES[k], BITS);
            gap[j*(TERMS + 1) + k] = near;
            v[j*(TERMS + 1) + k] = 0.5*(near + far);
        }}
    sum{name}(FIRST_TERMS*(TERMS + 1), v, gap, total);
    factor{name}(FIRST_TERMS*(TERMS + 1), v, gap, factor);
    memset(coefficients, 0, (FIRST_TERMS + HIGH_TERMS)*LANES*sizeof(double));
    for (long k = 0; k <= TERMS; k++)
        for (long j = 0; j < FIRST_TERMS; j++) {{
            const double value = total[j*(TERMS + 1) + k]/factor[j*(TERMS + 1) + k];
            for (long b = 0; b < LANES; b++) {{
                for (long a = 0; a < FIRST_TERMS; a++) coefficients[a*LANES + b] += FIRST[a][j]*LOW[b][k]*value;
                for (long a = 0; a < HIGH_TERMS; a++) {{
                    coefficients[a*LANES + b] += FIRST_HIGH[a][j]*HIGH[b][k]*value;
                    coefficients[(FIRST_TERMS + a)*LANES + b] += FIRST_HIGH[a][j]*HIGH[LANES + b][k]*value;
                }}
            }}
        }}
}}
'''

_CELL = '''\
static lanes table{name}[{cells}][{rows}];
static char state{name}[{cells}];
/* The first thread that needs a cell fits it, others wait for it. */
static __attribute__((noinline)) void fill{name}(int64_t cell) {{
    char empty = 0;
    if (__atomic_compare_exchange_n(&state{name}[cell], &empty, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {{
        double coefficients[({rows})*LANES];
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
        const int64_t inside = z < {end};
        const double at = inside & (z > 1.0) ? z : 1.0;
        outside |= !inside;
        cell[i] = cell_of(at, LINE_BITS);
        y[i] = place_of(at, LINE_BITS);
    }}
    for (long i = count; i % LANES; i++) {{
        cell[i] = cell[0];
        y[i] = 0.0;
    }}
    for (long i = 0; i < count; i += LANES) {{
        lanes row[LANES];
#pragma GCC unroll 4
        for (long j = 0; j < LANES; j++) {{
            if (__atomic_load_n(&state{name}[cell[i + j]], __ATOMIC_ACQUIRE) != 2) fill{name}(cell[i + j]);
            const lanes *c = table{name}[cell[i + j]];
            row[j] = folded(c[0], c[1], y[i + j]);
        }}
        values_of_rows(row, y + i);
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
        const int64_t inside = (z < {end}) & (w < {end});
        const double near = inside & (z > 1.0) ? z : 1.0, far = inside & (w > 1.0) ? w : 1.0;
        outside |= !inside;
        cell[i] = cell_of(near, FIRST_BITS)*(OCTAVES << BITS) + cell_of(far, BITS);
        x[i] = place_of(near, FIRST_BITS);
        y[i] = place_of(far, BITS);
    }}
    for (long i = count; i % LANES; i++) {{
        cell[i] = cell[0];
        x[i] = y[i] = 0.0;
    }}
    for (long i = 0; i < count; i += LANES) {{
        lanes row[LANES];
#pragma GCC unroll 4
        for (long j = 0; j < LANES; j++) {{
            if (__atomic_load_n(&state{name}[cell[i + j]], __ATOMIC_ACQUIRE) != 2) fill{name}(cell[i + j]);
            const lanes *c = table{name}[cell[i + j]];
            lanes low = c[FIRST_TERMS - 1], high = c[FIRST_TERMS + HIGH_TERMS - 1];
            for (long a = FIRST_TERMS - 2; a >= 0; a--) low = low*x[i + j] + c[a];
            for (long a = HIGH_TERMS - 2; a >= 0; a--) high = high*x[i + j] + c[FIRST_TERMS + a];
            row[j] = folded(low, high, y[i + j]);
        }}
        values_of_rows(row, y + i);
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
        rows="FIRST_TERMS + HIGH_TERMS" if plane else "2",
    )
