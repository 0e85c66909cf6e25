"""The kernels of an MLP against neural-tangents, which computes them for every pair of inputs, where that is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from symprop.bench_depth import best_of
from symprop.codegen.recursion import Recursion
from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, parameters
from symprop.components import Elementwise, Linear
from symprop.core import symbols as s
from symprop.depth.iterate import layer_map
from symprop.functions.activation import Relu
from symprop.network import sequential, token_input, trace_of

INPUTS, WIDTH, LAYERS = 300, 32, 20


def mlp() -> FunctionSpec:
    """The covariance of two outputs of a linear layer after L hidden ReLU layers, all of gain sigma_w2."""
    tokens = token_input()
    layer = layer_map(trace_of(sequential(Linear(s.d, s.sigma_w2 / s.d), Elementwise(Relu())), tokens))
    return FunctionSpec(
        "mlp", parameters(s.q_0, s.rho, s.L, s.sigma_w2), (("kernel", s.sigma_w2 * (tokens.q - tokens.gap)),), "An MLP.",
        formula="x",
        recursion=Recursion.of(layer, {tokens.q: s.q_0, tokens.gap: s.q_0 * (1 - s.rho)}),
    )


def inputs() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Inputs of one norm, for which a pair is its correlation: one row each."""
    rows = np.random.default_rng(0).standard_normal((INPUTS, WIDTH))
    return np.asarray(rows * np.sqrt(WIDTH / np.square(rows).sum(1, keepdims=True)))


def kernel(backend: str) -> Callable[[], Any]:
    """The kernels of all pairs of inputs, from their products."""
    function, given = load(mlp(), backend), inputs()

    return lambda: function(q_0=1.0, rho=np.clip(given @ given.T / WIDTH, -1, 1), L=LAYERS, sigma_w2=2.0, check=False)


def _by_neural_tangents() -> Callable[[], Any]:
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    stax = importlib.import_module("neural_tangents").stax
    dense = stax.Dense(WIDTH, W_std=2**0.5, b_std=None)
    _, _, kernel_fn = stax.serial(*([dense, stax.Relu()] * LAYERS), dense)
    compiled, given = jax.jit(lambda x: kernel_fn(x, None, "nngp")), jax.numpy.asarray(inputs())
    return lambda: compiled(given).block_until_ready()


def rows(repeats: int) -> Iterator[str]:
    """The rows as text."""
    runs = {f"MLP kernels, {backend}": kernel(backend) for backend in ("numpy", "compiled")}
    installed = importlib.util.find_spec("neural_tangents") is not None
    if installed:
        runs["MLP kernels, neural-tangents"] = _by_neural_tangents()
    values = [np.asarray(run()) for run in runs.values()]
    spent = best_of(list(runs.values()), repeats)
    for name, seconds, value in zip(runs, spent, values, strict=True):
        each, apart = 1e9 * seconds / (INPUTS**2 * LAYERS), np.max(np.abs(value / values[0] - 1))
        yield f"{name:40}{each:8.1f} ns a pair and layer, within {apart:.0e} of numpy"
    if not installed:
        yield "left out: neural-tangents (pip install neural-tangents)"
