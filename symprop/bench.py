"""Ratios of running times: ``python -m symprop.bench``.

Generated numpy functions at a million points against the best hand-written numpy for the same formula and against
``sympy.lambdify`` with and without ``cse=True`` (below 1 means that the generated function is faster); recursions over depth
against the same map by hand in numpy, C, numba and Python, and the kernels of an MLP against neural-tangents; how long softmax
moments, phase diagrams and starts take, and how times grow with points, layers and tokens. Lines whose subject is not available
are left out by name.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from symprop import bench_depth, bench_diagram, bench_growth, bench_mlp, bench_softmax, bench_start
from symprop.bench_depth import best_of
from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, parameters
from symprop.core import symbols as s
from symprop.functions.activation import Gelu, Relu
from symprop.functions.arc_cosine import ArcCosine
from symprop.functions.depth_nodes import GrowthMinusOne
from symprop.functions.logistic import Sigmoid, Silu, Tanh
from symprop.functions.table_sum import TableSum

POINTS = 10**6
DERIVATIONS = ("symprop.derivations.noci2022",)
_BLOCK = 16384
_COMMON = s.q * (1 + (s.n - 1) * s.rho) / s.n
_GAIN = s.sigma_v2 * s.d

SPECS = (
    FunctionSpec(
        "second_moment", parameters(s.q, s.rho, s.n, s.gamma, s.L, s.alpha_1, s.alpha_2),
        (("q_L", (1 + s.alpha_2**2 * s.gamma) ** s.L * (s.q + GrowthMinusOne(s.alpha_1**2, s.L) * _COMMON)),),
        "Second moment of a coordinate after L blocks.",
    ),
    FunctionSpec(
        "common_moment", parameters(s.q, s.rho, s.n, s.gamma, s.L, s.alpha_1, s.alpha_2),
        (("common_L", (1 + s.alpha_2**2 * s.gamma) ** s.L * (1 + s.alpha_1**2) ** s.L * _COMMON),),
        "Second moment of the token mean after L blocks.",
    ),
    FunctionSpec(
        "correlation", parameters(s.rho, s.n, s.d, s.L, s.alpha_1, s.sigma_v2),
        (("rho_L", 1 - (1 - s.rho) / (1 + GrowthMinusOne(s.alpha_1**2 * _GAIN, s.L) * _COMMON / s.q)),),
        "Token correlation after L blocks.",
    ),
    *(
        FunctionSpec(
            f"{item.name}_cross", parameters(s.sigma2, s.rho),
            (("cross", item.cross(sp.S.Zero, sp.S.Zero, s.sigma2, s.sigma2, s.sigma2 * s.rho)),),
            f"E phi(x) phi(y) of two tokens, phi = {item.name}.",
        )
        for item in (Relu(), Gelu(), Silu(), Tanh(), Sigmoid())
    ),
)


def _second_moment(q: Any, rho: Any, n: Any, gamma: Any, L: Any, alpha_1: Any, alpha_2: Any) -> Any:
    grown = np.expm1(L * np.log1p(alpha_1**2)) * (1 + (n - 1) * rho) / n
    return np.exp(L * np.log1p(alpha_2**2 * gamma)) * q * (1 + grown)


def _common_moment(q: Any, rho: Any, n: Any, gamma: Any, L: Any, alpha_1: Any, alpha_2: Any) -> Any:
    attention, feed_forward = alpha_1**2, alpha_2**2 * gamma
    growth = np.exp(L * np.log1p(attention + feed_forward * (1 + attention)))
    return growth * q * (1 + (n - 1) * rho) / n


def _correlation(rho: Any, n: Any, d: Any, L: Any, alpha_1: Any, sigma_v2: Any) -> Any:
    return 1 - (1 - rho) / (1 + np.expm1(L * np.log1p(alpha_1**2 * sigma_v2 * d)) * (1 + (n - 1) * rho) / n)


def _first_arc_cosine(above: Any, below: Any) -> tuple[Any, Any]:
    """The angle with cosine (below - above)/(below + above), and its sine less its cosine times the angle."""
    angle = 2 * np.arctan2(np.sqrt(above), np.sqrt(below))
    square, size = angle * angle, above + below
    series = angle * square * (1 / 3 - square * (1 / 30 - square * (1 / 840 - square * (1 / 45360 - square / 3991680))))
    direct = (2 * np.sqrt(above * below) - angle * (below - above)) / size
    return angle, np.where(angle < 0.3, series, direct)


def _relu_cross(sigma2: Any, rho: Any) -> Any:
    return sigma2 * _first_arc_cosine(1 + rho, 1 - rho)[1] / (2 * np.pi)


def _gelu_cross(sigma2: Any, rho: Any) -> Any:
    c, spread, square = sigma2 * rho, 1 + sigma2, sigma2 * sigma2
    excess = 1 + 2 * sigma2 + (sigma2 - c) * (sigma2 + c)
    angle, first = _first_arc_cosine(spread + c, spread - c)
    ratio = c / spread
    rest = (square + ratio * ratio * (1 - square)) / excess - square / (1 + square)
    return ((c * angle + square * spread * first) / (1 + square) + rest * np.sqrt(excess)) / (2 * np.pi)


STABLE: Mapping[str, Callable[..., Any]] = {
    "GrowthMinusOne": lambda x, depth: np.expm1(depth * np.log1p(x)),
    "ExpMinusOne": np.expm1,
    "GeometricSum": lambda r, s, depth: s ** (depth - 1.0) * np.expm1(depth * np.log1p((r - s) / s)) / ((r - s) / s),
    "Saturated": lambda x: np.minimum(x, np.finfo(float).max),
}
"""What lambdify is given for the nodes it does not know: the same definitions, as one would write them in numpy."""

BY_HAND: Mapping[str, Callable[..., Any]] = {
    "second_moment": _second_moment,
    "common_moment": _common_moment,
    "correlation": _correlation,
    "relu_cross": _relu_cross,
    "gelu_cross": _gelu_cross,
}


def _blocked(formula: Callable[..., Any]) -> Callable[..., Any]:
    """A hand-written formula over one-dimensional arrays, in blocks that fit the cache."""

    def evaluate(*columns: Any) -> Any:
        result = np.empty(columns[0].shape)
        for start in range(0, len(result), _BLOCK):
            at = slice(start, start + _BLOCK)
            result[at] = formula(*(column[at] for column in columns))
        return result

    return evaluate


def _points(spec: FunctionSpec) -> list[Any]:
    """Columns inside the ranges, int64 for what must be an integer and float64 otherwise; defaults as they come out."""
    rng = np.random.default_rng(0)
    columns: list[Any] = []
    for parameter in spec.signature:
        if parameter.symbol in spec.defaults:
            before = {p.symbol: column for p, column in zip(spec.signature, columns, strict=False)}
            default = spec.defaults[parameter.symbol]
            inputs = sorted(default.free_symbols, key=str)
            columns.append(sp.lambdify(inputs, default, "numpy")(*(before[symbol] for symbol in inputs)))
            continue
        whole = rng.integers(1, 60, POINTS)
        columns.append(whole if parameter.domain.integer else rng.uniform(0.01, 0.99, POINTS))
    order = [parameter.symbol for parameter in spec.signature]
    for k, parameter in enumerate(spec.signature):
        upper = parameter.domain.upper
        if upper is not None and upper.free_symbols and upper.free_symbols <= set(order):
            columns[k] = columns[k] * sp.lambdify(order, upper, "numpy")(*columns)
    return columns


def evaluators() -> tuple[FunctionSpec, ...]:
    """The specs measured: those of the bundled derivations that export some, and the ones above."""
    found: list[FunctionSpec] = []
    for name in DERIVATIONS:
        try:
            derivation = getattr(importlib.import_module(name), "DERIVATION", None)
        except ImportError:
            print(f"{name}: not available")
            continue
        found.extend(getattr(derivation, "evaluators", ()))
    return (*SPECS, *found)


def _evaluator_line(spec: FunctionSpec, repeats: int) -> str:
    columns = _points(spec)
    generated = load(spec)
    outputs = [output for _, output in spec.outputs]
    known = not any(output.has(TableSum, ArcCosine) for output in outputs)
    runs: list[Callable[[], object]] = [lambda: generated(*columns)]
    if known:
        symbols = [p.symbol for p in spec.signature]
        runs += [partial(sp.lambdify(symbols, outputs, [STABLE, "numpy"], cse=cse), *columns) for cse in (True, False)]
    formula = BY_HAND.get(spec.name) if any(spec is own for own in SPECS) else None
    if formula is not None:
        blocked = _blocked(formula)
        runs += [lambda: formula(*columns), lambda: blocked(*columns)]
    with np.errstate(all="ignore"):
        own, *others = best_of(runs, repeats)
    shared, repeated, hand = (others[:1], others[1:2], others[2:]) if known else ([], [], others)
    ratios = f"{_ratio(own, hand, 10)}{_ratio(own, shared, 16)}{_ratio(own, repeated, 10)}"
    return f"{spec.name:28}{1e3 * own:9.1f} ms{ratios}"


def _ratio(own: float, others: Sequence[float], width: int) -> str:
    return f"{own / min(others):{width}.2f}" if others else f"{'-':>{width}}"


def main(repeats: int = 11) -> None:
    """Print the table."""
    print(f"{POINTS} points{'':16}generated   / by hand  / lambdify: CSE   without")
    for spec in evaluators():
        print(_evaluator_line(spec, repeats))
    fewer = max(1, repeats // 2)
    parts = (bench_depth.rows(fewer), bench_mlp.rows(fewer), bench_softmax.rows(repeats), bench_growth.rows(fewer),
             bench_diagram.rows(), bench_start.rows(fewer))
    for line in itertools.chain.from_iterable(parts):
        print(line, flush=True)


if __name__ == "__main__":
    main()
