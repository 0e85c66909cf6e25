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
from symprop.simulate.network import equicorrelated_tokens, simulate

ACCURACY = 0.02
"""Absolute accuracy of an overlap that the theory is held to: its error at finite width and length."""


def overlaps(
    placement: str, values: Mapping[sp.Symbol, float], *, depth: int, width: int, draws: int, seed: int
) -> Array:
    """Overlaps at every layer boundary, of shape (draws, depth + 1); the tokens start exactly equicorrelated."""
    tokens = int(values[n])
    x = equicorrelated_tokens(tokens, width, values[rho], width * values.get(q_0, 1.0), seed)
    found = simulate(
        stack(block(placement)), x, {**values, d: width, d_k: width}, depth=depth, draws=draws, seed=seed,
        signal=UNIT if placement == "post" else STREAM,
    )
    return np.asarray((found.inner_products / found.norm - 1) / (tokens - 1))


def at_the_end(values: Mapping[sp.Symbol, float], draws: int, seed: int) -> tuple[float, float]:
    """Overlap of a Post-LN network after its last layer and its standard error, at four times as many coordinates as tokens."""
    width = 4 * int(values[n])
    found = overlaps("post", values, depth=int(values[L]), width=width, draws=draws, seed=seed)[:, -1]
    return float(found.mean()), float(found.std(ddof=1) / len(found) ** 0.5)


def rows(
    name: str, predicted: Sequence[float], layers: Sequence[int], found: Array, *, holds: bool = True, slack: float
) -> list[Measurement]:
    """Measured beside predicted overlaps; ``slack`` is what the theory is allowed to be off, added to the standard error."""
    at = found[:, list(layers)]
    spread = np.hypot(at.std(axis=0, ddof=1) / len(at) ** 0.5, slack)
    return [
        Measurement(f"overlap after layer {layer}", name, float(theory), float(mean), float(error), len(at), holds)
        for layer, theory, mean, error in zip(layers, predicted, at.mean(axis=0), spread, strict=True)
    ]


def report(progress: Progress | None, done: int, total: int) -> None:
    """Tell the progress bar."""
    if progress is not None:
        progress("overlaps", done, total)
