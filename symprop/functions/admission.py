"""Which formulas a quadrature rule takes: real, finite and smooth between their kinks, and evaluated by doubles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import mpmath
import sympy as sp

from symprop.core.errors import RefusedError
from symprop.functions.exponentials import bounded
from symprop.functions.pieces import Pieces, smooth_roots
from symprop.functions.table_sum import lambdified

_ENTIRE = (sp.exp, sp.sin, sp.cos, sp.sinh, sp.cosh, sp.tanh, sp.atan, sp.asinh, sp.erf, sp.erfc)
_WITHIN = {
    sp.log: lambda u: u, sp.acosh: lambda u: u - 1, sp.asin: lambda u: 1 - u**2, sp.acos: lambda u: 1 - u**2,
    sp.atanh: lambda u: 1 - u**2,
}
"""Functions that are smooth where a number that their argument gives is positive."""
_GROWING = (sp.exp, sp.cosh, sp.sinh, sp.log, sp.erfc)
_SIZES = (0.01, 0.3, 1, 2, 3, 5, 10, 30, 100, 300, 1000, 3000, 10000)
"""Where formulas are evaluated, on both sides: up to 8.5 standard deviations at a variance of 1e6."""
_UNIT, _AGREEING, _GROWN = 3, 1e-8, 50
_FAR, _WAVES = 100, 5
"""Waves are counted from here on; the rule resolves them up to this standard deviation, in radians."""
_WAVE = (sp.sin, sp.cos)
_MOST, _COUNTING = 128, 1e-3
"""Harmonics below this share of the largest are below the digits of the rule where the others are resolved."""
_DIGITS = (60, 10000)
"""Digits of a value, and those of one that vanishes in the logarithm of fewer."""
_SHARE = sp.Rational(5, 4)
"""A square that grows like exp(2 k x) has all but 1e-9 of its mean within reach of the rule where k times the standard
deviation is below this."""


@lru_cache(maxsize=256)
def admit(pieces: Pieces, name: str) -> sp.Expr:
    """The largest variance at which the rule keeps its digits: infinite but for functions that grow exponentially or oscillate.

    Raises ``RefusedError`` for a function that is not real, finite and smooth between its kinks.

    >>> x = sp.Symbol("x", real=True)
    >>> admit(Pieces(x, (), (sp.exp(x / 2),)), "exp")
    25/4
    >>> admit(Pieces(x, (), (1 / x,)), "inverse")
    Traceback (most recent call last):
    ...
    symprop.core.errors.RefusedError: inverse: it is not finite at 0; remedy: give a formula that is finite on the real line
    """
    ends, reach = (-sp.oo, *pieces.kinks, sp.oo), [sp.oo]
    for index, formula in enumerate(pieces.formulas):
        low, high = ends[index : index + 2]
        _refuse_singularities(formula, pieces.variable, low, high, name)
        exact = _sampled(formula, pieces.variable, low, high, name)
        if formula.has(*_GROWING) or any(_is_exponential(node) for node in formula.atoms(sp.Pow)):
            reach += _reach(_SHARE, _rate(formula, pieces.variable, exact, name))
        far = [point for point in exact if abs(point) >= _FAR]
        reach += _reach(sp.Integer(_WAVES), _frequency(formula, pieces.variable, far))
    return min(reach)


def _reach(deviation: sp.Expr, rate: float) -> list[sp.Expr]:
    """The variance up to which a rate, times the standard deviation, is below a bound."""
    rounded = sp.Rational(f"{rate:.2g}")
    return [(deviation / rounded) ** 2] if rounded else []


def _is_exponential(node: sp.Expr) -> bool:
    return bool(node.base.is_number and node.exp.free_symbols)


def _refuse_singularities(formula: sp.Expr, variable: sp.Symbol, low: sp.Expr, high: sp.Expr, name: str) -> None:
    for node in formula.atoms(sp.Function):
        if not isinstance(node, (*_ENTIRE, *_WITHIN)):
            raise RefusedError(
                name, f"{node} is not known to be finite and smooth on the real line",
                "write it with exp, log, erf, trigonometric and hyperbolic functions, powers and kinks",
            )
    for base, is_pole in _critical(formula):
        for root in _zeros(base, variable, low, high, name):
            value = _limit(formula, variable, root, low, high) if is_pole else formula.subs(variable, root)
            if not value.is_finite:
                raise RefusedError(name, f"it is not finite at {root}", "give a formula that is finite on the real line")
            if not is_pole:
                raise RefusedError(
                    name, f"it has a root or a logarithm of zero at {root}, where its slopes are not finite",
                    "give a formula that is smooth up to its kinks",
                )


def _critical(formula: sp.Expr) -> Iterator[tuple[sp.Expr, bool]]:
    """What may not vanish, and whether only as a denominator."""
    for node in sorted(formula.atoms(sp.Pow, *_WITHIN), key=sp.default_sort_key):
        if not node.is_Pow:
            yield _WITHIN[node.func](node.args[0]), False
        elif not node.exp.is_Integer:
            yield node.base, False
        elif node.exp.is_negative:
            yield node.base, True


def _zeros(base: sp.Expr, variable: sp.Symbol, low: sp.Expr, high: sp.Expr, name: str) -> list[sp.Expr]:
    """Zeros of an expression on a piece, its ends included."""
    if base.is_positive or not base.has(variable):
        return []
    try:
        roots = smooth_roots(base, variable, name)
    except (RefusedError, NotImplementedError, ValueError, TypeError):
        return _changes(base, variable, low, high)
    return [root for root in roots if low <= root <= high]


def _changes(base: sp.Expr, variable: sp.Symbol, low: sp.Expr, high: sp.Expr) -> list[sp.Expr]:
    """Where an expression changes its sign on a grid."""
    function = lambdified(sp.Lambda(variable, base), mpmath)
    points = [point / mpmath.mpf(64) for point in range(-1280, 1281) if low <= sp.Rational(point, 64) <= high]
    signs = [mpmath.sign(mpmath.re(function(point))) for point in points]
    return [sp.Float(points[i], 3) for i in range(1, len(points)) if signs[i] != signs[i - 1] or signs[i] == 0]


@lru_cache(maxsize=256)
def in_doubles(formula: sp.Expr, variable: sp.Symbol) -> sp.Expr:
    """A formula as doubles evaluate it: :func:`bounded`, and with its limits where it is a quotient of zeros.

    >>> x = sp.Symbol("x", real=True)
    >>> in_doubles(sp.sin(x) / x, x)
    Piecewise((1, Eq(x, 0)), (sin(x)/x, True))
    """
    poles = [base for base, is_pole in _critical(formula) if is_pole]
    roots = {root for base in poles for root in _zeros(base, variable, -sp.oo, sp.oo, "")}
    limits = {root: _limit(formula, variable, root, -sp.oo, sp.oo) for root in sorted(roots, key=sp.N)}
    holes = [(value, sp.Eq(variable, root)) for root, value in limits.items() if value.is_finite]
    inside = bounded(formula)
    return sp.Piecewise(*holes, (inside, True)) if holes else inside


def _limit(formula: sp.Expr, variable: sp.Symbol, root: sp.Expr, low: sp.Expr, high: sp.Expr) -> sp.Expr:
    """The limit of a formula at a point of a piece, from within."""
    if root.is_Float:
        return sp.zoo
    try:
        return sp.limit(formula, variable, root, "+" if root == low else "-" if root == high else "+-")
    except (NotImplementedError, ValueError):
        return sp.zoo


def _sampled(
    formula: sp.Expr, variable: sp.Symbol, low: sp.Expr, high: sp.Expr, name: str
) -> dict[float, mpmath.mpf]:
    """The values of a formula on a piece."""
    first, last = (float(end) for end in (low, high))
    points = [side * size for size in _SIZES for side in (-1, 1)]
    points += [first + (last - first) * share for share in (0.2, 0.5, 0.8) if last - first < float("inf")]
    function: Callable[[Any], Any] = lambdified(sp.Lambda(variable, formula), mpmath)
    found: dict[float, mpmath.mpf] = {}
    for point in (point for point in points if first < point < last):
        value = next((value for digits in _DIGITS if mpmath.isfinite(value := _value(function, point, digits))), mpmath.nan)
        if mpmath.isnan(value) or mpmath.im(value) != 0:
            raise RefusedError(
                name, f"it is not real and finite at {point:g}", "give a formula that is real and finite on the real line"
            )
        found[point] = mpmath.re(value)
    return found


def _value(function: Callable[[Any], Any], point: float, digits: int) -> Any:
    with mpmath.workdps(digits):
        try:
            return mpmath.mpmathify(function(mpmath.mpf(point)))
        except (ZeroDivisionError, ValueError):
            return mpmath.nan


def _frequency(formula: sp.Expr, variable: sp.Symbol, points: Sequence[float]) -> float:
    """The highest frequency of a formula: those of factors add up, and other functions of waves have their harmonics."""
    if not points or not formula.has(*_WAVE):
        return 0.0
    parts = [_frequency(part, variable, points) for part in formula.args]
    if isinstance(formula, sp.Add):
        return max(parts)
    if isinstance(formula, sp.Mul):
        return sum(parts)
    if isinstance(formula, sp.Pow) and formula.exp.is_Integer and formula.exp.is_positive:
        return int(formula.exp) * parts[0]
    within = _harmonics(formula, variable, points) * max(parts) if max(parts) else 0.0
    return within + (_carrier(formula.args[0], variable, points) if isinstance(formula, _WAVE) else 0.0)


def _carrier(argument: sp.Expr, variable: sp.Symbol, points: Sequence[float]) -> float:
    """How fast the argument of a wave grows, but for waves in it."""
    still = argument.xreplace(dict.fromkeys(argument.atoms(*_WAVE), sp.S.Zero))
    slope = lambdified(sp.Lambda(variable, sp.diff(still, variable)), mpmath)
    found = max(float(abs(slope(mpmath.mpf(point)))) for point in points)
    return found if found > 1 / max(_SIZES) else 0.0


def _harmonics(function: sp.Expr, variable: sp.Symbol, points: Sequence[float]) -> int:
    """The number of harmonics that count in a function of waves, all taken at one phase."""
    import numpy as np

    phase = sp.Dummy("phase", real=True)
    inner = set().union(*(argument.atoms(*_WAVE) for argument in function.args))
    waves = {node: node.func(phase) for node in inner if not node.args[0].has(*_WAVE)}
    at = sp.lambdify((variable, phase), function.xreplace(waves), "numpy")
    angles = np.arange(2 * _MOST) * np.pi / _MOST
    most = 1
    with np.errstate(all="ignore"):
        for point in points:
            parts = np.abs(np.fft.rfft(at(point, angles) + 0 * angles))
            if not np.isfinite(parts).all():
                return _MOST
            most = max(most, int(np.flatnonzero(parts >= _COUNTING * parts.max())[-1]))
    return most


def _rate(formula: sp.Expr, variable: sp.Symbol, exact: dict[float, mpmath.mpf], name: str) -> float:
    """How fast a function grows, as the factor of x in an exponent; zero where doubles have the whole of it."""
    import numpy as np

    function = lambdified(sp.Lambda(variable, bounded(formula)), np)
    unit = max((abs(value) for point, value in exact.items() if abs(point) <= _UNIT), default=mpmath.mpf(1))
    with np.errstate(all="ignore"):
        apart = [
            point for point, value in exact.items()
            if not abs(mpmath.mpf(float(function(np.float64(point)))) - value) <= _AGREEING * (abs(value) + unit)
        ]  # fmt: skip
    if not apart:
        return 0.0
    far = max(apart, key=abs)
    rates = [float(mpmath.log(abs(exact[point])) / abs(point)) for point in (far, far / 10) if exact.get(point)]
    if len(rates) < 2 or not _GROWN / abs(far) < rates[0] < 2 * rates[1]:
        raise RefusedError(
            name, f"it is beyond doubles at {min(apart, key=abs):g}, where exponents go past 100",
            "write it so that no exponential grows, as with tanh(x) for a quotient of exponentials",
        )
    return rates[0]
