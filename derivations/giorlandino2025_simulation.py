"""What is simulated for Giorlandino and Goldt 2025: overlaps of real blocks over depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sympy as sp
from symprop.derivations.giorlandino2025_blocks import STREAM, UNIT, block

from symprop.claims import Progress
from symprop.components.base import Array
from symprop.core.symbols import L, d, d_k, n, q_0, rho
from symprop.network import stack
from symprop.simulate.measurement import Measurement
from symprop.simulate.network import Trajectory, equicorrelated_tokens, simulate

ACCURACY = 0.02
"""Absolute accuracy of an overlap that the theory is held to: its error at finite width and length."""


def _simulated(
    placement: str, values: Mapping[sp.Symbol, float], depth: int, width: int, draws: int, seed: int, **form: bool
) -> Trajectory:
    """Blocks of a form (``centred``, ``causal``) on tokens that start exactly equicorrelated."""
    x = equicorrelated_tokens(int(values[n]), width, values[rho], width * values.get(q_0, 1.0), seed)
    return simulate(
        stack(block(placement, **form)), x, {**values, d: width, d_k: width}, depth=depth, draws=draws, seed=seed,
        signal=UNIT if placement == "post" else STREAM,
    )


def overlaps(
    placement: str, values: Mapping[sp.Symbol, float], *, depth: int, width: int, draws: int, seed: int, centred: bool = False
) -> Array:
    """Overlaps at every layer boundary, of shape (draws, depth + 1)."""
    found = _simulated(placement, values, depth, width, draws, seed, centred=centred)
    return np.asarray((found.inner_products / found.norm - 1) / (int(values[n]) - 1))


def causal_overlaps(
    values: Mapping[sp.Symbol, float], parts: Sequence[slice], *, depth: int, width: int, draws: int, seed: int
) -> Array:
    """Overlaps among parts of the tokens after the last Post-LN layer under a causal mask, of shape (draws, parts)."""
    gram = _simulated("post", values, depth, width, draws, seed, causal=True).gram
    return np.stack([overlap_within(gram[:, part, part]) for part in parts], axis=1)


def overlap_within(gram: Array) -> Array:
    """Mean inner product of two different tokens over that of a token with itself; Gram matrices are in the last two axes."""
    own = gram.trace(axis1=-2, axis2=-1)
    return np.asarray((gram.sum(axis=(-2, -1)) - own) / ((gram.shape[-1] - 1) * own))


def at_the_end(values: Mapping[sp.Symbol, float], draws: int, seed: int) -> tuple[float, float]:
    """Overlap of a Post-LN network after its last layer and its standard error, at four times as many coordinates as tokens."""
    width = 4 * int(values[n])
    found = overlaps("post", values, depth=int(values[L]), width=width, draws=draws, seed=seed)[:, -1]
    return float(found.mean()), float(found.std(ddof=1) / len(found) ** 0.5)


def rows(
    name: str, predicted: Sequence[float], layers: Sequence[int], found: Array, *, holds: bool = True, slack: float
) -> list[Measurement]:
    """Measured beside predicted overlaps; ``slack`` is what the theory is allowed to be off, added to the standard error."""
    return [
        row(f"overlap after layer {layer}", name, theory, found[:, layer], holds=holds, slack=slack)
        for layer, theory in zip(layers, predicted, strict=True)
    ]


def row(quantity: str, setting: str, predicted: float, samples: Array, *, holds: bool, slack: float) -> Measurement:
    """One of them, from independent draws."""
    error = np.hypot(samples.std(ddof=1) / len(samples) ** 0.5, slack)
    return Measurement(quantity, setting, float(predicted), float(samples.mean()), float(error), len(samples), holds)


def report(progress: Progress | None, done: int, total: int) -> None:
    """Tell the progress bar."""
    if progress is not None:
        progress("overlaps", done, total)
