"""Depth as time: the flow of (q, gap) at infinite depth when the residual branches shrink with it, alpha^2 = a/L."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from symprop.core import symbols
from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import compare, factored
from symprop.core.provenance import Derived, neglected_order
from symprop.depth.iterate import LayerMap, iterate, layer_map, numpy_compile
from symprop.depth.solution import INDEPENDENT_LAYERS
from symprop.network.trace import Trace

TIME = sp.Symbol("t", nonnegative=True)
"""Layer over depth, from 0 to 1."""
SHARE = symbols.delta
"""1 - rho = gap/q."""
SHARE_0 = symbols.delta_0
TOLERANCE = 1e-12


@dataclass(frozen=True)
class DepthFlow:
    """dq/dt and dgap/dt of a block, t the layer over the depth L; what is neglected is of the order 1/L.

    Where every layer ends in a norm, ``pinned`` is the second moment that it leaves, and the flow starts there.
    """

    layer: LayerMap
    scaling: Mapping[sp.Basic, sp.Expr]
    field: Mapping[sp.Symbol, sp.Expr]
    provenance: Derived
    pinned: sp.Expr | None = None

    @property
    def share(self) -> sp.Expr:
        """d(1 - rho)/dt in :data:`SHARE` and, where the flow depends on it, in q."""
        (q, second), (gap, moved) = self.field.items()
        size = q if self.pinned is None else self.pinned
        second, moved = (item.xreplace({gap: SHARE * size}) for item in (second, moved))
        return factored(moved / size - SHARE * second / size)

    def near_collapse(self) -> sp.Expr:
        """The two leading powers of :attr:`share` as the tokens align."""
        root = sp.Dummy("e", positive=True)
        series = sp.expand(sp.series(self.share.subs(SHARE, root**2), root, 0, 5).removeO())
        terms = sorted((sp.Poly(series, root).terms()), key=lambda term: term[0][0])[:2]
        return sp.Add(*(factored(value) * SHARE ** sp.Rational(power, 2) for (power,), value in terms))


def depth_flow(trace: Trace, scaling: Mapping[sp.Basic, sp.Expr]) -> DepthFlow:
    """The flow of a block whose residual weights are scaled as ``scaling`` says, such as ``{alpha_1: sqrt(a_1/L)}``.

    Raises :class:`RefusedError` for a block that is not the identity at L to infinity.

    >>> from symprop.components import Linear
    >>> from symprop.core.symbols import L, a_1, alpha_1, d
    >>> from symprop.network import residual, trace_of
    >>> flow = depth_flow(trace_of(residual(Linear(d, 1/d), alpha_1)), {alpha_1: sp.sqrt(a_1/L)})
    >>> list(flow.field.values())
    [a_1*q_X, a_1*gap_X]
    """
    layer, step = layer_map(trace, backward=False), sp.Dummy("h", positive=True)
    field, pinned = {}, None
    for state, value in layer.updates.items():
        scaled = value.subs(dict(scaling)).subs(symbols.L, 1 / step)
        if state == trace.input.q and not scaled.has(*layer.state, step):
            field[state], pinned = sp.S.Zero, scaled
            continue
        if pinned is not None:
            scaled = scaled.subs(trace.input.q, pinned)
        kept = scaled.subs(step, 0)
        if compare(kept, state).equal is False:
            raise RefusedError(f"flow of {state}", f"at infinite depth a block takes it to {factored(kept)}",
                               "scale every branch with the depth")
        field[state] = factored(sp.diff(scaled, step).subs(step, 0))
    provenance = Derived(
        sp.Tuple(*field.values()), (*trace.assumptions, INDEPENDENT_LAYERS), neglected_order(trace.neglected, "O(1/L)"),
        trace.sources, ("depth to infinity with the residual weights scaled by depth",),
    )
    return DepthFlow(layer, MappingProxyType(dict(scaling)), MappingProxyType(field), provenance, pinned)


def integrate_powers(field: sp.Expr, variable: sp.Symbol = SHARE, start: sp.Expr = SHARE_0) -> sp.Expr:
    """Solve dx/dt = c x + b x^p from x = ``start``: linear, logistic and Bernoulli flows, as a function of :data:`TIME`.

    u = x^(1 - p) obeys the linear equation du/dt = (1 - p)(c u + b). The solution is put back into the flow. Raises
    :class:`RefusedError` for a field with other terms.

    >>> a = sp.Symbol("a", positive=True)
    >>> integrate_powers(a*SHARE**2 - a*SHARE)
    -delta_0/(delta_0*exp(a*t) - delta_0 - exp(a*t))
    """
    terms: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(sp.expand(field)):
        coefficient, power = term.as_independent(variable, as_Add=False)
        exponent = power.as_base_exp()[1] if power != 1 else sp.S.Zero
        if power not in (1, variable**exponent):
            terms.clear()
            break
        terms[exponent] = terms.get(exponent, sp.S.Zero) + coefficient
    slope = terms.pop(sp.S.One, sp.S.Zero)
    if (len(terms) > 1) or (not terms and slope == 0 and field != 0):
        raise RefusedError(f"flow of {variable}", f"{field} is not a sum of a linear term and one power", "integrate_flow")
    if not terms:
        solution = start * sp.exp(slope * TIME)
    else:
        ((power, amount),) = terms.items()
        u, linear = sp.Function("u"), sp.Dummy("c", real=True, nonzero=True)
        rate = (1 - power) * ((linear * u(TIME) if slope != 0 else 0) + amount)
        found = sp.dsolve(sp.Eq(u(TIME).diff(TIME), rate), u(TIME), ics={u(0): start ** (1 - power)}).rhs
        solution = factored(found.subs(linear, slope)) ** (1 / (1 - power))
    put = solution.diff(TIME), field.subs(variable, solution)
    if compare(*put).equal is False or compare(solution.subs(TIME, 0), start).equal is False:
        raise AssertionError(f"{solution} does not solve the flow {field}")
    return solution


def integrate_flow(
    flow: DepthFlow, start: Mapping[sp.Symbol, float], values: Mapping[sp.Symbol, float], times: Sequence[float] = (1.0,)
) -> Mapping[sp.Symbol, NDArray[np.float64]]:
    """Integrate a flow numerically in q and the logarithm of the gap's growth, to a relative tolerance of 1e-12.

    Returns each state at the increasing ``times``. The gap must be positive. Raises ``InputError`` for missing values.
    """
    from scipy.integrate import solve_ivp

    (q, second), (gap, moved) = flow.field.items()
    parameters = sorted((second.free_symbols | moved.free_symbols) - {q, gap}, key=str)
    if missing := [key for key in parameters if key not in values]:
        raise InputError(str(missing[0]), "missing", "a number")
    if not start[gap] > 0:
        raise InputError("gap", start[gap], "a positive number")
    compiled = numpy_compile((q, gap, *parameters), (second, moved / gap))
    given = [float(values[key]) for key in parameters]

    first = float(start[gap])

    def rates(_: float, state: Any) -> list[float]:
        return [float(item) for item in compiled(state[0], first * np.exp(state[1]), *given)]

    grid = np.asarray(times, dtype=float)
    found = solve_ivp(rates, (0.0, float(grid[-1])), [float(start[q]), 0.0], method="DOP853",
                      t_eval=grid, rtol=TOLERANCE, atol=TOLERANCE)
    return {q: np.asarray(found.y[0]), gap: first * np.exp(found.y[1])}


def depth_error(
    flow: DepthFlow, start: Mapping[sp.Symbol, float], values: Mapping[sp.Symbol, float], depths: Sequence[int]
) -> NDArray[np.float64]:
    """L (gap after L layers / gap of the flow - 1) for every depth L: it tends to the coefficient of the O(1/L) error."""
    (q, gap) = flow.field
    end = integrate_flow(flow, start, values)[gap][-1]
    scaled = LayerMap({state: value.subs(dict(flow.scaling)) for state, value in flow.layer.updates.items()})
    errors = []
    for depth in depths:
        own = {key: float(depth) if key == symbols.L else values[key] for key in scaled.parameters}
        reached = iterate(scaled, {q: start[q], gap: start[gap]}, depth, own).forward[gap][-1]
        errors.append(depth * (float(reached) / end - 1))
    return np.array(errors)
