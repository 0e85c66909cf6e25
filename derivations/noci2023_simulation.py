"""What is simulated for shaped attention: the mean and the spread of a token's second moment in real layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from symprop.claims import Figure, Progress, StudyPoint
from symprop.components.base import Array
from symprop.simulate.measurement import Measurement, measurement
from symprop.simulate.network import equicorrelated_tokens

BATCH = 500


@dataclass(frozen=True)
class Setting:
    """Shaped attention: beta scales the branch, ``temperature`` is tau_0."""

    tokens: int = 4
    rho: float = 0.2
    beta: float = 0.7
    temperature: float = 0.5
    width: int = 48
    keys: int = 16
    depth: int = 2

    def __str__(self) -> str:
        return f"n = {self.tokens}, d = {self.width}, L = {self.depth}, beta = {self.beta}, tau_0 = {self.temperature}"


def study_points(predicted: Callable[[Setting], float], seed: int, full: bool) -> list[StudyPoint]:
    """Mean of q beside the integrated drift; deeper, where the noise counts, and its variance, nothing of which is derived."""
    return [partial(_measured, predicted, Setting(depth=depth), draws // BATCH, seed)
            for depth, draws in ((2, 24000 if full else 4000), (8, 8000 if full else 1000))]


def _measured(predicted: Callable[[Setting], float], setting: Setting, batches: int, seed: int) -> tuple[Measurement, ...]:
    parts = [_second_moments(setting, BATCH, np.random.default_rng([seed, setting.depth, index])) for index in range(batches)]
    shaped, identity = (np.concatenate(item) for item in zip(*parts, strict=True))
    shallow = setting.depth == 2
    mean = measurement("second moment", str(setting), predicted(setting), shaped, controls=identity[:, None] - 1,
                       expected_to_hold=shallow)
    if shallow:
        return (mean,)
    squares = (shaped - shaped.mean()) ** 2
    return mean, measurement("variance of the second moment", str(setting), 0.0, squares, expected_to_hold=False)


def _second_moments(setting: Setting, draws: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Second moments behind all layers with shaped attention, and with A = I through the same values, of mean one."""
    tokens, width, keys = setting.tokens, setting.width, setting.keys
    start = equicorrelated_tokens(tokens, width, setting.rho, float(width), 0)
    shaped = identity = np.broadcast_to(start, (draws, tokens, width))
    skip = (1 - setting.beta**2) ** 0.5
    for _ in range(setting.depth):
        values = rng.standard_normal((draws, width, width)) / width**0.5
        query, key = rng.standard_normal((2, draws, width, keys)) / width**0.5
        scores = (shaped @ query) @ (shaped @ key).swapaxes(1, 2) / (setting.temperature * (width * keys) ** 0.5)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights = weights / weights.sum(axis=2, keepdims=True) + np.eye(tokens) - 1 / tokens
        shaped = skip * shaped + setting.beta * (weights @ shaped) @ values
        identity = skip * identity + setting.beta * identity @ values
    return (shaped**2).mean(axis=(1, 2)), (identity**2).mean(axis=(1, 2))


def figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    """No figure."""
    del seed, full, progress
    return ()
