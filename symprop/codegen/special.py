"""Code of the special functions: helper texts whose coefficients are computed here, not typed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache

import mpmath

from symprop.functions.arc_cosine import arc_cosine
from symprop.functions.piece_rule import gauss_rule

DEGREE, OVER, UNDER = 17, 6, 5
"""Degree of the polynomials of the arc-cosine family, and of the fractions: their error is below the rounding of a double."""


def _without_root(k: int, y: mpmath.mpf) -> mpmath.mpf:
    """A_k(y)/y^(k + 1/2), which is smooth."""
    y = max(y, mpmath.mpf(10) ** -30)
    return arc_cosine(k, y, mpmath.mpf(1)) / y ** (k + mpmath.mpf(1) / 2)


@cache
def arc_cosine_coefficients(k: int) -> tuple[float, ...]:
    """P with A_k(y) = y^(k + 1/2) P(y) on [0, 1], highest power first."""
    with mpmath.workdps(40):
        return tuple(float(item) for item in mpmath.chebyfit(lambda y: _without_root(k, y), [0, 1], DEGREE + 1))


@cache
def _arc_cosine_fraction(k: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """P and Q with A_k(1 - c) = (1 - c)^(k + 1/2) P(c)/Q(c) for c in [0, 1], highest power first.

    Through Chebyshev's points. On the whole cut c < -1 the quotient is singular, so that Q has its zeros there and no
    negative coefficient.
    """
    count = OVER + UNDER + 1
    with mpmath.workdps(50):
        rows, values = [], []
        for j in range(count):
            c = (1 + mpmath.cos(mpmath.pi * (j + mpmath.mpf(1) / 2) / count)) / 2
            value = _without_root(k, 1 - c)
            rows.append([c**i for i in range(OVER + 1)] + [-value * c**i for i in range(1, UNDER + 1)])
            values.append(value)
        found = [float(item) for item in mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix(values))]
    return tuple(found[OVER::-1]), (*found[:OVER:-1], 1.0)


def _horner(coefficients: Sequence[float]) -> str:
    first, second, *rest = coefficients
    return "\n".join([f"    p = {first!r}*y + {second!r}", *(f"    p = p*y + {item!r}" for item in rest)])


def _in_place(name: str, coefficients: Sequence[float]) -> str:
    first, second, *rest = coefficients
    steps = (f"        {name} *= c\n        {name} += {item!r}" for item in rest)
    return "\n".join([f"        np.multiply(c, {first!r}, out={name})", f"        {name} += {second!r}", *steps])


_TITLES = {
    0: "The angle of two tokens of variance v and covariance v - gap",
    1: "sin - angle*cos of that angle, times v",
    2: "The integral of the function before over the gap",
}


_SMALLEST = sys.float_info.min
"""Added to a divisor it divides zero to zero, and is lost in every other number."""

_ANGLES = {
    "numpy": '''\
def _arc_cosine_0(gap, opposite, result=None, t=None):
    """{title}, opposite being v + covariance; zero at v = 0. Works in the two arrays, if given."""
    if result is None:
        shape = np.broadcast_shapes(np.shape(gap), np.shape(opposite))
        result, t = np.empty(shape), np.empty(shape)
    np.minimum(gap, opposite, out=result)
    np.add(gap, opposite, out=t)
    t += {smallest}
    result /= t
    np.abs(result, out=result)
    np.sqrt(result, out=result)
    np.arcsin(result, out=result)
    result *= 2
    beyond = gap > opposite
    if np.any(beyond):
        np.subtract(np.pi, result, out=result, where=beyond)
    return result''',
    "torch": '''\
def _arc_cosine_0(gap, opposite):
    """{title}, opposite being v + covariance; zero at v = 0."""
    zero = 0*(gap + opposite)
    gap, opposite = gap + zero, opposite + zero
    whole = gap + opposite
    t = torch.minimum(gap, opposite)/torch.where(whole > 0, whole, torch.ones_like(whole))
    angle = 2*torch.arcsin(torch.sqrt(torch.clamp(t, min=0.0)))
    return torch.where(gap > opposite, torch.pi - angle, angle)''',
}


def _numpy_text(k: int) -> str:
    if k == 0:
        return _ANGLES["numpy"].format(title=_TITLES[k], smallest=_SMALLEST)
    over, under = _arc_cosine_fraction(k)
    far = {
        1: "result -= np.pi*negative",
        2: "np.subtract(np.pi*(0.25 + 0.5*negative*negative), result, out=result, where=negative < 0)",
    }[k]
    powers = "\n".join(["        result *= y"] * k)
    scale = "\n".join(["        result *= v"] * k)
    return f'''\
def _arc_cosine_{k}(gap, v, result=None, y=None, c=None, q=None):
    """{_TITLES[k]}; zero at v = 0. Works in the four arrays, if given."""
    if result is None:
        shape = np.broadcast_shapes(np.shape(gap), np.shape(v))
        result, y, c, q = (np.empty(shape) for _ in range(4))
    with np.errstate(over="ignore", invalid="ignore"):
        np.add(v, {_SMALLEST!r}, out=y)
        np.divide(gap, y, out=y)
        np.subtract(1.0, y, out=c)
        beyond = not np.max(y, initial=0.0) <= 1
        if beyond:
            negative = np.minimum(c, 0.0)
            np.abs(c, out=c)
            np.minimum(y, 2.0 - y, out=y)
        np.maximum(y, 0.0, out=y)
{_in_place("result", over)}
{_in_place("q", under)}
        result /= q
        np.sqrt(y, out=c)
        result *= c
{powers}
        if beyond:
            {far}
{scale}
    return result'''


def _torch_text(k: int) -> str:
    if k == 0:
        return _ANGLES["torch"].format(title=_TITLES[k])
    head = (
        f'def _arc_cosine_{k}(gap, v):\n    """{_TITLES[k]}; zero at v = 0."""\n'
        "    zero = 0*(gap + v)\n    gap, v = gap + zero, v + zero\n"
        "    t = gap/torch.where(v > 0, v, torch.ones_like(v))\n"
    )
    tail = {
        1: "    a = y**1.5*p\n    return v*torch.where(t > 1, torch.pi*(t - 1) + a, a)",
        2: "    a = y**2.5*p\n    return v*v*torch.where(t > 1, torch.pi*(0.25 + 0.5*(t - 1)**2) - a, a)",
    }[k]
    return f"{head}    y = torch.clamp(torch.minimum(t, 2 - t), min=0.0)\n{_horner(arc_cosine_coefficients(k))}\n{tail}"


_NORMAL = '''\
def _normal_below(k, h):
    """The moment of order k of the positive part of a normal variable of unit variance and mean -h <= 0."""
    # The integrand is followed until it is below rounding.
    reach = 80/(h + {sqrt}(h*h + 80))
    total = 0.0
    for node, weight in _HALF_LINE:
        x = reach*node
        total = total + weight*x**k*{exp}(-x*(0.5*x + h))
    return 0.3989422804014327*{exp}(-0.5*h*h)*reach*total


def _normal_moment(k, m, v):
    """E max(x, 0)^k of a normal variable of mean m and variance v; no digit is lost at negative m."""
    spread = {sqrt}(v + 1e-290)
    h = m/spread
    below = spread**k*_normal_below(k, {where}(h > 0, h, -h))
    # Of all values: in powers of m and v, which are finite where those of m/spread are not.
    whole = (1.0, m, m*m + v, m*(m*m + 3*v), m*m*(m*m + 6*v) + 3*v*v)[k]
    return {where}(h > 0, whole - (-1)**k*below, below)


_HALF_LINE = (
{half_line}
)'''

_ERF = '''\
def _erf(x):
    """The error function: Gauss's rule up to where it is one."""
    end = np.clip(x, -6.5, 6.5)
    total = 0.0
    for node, weight in _HALF_LINE:
        total = total + weight*np.exp(-np.square(node*end))
    return 1.1283791670955126*end*total


_HALF_LINE = (
{half_line}
)'''

_RISING = '''\
def _stirling_rest(x):
    """log(gamma(x)) beyond Stirling's leading terms, for x >= 8."""
    z = 1/x
    y = z*z
    return z*(1/12 - y*(1/360 - y*(1/1260 - y*(1/1680 - y*(1/1188 - y*(691/360360 - y*(1/156 - y*3617/122400)))))))


{log1p_over}


def _log_ratio(step, below, above):
    """log(above/below) of positive numbers whose difference is ``step``; no digit is lost where one is small to the other."""
    near = 2*step >= -below
    return {where}(near, {log1p}({where}(near, step, 0*step)/below), {log}({where}(near, below, above)/below))


def _rising_ratio(step, v, N, u):
    """The product of (u + l)/(v + l) over l < N, for u = v + step > 0 and v > 0; no digit is lost to the size of one."""
{prelude}    first, last, ends = v + 8.0, v + N + 8.0, {zero}
    other_first, other_last = u + 8.0, u + N + 8.0
    for k in range(8):
        ends = ends + _log_ratio(step, v + k, u + k) - _log_ratio(step, v + N + k, u + N + k)
    # The integral of log(1 + step/t) over t from first to last: by Gauss's rule in the step where that is small.
    small = {abs}(4*step - first) <= 3*first
    inner = {where}(small, step, 0*step)
    mean = {zero}
    for node, weight in _GAUSS:
        mean = mean + weight*_log1p_over(N/(first + node*inner))/(first + node*inner)
    at_last = _log_ratio(step, last, other_last)
    outer = at_last + _log1p_over(N/other_first) - _log1p_over(N/first)
    middle = N*{where}(small, inner*mean, outer) + 0.5*(_log_ratio(step, first, other_first) - at_last)
    rest = _stirling_rest(other_last) - _stirling_rest(last) - _stirling_rest(other_first) + _stirling_rest(first)
    return {exp}(ends + middle + rest)


_GAUSS = (
{gauss}
)'''

_RECIPROCALS = '''\
def _reciprocal_sum(v, N):
    """The sum of 1/(v + l) over l < N, for v > 0, from Stirling's series; no digit is lost where N is small to v."""
    first, last, total = v + 8.0, v + N + 8.0, 0.0
    for k in range(8):
        total = total + N/((v + k)*(v + N + k))
    a, b = 1/first, 1/last
    total = total + {log1p}(N*a) + 0.5*N*a*b
    # Differences of even powers of a and b, over a - b = N a b.
    a2, b2, even = a*a, b*b, 0.0
    share, power = 1.0, b2
    for coefficient in (1/12, -1/120, 1/252, -1/240, 1/132, -691/32760, 1/12, -3617/8160):
        even = even + coefficient*share
        share, power = share*a2 + power, power*b2
    return total + (a + b)*N*a*b*even'''

_LOG1P_OVER = {
    "numpy": '''\
def _log1p_over(t):
    """log(1 + t)/t for t >= 0, which is 1 at t = 0."""
    zero = t == 0
    return np.where(zero, 1.0, np.log1p(t)/np.where(zero, 1.0, t))''',
    "torch": '''\
def _log1p_over(t):
    """log(1 + t)/t for t >= 0, by its series near t = 0, so that its derivatives are right there as well."""
    small = t < 0.5
    near = torch.where(small, t, 0*t)
    far = torch.where(small, torch.ones_like(t), t)
    ratio = near/(2 + near)
    series = 0*ratio
    for k in range(27, 0, -2):
        series = 1/k + ratio*ratio*series
    return torch.where(small, 2*series/(2 + near), torch.log1p(far)/far)''',
}

_PRELUDE = {"numpy": "", "torch": "    step, v, N, u = (0*(step + v + N + u) + item for item in (step, v, N, u))\n"}


def _rows(pairs: Sequence[tuple[float, float]]) -> str:
    return "\n".join(f"    ({node!r}, {weight!r})," for node, weight in pairs)


STEP_NODES, HALF_LINE_NODES = 10, 36
"""Nodes on [0, 1] for a step of a ratio of gamma functions, and for a Gaussian density as far as it counts."""


@cache
def helpers(backend: str) -> dict[str, str]:
    """Helper texts by name for a backend."""
    write = {"numpy": _numpy_text, "torch": _torch_text}[backend]
    library = "np" if backend == "numpy" else "torch"
    names = {name: f"{library}.{name}" for name in ("exp", "log", "log1p", "abs", "where", "sqrt")}
    rising = _RISING.format(
        zero="0.0", prelude=_PRELUDE[backend], log1p_over=_LOG1P_OVER[backend], gauss=_rows(gauss_rule(STEP_NODES)), **names
    )
    half_line = _rows(gauss_rule(HALF_LINE_NODES))
    normal = _NORMAL.format(half_line=half_line, **names)
    return {f"_arc_cosine_{k}": write(k) for k in range(3)} | {
        "_rising_ratio": rising, "_reciprocal_sum": _RECIPROCALS.format(**names),
        "_normal_moment": normal, "_erf": _ERF.format(half_line=half_line),
    }
