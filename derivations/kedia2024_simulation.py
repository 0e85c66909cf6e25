"""What is simulated for Kedia et al. 2024: every component's real operation, blocks, and deep models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import sympy as sp

from symprop.claims import Curve, Figure, Points, StudyPoint
from symprop.components.base import Array
from symprop.core.signal import Gradient, Signal
from symprop.core.symbols import P, d, d_F, d_k, n, sigma_down2, sigma_k2, sigma_o2, sigma_q2, sigma_up2, sigma_v2
from symprop.functions.softmax_double import in_double
from symprop.functions.table_sum import sums_in_double
from symprop.network import Block, trace_of
from symprop.simulate.measurement import Measurement, measurement
from symprop.simulate.network import pullback

GRADIENT = (1.3, 0.8)
"""q and gap of the incoming gradient."""


@dataclass(frozen=True)
class Setting:
    """Gaussian tokens of the given mean, variance and correlation, and the sizes of the layers.

    With ``given`` the tokens have exactly equal norms and inner products in every draw, as after a norm of a wide layer.
    """

    variance: float = 1.0
    correlation: float = 0.4
    mean: float = 0.0
    tokens: int = 6
    width: int = 32
    hidden: int = 64
    dropout: float = 0.1
    given: bool = False
    score: float = 0.36
    """Product of the query and key gains."""

    @property
    def values(self) -> Mapping[sp.Symbol, float]:
        """Numbers for the symbols of the blocks."""
        return {
            n: self.tokens, d: self.width, d_F: self.hidden, P: self.dropout, sigma_v2: 1 / self.width,
            sigma_o2: 1 / self.width, sigma_up2: 1.5 / self.width, sigma_down2: 2 / self.hidden,
            d_k: self.width // 2, sigma_q2: self.score**0.5 / self.width, sigma_k2: self.score**0.5 / self.width,
        }  # fmt: skip

    def __str__(self) -> str:
        mean = f" mu={self.mean:g}" if self.mean else ""
        return f"v={self.variance:g} r={self.correlation:g}{mean} d={self.width} n={self.tokens}{' given' * self.given}"

    def signal(self) -> Signal:
        """The theory's input."""
        mean, variance = sp.nsimplify(self.mean), sp.nsimplify(self.variance)
        gap = variance * (1 - sp.nsimplify(self.correlation))
        return Signal(q=variance + mean**2, gap=gap, tokens=n, width=d, mean=mean, gaussian=True)

    def draw(self, rng: np.random.Generator, draws: int) -> Array:
        """Tokens of shape (draws, tokens, width)."""
        if self.given:
            frames = np.linalg.qr(rng.standard_normal((draws, self.width, self.tokens)))[0].swapaxes(1, 2)
            gram = self.correlation + (1 - self.correlation) * np.eye(self.tokens)
            rows: Array = (self.variance * self.width) ** 0.5 * np.linalg.cholesky(gram) @ frames
            return rows
        return self.mean + correlated(rng, (draws, self.tokens, self.width), self.variance, self.correlation)


def correlated(rng: np.random.Generator, shape: tuple[int, int, int], q: float, correlation: float) -> Array:
    """Gaussian tokens of zero mean."""
    draws, _, width = shape
    shared = rng.standard_normal((draws, 1, width)) * (q * correlation) ** 0.5
    return shared + rng.standard_normal(shape) * (q * (1 - correlation)) ** 0.5


@dataclass(frozen=True)
class Case:
    """A block to measure.

    ``published`` maps a quantity to the paper's value where that differs from ours; ``approximate`` names the quantities
    whose neglected order shows at this size.
    """

    name: str
    block: Block
    setting: Setting
    published: Mapping[str, Callable[[Setting], float]] = field(default_factory=dict)
    approximate: tuple[str, ...] = ()
    fewer: int = 1
    """Draws are divided by this where one is large."""


def moments(x: Array) -> tuple[Array, Array]:
    """Second moment and second moment of two tokens, per draw."""
    tokens = x.shape[-2]
    q = (x**2).mean(axis=(-2, -1))
    p = ((x.sum(axis=-2) ** 2).mean(axis=-1) - tokens * q) / (tokens * (tokens - 1))
    return q, p


def number(expression: sp.Expr, setting: Setting) -> float:
    """An expression at a setting."""
    exact = {key: sp.nsimplify(value) for key, value in setting.values.items()}
    at = sp.sympify(expression).xreplace(exact)
    return float(sp.N(sums_in_double(at.xreplace(in_double(at, {}))), 20))


def measured(case: Case, seed: int, draws: int) -> list[Measurement]:
    """Forward and backward moments of one block, with the input's own moments as control variates."""
    setting, rng = case.setting, np.random.default_rng(seed)
    x = setting.draw(rng, draws)
    signal = setting.signal()
    trace = trace_of(case.block, signal)
    output, pull = pullback(trace, x, rng, setting.values)
    gq, ggap = GRADIENT
    g = correlated(rng, output.shape, gq, 1 - ggap / gq)
    theory = trace.expand()
    back = trace.backpropagate(Gradient(sp.nsimplify(gq), sp.nsimplify(ggap)))
    back = Gradient(trace.substitute_moments(back.q), trace.substitute_moments(back.gap))
    (q, p), (bq, bp) = moments(output), moments(pull(g))
    predicted = {"q": theory.q, "p": theory.p, "g_q": back.q, "g_p": back.p}
    (xq, xp), (eq, ep) = moments(x), moments(g)
    known = (float(signal.q), float(signal.p), gq, gq - ggap)
    controls = np.stack([item - value for item, value in zip((xq, xp, eq, ep), known, strict=True)], axis=1)
    controls = np.column_stack([controls, x.mean(axis=(1, 2)) - setting.mean])
    samples = {"q": q, "p": p, "g_q": bq, "g_p": bp}
    return [
        measurement(
            f"{case.name}: {_NAMES[key]}", str(setting), number(predicted[key], setting), samples[key], controls=controls,
            expected_to_hold=key not in case.approximate,
            published=case.published[key](setting) if key in case.published else number(predicted[key], setting),
        )
        for key in samples
    ]  # fmt: skip


_NAMES = {"q": "E y_t^2", "p": "E y_t y_s", "g_q": "E g_t^2", "g_p": "E g_t g_s"}


def study_points(cases: tuple[Case, ...], seed: int, full: bool) -> list[StudyPoint]:
    """Every case."""
    draws = 40_000 if full else 8_000
    return [partial(measured, case, seed + index, draws // case.fewer) for index, case in enumerate(cases)]


def depth_figure(
    block: Block, predict: Callable[[int], tuple[float, float]], depth: int, title: str, setting: Setting, seed: int, draws: int
) -> tuple[Figure, ...]:
    """Second moment of the stream and of the gradient over the layers of one model."""
    trace = trace_of(block, setting.signal())
    rng = np.random.default_rng(seed)
    x = setting.draw(rng, draws)
    pulls, sizes = [], [moments(x)[0]]
    for _ in range(depth):
        x, pull = pullback(trace, x, rng, setting.values)
        pulls.append(pull)
        sizes.append(moments(x)[0])
    g = correlated(rng, x.shape, 1.0, 0.0)
    gradients = [moments(g)[0]]
    for pull in reversed(pulls):
        g = pull(g)
        gradients.append(moments(g)[0])
    gradients.reverse()
    layers = list(range(depth + 1))
    theory = [predict(item) for item in layers]
    every = max(1, depth // 8)

    def points(label: str, samples: list[Array]) -> Points:
        chosen = samples[::every]
        error = [float(item.std(ddof=1) / np.sqrt(len(item))) for item in chosen]
        return Points(label, layers[::every], [float(item.mean()) for item in chosen], error)

    return (
        Figure(
            f"depth-{title}", f"{title}: second moment of the stream and of the gradient over depth, {depth} layers, "
            f"{draws} networks of width {setting.width}.", "layer", "second moment",
            (Curve("stream", layers, [item[0] for item in theory]), Curve("gradient", layers, [item[1] for item in theory])),
            (points("stream, simulated", sizes), points("gradient, simulated", gradients)),
        ),
    )  # fmt: skip
