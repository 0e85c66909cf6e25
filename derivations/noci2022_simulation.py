"""What is simulated for Noci et al. 2022: real networks with random weights, uniform attention and the true softmax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import sympy as sp

from symprop.claims import Curve, Figure, Points, Progress, StudyPoint
from symprop.components.base import Array
from symprop.core.symbols import (
    C,
    K_ij,
    L,
    N,
    alpha_1,
    alpha_2,
    d,
    d_F,
    d_k,
    n,
    sigma_down2,
    sigma_k2,
    sigma_q2,
    sigma_up2,
    sigma_v2,
)
from symprop.network import Stack, token_input
from symprop.simulate.measurement import Measurement, measurement
from symprop.simulate.network import Trajectory, equicorrelated_tokens, simulate, with_softmax

Values = Mapping[sp.Symbol, float]
SOFTMAX_QUANTITY = "N, softmax minus uniform, paired"


@dataclass(frozen=True)
class Setting:
    """One simulated configuration; ``gains`` are d sigma_v^2, d sigma_F1^2 and d_F sigma_F2^2, ``scale`` |X_k|^2.

    ``draws`` at full settings let an error of two percent in the norm show: strong branches have heavy tails.
    """

    tokens: int
    width: int
    hidden: int
    depth: int
    weights: tuple[float, float]
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rho: float = 0.2
    scale: float = 1.0
    draws: int = 60_000

    @property
    def values(self) -> Values:
        """Numbers for the symbols of the block; queries and keys have width d and variance 1/d."""
        value, up, down = self.gains
        return {
            n: self.tokens,
            d: self.width,
            d_F: self.hidden,
            d_k: self.width,
            L: self.depth,
            alpha_1: self.weights[0],
            alpha_2: self.weights[1],
            sigma_v2: value / self.width,
            sigma_up2: up / self.width,
            sigma_down2: down / self.hidden,
            sigma_q2: 1 / self.width,
            sigma_k2: 1 / self.width,
        }

    def __str__(self) -> str:
        first, second = self.weights
        text = f"n = {self.tokens}, d = {self.width}, d_F = {self.hidden}, L = {self.depth}"
        text += f", alpha_1 = {first:.3g}, alpha_2 = {second:.3g}"
        if self.gains != (1.0, 1.0, 1.0):
            text += ", gains " + " ".join(f"{gain:.3g}" for gain in self.gains)
        return text + f", |X_k|^2 = {self.scale:g}"

    def given_tokens(self, seed: int) -> Array:
        """The fixed input."""
        return equicorrelated_tokens(self.tokens, self.width, self.rho, self.scale, seed)


HOLDS = (
    Setting(4, 16, 16, 3, (1.0, 1.0)),
    Setting(5, 12, 12, 8, (8**-0.5, 8**-0.5)),
    Setting(3, 8, 32, 4, (1.0, 1.0), (1.6, 1.6, 0.8), draws=500_000),
    Setting(6, 10, 20, 6, (1.0, 1.0), (1.0, 1.0, 2.0), draws=1_000_000),
    Setting(7, 9, 5, 5, (0.0, 0.7), rho=0.4),
    Setting(4, 12, 6, 5, (0.6, 0.0), rho=-0.2),
    Setting(2, 24, 12, 10, (0.5, -0.4), (0.5, 2.0, 1.0), rho=0.9),
    Setting(1, 8, 8, 4, (0.8, 0.8), rho=0.0, draws=400_000),
)
SOFTMAX = (
    (Setting(6, 16, 16, 4, (0.5, 0.5), scale=0.05), True),
    (Setting(6, 16, 16, 4, (0.5, 0.5), scale=16.0), False),
    (Setting(6, 16, 16, 4, (1.0, 1.0), scale=16.0), False),
)


def study_points(stack: Stack, predict: Mapping[str, sp.Expr], seed: int, full: bool) -> list[StudyPoint]:
    """Compare E C, E N and one entry of E K with networks of random weights, and uniform with softmax attention."""
    forward = [
        partial(_forward, stack, predict, setting, setting.draws if full else 3_000, seed + index)
        for index, setting in enumerate(HOLDS)
    ]
    return forward + [
        partial(_beside_uniform, stack, predict["N"], *case, 30_000 if full else 1_500, seed + 100 + index)
        for index, case in enumerate(SOFTMAX)
    ]


def _forward(
    stack: Stack, predict: Mapping[str, sp.Expr], setting: Setting, draws: int, seed: int
) -> list[Measurement]:
    x = setting.given_tokens(seed)
    return _rows(setting, x, simulate(stack, x, setting.values, depth=setting.depth, draws=draws, seed=seed), predict)


def _beside_uniform(
    stack: Stack, norm: sp.Expr, setting: Setting, holds: bool, draws: int, seed: int
) -> tuple[Measurement]:
    softmax = Stack(with_softmax(stack.body, d_k, sigma_q2, sigma_k2), stack.depth)
    x = setting.given_tokens(seed)
    shared = {"depth": setting.depth, "draws": draws, "seed": seed, "signal": token_input(gaussian=True)}
    uniform, real = (simulate(item, x, setting.values, **shared) for item in (stack, softmax))
    difference = (real.norm[:, -1] - uniform.norm[:, -1]) / _predicted(norm, setting, x)
    return (measurement(SOFTMAX_QUANTITY, str(setting), 0.0, difference, expected_to_hold=holds),)


def _predicted(expression: sp.Expr, setting: Setting, x: Array) -> float:
    gram = x @ x.T
    known = {C: gram.sum(), N: np.trace(gram), K_ij: gram[0, -1]}
    exact = {key: sp.nsimplify(value) for key, value in setting.values.items()}
    return float(expression.subs({**exact, **{key: float(value) for key, value in known.items()}}).evalf(20))


def _rows(setting: Setting, x: Array, run: Trajectory, predict: Mapping[str, sp.Expr]) -> list[Measurement]:
    samples = {"C": run.inner_products[:, -1], "N": run.norm[:, -1], "K": run.gram[:, 0, -1]}
    names = {"C": "E C(X^L)", "N": "E ||X^L||^2", "K": "E <X_1, X_n>"}
    return [
        measurement(names[key], str(setting), _predicted(predict[key], setting, x), samples[key]) for key in samples
    ]


def figures(
    stack: Stack, predict: Mapping[str, sp.Expr], seed: int, full: bool, progress: Progress | None
) -> tuple[Figure, ...]:
    """Norm and correlation over depth for alpha = 1 and alpha = 1/sqrt(L): theory as lines, networks as points."""
    draws, width, tokens = (3000 if full else 200), 48, 10
    softmax = Stack(with_softmax(stack.body, d_k, sigma_q2, sigma_k2), stack.depth)
    built: list[Figure] = []
    cases = (("constant", 10, 1.0, "alpha = 1"), ("scaled", 40, 40**-0.5, "alpha = 1/sqrt(L), L = 40"))
    for index, (name, depth, weight, title) in enumerate(cases):
        setting = Setting(tokens, width, width, depth, (weight, weight), rho=0.1, scale=float(width))
        x = setting.given_tokens(seed)
        layers = np.arange(depth + 1)
        norm, products = (
            np.array([_predicted(predict[key].subs(L, int(layer)), setting, x) for layer in layers])
            for key in ("N", "C")
        )
        runs = {
            "uniform attention": simulate(stack, x, setting.values, depth=depth, draws=draws, seed=seed + index),
            "softmax attention": simulate(
                softmax, x, setting.values, depth=depth, draws=draws, seed=seed + index, signal=token_input(gaussian=True)
            ),
        }
        every = max(1, depth // 10)
        built += [
            Figure(
                f"norm-{name}",
                f"Expected squared norm of the tokens over depth, relative to the input, {title}; "
                f"n = {tokens}, d = {width}, coordinates of unit variance, {draws} networks.",
                "layer",
                "expected squared norm over that of the input",
                (Curve("theory", layers.tolist(), (norm / norm[0]).tolist()),),
                tuple(_norm_points(label, run, every) for label, run in runs.items()),
                logy=name == "constant",
            ),
            Figure(
                f"correlation-{name}",
                f"Token correlation over depth, {title}; the same networks.",
                "layer",
                "correlation",
                (Curve("theory", layers.tolist(), ((products / norm - 1) / (tokens - 1)).tolist()),),
                tuple(_correlation_points(label, run, tokens, every) for label, run in runs.items()),
            ),
        ]
        if progress is not None:
            progress("figures", index + 1, len(cases))
    return tuple(built)


def _norm_points(label: str, run: Trajectory, every: int) -> Points:
    relative = run.norm[:, ::every] / run.norm[:, :1]
    layers = np.arange(run.norm.shape[1])[::every]
    return Points(label, layers.tolist(), relative.mean(axis=0).tolist(), _stderr(relative).tolist())


def _correlation_points(label: str, run: Trajectory, tokens: int, every: int) -> Points:
    products, norm = run.inner_products[:, ::every], run.norm[:, ::every]
    ratio = products.mean(axis=0) / norm.mean(axis=0)
    # A ratio of means: its error is that of the residual products - ratio * norm, to first order.
    error = _stderr((products - ratio * norm) / norm.mean(axis=0)) / (tokens - 1)
    layers = np.arange(run.norm.shape[1])[::every]
    return Points(label, layers.tolist(), ((ratio - 1) / (tokens - 1)).tolist(), error.tolist())


def _stderr(samples: Array) -> Array:
    return np.asarray(samples.std(axis=0, ddof=1) / np.sqrt(len(samples)))
