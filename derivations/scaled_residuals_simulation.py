"""What is simulated for scaled residuals: weight gradients of chains of sublayers, and overlaps through depth-scaled blocks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from symprop.derivations.named_blocks_simulation import Setting, path, share_row

from symprop.claims import StudyPoint
from symprop.components.base import Array
from symprop.network import Block
from symprop.simulate.measurement import Measurement, measurement

WIDTH = 128


def updates(
    name: str, sublayers: int, skip: float | None, scale: float, second: float, predicted: float, seed: int, draws: int
) -> tuple[Measurement]:
    """Sum of all squared weight gradients of real sublayers for one token and a gradient of squared norm 1/width.

    Each is norm(skip x + W_2 W_1 x), or x + W_2 W_1 x where ``skip`` is None, for a token of the given second moment.
    """
    rng = np.random.default_rng(seed)
    x = second**0.5 * rng.standard_normal((draws, WIDTH))
    x *= (second * WIDTH) ** 0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    kept: list[tuple[Array, ...]] = []
    for _ in range(sublayers):
        first, last = rng.standard_normal((2, draws, WIDTH, WIDTH)) * scale / WIDTH**0.5
        hidden = np.einsum("bij,bj->bi", first, x)
        out = (1.0 if skip is None else skip) * x + np.einsum("bij,bj->bi", last, hidden)
        size = np.ones((draws, 1)) if skip is None else np.sqrt((out**2).mean(axis=1, keepdims=True))
        kept.append((x, hidden, first, last, size, out / size))
        x = out / size
    g = rng.standard_normal((draws, WIDTH)) / WIDTH
    total = np.zeros(draws)
    for below, hidden, first, last, size, out in reversed(kept):
        if skip is not None:
            g = (g - out * (g * out).mean(axis=1, keepdims=True)) / size
        inner = np.einsum("bij,bi->bj", last, g)
        total += (g**2).sum(axis=1) * (hidden**2).sum(axis=1) + (inner**2).sum(axis=1) * (below**2).sum(axis=1)
        g = (1.0 if skip is None else skip) * g + np.einsum("bij,bi->bj", first, inner)
    return (measurement("update of the model", f"{name}, {sublayers} sublayers, d = {WIDTH}", predicted, total),)


def overlaps(cases: Mapping[str, tuple[Block, Setting]], seed: int) -> list[StudyPoint]:
    """Logarithm of what is left of 1 - rho after all layers, with the real softmax."""
    return [partial(_overlap, *case, seed + index) for index, case in enumerate(cases.values())]


def _overlap(block: Block, setting: Setting, seed: int) -> tuple[Measurement]:
    return (share_row("log (1 - rho)_L/(1 - rho)_0", path(block, setting, seed), setting),)
