"""Boundaries between phases, and the residual strength that keeps tokens apart over a given depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import collected, compare, factored
from symprop.depth.balance import balance
from symprop.depth.iterate import LayerMap, iterate, numpy_compile
from symprop.functions.depth_nodes import GrowthMinusOne
from symprop.network.trace import Trace

HALVINGS = 80


def solve_boundary(factor: sp.Expr, unknown: sp.Symbol) -> sp.Expr:
    """The positive value of a parameter at which a growth factor is one, so that its exponent vanishes, in closed form.

    Raises :class:`RefusedError` where the equation has no closed solution, several, or none: see :func:`find_boundary`.

    >>> a, chi = sp.symbols("a chi", positive=True)
    >>> solve_boundary((1 - a)*(1 - a + a*chi), chi)
    (a - 2)/(a - 1)
    """
    return collected(balance([sp.Eq(factor, 1)], [unknown])[unknown])


def find_boundary(
    factor: sp.Expr,
    unknown: sp.Symbol,
    interval: tuple[float, float],
    values: Mapping[sp.Symbol, Any] = MappingProxyType({}),
) -> NDArray[np.float64]:
    """The same on a grid of the other parameters, numerically: one halving of all brackets at a time.

    ``values`` holds numbers or arrays that broadcast; the result is nan where the factor does not cross one inside the
    interval, which must be positive. The bracket ends at the last digit of a double, the factor's own rounding divided by
    its slope is what remains. Raises ``InputError`` for a missing value or an empty interval.

    >>> a, s = sp.symbols("a s", positive=True)
    >>> find_boundary(a*s**2, s, (0.1, 10), {a: [0.25, 4, 1e9]}).round(12).tolist()
    [2.0, 0.5, nan]
    """
    arguments = tuple(sorted(factor.free_symbols - {unknown}, key=str))
    if set(arguments) - set(values):
        raise InputError(str(min(set(arguments) - set(values), key=str)), "missing", "a number or an array")
    given = [np.asarray(values[key], dtype=float) for key in arguments]
    compiled = numpy_compile((unknown, *arguments), (factor,))

    def excess(at: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return np.asarray(np.broadcast_to(compiled(at, *given)[0], at.shape) - 1.0)

    return bracketed(excess, interval, np.broadcast_shapes(*(item.shape for item in given)))


def bracketed(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]], interval: tuple[float, float], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Zeros of a function of arrays by halving in the logarithm; nan where both ends have one sign."""
    if not 0 < interval[0] < interval[1]:
        raise InputError("interval", interval, "two positive numbers in increasing order")
    low, high = (np.full(shape, float(end)) for end in interval)
    sign = np.sign(function(low))
    found = sign * np.sign(function(high)) <= 0
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        below = np.sign(function(middle)) * sign > 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(found, np.sqrt(low * high), np.nan)


@dataclass(frozen=True)
class OddsLaw:
    r"""An exact law over depth: ``factor`` multiplies the odds common/gap in every block, whatever the state.

    The odds are :math:`c/\Delta = \rho/(1 - \rho) + 1/n`, with c the second moment of the token mean.
    """

    factor: sp.Expr
    tokens: sp.Expr

    def odds(self, rho: sp.Expr) -> sp.Expr:
        """Odds of a correlation."""
        return rho / (1 - rho) + 1 / self.tokens

    def correlation(self, rho: sp.Expr, depth: sp.Expr) -> sp.Expr:
        """Correlation after ``depth`` blocks."""
        odds = self.odds(rho) * self.factor**depth - 1 / self.tokens
        return odds / (1 + odds)

    def critical(self, unknown: sp.Symbol, rho: sp.Expr, target: sp.Expr, depth: sp.Expr) -> sp.Expr:
        """The value of a parameter at which the correlation reaches ``target`` after ``depth`` blocks, from ``rho``."""
        growth = sp.Dummy("growth", positive=True)
        # The odds given over those wanted, less one: finite at a target of 1, whose odds are not.
        deficit = (rho - target) / ((1 - rho) * factored(self.odds(target) * (1 - target)))
        wanted = GrowthMinusOne(deficit, -1 / depth)
        return balance([sp.Eq(self.factor, 1 + growth)], [unknown])[unknown].subs(growth, wanted)


def odds_law(trace: Trace) -> OddsLaw:
    """The exact law of a block of uniform attention, linear layers and norms.

    A norm cancels in the odds, the other two multiply the two modes by constants. Raises :class:`RefusedError` where the
    factor depends on the state.
    """
    start, end = trace.input, trace.expand()
    factor = factored((end.common / end.gap) / (start.common / start.gap)) if end.gap != 0 else sp.oo
    if factor.has(start.q, start.gap) or factor == sp.oo:
        raise RefusedError("odds of the block", f"their factor {factor} depends on the state", "critical_strength")
    if compare(end.gap * start.common * factor, end.common * start.gap).equal is False:
        raise AssertionError("the odds do not follow their law")
    return OddsLaw(factor, start.tokens)


def critical_strength(
    layer: LayerMap,
    unknown: sp.Symbol,
    interval: tuple[float, float],
    start: Mapping[sp.Symbol, Any],
    target: Any,
    depth: int,
    values: Mapping[sp.Symbol, Any] = MappingProxyType({}),
) -> NDArray[np.float64]:
    """The value of a parameter at which the map, iterated over ``depth`` layers, ends at the correlation ``target``.

    ``start`` and ``values`` hold numbers or arrays that broadcast with ``target``; nan where the target is not crossed
    inside the (positive) interval. For blocks without an :func:`odds_law`.
    """
    q, gap = layer.state[:2]
    wanted = 1 - np.asarray(target, dtype=float)
    given = [np.asarray(item, dtype=float) for item in (*start.values(), *values.values())]

    def excess(at: NDArray[np.float64]) -> NDArray[np.float64]:
        end = iterate(layer, start, depth, {**values, unknown: at}).forward
        return np.asarray(np.log(end[gap][-1] / end[q][-1] / wanted))

    return bracketed(excess, interval, np.broadcast_shapes(wanted.shape, *(item.shape for item in given)))
