"""Fixed points of the (q, gap) map away from collapse: where they lie, whether depth ends there, and gradients there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import NDArray

from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import compare, exact_value, factored
from symprop.depth.fixed_point import solve_fixed_points
from symprop.depth.iterate import LayerMap, mpmath_compile, numpy_compile

SCAN = 240
"""Values of 1 - rho at which a search looks, crowded towards collapse."""
NEWTON = 60
SMALLEST = 1e-9


@dataclass(frozen=True)
class InteriorPoint:
    """A fixed point (q, gap) with gap > 0.

    ``multipliers`` are the eigenvalues of the map's derivative, the largest first; ``gradient`` those of the backward
    transfer matrix of the gradient's (q, gap), empty where the map has none. Exact or with the digits asked for.
    """

    q: sp.Expr
    gap: sp.Expr
    multipliers: tuple[sp.Expr, ...]
    gradient: tuple[sp.Expr, ...]

    @property
    def rho(self) -> sp.Expr:
        """Token correlation 1 - gap/q."""
        return 1 - self.gap / self.q

    @property
    def attracting(self) -> bool | None:
        """Whether depth ends there; None where a multiplier has size one or is undecided."""
        sizes = [sp.Abs(item) < 1 for item in self.multipliers]
        if any(size == False for size in sizes):  # noqa: E712
            return None if any(sp.Abs(item) == 1 for item in self.multipliers) else False
        return True if all(size == True for size in sizes) else None  # noqa: E712

    @property
    def lyapunov_gradient(self) -> sp.Expr:
        """Exponent of the faster of the two gradient modes."""
        if not self.gradient:
            raise InputError("transfer", None, "a layer map with a backward transfer")
        return sp.log(sp.Max(*(sp.Abs(item) for item in self.gradient)))


def solve_interior(layer: LayerMap) -> tuple[InteriorPoint, ...]:
    """Fixed points with gap > 0 in closed form, for a map that is rational in (q, gap) and affine in q at fixed rho.

    Points are put back into the map. Raises :class:`RefusedError` where there is no closed form.

    >>> q, gap, a = sp.symbols("q gap a", positive=True)
    >>> layer = LayerMap({q: sp.Integer(1), gap: 2*gap/q/(1 + gap/(a*q))})
    >>> [(point.q, point.gap, point.multipliers) for point in solve_interior(layer)]
    [(1, a, (1/2, 0))]
    """
    q, gap = _states(layer)
    share = sp.Dummy("share", positive=True)
    updates = [sp.cancel(layer.updates[state].subs(gap, share * q)) for state in (q, gap)]
    slope = factored(sp.diff(updates[0], q))
    if slope.has(q) or slope == 1:
        raise RefusedError(f"fixed points of ({q}, {gap})", f"{q} has no closed fixed point at fixed correlation",
                           "find_interior")
    stationary = factored(updates[0].subs(q, 0) / (1 - slope)) if updates[0].has(q) else updates[0]
    reduced = factored(updates[1].subs(q, stationary) / stationary)
    found = []
    for point in solve_fixed_points(reduced, share):
        if point.value == 0 or point.value.is_negative:
            continue
        at = {q: stationary.subs(share, point.value), gap: factored(stationary.subs(share, point.value) * point.value)}
        if any(compare(layer.updates[state].subs(at), at[state]).equal is False for state in (q, gap)):
            raise AssertionError(f"{at} is no fixed point")
        found.append(InteriorPoint(at[q], at[gap], _eigenvalues(_jacobian(layer, q, gap), at),
                                   () if layer.transfer is None else _eigenvalues(layer.transfer, at)))
    return tuple(found)


def find_interior(
    layer: LayerMap, values: Mapping[sp.Symbol, Any] | None = None, digits: int = 50
) -> tuple[InteriorPoint, ...]:
    """Fixed points with gap > 0 to ``digits`` digits, in increasing order of the gap.

    At every correlation on a grid (1 - rho from 1e-9 to 1, crowded towards 0) q is set to the value that a layer keeps;
    what is left is how much one layer multiplies the gap, whose crossings of one are bracketed and refined by Newton's
    method on (q, gap). Two points closer than the grid (5% in 1 - rho) may be missed, and negative
    correlations are not looked at. Nodes that stand for a
    quadrature rule or a mixture carry their own error. Raises ``InputError`` for a missing value and
    :class:`RefusedError` where no q is kept.

    >>> q, gap = sp.symbols("q gap", positive=True)
    >>> layer = LayerMap({q: q/2 + 1, gap: 2*gap/(1 + gap)})
    >>> [(point.q, point.gap, point.attracting) for point in find_interior(layer, digits=15)]
    [(2.00000000000000, 1.00000000000000, True)]
    """
    q, gap = _states(layer)
    exact = {key: exact_value(item) for key, item in (values or {}).items()}
    fixed = LayerMap(
        {state: value.xreplace(exact) for state, value in layer.updates.items()},
        None if layer.transfer is None else layer.transfer.xreplace(exact),
    )
    if fixed.parameters:
        raise InputError(str(fixed.parameters[0]), "missing", "a number")
    growth = _GapGrowth(fixed, q, gap)
    shares = np.concatenate([np.geomspace(SMALLEST, 0.1, SCAN // 2, endpoint=False), np.linspace(0.1, 1, SCAN // 2)])
    excess = growth(shares)
    if not np.isfinite(excess).any():
        raise RefusedError(f"fixed points of ({q}, {gap})", f"no {q} is kept at any correlation", "iterate the map")
    crossing = np.flatnonzero((excess[:-1] * excess[1:] < 0) | (excess[1:] == 0))
    points = [_polished(fixed, q, gap, *growth.bisected(shares[k], shares[k + 1]), digits) for k in crossing]
    return tuple(points)


class _GapGrowth:
    """log of what a layer multiplies the gap with, as a function of share = 1 - rho, at the q that a layer keeps."""

    def __init__(self, layer: LayerMap, q: sp.Symbol, gap: sp.Symbol) -> None:
        share = sp.Dummy("share", positive=True)
        kept, moved = (layer.updates[state].subs(gap, share * q) for state in (q, gap))
        self._second = numpy_compile((q, share), (kept, sp.diff(kept, q)))
        self._gap = numpy_compile((q, share), (moved,))

    def stationary(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Newton's method on q' = q, from q = 1; nan where it does not settle."""
        q = np.ones_like(share)
        with np.errstate(all="ignore"):
            for _ in range(NEWTON):
                value, slope = self._second(q, share)
                step = (value - q) / (1 - slope)
                q = np.maximum(q + step, q / 8)
                if np.all(np.abs(step) <= 1e-15 * q):
                    break
            settled = np.abs(self._second(q, share)[0] / q - 1) < 1e-10
        return np.where(settled, q, np.nan)

    def __call__(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        q = self.stationary(share)
        with np.errstate(all="ignore"):
            found = np.log(np.broadcast_to(self._gap(q, share)[0], share.shape) / (share * q))
        return np.asarray(found)

    def bisected(self, low: float, high: float) -> tuple[float, float]:
        """q and gap at the crossing between two shares."""
        sides = np.array([low, high])
        start = self(sides)
        for _ in range(40 if start[1] != 0 else 0):
            middle = np.array([np.sqrt(sides[0] * sides[1])])
            sides[0 if self(middle)[0] * start[0] > 0 else 1] = middle[0]
        share = sides[1]
        q = self.stationary(sides[1:])[0]
        return float(q), float(q * share)


def _polished(layer: LayerMap, q: sp.Symbol, gap: sp.Symbol, start_q: float, start_gap: float, digits: int) -> InteriorPoint:
    with mpmath.workdps(digits + 15):
        step = mpmath_compile((q, gap), tuple(layer.updates[state] for state in (q, gap)))
        slopes = _jacobian(layer, q, gap)
        first = {q: sp.Float(start_q, 30), gap: sp.Float(start_gap, 30)}
        newton = mpmath.matrix(_numbers(sp.eye(2) - slopes.xreplace(first))) ** -1
        at = mpmath.matrix([start_q, start_gap])
        # The derivative at the start is right to 1e-10 or so: every step adds as many digits.
        for _ in range(digits):
            residual = mpmath.matrix(step(*at)) - at
            at += newton * residual
            if mpmath.norm(residual) < mpmath.mpf(10) ** (-digits - 8) * mpmath.norm(at):
                break
        else:
            raise RefusedError(f"fixed point of ({q}, {gap})", f"Newton's method did not settle near {start_gap}", "iterate")
        found = {q: sp.Float(at[0], digits + 10), gap: sp.Float(at[1], digits + 10)}
        matrices = (slopes, *(() if layer.transfer is None else (layer.transfer,)))
        modes = [_spectrum(_numbers(matrix.xreplace(found)), digits) for matrix in matrices]
    return InteriorPoint(sp.Float(at[0], digits), sp.Float(at[1], digits), modes[0], modes[1] if len(modes) > 1 else ())


def _numbers(matrix: sp.Matrix) -> list[list[Any]]:
    return [[mpmath.mpmathify(sp.N(entry, mpmath.mp.dps)) for entry in row] for row in matrix.tolist()]


def _spectrum(rows: list[list[Any]], digits: int) -> tuple[sp.Expr, ...]:
    """Eigenvalues, the largest first."""
    if len(rows) == 1:
        return (sp.Float(rows[0][0], digits),)
    (a, b), (c, d) = rows
    half, root = (a + d) / 2, mpmath.sqrt(((a - d) / 2) ** 2 + b * c)
    found = sorted((half + root, half - root), key=abs, reverse=True)
    return tuple(
        sp.Float(mpmath.re(item), digits) + sp.I * sp.Float(mpmath.im(item), digits) if mpmath.im(item) != 0
        else sp.Float(mpmath.re(item), digits) for item in found
    )  # fmt: skip


def _eigenvalues(matrix: sp.Matrix, at: Mapping[sp.Symbol, sp.Expr]) -> tuple[sp.Expr, ...]:
    found = sp.Matrix(matrix).subs(dict(at)).applyfunc(factored).eigenvals(multiple=True)
    tidied = [factored(item) for item in found]
    return tuple(sorted(tidied, key=lambda item: (item == 0, sp.default_sort_key(item))))


def _jacobian(layer: LayerMap, q: sp.Symbol, gap: sp.Symbol) -> sp.Matrix:
    return sp.Matrix([[sp.diff(layer.updates[row], column) for column in (q, gap)] for row in (q, gap)])


def _states(layer: LayerMap) -> tuple[sp.Symbol, sp.Symbol]:
    if len(layer.state) != 2:
        raise InputError("layer", layer.state, "a map of the two states q and gap")
    return layer.state[0], layer.state[1]
