"""Monte Carlo of the real network: an interpreter of the same Trace that the theory reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from symprop.components.attention import Attention
from symprop.components.base import Array, Component, Values, Vjp
from symprop.components.uniform_attention import UniformAttention
from symprop.core.errors import InputError
from symprop.core.signal import Signal
from symprop.network.builders import Block, Named, Parallel, Residual, Sequential, Stack
from symprop.network.trace import Trace, trace_of

CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Trajectory:
    """Moments of the simulated stream at every layer boundary, one row for each draw of the weights.

    ``inner_products`` is sum_{k,k'} <X_k, X_k'> and ``norm`` is ||X||_F^2, both of shape (draws, depth + 1); ``gram``
    is the token Gram matrix of the last layer, of shape (draws, tokens, tokens).
    """

    inner_products: Array
    norm: Array
    gram: Array


def apply(trace: Trace, x: Array, rng: np.random.Generator, values: Values) -> Array:
    """Draw the weights of one block and apply it to arrays of shape (draws, tokens, width)."""
    signals = [x]
    for step in trace.steps:
        output, _ = step.component.sample(*(signals[item] for item in step.inputs), rng=rng, values=values)
        signals.append(output)
    return signals[trace.output]


def pullback(trace: Trace, x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Callable[[Array], Array]]:
    """Draw the weights of one block and apply it; also the map from dLoss/d(output) to dLoss/d(input)."""
    signals = [x]
    pulls: list[Vjp] = []
    for step in trace.steps:
        output, pull = step.component.sample(*(signals[item] for item in step.inputs), rng=rng, values=values)
        signals.append(output)
        pulls.append(pull)

    def pulled(gradient: Array) -> Array:
        gradients: dict[int, Array] = {trace.output: gradient}
        for position in range(len(trace.steps), 0, -1):
            if position not in gradients:
                continue
            parts = pulls[position - 1](gradients.pop(position))
            for source, part in zip(trace.steps[position - 1].inputs, parts, strict=True):
                gradients[source] = gradients[source] + part if source in gradients else part
        return gradients[0]

    return signals[trace.output], pulled


def simulate(
    stack: Stack,
    x: Array,
    values: Values,
    *,
    depth: int,
    draws: int,
    seed: int,
    signal: Signal | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """Send the tokens ``x`` of shape (tokens, width) through ``draws`` independent networks of ``depth`` blocks.

    ``signal`` is the input that the block was built for, symbolic n and d by default. Networks with the same ``seed``
    share the weights of components that draw the same arrays in the same order, so that uniform and softmax attention
    can be compared with paired draws.
    """
    trace = trace_of(stack.body, signal)
    products, norms = np.empty((draws, depth + 1)), np.empty((draws, depth + 1))
    gram = np.empty((draws, len(x), len(x)))
    for start, stop in _chunks(draws, x.nbytes + 8 * x.shape[1] ** 2):
        streams = np.random.SeedSequence([seed, start]).spawn(depth)
        state = np.broadcast_to(x, (stop - start, *x.shape))
        for layer in range(depth + 1):
            products[start:stop, layer] = (state.sum(axis=1) ** 2).sum(axis=1)
            norms[start:stop, layer] = (state**2).sum(axis=(1, 2))
            if layer < depth:
                state = apply(trace, state, np.random.default_rng(streams[layer]), values)
        gram[start:stop] = state @ state.swapaxes(1, 2)
        if progress is not None:
            progress(stop, draws)
    return Trajectory(products, norms, gram)


def equicorrelated_tokens(tokens: int, width: int, rho: float, norm2: float, seed: int) -> Array:
    """Fixed tokens of shape (tokens, width), each of squared norm ``norm2``, every pair at cosine ``rho``.

    Needs ``width > tokens`` and rho in [-1/(tokens - 1), 1].
    """
    if width <= tokens:
        raise InputError("width", width, f"an integer > tokens = {tokens}")
    frame = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, tokens)))[0].T
    gram = (1 - rho) * np.eye(tokens) + rho
    values, vectors = np.linalg.eigh(gram)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return np.asarray(np.sqrt(norm2) * root @ frame)


def with_component(block: Block, change: Callable[[Component], Component]) -> Block:
    """The same block with every component replaced by ``change(component)``."""
    if isinstance(block, Sequential):
        return replace(block, blocks=tuple(with_component(item, change) for item in block.blocks))
    if isinstance(block, Residual):
        return replace(block, branch=with_component(block.branch, change))
    if isinstance(block, Parallel):
        branches = tuple(with_component(item, change) for item in block.branches)
        return replace(block, branches=branches, before=with_component(block.before, change))
    if isinstance(block, Named):
        return replace(block, block=with_component(block.block, change))
    if isinstance(block, Stack):
        return replace(block, body=with_component(block.body, change))
    return change(block)


def with_softmax(block: Block, key_width: object, query_variance: object, key_variance: object) -> Block:
    """The same block with the real softmax where it has uniform attention; its moments stay those of uniform weights.

    Its tokens must be Gaussian: give :func:`simulate` a signal that says so.
    """

    def change(component: Component) -> Component:
        if not isinstance(component, UniformAttention):
            return component
        return Attention(
            component.width, component.value_variance, key_width, query_variance, key_variance, level="uniform"
        )

    return with_component(block, change)


def _chunks(draws: int, bytes_per_draw: int) -> Iterator[tuple[int, int]]:
    size = max(1, min(draws, CHUNK_BYTES // (4 * bytes_per_draw)))
    for start in range(0, draws, size):
        yield start, min(start + size, draws)
