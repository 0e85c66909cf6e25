"""Functions of the compiled backend in C: straight-line code that a compiler turns into vector instructions.

Coefficients are computed here, not typed. The elementary functions are right to two units in the last place on their
whole range, infinities, subnormal numbers and nan included; the arc-cosine family to four.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import mpmath

from symprop.codegen import special_cells
from symprop.codegen.special import arc_cosine_coefficients, half_line_rule

_EXP_TERMS, _LOG_TERMS, _ASIN_TERMS = 11, 8, 13


def _horner(variable: str, coefficients: Iterable[float]) -> str:
    first, *rest = (float(item).hex() for item in coefficients)
    text = first
    for item in rest:
        text = f"({text}*{variable} + {item})"
    return text


@cache
def _exp_polynomial() -> str:
    """(e^r - 1 - r)/r^2 on the half-width of a period of log 2."""
    with mpmath.workdps(40):
        end = mpmath.log(2) / 2 * mpmath.mpf("1.0001")

        def rest(r: mpmath.mpf) -> mpmath.mpf:
            return (mpmath.expm1(r) - r) / r**2 if abs(r) > mpmath.mpf("1e-9") else mpmath.mpf(1) / 2 + r / 6

        return _horner("r", mpmath.chebyfit(rest, [-end, end], _EXP_TERMS))


@cache
def _log_polynomial() -> str:
    """(2 atanh(s) - 2 s)/s^3 in z = s^2, for a mantissa between the roots of 1/2 and 2."""
    with mpmath.workdps(40):
        end = ((mpmath.sqrt(2) - 1) / (mpmath.sqrt(2) + 1)) ** 2

        def rest(z: mpmath.mpf) -> mpmath.mpf:
            s = mpmath.sqrt(z)
            return 2 * (mpmath.atanh(s) - s) / s**3 if z > mpmath.mpf("1e-20") else mpmath.mpf(2) / 3

        return _horner("z", mpmath.chebyfit(rest, [0, end], _LOG_TERMS))


@cache
def _asin_polynomial() -> str:
    """(asin(x) - x)/x^3 in z = x^2, up to a half."""
    with mpmath.workdps(40):

        def rest(z: mpmath.mpf) -> mpmath.mpf:
            x = mpmath.sqrt(z)
            return (mpmath.asin(x) - x) / x**3 if z > mpmath.mpf("1e-20") else mpmath.mpf(1) / 6

        return _horner("z", mpmath.chebyfit(rest, [0, mpmath.mpf(1) / 4], _ASIN_TERMS))


def _log_two(bits: int) -> tuple[str, str]:
    """log 2 as a double of that many leading bits, whose multiples by exponents are exact, and the rest."""
    with mpmath.workdps(60):
        high = mpmath.floor(mpmath.log(2) * 2**bits) / mpmath.mpf(2) ** bits
        return float(high).hex(), float(mpmath.log(2) - high).hex()


_POWER_OF_TWO = '''\
/* 2^n of a whole number n from -1022 to 1023. */
static inline double power_of_two(double n) {
    return from_bits((bits_of(n + 0x1.8p52) - INT64_C(0x4338000000000000) + 1023) * INT64_C(0x10000000000000));
}'''

_REDUCED = '''\
/* e^r - 1 for the rest r of x after n times log 2. */
static inline double reduced_expm1(double x, double n) {{
    const double r = (x - n*{high}) - n*{low};
    return r + r*r*{polynomial};
}}'''

_EXP = '''\
static inline double f_exp(double x) {{
    double t = x > 710.0 ? 710.0 : x;
    t = t < -746.0 ? -746.0 : t;
    const double n = nearest(t*{per_log_two}), half = nearest(0.5*n);
    return (1.0 + reduced_expm1(t, n))*power_of_two(half)*power_of_two(n - half);
}}'''

_EXPM1 = '''\
static inline double f_expm1(double x) {{
    double t = x > 710.0 ? 710.0 : x;
    t = t < -746.0 ? -746.0 : t;
    const double n = nearest(t*{per_log_two}), half = nearest(0.5*n), p = reduced_expm1(t, n);
    const double near = n > 40.0 ? 40.0 : (n < -40.0 ? -40.0 : n), s = power_of_two(near);
    const double far = (1.0 + p)*power_of_two(half)*power_of_two(n - half) - 1.0;
    return near == n ? s*p + (s - 1.0) : far;
}}'''

_LOG = '''\
static inline double f_log(double x) {{
    const int small = x < 0x1p-1022;
    const int64_t b = bits_of(small ? x*0x1p54 : x);
    const int64_t shifted = b - bits_of(0x1.6a09e667f3bcdp-1) + INT64_C(0x4000000000000000);
    const int64_t exponent = (int64_t)((uint64_t)shifted >> 52);
    const double k = from_bits(exponent | INT64_C(0x4330000000000000)) - 0x1p52 - 1024.0 - (small ? 54.0 : 0.0);
    const double f = from_bits(b - (exponent - 1024)*INT64_C(0x10000000000000)) - 1.0;
    const double s = f/(2.0 + f), z = s*s, square = 0.5*f*f;
    const double tail = s*(square + z*{polynomial}) + k*{low};
    const double value = k*{high} - ((square - tail) - f);
    return x > 0.0 && x < INFINITY ? value : (x == 0.0 ? -INFINITY : (x > 0.0 ? x : NAN));
}}'''

_LOG1P = '''\
/* The rounding of 1 + x is put back. */
static inline double f_log1p(double x) {
    const double grown = 1.0 + x, lost = (x - (grown - 1.0))/grown;
    return f_log(grown) + (grown > 0.0 && grown < INFINITY ? lost : 0.0);
}'''

_ASIN = {
    "near_asin": """\
/* asin(x) for |x| <= 1/2. */
static inline double near_asin(double x) {{
    const double z = x*x;
    return x + x*z*{polynomial};
}}""",
    "f_asin": """\
static inline double f_asin(double x) {{
    const double size = fabs(x), far = size > 0.5 ? 1.0 : 0.0;
    const double inner = near_asin(far != 0.0 ? sqrt(0.5*(1.0 - size)) : size);
    return copysign(far != 0.0 ? M_PI_2 - 2.0*inner : inner, x);
}}""",
    "f_acos": """\
static inline double f_acos(double x) {{
    const double size = fabs(x), far = size > 0.5 ? 1.0 : 0.0;
    const double inner = near_asin(far != 0.0 ? sqrt(0.5*(1.0 - size)) : x);
    return far == 0.0 ? M_PI_2 - inner : x > 0.0 ? 2.0*inner : M_PI - 2.0*inner;
}}""",
}

_PLAIN = {
    "square": "static inline double square(double x) { return x*x; }",
    "maximum": "static inline double maximum(double x, double y) { return x > y || x != x ? x : y; }",
    "minimum": "static inline double minimum(double x, double y) { return x < y || x != x ? x : y; }",
    "bounded_exponent": "static inline double bounded_exponent(double x) { return x > 709.78 ? 709.78 : x; }",
    "log_positive": "static inline double log_positive(double x) { return f_log(x < 0x1p-1022 ? 0x1p-1022 : x); }",
    "geometric_sum": '''\
/* The sum of r^j s^(L-1-j) over j < L for r = e^a, s = e^b; smooth through r = s. */
static inline double geometric_sum(double a, double b, double L) {
    const double step = -fabs(a - b);
    const double ratio = step == 0.0 ? L : f_expm1(L*step)/(step == 0.0 ? 1.0 : f_expm1(step));
    return f_exp((L - 1.0)*(a > b ? a : b))*ratio;
}''',
}

_TITLES = {
    0: "The angle of two tokens of variance v and covariance v - gap",
    1: "sin - angle*cos of that angle, times v",
    2: "The integral of the function before over the gap",
}


def _arc_cosine(k: int) -> str:
    polynomial = _horner("y", arc_cosine_coefficients(k))
    power, far, scale = {
        0: ("sqrt(y)", "M_PI - p", ""),
        1: ("y*sqrt(y)", "M_PI*(t - 1.0) + p", "v*"),
        2: ("y*y*sqrt(y)", "M_PI*(0.25 + 0.5*(t - 1.0)*(t - 1.0)) - p", "v*v*"),
    }[k]
    return f'''\
/* {_TITLES[k]}; zero at v = 0. */
static inline double arc_cosine_{k}(double gap, double v) {{
    const double t = gap/(v > 0.0 ? v : 1.0), near = t > 1.0 ? 2.0 - t : t, y = near < 0.0 ? 0.0 : near;
    const double p = {power}*{polynomial};
    return {scale}(t > 1.0 ? {far} : p);
}}'''


def _each(name: str, arguments: int = 1) -> str:
    """A function of the C library, point by point."""
    listed = "xy"[:arguments]
    formal = "".join(f"const double *restrict {item}, " for item in listed)
    call = f"{name}({', '.join(f'{item}[i]' for item in listed)})"
    return f"static void each_{name}(long count, {formal}double *restrict to) {{ " \
           f"for (long i = 0; i < count; i++) to[i] = {call}; }}"


def _half_line() -> str:
    rows = ", ".join(f"{{{node.hex()}, {weight.hex()}}}" for node, weight in half_line_rule())
    return f"static const double HALF_LINE[][2] = {{{rows}}};"


_NORMAL = '''\
/* Moments of order k of the positive part of normal variables of mean m and variance v; no digit is lost at negative m. */
static void each_normal_moment(long count, const double *k, const double *m, const double *v, double *to) {
    double far[BLOCK], reach[BLOCK], total[BLOCK];
    for (long i = 0; i < count; i++) {
        const double h = m[i]/sqrt(v[i] + 1e-290);
        far[i] = h > 0.0 ? h : -h;
        reach[i] = 80.0/(far[i] + sqrt(far[i]*far[i] + 80.0));
        total[i] = 0.0;
    }
    const int order = (int)k[0];
    for (size_t row = 0; row < sizeof HALF_LINE/sizeof HALF_LINE[0]; row++) {
        const double node = HALF_LINE[row][0], weight = HALF_LINE[row][1];
        for (long i = 0; i < count; i++) {
            const double x = reach[i]*node;
            const double raised = order == 0 ? 1.0 : order == 1 ? x : order == 2 ? x*x : order == 3 ? x*x*x : x*x*x*x;
            total[i] += weight*raised*f_exp(-x*(0.5*x + far[i]));
        }
    }
    for (long i = 0; i < count; i++) {
        const double spread = sqrt(v[i] + 1e-290), h = m[i]/spread, h2 = h*h;
        const double below = 0x1.9884533d43651p-2*f_exp(-0.5*h2)*reach[i]*total[i];
        const double whole = order == 0 ? 1.0 : order == 1 ? h : order == 2 ? h2 + 1.0
            : order == 3 ? h*(h2 + 3.0) : h2*(h2 + 6.0) + 3.0;
        const double raised = order == 0 ? 1.0 : order == 1 ? spread : order == 2 ? spread*spread
            : order == 3 ? spread*spread*spread : spread*spread*spread*spread;
        to[i] = raised*(h > 0.0 ? whole - (order % 2 ? -below : below) : below);
    }
}'''


@cache
def functions() -> dict[str, str]:
    """The functions by name, each after those that it calls."""
    exp_high, exp_low = _log_two(33)
    log_high, log_low = _log_two(42)
    with mpmath.workdps(40):
        per_log_two = float(1 / mpmath.log(2)).hex()
    return {
        "bits_of": "static inline int64_t bits_of(double x) { int64_t b; memcpy(&b, &x, sizeof b); return b; }",
        "from_bits": "static inline double from_bits(int64_t b) { double x; memcpy(&x, &b, sizeof x); return x; }",
        "nearest": "static inline double nearest(double x) { return (x + 0x1.8p52) - 0x1.8p52; }",
        "power_of_two": _POWER_OF_TWO,
        "reduced_expm1": _REDUCED.format(high=exp_high, low=exp_low, polynomial=_exp_polynomial()),
        "f_exp": _EXP.format(per_log_two=per_log_two),
        "f_expm1": _EXPM1.format(per_log_two=per_log_two),
        "f_log": _LOG.format(high=log_high, low=log_low, polynomial=_log_polynomial()),
        "f_log1p": _LOG1P,
        **{name: text.format(polynomial=_asin_polynomial()) for name, text in _ASIN.items()},
        **_PLAIN,
        **{f"arc_cosine_{k}": _arc_cosine(k) for k in range(3)},
        **{f"each_{name}": _each(name) for name in ("erf", "erfc", "sin", "cos", "tan", "atan", "sinh", "cosh", "asinh",
                                                    "tanh")},
        "each_pow": _each("pow", 2),
        "CELLS": special_cells.constants(),
        "HALF_LINE": _half_line(),
        "each_normal_moment": _NORMAL,
    }


def needed(text: str) -> list[str]:
    """The names of the functions that a text calls, directly or through another, in the order of definition.

    >>> needed("f_log1p(x)")
    ['bits_of', 'from_bits', 'f_log', 'f_log1p']
    """
    texts = functions()
    wanted: set[str] = set()
    pending = [text]
    while pending:
        new = (set(re.findall(r"\w+", pending.pop())) & set(texts)) - wanted
        wanted |= new
        pending += [texts[name] for name in sorted(new)]
    return [name for name in texts if name in wanted]
