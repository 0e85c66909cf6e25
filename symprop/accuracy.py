"""Worst errors of generated evaluators over points at the edges of their ranges: ``python -m symprop.accuracy [NAME ...]``.

Every point lies inside the stated ranges and is drawn to meet their ends, the neighbours of these, and sizes from 1e-12 to
1e12. Generated code is compared with the formula in many digits: by :mod:`symprop.reference` where gmpy2 is installed and the
function has more digits than doubles, thousands of points a second, and by :func:`symprop.codegen.spec.evaluate` for the
others and where the first finds no value. An error counts where it is above a relative
TOLERANCE *and* above what a rounding of the arguments would change: near a zero of the function no double precision
code can do better than that. What a function says it rounds as 1 is measured against 1 where it is smaller. Overflow to
infinity of the right sign is right.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import sympy as sp

from symprop import bundled
from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, Parameter, evaluate
from symprop.core.errors import InputError, RefusedError

TOLERANCE = 1e-11
ROUNDINGS = 8
"""Roundings of all arguments that an error may amount to."""
DIGITS = 20
_BLOCK = 256
_SIZES = (0.0, 1e-12, 1e-6, 1.0, 1e6, 1e12)
_COUNTS = (1, 2, 3, 4, 7, 64, 129, 1000, 10**6, 10**9)
_LAYERS = (1, 2, 3, 10, 40)
_LEAST = 1e-300
"""The neighbour of zero: below some 1e-308 a double no longer carries its digits."""
_LARGEST, _SMALLEST = 1.7e308, 1e-290
Draw: TypeAlias = Callable[[Parameter, Mapping[sp.Symbol, object], random.Random], Any]


@dataclass(frozen=True)
class WorstError:
    """What one evaluator reached: ``worst`` is the largest counted relative error, at ``point``; 0 where none counts.

    ``points`` were compared; at ``undefined`` more the formula has no finite value and the generated code gave none either.
    At ``lost`` of the compared ones the code gave nan: no wrong number, but none where an intermediate result leaves the
    range of doubles.
    """

    evaluator: str
    backend: str
    points: int
    undefined: int
    worst: float
    output: str
    point: Mapping[str, float]
    lost: int = 0


def edge_points(spec: FunctionSpec, seed: int = 0) -> Iterator[dict[str, float | int]]:
    """Endless points inside the ranges of a function, most of them at an edge in some argument.

    >>> from symprop.codegen.spec import parameters
    >>> from symprop.core.symbols import rho, n
    >>> spec = FunctionSpec("share", parameters(rho, n), (("share", 1 - rho),), "1 - rho.")
    >>> all(-1 <= (point["n"] - 1) * point["rho"] for _, point in zip(range(50), edge_points(spec)) if point["n"] < 100)
    True
    """
    counts = _LAYERS if spec.recursion is not None else _COUNTS
    return drawn_points(spec, lambda parameter, point, rng: _drawn(parameter, point, rng, counts), seed)


def drawn_points(spec: FunctionSpec, draw: Draw, seed: int = 0) -> Iterator[dict[str, float | int]]:
    """Endless points inside the ranges of a function, its parameters drawn after those that their bounds depend on.

    ``draw`` has the parameter, the values drawn so far and the source of random numbers; what lies outside is left out.
    """
    rng = random.Random(seed)
    own = {parameter.symbol for parameter in spec.parameters}
    ordered: list[Parameter] = []
    while len(ordered) < len(own):
        placed = {parameter.symbol for parameter in ordered}
        ordered += [p for p in spec.parameters if p not in ordered and _needs(p) & own <= placed]
    while True:
        point: dict[sp.Symbol, float | int] = {}
        for parameter in ordered:
            value = draw(parameter, point, rng)
            point[parameter.symbol] = int(value) if parameter.domain.integer else float(value)
        if all(parameter.domain.contains(point[parameter.symbol], point) for parameter in ordered):
            yield {parameter.name: point[parameter.symbol] for parameter in ordered}


def _needs(parameter: Parameter) -> set[sp.Basic]:
    bounds = (parameter.domain.lower, parameter.domain.upper)
    return set().union(*(bound.free_symbols for bound in bounds if bound is not None))


def _drawn(parameter: Parameter, point: Mapping[sp.Symbol, object], rng: random.Random, counts: tuple[int, ...]) -> Any:
    domain = parameter.domain
    low, high = domain.bounds(point)
    if domain.integer:
        inside = [k for k in counts if (low is None or k >= low) and (high is None or k <= high)]
        return rng.choice(inside or [int(low or 0)])
    if low is not None and high is not None:
        far = high - low
        near = [0.0, far * 1e-12, far * 1e-6, far * rng.random(), far / 2]
        return min(max(rng.choice([low + x for x in near] + [high - x for x in near] + [
            math.nextafter(low, high) if low else _LEAST, math.nextafter(high, low) if high else -_LEAST]), low), high)
    spreads = (1.0, 1.0, 1.0, 8.0, 8.0)
    size = rng.choice([*_SIZES, *(math.exp(spread * rng.gauss(0, 1)) for spread in spreads)])
    size = size or (1e-6 if domain.open_lower else 0.0)
    return low + size if low is not None else high - size if high is not None else size * rng.choice([-1.0, 1.0])


def measure(
    spec: FunctionSpec, name: str, backends: Sequence[str] = ("numpy",), points: int = 100, seconds: float = math.inf,
    seed: int = 0,
) -> tuple[WorstError, ...]:
    """Compare generated functions with the exact values at edge points, until one of the limits is reached.

    The backends get the same points, as arrays. What has no kernel is not measured compiled: its module takes it from numpy.
    """
    functions, start = {}, time.monotonic()
    for backend in backends:
        with contextlib.suppress(RefusedError):
            functions[backend] = load(spec, backend)
    exact_at = _formula(spec)
    found = [_Worst() for _ in functions]
    compared = undefined = refused = 0
    drawn = edge_points(spec, seed)
    while compared + undefined + refused < points and time.monotonic() - start < seconds:
        block = list(islice(drawn, min(_BLOCK, points - compared - undefined - refused)))
        values = [_at_points(spec, function, block) for function in functions.values()]
        for index, point in enumerate(block):
            if time.monotonic() - start > seconds:
                break
            try:
                exact = exact_at(point)
            except RefusedError:
                refused += 1
                continue
            compared, undefined = compared + bool(exact), undefined + (not exact)
            for worst, outputs in zip(found, values, strict=True):
                worst.see(spec, point, [float(output[index]) for output in outputs], exact, exact_at)
    return tuple(
        WorstError(f"{name}:{spec.name}", backend, compared, undefined, worst.error, worst.output, worst.point, worst.lost)
        for backend, worst in zip(functions, found, strict=True)
    )


def _formula(spec: FunctionSpec) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """The outputs at a point in many digits, none where the formula has no value; refused where it is not evaluated."""

    def slowly(point: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return evaluate(spec, point, DIGITS)
        except InputError:
            return {}

    try:
        from symprop.reference import Reference

        reference = Reference(spec)
    except (ImportError, RefusedError):
        return slowly
    return lambda point: reference.at(point) or slowly(point)


def _at_points(spec: FunctionSpec, function: Callable[..., Any], block: Sequence[Mapping[str, float | int]]) -> list[Any]:
    """The outputs of a generated function, each an array over the points."""
    columns = {parameter.name: np.array([point[parameter.name] for point in block]) for parameter in spec.signature}
    with np.errstate(all="ignore"):
        values = function(**columns)
    return [np.broadcast_to(np.asarray(item), len(block)) for item in (values if len(spec.outputs) > 1 else (values,))]


@dataclass
class _Worst:
    """The largest counted error of one backend so far."""

    error: float = 0.0
    output: str = ""
    point: Mapping[str, float] = field(default_factory=dict)
    lost: int = 0

    def see(
        self, spec: FunctionSpec, point: Mapping[str, float | int], values: Sequence[float], exact: Mapping[str, Any],
        exact_at: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        """Count the errors at a point; ``exact`` is empty where the formula has no value, and the code may give none."""
        if not exact and (ends := _at_bounds(spec, point)) != point:
            exact = exact_at(ends)
        if not exact:
            if all(map(math.isfinite, values)) and self.error < math.inf:
                self.error, self.output, self.point = math.inf, "a value where there is none", point
            return
        self.lost += any(map(math.isnan, values))
        for value, (key, want) in zip(values, exact.items(), strict=True):
            if math.isnan(value):
                continue
            error = _relative(value, want)
            if key in spec.rounded_as_one and math.isfinite(value):
                error = min(error, abs(value - float(want)))
            if error > max(self.error, TOLERANCE):
                allowed = ROUNDINGS * _conditioned(spec, point, key, want, exact_at)
                if not abs(value - float(want)) <= allowed:
                    self.error, self.output, self.point = error, key, point


def _relative(value: float, want: Any) -> float:
    if abs(want) > _LARGEST:
        return 0.0 if math.isinf(value) and (value > 0) == (want > 0) else math.inf
    if abs(want) < _SMALLEST:
        return 0.0 if abs(value) < 1e-280 else math.inf
    return abs(float((want - value) / want)) if math.isfinite(value) else math.inf


def _conditioned(
    spec: FunctionSpec, point: Mapping[str, float | int], key: str, want: Any,
    exact_at: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> float:
    """How far the output moves when every argument moves to a neighbouring double."""
    total = 0.0
    for parameter in spec.signature:
        given = point[parameter.name]
        if isinstance(given, int):
            continue
        moves = []
        for end in (-math.inf, math.inf):
            moved: Mapping[str, Any] = {}
            with contextlib.suppress(RefusedError):
                moved = exact_at({**point, parameter.name: _neighbour(spec, parameter, point, end)})
            if key in moved:
                moves.append(abs(float(moved[key] - want)))
        total += max(moves, default=0.0)
    return total


def _neighbour(spec: FunctionSpec, parameter: Parameter, point: Mapping[str, Any], end: float) -> Any:
    """The next double towards an end, or the exact bound that a double at the end of its range stands for."""
    given, domain = point[parameter.name], parameter.domain
    moved = math.nextafter(given, end)
    if parameter.name in spec.rounded_as_one:
        low, high = domain.bounds({other.symbol: point[other.name] for other in spec.signature})
        moved = given + math.copysign(math.ulp(1.0), end)
        moved = moved if low is None else max(moved, low)
        moved = moved if high is None else min(moved, high)
    exact = _meant(domain.lower if end < 0 else domain.upper, given, point)
    return moved if exact is None else exact


def _meant(bound: sp.Expr | None, given: Any, point: Mapping[str, Any]) -> sp.Rational | None:
    """The exact end of a range that a double stands for, None where it stands for itself."""
    if bound is None or not {symbol.name for symbol in bound.free_symbols} <= set(point):
        return None
    exact = bound.xreplace({symbol: sp.sympify(point[symbol.name]) for symbol in bound.free_symbols})
    return exact if exact.is_finite and exact.is_Rational and float(exact) == given else None


def _at_bounds(spec: FunctionSpec, point: Mapping[str, Any]) -> dict[str, Any]:
    """The point with exact ends of ranges, which no double may be, where it has the doubles next to them."""
    ends = {p.name: (_meant(p.domain.lower, point[p.name], point), _meant(p.domain.upper, point[p.name], point))
            for p in spec.signature}
    return {name: next((end for end in ends[name] if end is not None), given) for name, given in point.items()}


def main(arguments: list[str] | None = None, show: Callable[[str], None] = print) -> int:
    """Print a line for each evaluator; 1 where an error counts."""
    parser = argparse.ArgumentParser(prog="python -m symprop.accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="derivations (default: all)")
    parser.add_argument("--backend", choices=bundled.BACKENDS, action="append", help="may be repeated (default: all)")
    parser.add_argument("--points", type=int, default=100, help="points for each evaluator (default 100)")
    parser.add_argument("--seconds", type=float, default=20.0, help="longest time for one evaluator (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    counted = 0
    for name in options.names or bundled.names():
        for spec in bundled.derivation(name).evaluators:
            backends = options.backend or bundled.BACKENDS
            for found in measure(spec, name, backends, options.points, options.seconds, options.seed):
                counted += found.worst > 0
                show(f"{found.evaluator:44}{found.backend:9}{found.points:7} points {found.worst:8.1e}  {found.output}"
                     + (f"  ({found.lost} nan)" if found.lost else ""))
                if found.worst > 0:
                    show("    " + " ".join(f"{key}={value!r}" for key, value in found.point.items()))
    return int(counted > 0)


if __name__ == "__main__":
    raise SystemExit(main())
