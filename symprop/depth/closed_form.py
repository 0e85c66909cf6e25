"""Closed forms of affine recursions with constant coefficients."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from symprop.core.errors import RefusedError
from symprop.core.expression import compare, factored
from symprop.functions import DepthPower, GeometricSum


def solve_affine(updates: Mapping[sp.Symbol, sp.Expr], depth: sp.Expr) -> dict[sp.Symbol, sp.Expr]:
    """Solve x_{l+1} = f(x_l) for a triangular affine f, in terms of the initial values (the symbols themselves).

    Variables are solved in order of dependence. A variable with factor a that is driven by terms c r^l ends as
    ``a^L x + c GeometricSum(r, a, L)``, which stays right where r = a. Every solution is put back into its recursion
    before it is returned.

    Raises :class:`RefusedError` where the map is not affine, couples two variables both ways, or drives a variable by a
    resonance.

    >>> x, y, a, b = sp.symbols("x y a b", positive=True)
    >>> solve_affine({x: a*x, y: y + b*x}, sp.Symbol("L", positive=True, integer=True))[y]
    b*x*GeometricSum(1, a, L) + y
    """
    if depth.is_Symbol and any(update.has(depth) for update in updates.values()):
        # Coefficients that know the depth are constants of the recursion all the same.
        layers = sp.Dummy(depth.name, integer=True, positive=True)
        return {key: value.xreplace({layers: depth}) for key, value in solve_affine(updates, layers).items()}
    state = tuple(updates)
    coefficients = {variable: _coefficients(variable, updates[variable], state) for variable in state}
    solved: dict[sp.Symbol, dict[sp.Expr, sp.Expr]] = {}
    closed: dict[sp.Symbol, sp.Expr] = {}
    for variable in _by_dependence(state, coefficients):
        factor = coefficients[variable][variable]
        drive: dict[sp.Expr, sp.Expr] = {}
        constant = coefficients[variable][sp.S.One]
        if constant != 0:
            drive[sp.S.One] = constant
        for other in state:
            weight = coefficients[variable][other]
            if other == variable or weight == 0:
                continue
            if other not in solved:
                raise RefusedError(
                    f"recursion of {variable}",
                    f"it is driven by {other}, which is itself a driven mode",
                    "iterate the map numerically",
                )
            for ratio, amount in solved[other].items():
                drive[ratio] = drive.get(ratio, sp.S.Zero) + weight * amount
        closed[variable] = DepthPower(factor, depth) * variable + sp.Add(
            *(amount * GeometricSum(ratio, factor, depth) for ratio, amount in drive.items())
        )
        if not drive:
            solved[variable] = {factor: variable}
        _put_back(variable, updates[variable], closed, depth, forgets=factor == 0 or 0 in drive)
    return {variable: closed[variable] for variable in state}


def _coefficients(
    variable: sp.Symbol, update: sp.Expr, state: tuple[sp.Symbol, ...]
) -> dict[sp.Expr, sp.Expr]:
    zero = dict.fromkeys(state, sp.S.Zero)
    parts = {other: factored(sp.diff(update, other)) for other in state}
    if any(part.has(*state) for part in parts.values()):
        raise RefusedError(
            f"recursion of {variable}", "its layer map is not affine in the state", "iterate the map numerically"
        )
    return {**parts, sp.S.One: factored(update.xreplace(zero))}


def _by_dependence(
    state: tuple[sp.Symbol, ...], coefficients: Mapping[sp.Symbol, Mapping[sp.Expr, sp.Expr]]
) -> list[sp.Symbol]:
    order: list[sp.Symbol] = []
    waiting = list(state)
    while waiting:
        ready = [
            item
            for item in waiting
            if all(coefficients[item][other] == 0 for other in waiting if other != item)
        ]
        if not ready:
            names = ", ".join(map(str, waiting))
            raise RefusedError(
                f"recursion of {names}", "the modes drive each other both ways", "iterate the map numerically"
            )
        order += ready
        waiting = [item for item in waiting if item not in ready]
    return order


def _put_back(
    variable: sp.Symbol, update: sp.Expr, closed: Mapping[sp.Symbol, sp.Expr], depth: sp.Expr, *, forgets: bool
) -> None:
    later = closed[variable].xreplace({depth: depth + 1}) if depth.is_Symbol else None
    if later is None:
        return
    verdict = compare(later, update.xreplace(dict(closed)))
    # A factor of zero forgets the start in one layer, so that the closed form holds from depth 1 on.
    start = compare(closed[variable].xreplace({depth: sp.S.Zero}), variable)
    if verdict.equal is False or (start.equal is False and not forgets):
        raise AssertionError(f"closed form of {variable} does not satisfy its recursion ({verdict.method})")
