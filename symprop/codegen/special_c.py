"""Functions of the compiled backend in C: straight-line code that a compiler turns into vector instructions.

Coefficients are computed here, not typed. The elementary functions are right to two units in the last place on their
whole range, infinities, subnormal numbers and nan included; the arc-cosine family to four.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache

import mpmath

from symprop.codegen import special_cells
from symprop.codegen.special import HALF_LINE_NODES, STEP_NODES, arc_cosine_coefficients
from symprop.codegen.special_finite_width import NODES
from symprop.functions.piece_rule import gauss_rule

_EXP_TERMS, _LOG_TERMS, _ASIN_TERMS, _ATAN_TERMS = 11, 8, 13, 10


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


@cache
def _atan_polynomial() -> str:
    """(atan(x) - x)/x^3 in z = x^2, up to the tangent of pi/8."""
    with mpmath.workdps(40):

        def rest(z: mpmath.mpf) -> mpmath.mpf:
            x = mpmath.sqrt(z)
            return (mpmath.atan(x) - x) / x**3 if z > mpmath.mpf("1e-20") else -mpmath.mpf(1) / 3

        return _horner("z", mpmath.chebyfit(rest, [0, (mpmath.sqrt(2) - 1) ** 2], _ATAN_TERMS))


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
    const double s = f/(2.0 + f), z = s*s, half_square = 0.5*f*f;
    const double tail = s*(half_square + z*{polynomial}) + k*{low};
    const double value = k*{high} - ((half_square - tail) - f);
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

_ATAN = '''\
/* atan(over/below), by the angle between it and 0, a quarter or a half of pi. */
static inline double f_atan(double over, double below) {{
    const double x = fabs(over), y = fabs(below);
    const int steep = x > {steep}*y, middle = x > {flat}*y;
    const double num = steep ? -y : middle ? x - y : x, den = steep ? x : middle ? x + y : y;
    const double from = steep ? M_PI_2 : middle ? M_PI_4 : 0.0, t = num/den, z = t*t, angle = from + (t + t*z*{polynomial});
    return copysign(angle, copysign(1.0, below)*over);
}}'''

_PLAIN = {
    "square": "static inline double square(double x) { return x*x; }",
    "step": "static inline double step(double x) { return x > 0.0 ? 1.0 : x < 0.0 ? 0.0 : x == 0.0 ? 0.5 : x; }",
    "one_plus_product": """\
/* 1 + x*y of a product that is at least -1, rounded once. */
static inline double one_plus_product(double x, double y) {
    const double sum = fma(x, y, 1.0);
    return sum < 0.0 ? 0.0 : sum;
}""",
    "maximum": "static inline double maximum(double x, double y) { return x > y || x != x ? x : y; }",
    "minimum": "static inline double minimum(double x, double y) { return x < y || x != x ? x : y; }",
    "bounded_exponent": "static inline double bounded_exponent(double x) { return x > 709.78 ? 709.78 : x; }",
    "times_growth": "static inline double times_growth(double x, double y) { return x == 0.0 ? 0.0 : x*y; }",
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
    if k == 0:
        return f'''\
/* {_TITLES[k]}, opposite being v + covariance; zero at v = 0. */
static inline double arc_cosine_0(double gap, double opposite) {{
    const double v = 0.5*(gap + opposite), near = gap > opposite ? opposite : gap;
    const double y = near > 0.0 ? near/v : 0.0, p = sqrt(y)*{polynomial};
    return gap > opposite ? M_PI - p : p;
}}'''
    power, far, scale = {
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
    listed = "xyzt"[:arguments]
    formal = "".join(f"const double *restrict {item}, " for item in listed)
    call = f"{name}({', '.join(f'{item}[i]' for item in listed)})"
    return f"static void each_{name}(long count, {formal}double *restrict to) {{ " \
           f"for (long i = 0; i < count; i++) to[i] = {call}; }}"


def constant_table(name: str, rows: Iterable[Iterable[float]]) -> str:
    """A constant table of doubles."""
    listed = [[float(item).hex() for item in row] for row in rows]
    text = ", ".join("{" + ", ".join(row) + "}" for row in listed)
    return f"static const double {name}[][{len(listed[0])}] = {{{text}}};"


_DEPTH = {
    "log_near_one": """\
/* log(1 + x), of 1 + x itself where x is near -1. */
static inline double log_near_one(double x, double whole) {
    const int far = x < -0.5;
    const double value = f_log(far ? whole : 1.0 + x);
    const double grown = 1.0 + x;
    return far ? value : value + (grown < INFINITY ? (x - (grown - 1.0))/grown : 0.0);
}""",
    "log1p_over": """\
static double log1p_over(double t) { return t == 0.0 ? 1.0 : f_log1p(t)/t; }""",
    "stirling_rest": """\
/* log(gamma(x)) beyond Stirling's leading terms, for x >= 8. */
static double stirling_rest(double x) {
    const double z = 1.0/x, y = z*z;
    return z*(1.0/12.0 - y*(1.0/360.0 - y*(1.0/1260.0 - y*(1.0/1680.0 - y*(1.0/1188.0 - y*(691.0/360360.0
        - y*(1.0/156.0 - y*3617.0/122400.0)))))));
}""",
    "log_ratio": """\
/* log(above/below) of positive numbers whose difference is step; no digit is lost where either is small to the other. */
static double log_ratio(double step, double below, double above) {
    return 2.0*step >= -below ? f_log1p(step/below) : f_log(above/below);
}""",
    "rising_ratio": """\
/* The product of (u + l)/(v + l) over l < N, for u = v + step > 0 and v > 0; no digit is lost to the size of one. */
static double rising_ratio(double step, double v, double N, double u) {
    const double first = v + 8.0, last = v + N + 8.0, other_first = u + 8.0, other_last = u + N + 8.0;
    const double at_last = log_ratio(step, last, other_last);
    double ends = 0.0, middle;
    for (int k = 0; k < 8; k++) ends += log_ratio(step, v + k, u + k) - log_ratio(step, v + N + k, u + N + k);
    if (fabs(4.0*step - first) <= 3.0*first) {
        double mean = 0.0;
        for (int k = 0; k < 10; k++) {
            const double at = first + GAUSS[k][0]*step;
            mean += GAUSS[k][1]*log1p_over(N/at)/at;
        }
        middle = step*mean;
    } else {
        middle = at_last + log1p_over(N/other_first) - log1p_over(N/first);
    }
    middle = N*middle + 0.5*(log_ratio(step, first, other_first) - at_last);
    const double rest = stirling_rest(other_last) - stirling_rest(last) - stirling_rest(other_first) + stirling_rest(first);
    return f_exp(ends + middle + rest);
}""",
    "reciprocal_sum": """\
/* The sum of 1/(v + l) over l < N, for v > 0, from Stirling's series; no digit is lost where N is small to v. */
static double reciprocal_sum(double v, double N) {
    static const double EVEN[] = {1.0/12.0, -1.0/120.0, 1.0/252.0, -1.0/240.0, 1.0/132.0, -691.0/32760.0, 1.0/12.0,
                                  -3617.0/8160.0};
    const double a = 1.0/(v + 8.0), b = 1.0/(v + N + 8.0);
    double total = 0.0, even = 0.0, share = 1.0, power = b*b;
    for (int k = 0; k < 8; k++) total += N/((v + k)*(v + N + k));
    for (int k = 0; k < 8; k++) {
        even += EVEN[k]*share;
        share = share*a*a + power;
        power *= b*b;
    }
    return total + f_log1p(N*a) + 0.5*N*a*b + (a + b)*N*a*b*even;
}""",
}

_DEFICIT = '''\
/* {title} */
static double {name}(double t, double f) {{
    const double near = {near}, tau = near*(2.0 - near);
    const double scale = 3.0/sqrt(f), end = sqrt(80.0/f) + 40.0/(f > 3.0 ? f - 2.0 : 1.0), step = asinh(end/scale)/{nodes};
    double total = 0.0, norm = 0.0;
    for (int k = 0; k <= {nodes}; k++) {{
        const double root = sinh(scale*sinh(k*step)), square = root*root;
        const double weight = (k == 0 ? 0.5 : cosh(k*step))*f_exp(-0.5*f*f_log1p(square)), w = sqrt(1.0 + tau*square);
        norm += weight;
        total += weight*(1.0 + square)*{summand};
    }}
    {result}
}}'''
_DEFICITS = {
    "correlation_deficit": {
        "title": "One minus the expected sample correlation at correlation 1 - t and f degrees of freedom.",
        "near": "t > 1.0 ? 2.0 - t : t", "summand": "1.0/(w*(w + 1.0 - near))", "nodes": NODES,
        "result": "return t > 1.0 ? 2.0 - tau*total/norm : tau*total/norm;",
    },
    "correlation_slope_deficit": {
        "title": "What the derivative of the deficit loses between 0 and t, for f > 2.",
        "near": "t", "summand": "square*(w*w + w + 1.0)/((w + 1.0)*w*w*w)", "nodes": NODES,
        "result": "return tau*total/norm;",
    },
}

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
        const double spread = sqrt(v[i] + 1e-290), h = m[i]/spread, m1 = m[i], m2 = m1*m1, v1 = v[i];
        const double whole = order == 0 ? 1.0 : order == 1 ? m1 : order == 2 ? m2 + v1
            : order == 3 ? m1*(m2 + 3.0*v1) : m2*(m2 + 6.0*v1) + 3.0*v1*v1;
        const double raised = order == 0 ? 1.0 : order == 1 ? spread : order == 2 ? spread*spread
            : order == 3 ? spread*spread*spread : spread*spread*spread*spread;
        const double below = raised*0x1.9884533d43651p-2*f_exp(-0.5*h*h)*reach[i]*total[i];
        to[i] = h > 0.0 ? whole - (order % 2 ? -below : below) : below;
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
        "f_atan": _ATAN.format(
            polynomial=_atan_polynomial(), flat=(math.sqrt(2) - 1).hex(), steep=(math.sqrt(2) + 1).hex()
        ),
        **_PLAIN,
        **{f"arc_cosine_{k}": _arc_cosine(k) for k in range(3)},
        **{f"each_{name}": _each(name) for name in ("erf", "erfc", "sin", "cos", "tan", "sinh", "cosh", "asinh",
                                                    "tanh")},
        "each_pow": _each("pow", 2),
        "cell_of": special_cells.constants(),
        "HALF_LINE": constant_table("HALF_LINE", gauss_rule(HALF_LINE_NODES)),
        "GAUSS": constant_table("GAUSS", gauss_rule(STEP_NODES)),
        **_DEPTH,
        **{name: _DEFICIT.format(name=name, **fields) for name, fields in _DEFICITS.items()},
        "each_rising_ratio": _each("rising_ratio", 4),
        "each_reciprocal_sum": _each("reciprocal_sum", 2),
        "each_correlation_deficit": _each("correlation_deficit", 2),
        "each_correlation_slope_deficit": _each("correlation_slope_deficit", 2),
        "each_normal_moment": _NORMAL,
    }


def needed(text: str, known: Mapping[str, str] | None = None) -> list[str]:
    """The names of the functions that a text calls, directly or through another, in the order of definition.

    ``known`` are functions by name, by default :func:`functions`.

    >>> needed("f_log1p(x)")
    ['bits_of', 'from_bits', 'f_log', 'f_log1p']
    """
    texts = functions() if known is None else known
    wanted: set[str] = set()
    pending = [text]
    while pending:
        new = (set(re.findall(r"\w+", pending.pop())) & set(texts)) - wanted
        wanted |= new
        pending += [texts[name] for name in sorted(new)]
    return [name for name in texts if name in wanted]
