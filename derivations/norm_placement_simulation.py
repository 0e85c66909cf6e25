"""What is simulated for the placement of norms: growth of streams, exponents of the overlap, and scores behind norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from symprop.derivations.named_blocks_simulation import Setting, end_row, path, power_row

from symprop.claims import StudyPoint
from symprop.core.symbols import gain_v, sigma_w
from symprop.network import Block
from symprop.simulate.measurement import Measurement, measurement
from symprop.simulate.network import equicorrelated_tokens

UNIT_GAINS = {gain_v: 1.0, sigma_w: 2**0.5}
"""Both branches add a second moment of one to a stream of equal tokens."""


def placements(cases: Mapping[str, tuple[Block, float]], seed: int, full: bool) -> list[StudyPoint]:
    """Growth and exponent of every placement, given as its ReLU block and the exponent's law."""
    sizes = {"width": 384, "depth": 80, "draws": 48} if full else {"width": 160, "depth": 32, "draws": 20}
    return [
        partial(_placement, Setting(f"{name}, ReLU", UNIT_GAINS, share=0.1, **sizes), *case, seed + index)
        for index, (name, case) in enumerate(cases.items())
    ]


def _placement(setting: Setting, block: Block, law: float, seed: int) -> tuple[Measurement, ...]:
    found = path(block, setting, seed)
    return power_row("power of 1 - rho", found, setting, law), end_row("second moment", found, setting)


def scores(variance: Callable[[float], float], seed: int, draws: int) -> tuple[Measurement, ...]:
    """Scores of normalised queries and keys for streams of very different sizes, and weights of different scales."""
    tokens, width, keys, share = 16, 256, 64, 0.4
    rows = []
    for index, (size, scale) in enumerate(((1.0, 1.0), (30.0, 1.0), (1.0, 20.0))):
        rng = np.random.default_rng([seed, index])
        x = size * equicorrelated_tokens(tokens, width, 1 - share, float(width), seed)
        q, k = (x @ (scale * rng.standard_normal((draws, width, keys)) / width**0.5) for _ in range(2))
        q, k = (item / np.sqrt((item**2).mean(axis=2, keepdims=True)) for item in (q, k))
        found = q @ k.swapaxes(1, 2) / keys**0.5
        where = f"d_k = {keys}, stream times {size:g}, weights times {scale:g}"
        rows.append(measurement("score variance, QK-norm", where, variance(share), found.var(axis=2, ddof=1).mean(axis=1)))
    return tuple(rows)
