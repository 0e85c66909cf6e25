"""Benchmark rows of recursions over depth: nanoseconds a point and layer, as ratios to the compiled kernel in one run."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp

from symprop.codegen.jacobian import jacobian
from symprop.codegen.recursion import Recursion
from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, parameters
from symprop.components import Elementwise, Linear
from symprop.core import symbols as s
from symprop.depth.iterate import layer_map
from symprop.functions.activation import Activation, Gelu, Relu
from symprop.functions.logistic import Silu, Tanh
from symprop.network import residual, sequential, token_input, trace_of

POINTS, LAYERS = 200_000, 60
MANY = 10
"""Times the points for two workers."""


def block(activation: Activation) -> FunctionSpec:
    """A residual feed-forward block, many times: q and gap after L of them."""
    tokens = token_input()
    branch = sequential(Linear(s.d, s.sigma_w2 / s.d), Elementwise(activation), Linear(s.d, 1 / s.d))
    layer = layer_map(trace_of(residual(branch, s.alpha_1), tokens))
    return FunctionSpec(
        f"{activation.name}_block", parameters(s.q_0, s.rho, s.L, s.sigma_w2, s.alpha_1),
        (("q_L", tokens.q), ("gap_L", tokens.gap)), "A residual feed-forward stream.", formula="x",
        recursion=Recursion.of(layer, {tokens.q: s.q_0, tokens.gap: s.q_0 * (1 - s.rho)}),
    )


_HAND = r"""
#include <math.h>
#define STEP \
    const double a = x[i]*x[i]*w[i], c = p[i]/q[i] < 1 ? p[i]/q[i] : 1; \
    const double k = (sqrt(1 - c*c) + c*(M_PI - acos(c)))/M_PI; \
    p[i] += 0.5*a*q[i]*k; q[i] += 0.5*a*q[i];
void plain(long n, long layers, const double *restrict w, const double *restrict x, double *restrict q, double *restrict p) {
    for (long i = 0; i < n; i++) for (long l = 0; l < layers; l++) { STEP }
}
void blocked(long n, long layers, const double *restrict w, const double *restrict x, double *restrict q, double *restrict p) {
    for (long at = 0; at < n; at += 256) for (long l = 0; l < layers; l++)
        for (long i = at; i < (at + 256 < n ? at + 256 : n); i++) { STEP }
}
"""


def _by_hand_in_c(columns: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """The map with acos, in C with the most liberal flags: point by point, and in blocks that a vector library serves."""
    if shutil.which("gcc") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "hand.c", Path(folder) / "hand.so"
        source.write_text(_HAND)
        flags = ["-O3", "-march=native", "-ffast-math", "-fPIC", "-shared"]
        subprocess.run(["gcc", *flags, "-o", library, source, "-lm"], check=True)
        loaded = ctypes.CDLL(str(library))

    def run(name: str) -> Callable[[], object]:
        def call() -> None:
            q = columns["q_0"].copy()
            arrays = [columns["sigma_w2"], columns["alpha_1"], q, q * columns["rho"]]
            pointers = (ctypes.c_void_p(array.ctypes.data) for array in arrays)
            getattr(loaded, name)(ctypes.c_long(POINTS), ctypes.c_long(LAYERS), *pointers)

        return call

    return {"C with acos, point by point": run("plain"), "C with acos, in blocks": run("blocked")}


def _by_hand_in_numpy(columns: dict[str, Any], size: int = 8192) -> Callable[[], object]:
    def run() -> None:
        for at in range(0, POINTS, size):
            q, rho, w, x = (columns[key][at : at + size] for key in ("q_0", "rho", "sigma_w2", "alpha_1"))
            p, a = q * rho, 0.5 * x * x * w
            for _ in range(LAYERS):
                c = np.minimum(p / q, 1.0)
                p = p + a * q * (np.sqrt(1 - c * c) + c * (np.pi - np.arccos(c))) / np.pi
                q = q + a * q

    return run


def _by_hand_in_numba(columns: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """The map with acos, compiled by numba with the same liberty as C."""
    if importlib.util.find_spec("numba") is None:
        return {}
    from math import acos, pi, sqrt

    import numba

    def step(w: Any, x: Any, q: Any, p: Any, layers: int) -> None:
        for k in range(len(q)):
            a = 0.5 * x[k] * x[k] * w[k]
            for _ in range(layers):
                c = min(p[k] / q[k], 1.0)
                p[k] += a * q[k] * (sqrt(1 - c * c) + c * (pi - acos(c))) / pi
                q[k] += a * q[k]

    compiled = numba.njit(fastmath=True)(step)

    def run() -> None:
        q = columns["q_0"].copy()
        compiled(columns["sigma_w2"], columns["alpha_1"], q, q * columns["rho"], LAYERS)

    return {"numba with acos": run}


def _by_hand_in_python(columns: dict[str, Any], points: int) -> Callable[[], object]:
    from math import acos, pi, sqrt

    def run() -> None:
        for k in range(points):
            q, rho, w, x = (float(columns[key][k]) for key in ("q_0", "rho", "sigma_w2", "alpha_1"))
            p, a = q * rho, 0.5 * x * x * w
            for _ in range(LAYERS):
                c = min(p / q, 1.0)
                p += a * q * (sqrt(1 - c * c) + c * (pi - acos(c))) / pi
                q += a * q

    return run


def _lambdified(columns: dict[str, Any], points: int) -> Callable[[], object]:
    """The map with acos as SymPy's lambdify makes it, for one point and layer at a time."""
    a, q, p = sp.symbols("a q p")
    c = sp.Min(p / q, 1)
    grown = a * q * (sp.sqrt(1 - c**2) + c * (sp.pi - sp.acos(c))) / sp.pi
    step = sp.lambdify((a, q, p), (q + a * q, p + grown))

    def run() -> None:
        for k in range(points):
            q_0, rho, w, x = (columns[key][k] for key in ("q_0", "rho", "sigma_w2", "alpha_1"))
            state, factor = (q_0, q_0 * rho), 0.5 * x * x * w
            for _ in range(LAYERS):
                state = step(factor, *state)

    return run


def best_of(
    runs: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> list[float]:
    """The shortest time of each run in seconds, by processor time unless told; the runs take turns."""
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for k, run in enumerate(runs):
            start = clock()
            run()
            best[k] = min(best[k], clock() - start)
    return best


def rows(repeats: int) -> Iterator[str]:
    """The rows as text."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "q_0": rng.uniform(0.5, 2, POINTS), "rho": rng.uniform(0, 1, POINTS), "L": LAYERS,
        "sigma_w2": rng.uniform(1, 2, POINTS), "alpha_1": rng.uniform(0, 0.3, POINTS),
    }  # fmt: skip
    unit = 1e9 / (POINTS * LAYERS)
    yield f"{'block, ns a point and layer':40}{'time':>8}{'/ compiled relu':>18}"
    relu = block(Relu())
    runs: dict[str, Callable[[], object]] = {}
    for backend in ("compiled", "numpy"):
        for name, spec in (("relu", relu), ("relu with 4 derivatives", jacobian(relu))):
            runs[f"{name}, {backend}"] = partial(load(spec, backend), **columns)
    runs |= {"numpy with arccos, in blocks": _by_hand_in_numpy(columns), **_by_hand_in_c(columns), **_by_hand_in_numba(columns)}
    for activation in (Gelu(), Tanh(), Silu()):
        spec = block(activation)
        runs[f"{activation.name}, compiled"] = partial(load(spec, "compiled"), **columns)
        runs[f"{activation.name} with 4 derivatives, compiled"] = partial(load(jacobian(spec), "compiled"), **columns)
    for run in runs.values():
        run()
    spent = dict(zip(runs, (unit * item for item in best_of(list(runs.values()), repeats)), strict=True))
    few = 200
    one_by_one = [_by_hand_in_python(columns, few), _lambdified(columns, few)]
    scalar = zip(("scalar Python with math.acos", "scalar Python, sympy.lambdify"), best_of(one_by_one, repeats), strict=True)
    spent |= {name: 1e9 / (few * LAYERS) * seconds for name, seconds in scalar}
    for name, time_each in spent.items():
        yield f"{name:40}{time_each:8.1f}{time_each / spent['relu, compiled']:18.2f}"
    if "numba with acos" not in spent:
        yield "left out: numba (pip install 'symprop[numba]')"
    # Enough work that starting a thread does not count.
    many = {key: np.tile(value, MANY) if np.ndim(value) else value for key, value in columns.items()}
    seen, free = two_workers(partial(load(relu, "compiled"), **many), repeats)
    label = f"relu, compiled, {MANY * POINTS} points: two workers are faster by"
    yield f"{label:62}{seen:6.2f}, {free:.2f} where two cores are free"


def two_workers(run: Callable[..., object], repeats: int) -> tuple[float, float]:
    """How much faster two workers are: by the clock, and by processor time, which a busy machine leaves as it is.

    By processor time, what the calling thread does itself is done by no other; a kernel never waits for the other's.
    """
    one, two = best_of([partial(run, workers=1), partial(run, workers=2)], repeats, time.perf_counter)
    (alone,) = best_of([partial(run, workers=1)], repeats)
    spent = []
    for _ in range(repeats):
        start = time.process_time(), time.thread_time()
        run(workers=2)
        whole, own = time.process_time() - start[0], time.thread_time() - start[1]
        spent.append(own + (whole - own) / 2)
    return one / two, alone / min(spent)
