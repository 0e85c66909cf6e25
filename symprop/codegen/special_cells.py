r"""Smooth table sums of the compiled backend: a polynomial of each cell, made when a point first falls into it.

The directions are those of :mod:`symprop.codegen.cells`. The polynomial has degree 7 in each of them, by Chebyshev's nodes,
so that the interpolation is right to about (STEP/(4 pi))^8, a relative 1e-13, where the rest of the sum is of order one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import mpmath

TERMS = 8
"""Coefficients of a polynomial in one direction."""
STEP, LIMIT = 0.25, 80
"""Side of a cell, and cells in each direction: fewer and of higher degree than in numpy, whose arrays fit them all at once."""


def _matrix(nodes: int) -> list[list[float]]:
    """Values at Chebyshev's nodes on [-1, 1] to the coefficients of the polynomial, lowest power first."""
    with mpmath.workdps(40):
        at = [mpmath.cos(mpmath.pi * (j + mpmath.mpf(1) / 2) / nodes) for j in range(nodes)]
        powers = [[mpmath.mpf(1)], [mpmath.mpf(0), mpmath.mpf(1)]]
        for _ in range(TERMS - 2):
            shifted = [mpmath.mpf(0), *(2 * item for item in powers[-1])]
            powers.append([a - b for a, b in zip(shifted, powers[-2] + [mpmath.mpf(0)] * 2, strict=True)])
        rows = [[mpmath.mpf(0)] * nodes for _ in range(TERMS)]
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
        f"enum {{ TERMS = {TERMS}, CELLS = {LIMIT} }};",
        "typedef double row_of_terms __attribute__((vector_size(8*TERMS), aligned(8), may_alias));",
        f"static const double FIRST_NODES[TERMS] = {_array(_nodes(TERMS))};",
        f"static const double SECOND_NODES[TERMS + 1] = {_array(_nodes(TERMS + 1))};",
        f"static const double FIRST[TERMS][TERMS] = {_array_of_rows(_matrix(TERMS))};",
        f"static const double SECOND[TERMS][TERMS + 1] = {_array_of_rows(_matrix(TERMS + 1))};",
    ))


_LINE = '''\
static void fit{name}(long cell, double *coefficients) {{
    double v[TERMS], total[TERMS], factor[TERMS];
    for (long j = 0; j < TERMS; j++)
        v[j] = 0.5*{scale}*f_expm1({step}*(cell + 0.5 + 0.5*FIRST_NODES[j]));
    sum{name}(TERMS, v, total);
    factor{name}(TERMS, v, factor);
    for (long k = 0; k < TERMS; k++) {{
        coefficients[k] = 0.0;
        for (long j = 0; j < TERMS; j++) coefficients[k] += FIRST[k][j]*(total[j]/factor[j]);
    }}
}}
'''

_PLANE = '''\
static void fit{name}(long cell, double *coefficients) {{
    double v[TERMS*(TERMS + 1)], gap[TERMS*(TERMS + 1)], total[TERMS*(TERMS + 1)], factor[TERMS*(TERMS + 1)];
    double half[TERMS][TERMS + 1];
    for (long j = 0; j < TERMS; j++)
        for (long k = 0; k <= TERMS; k++) {{
            const double near = {scale}*f_expm1({step}*(cell/CELLS + 0.5 + 0.5*FIRST_NODES[j]));
            const double far = {scale}*f_expm1({step}*(cell%CELLS + 0.5 + 0.5*SECOND_NODES[k]));
            gap[j*(TERMS + 1) + k] = near;
            v[j*(TERMS + 1) + k] = 0.5*(near + far);
        }}
    sum{name}(TERMS*(TERMS + 1), v, gap, total);
    factor{name}(TERMS*(TERMS + 1), v, gap, factor);
    for (long a = 0; a < TERMS; a++)
        for (long k = 0; k <= TERMS; k++) {{
            half[a][k] = 0.0;
            for (long j = 0; j < TERMS; j++)
                half[a][k] += FIRST[a][j]*(total[j*(TERMS + 1) + k]/factor[j*(TERMS + 1) + k]);
        }}
    for (long a = 0; a < TERMS; a++)
        for (long b = 0; b < TERMS; b++) {{
            coefficients[a*TERMS + b] = 0.0;
            for (long k = 0; k <= TERMS; k++) coefficients[a*TERMS + b] += SECOND[b][k]*half[a][k];
        }}
}}
'''

_CELL = '''\
static double table{name}[{cells}][{size}];
static char state{name}[{cells}];
/* The first thread that needs a cell fits it, others wait for it. */
static __attribute__((noinline)) void fill{name}(int64_t cell) {{
    char empty = 0;
    if (__atomic_compare_exchange_n(&state{name}[cell], &empty, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {{
        fit{name}(cell, table{name}[cell]);
        __atomic_store_n(&state{name}[cell], 2, __ATOMIC_RELEASE);
    }}
    while (__atomic_load_n(&state{name}[cell], __ATOMIC_ACQUIRE) != 2);
}}
'''

_EACH_LINE = '''\
static __attribute__((noinline)) void each{name}(long count, const double *restrict v, double *restrict to) {{
    double x[BLOCK], factor[BLOCK];
    int64_t cell[BLOCK];
    factor{name}(count, v, factor);
    for (long i = 0; i < count; i++) x[i] = f_log1p(2.0*v[i]*{per_scale})*{per_step};
    for (long i = 0; i < count; i++) {{
        const double place = x[i];
        const int inside = (place > -1.0) & (place < CELLS);
        const double corner = inside ? trunc(place) : 0.0;
        x[i] = inside ? 2.0*(place - corner) - 1.0 : NAN;
        cell[i] = bits_of(corner + 0x1p52) - bits_of(0x1p52);
    }}
    for (long i = 0; i < count; i++)
        if (__atomic_load_n(&state{name}[cell[i]], __ATOMIC_ACQUIRE) != 2) fill{name}(cell[i]);
    for (long i = 0; i < count; i++) {{
        const double *c = table{name}[cell[i]];
        double value = c[TERMS - 1];
        for (long k = TERMS - 2; k >= 0; k--) value = value*x[i] + c[k];
        to[i] = factor[i]*value;
    }}
    for (long i = 0; i < count; i++)
        if (x[i] != x[i]) sum{name}(1, v + i, to + i);
}}'''

_EACH_PLANE = '''\
static __attribute__((noinline)) void each{name}(
    long count, const double *restrict v, const double *restrict gap, double *restrict to
) {{
    double x[BLOCK], y[BLOCK], factor[BLOCK];
    int64_t cell[BLOCK];
    factor{name}(count, v, gap, factor);
    for (long i = 0; i < count; i++) {{
        x[i] = f_log1p(gap[i]*{per_scale})*{per_step};
        y[i] = f_log1p((2.0*v[i] - gap[i])*{per_scale})*{per_step};
    }}
    for (long i = 0; i < count; i++) {{
        const double near = x[i], far = y[i];
        const int inside = (near > -1.0) & (near < CELLS) & (far > -1.0) & (far < CELLS);
        const double row = inside ? trunc(near) : 0.0, column = inside ? trunc(far) : 0.0;
        x[i] = inside ? 2.0*(near - row) - 1.0 : NAN;
        y[i] = 2.0*(far - column) - 1.0;
        cell[i] = bits_of(row*CELLS + column + 0x1p52) - bits_of(0x1p52);
    }}
    for (long i = 0; i < count; i++)
        if (__atomic_load_n(&state{name}[cell[i]], __ATOMIC_ACQUIRE) != 2) fill{name}(cell[i]);
    for (long i = 0; i < count; i++) {{
        const double *c = table{name}[cell[i]];
        row_of_terms along = *(const row_of_terms *)(c + (TERMS - 1)*TERMS);
        for (long a = TERMS - 2; a >= 0; a--) along = along*x[i] + *(const row_of_terms *)(c + a*TERMS);
        const double t = y[i], t2 = t*t, t4 = t2*t2;
        to[i] = factor[i]*(((along[0] + along[1]*t) + (along[2] + along[3]*t)*t2)
                           + ((along[4] + along[5]*t) + (along[6] + along[7]*t)*t2)*t4);
    }}
    for (long i = 0; i < count; i++)
        if (x[i] != x[i]) sum{name}(1, v + i, gap + i, to + i);
}}'''


def smooth(name: str, directions: int, scale: float) -> str:
    """The function that interpolates ``sum{name}/factor{name}``, of the variance or of variance and gap."""
    plane = directions == 2
    fit, evaluate = (_PLANE, _EACH_PLANE) if plane else (_LINE, _EACH_LINE)
    return (fit + _CELL + evaluate).format(
        name=name, scale=scale.hex(), step=STEP.hex(), per_scale=(1 / scale).hex(), per_step=(1 / STEP).hex(),
        cells="CELLS*CELLS" if plane else "CELLS", size="TERMS*TERMS" if plane else "TERMS",
    )
