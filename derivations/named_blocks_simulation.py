"""What the files on named blocks simulate: real blocks over depth, and exponents with their standard errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import sympy as sp
from symprop.derivations.named_blocks import X

from symprop.claims import Curve, Figure, Points, Progress
from symprop.components.base import Array
from symprop.core.symbols import d, d_k, layer, n
from symprop.depth.iterate import iterate, layer_map
from symprop.network import Block, trace_of
from symprop.simulate.measurement import Measurement, measurement
from symprop.simulate.network import apply, equicorrelated_tokens, with_softmax


@dataclass(frozen=True)
class Setting:
    """Parameters of a block, sizes, and 1 - rho (``share``) of the tokens that enter, equicorrelated at unit second moment."""

    name: str
    values: Mapping[sp.Symbol, float]
    tokens: int = 8
    width: int = 192
    depth: int = 48
    draws: int = 24
    share: float = 0.5

    @property
    def numbers(self) -> dict[sp.Symbol, float]:
        """Every parameter as a number."""
        sizes = {n: self.tokens, d: self.width, d_k: self.width}
        return {key: float(value) for key, value in {**self.values, **sizes}.items()}

    def __str__(self) -> str:
        return f"{self.name}, n = {self.tokens}, d = {self.width}, L = {self.depth}"


@dataclass(frozen=True)
class Path:
    """Second moment and gap at every layer boundary: simulated, of shape (draws, depth + 1), and of the map, (depth + 1,)."""

    q: Array
    gap: Array
    map_q: Array
    map_gap: Array


def path(block: Block, setting: Setting, seed: int, *, softmax: bool = True) -> Path:
    """Send equicorrelated tokens through real blocks, with the real softmax where the theory has equal weights.

    A block may depend on ``symbols.layer``, counted from 0.
    """
    numbers, tokens, width = setting.numbers, setting.tokens, setting.width
    x = equicorrelated_tokens(tokens, width, 1 - setting.share, float(width), seed)
    trace = trace_of(with_softmax(block, d_k, 1 / d, 1 / d) if softmax else block, X)
    state, rng = np.broadcast_to(x, (setting.draws, *x.shape)), np.random.default_rng(seed)
    q, gap = np.empty((2, setting.draws, setting.depth + 1))
    for index in range(setting.depth + 1):
        q[:, index] = (state**2).mean(axis=(1, 2))
        apart = state - state.mean(axis=1, keepdims=True)
        gap[:, index] = (apart**2).sum(axis=(1, 2)) / ((tokens - 1) * width)
        if index < setting.depth:
            state = apply(trace, state, rng, {**numbers, layer: index})
    one = layer_map(trace_of(block, X), backward=False)
    rows = [{key: {**numbers, layer: index}[key] for key in one.parameters} for index in range(setting.depth)]
    theory = iterate(one, {X.q: 1.0, X.gap: setting.share}, setting.depth, rows).forward
    return Path(q, gap, theory[X.q], theory[X.gap])


def jackknife(statistic: Callable[[Array], float], samples: Array) -> tuple[float, float]:
    """A function of means over draws, the leading bias taken off, and its standard error; ``samples`` is (draws, ...)."""
    count = len(samples)
    total = samples.sum(axis=0)
    left = np.array([statistic((total - one) / (count - 1)) for one in samples])
    value = count * statistic(total / count) - (count - 1) * left.mean()
    return float(value), float(np.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum()))


def power(found: Path, before: float = 0.0) -> tuple[float, float, float]:
    """Exponent of 1 - rho between a quarter of the depth and its end: of the map, measured, standard error.

    Layers are counted from ``before`` layers in front of the first.
    """
    last = found.q.shape[1] - 1
    ends = [last // 4, last]

    def exponent(means: Array) -> float:
        top = means[0] / means[1]
        return float(np.log(top[1] / top[0]) / np.log((ends[1] + before) / (ends[0] + before)))

    samples = np.stack([found.gap[:, ends], found.q[:, ends]], axis=1)
    return exponent(np.stack([found.map_gap[ends], found.map_q[ends]])), *jackknife(exponent, samples)


def power_row(quantity: str, found: Path, setting: Setting, law: float, *, before: float = 0.0) -> Measurement:
    """The exponent in real blocks beside that of the map; ``law`` is its limit at infinite depth."""
    predicted, measured, error = power(found, before)
    return Measurement(quantity, str(setting), predicted, measured, error, setting.draws, published=law)


def end_row(quantity: str, found: Path, setting: Setting) -> Measurement:
    """Second moment of the stream after the last layer beside that of the map."""
    return measurement(quantity, str(setting), float(found.map_q[-1]), found.q[:, -1])


def share_row(quantity: str, found: Path, setting: Setting, *, limit: float | None = None) -> Measurement:
    """Logarithm of (1 - rho)_L/(1 - rho)_0, from means over draws, beside that of the map; ``limit`` is a law of 1 - rho."""
    def grown(means: Array) -> float:
        return float(np.log(means[0] / means[1] / setting.share))

    measured, error = jackknife(grown, np.stack([found.gap[:, -1], found.q[:, -1]], axis=1))
    predicted = grown(np.array([found.map_gap[-1], found.map_q[-1]]))
    published = None if limit is None else float(np.log(limit / setting.share))
    return Measurement(quantity, str(setting), predicted, measured, error, setting.draws, published=published)


def overlap_figure(
    caption: str, cases: Mapping[str, tuple[Block, Setting]], seed: int, progress: Progress | None
) -> tuple[Figure, ...]:
    """1 - rho over the layers of several blocks: map and simulation."""
    curves, points = [], []
    for index, (name, (block, setting)) in enumerate(cases.items()):
        found = path(block, setting, seed + index)
        layers, every = np.arange(1, setting.depth + 1), max(1, setting.depth // 8)
        curves.append(Curve(name, layers.tolist(), (found.map_gap / found.map_q)[1:].tolist()))
        shares = (found.gap / found.q)[:, every::every]
        points.append(Points(name, layers[every - 1 :: every].tolist(), shares.mean(axis=0).tolist(),
                             (shares.std(axis=0, ddof=1) / len(shares) ** 0.5).tolist()))
        if progress is not None:
            progress("figures", index + 1, len(cases))
    return (Figure("overlap", caption, "layer", "1 - rho", tuple(curves), tuple(points), logy=True),)
