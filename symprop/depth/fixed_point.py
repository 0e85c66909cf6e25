"""Fixed points of a scalar map over depth: where they lie, whether depth ends there, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import compare, exact_value, factored

SAMPLES = 400
"""Intervals that a search for roots looks at; half of them crowd towards the two ends."""


@dataclass(frozen=True)
class FixedPoint:
    """A fixed point of r -> f(r) and the slope f' there (one-sided at an end of the interval)."""

    value: sp.Expr
    slope: sp.Expr

    @property
    def attracting(self) -> bool | None:
        """Whether nearby points converge to it geometrically; None at a slope of 1 or -1 or where that is undecided."""
        size = sp.Abs(self.slope)
        verdict = (size < 1, size > 1)
        return True if verdict[0] == True else False if verdict[1] == True else None  # noqa: E712


@dataclass(frozen=True)
class SmallParameter:
    """The distance of a fixed point from where it sits at zero parameter: coefficient * parameter^exponent."""

    coefficient: sp.Expr
    exponent: sp.Expr
    parameter: sp.Symbol

    @property
    def leading(self) -> sp.Expr:
        """The leading term."""
        return self.coefficient * self.parameter**self.exponent


@dataclass(frozen=True)
class Approach:
    """How the distance to a fixed point shrinks with depth l.

    ``kind`` is ``geometric`` (``rate``^l), ``algebraic`` (``coefficient`` * l^``exponent``, rate 1), ``finite`` (the slope
    is zero: faster than any power) or ``repelling``. ``coefficient`` and ``exponent`` are None unless it is algebraic.
    """

    kind: str
    rate: sp.Expr
    exponent: sp.Expr | None = None
    coefficient: sp.Expr | None = None


def solve_fixed_points(update: sp.Expr, variable: sp.Symbol) -> tuple[FixedPoint, ...]:
    """All fixed points of a rational map, in closed form, each put back into the map.

    Raises :class:`RefusedError` for a map that is not rational in the variable, or the identity.

    >>> r, p = sp.symbols("r p", positive=True)
    >>> [(point.value, point.slope) for point in solve_fixed_points(2*r/(1 + r/(1 - p)), r)]
    [(0, 2), (1 - p, 1/2)]
    """
    if not update.is_rational_function(variable):
        raise RefusedError(f"fixed points of {variable}", f"the map is not rational in {variable}", "find_fixed_points")
    numerator = sp.Poly(sp.fraction(factored(update - variable))[0], variable)
    if numerator.is_zero:
        raise RefusedError(f"fixed points of {variable}", "every point is fixed", "name the point")
    slope = sp.diff(update, variable)
    roots = sp.roots(numerator)
    if sum(roots.values()) != numerator.degree():
        raise RefusedError(f"fixed points of {variable}", "no closed form of all roots", "find_fixed_points")
    found = []
    for root in sorted(roots, key=sp.default_sort_key):
        if compare(update.subs(variable, root), root).equal is False:
            raise AssertionError(f"{root} is no fixed point of {update}")
        found.append(FixedPoint(root, factored(slope.subs(variable, root))))
    return tuple(found)


def find_fixed_points(
    update: sp.Expr,
    variable: sp.Symbol,
    values: Mapping[sp.Symbol, Any] | None = None,
    interval: tuple[Any, Any] = (0, 1),
    digits: int = 50,
) -> tuple[FixedPoint, ...]:
    """The fixed points in a closed interval to ``digits`` digits, in increasing order.

    Searched for as sign changes, touching points and zeros at the ends; two roots closer than the spacing of the search
    (about 1/400 of the interval, and in proportion to the distance from the nearer end near the ends) may be missed. A
    point counts as fixed at an end where the residual vanishes to all digits. Floats stand for their binary value. Raises
    ``InputError`` for a missing value or an empty interval.

    >>> r = sp.Symbol("r", nonnegative=True)
    >>> [point.value for point in find_fixed_points(sp.cos(r), r, digits=20)]
    [0.73908513321516064166]
    """
    exact = {key: exact_value(item) for key, item in (values or {}).items()}
    at = update.xreplace(exact)
    if missing := at.free_symbols - {variable}:
        raise InputError(str(min(missing, key=str)), "missing", "a number")
    low, high = (exact_value(end) for end in interval)
    if not low < high:
        raise InputError("interval", interval, "two numbers in increasing order")
    with mpmath.workdps(2 * digits + 20):
        residual = _function(variable, at - variable, low, high)
        ends = (_number(low), _number(high))
        zero = mpmath.mpf(10) ** (-digits - 5)
        roots = [end for end in ends if abs(residual(end)) < zero]
        grid = _grid(*ends)
        values_on = [residual(point) for point in grid]
        for position in range(len(grid) - 1):
            left, right = values_on[position], values_on[position + 1]
            if left == 0 or left * right < 0:
                roots.append(grid[position] if left == 0 else _bisected(residual, grid[position], grid[position + 1]))
        roots += _touching(residual, grid, values_on, zero)
        distinct: list[Any] = []
        for root in sorted(roots):
            if not distinct or root - distinct[-1] > mpmath.mpf(10) ** (-digits // 2):
                distinct.append(root)
        return tuple(
            FixedPoint(_rounded(root, digits), _slope(at, variable, root, ends, digits)) for root in distinct
        )


def small_parameter(
    update: sp.Expr, variable: sp.Symbol, parameter: sp.Symbol, start: sp.Expr = sp.S.One, *, below: bool = True
) -> SmallParameter:
    """How far a fixed point moves from ``start`` when a parameter leaves zero: the leading fractional power.

    ``start`` must be fixed at zero parameter, and the point moves to below (or above) it. With y the distance and A y^a
    and B p^b the leading terms of the residual on the two axes, y = (-B/A)^(1/a) p^(b/a). The balance is put back: mixed
    terms must not reach it, tested at shrinking parameters. Raises :class:`RefusedError` where no such balance exists.

    >>> r, p = sp.symbols("r p", positive=True)
    >>> small_parameter(r + (1 - r)**3 - p*r, r, p).leading
    p**(1/3)
    """
    name = f"fixed point of {variable} near {start}"
    distance = sp.Dummy("y", positive=True)
    point = start - distance if below else start + distance
    small = sp.Dummy("p", positive=True)
    residual = (update - variable).subs(parameter, small).subs(variable, point)
    on_axis = residual.subs(small, 0)
    if compare(sp.limit(on_axis, distance, 0), sp.S.Zero).equal is not True:
        raise RefusedError(name, f"{start} is not fixed at {parameter} = 0", "pass the fixed point at zero parameter")
    moved, height = leading_power(on_axis, distance, name)
    off_axis = sp.limit(residual, distance, 0)
    pushed, power = leading_power(off_axis, small, name)
    amount = factored(-pushed / moved)
    if amount.is_negative:
        raise RefusedError(name, "the point would leave on the other side", "set below to the opposite")
    balance = SmallParameter(sp.powdenest(amount ** (1 / height)), power / height, parameter)
    if _mixes(residual / moved, distance, small, balance, height):
        raise RefusedError(name, "mixed terms reach the balance of the axes", "expand the map by hand")
    return balance


def _mixes(residual: sp.Expr, distance: sp.Symbol, small: sp.Symbol, balance: SmallParameter, height: sp.Expr) -> bool:
    """Whether the residual on the balance fails to vanish faster than its two terms; other symbols take some value."""
    others = sorted(residual.free_symbols - {distance, small}, key=str)
    at = {symbol: sp.Rational(7 + 2 * k, 10) for k, symbol in enumerate(others)}
    left = []
    for exponent in (30, 60, 120):
        size = sp.Rational(1, 10**exponent)
        moved_to = balance.coefficient.xreplace(at) * size**balance.exponent
        value = residual.xreplace(at).subs({distance: moved_to, small: size}) / moved_to**height
        left.append(abs(sp.N(value, 30, maxn=2000)))
    return not (left[0] < sp.Rational(1, 1000) and (left[2] < left[1] < left[0] or not any(left)))


def approach(update: sp.Expr, variable: sp.Symbol, point: sp.Expr, *, below: bool = True) -> Approach:
    """How orbits that start below (or above) a fixed point approach it.

    At slope one, with distance y' = y - A y^a, the distance is ((a - 1) A l)^(-1/(a - 1)) to leading order. Raises
    :class:`RefusedError` for a point that is not fixed or a slope whose size cannot be decided.

    >>> r = sp.Symbol("r", positive=True)
    >>> approach(r*(2 - r), r, sp.S.Zero, below=False).kind, approach(r/(1 + r), r, sp.S.Zero, below=False).exponent
    ('repelling', -1)
    """
    name = f"fixed point {variable} = {point}"
    distance = sp.Dummy("y", positive=True)
    sign = -1 if below else 1
    after = sign * (update.subs(variable, point + sign * distance) - point)
    if compare(sp.limit(after, distance, 0), sp.S.Zero).equal is False:
        raise RefusedError(name, "the point is not fixed", "solve for the fixed points first")
    slope = factored(sp.limit(after / distance, distance, 0))
    size = sp.Abs(slope)
    if slope == 0:
        return Approach("finite", slope)
    if compare(slope, sp.S.One).equal is True:
        moved, power = leading_power(after - distance, distance, name)
        if moved.is_positive:
            return Approach("repelling", slope)
        exponent = -1 / (power - 1)
        return Approach("algebraic", slope, exponent, sp.powdenest((-(power - 1) * moved) ** exponent))
    if (size > 1) == True:  # noqa: E712
        return Approach("repelling", slope)
    if (size < 1) == True or slope.free_symbols:  # noqa: E712
        return Approach("geometric", slope)
    raise RefusedError(name, f"whether its slope {slope} is below one is undecided", "give the parameters values")


def leading_power(expression: sp.Expr, variable: sp.Symbol, name: str) -> tuple[sp.Expr, sp.Expr]:
    """Coefficient and exponent of the leading power of a function as its positive variable tends to zero."""
    root = sp.Dummy("z", positive=True)
    # Half-integer powers, as square roots at the end of a range make them, become integer ones.
    inner = expression.subs(variable, root**2)
    for order in (4, 8, 16):
        try:
            series = sp.series(inner, root, 0, order).removeO()
        except (NotImplementedError, ValueError) as error:
            raise RefusedError(name, f"no expansion in {variable} ({error})", "expand the map by hand") from error
        terms = [term.as_coeff_exponent(root) for term in sp.Add.make_args(sp.expand(series)) if term != 0]
        if terms:
            lowest = min(power for _, power in terms)
            coefficient = factored(sp.Add(*(value for value, power in terms if power == lowest)))
            if coefficient.has(root):
                break
            if coefficient != 0:
                return coefficient, lowest / 2
    raise RefusedError(name, f"no leading power of {variable}", "expand the map by hand")


def _number(value: sp.Expr) -> Any:
    return mpmath.mpmathify(sp.N(value, mpmath.mp.dps))


def _function(variable: sp.Symbol, expression: sp.Expr, low: sp.Expr, high: sp.Expr) -> Callable[[Any], Any]:
    """The expression as a real function on the interval; rounding at its ends must not leave the reals."""
    own = any(node.func.__module__.startswith("symprop.") for node in expression.atoms(sp.Function))
    compiled = sp.lambdify(variable, expression, modules="mpmath")

    def value(at: Any) -> Any:
        if own:
            inside = sp.Float(at, mpmath.mp.dps)
            exact = low if at <= _number(low) else high if at >= _number(high) else inside
            return mpmath.mpmathify(sp.N(expression.xreplace({variable: exact}), mpmath.mp.dps))
        return mpmath.re(compiled(at))

    return value


def _grid(low: Any, high: Any) -> Sequence[Any]:
    """Points inside the interval: evenly spaced, and in powers of ten towards both ends."""
    quarter = SAMPLES // 4
    near = [(high - low) / 2 * mpmath.mpf(10) ** (-mpmath.mpf(30) * k / quarter) for k in range(1, quarter)]
    even = [low + (high - low) * k / (SAMPLES // 2) for k in range(1, SAMPLES // 2)]
    return sorted({*even, *(low + step for step in near), *(high - step for step in near)})


def _bisected(function: Callable[[Any], Any], left: Any, right: Any) -> Any:
    return mpmath.findroot(function, (left, right), solver="anderson", tol=mpmath.mpf(10) ** (2 - 2 * mpmath.mp.dps),
                           maxsteps=200, verify=False)


def _touching(function: Callable[[Any], Any], grid: Sequence[Any], values: Sequence[Any], zero: Any) -> list[Any]:
    """Roots at which the residual does not change sign: minima of its size that reach zero."""
    found = []
    for position in range(1, len(grid) - 1):
        left, here, right = (abs(values[position + shift]) for shift in (-1, 0, 1))
        if not (0 < here <= left and here <= right) or values[position - 1] * values[position + 1] < 0:
            continue
        low, high = grid[position - 1], grid[position + 1]
        for _ in range(400):
            third = (high - low) / 3
            if abs(function(low + third)) < abs(function(high - third)):
                high -= third
            else:
                low += third
        middle = (low + high) / 2
        if abs(function(middle)) < zero:
            found.append(middle)
    return found


def _rounded(value: Any, digits: int) -> sp.Expr:
    nearest = sp.Integer(int(mpmath.nint(value)))
    return nearest if abs(value - int(nearest)) < mpmath.mpf(10) ** (-digits) else sp.Float(value, digits)


def _slope(update: sp.Expr, variable: sp.Symbol, root: Any, ends: tuple[Any, Any], digits: int) -> sp.Expr:
    """The derivative at a root, one-sided at an end."""
    function = sp.diff(update, variable)
    inside = sp.Float(root, mpmath.mp.dps)
    value = sp.N(function.subs(variable, _rounded(root, digits) if root in ends else inside), mpmath.mp.dps)
    if value.is_real and value.is_finite:
        return _rounded(mpmath.mpmathify(value), digits)
    side = "-" if root == ends[1] else "+"
    return sp.N(sp.limit(function, variable, sp.nsimplify(_rounded(root, digits)), side), digits)
