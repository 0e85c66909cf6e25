"""What is simulated for Cowsik et al. 2024: equal tokens but for a trace, and both gradient modes, with the real softmax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sympy as sp

from symprop.components.base import Array
from symprop.core.symbols import d, d_k, n
from symprop.depth.iterate import numpy_compile
from symprop.network import Block, token_input, trace_of
from symprop.simulate.measurement import Measurement
from symprop.simulate.network import pullback, with_softmax

SPREAD = 1e-6
"""Size of the deviations between tokens, relative to what they share: small enough for one linear law over all blocks."""


@dataclass(frozen=True)
class Factors:
    """The stationary second moment and the factors per block of an activation, in the parameters of the block."""

    q: sp.Expr
    angle: sp.Expr
    deviation: sp.Expr
    common: sp.Expr


@dataclass(frozen=True)
class Setting:
    """One cell of the grid: parameters and sizes."""

    name: str
    values: Mapping[sp.Symbol, sp.Expr]
    tokens: int = 64
    width: int = 256
    key_width: int = 32
    depth: int = 6
    draws: int = 24

    @property
    def numbers(self) -> dict[sp.Symbol, float]:
        """Every parameter as a number."""
        sizes = {n: self.tokens, d: self.width, d_k: self.key_width}
        return {key: float(value) for key, value in {**self.values, **sizes}.items()}

    def __str__(self) -> str:
        return f"{self.name}; n = {self.tokens}, d = {self.width}, {self.depth} blocks"


def on_grid(expression: sp.Expr, symbol: sp.Symbol, grid: Array) -> Array:
    """An expression of one symbol on a grid."""
    return np.asarray(numpy_compile((symbol,), (expression,))(grid)[0])


def deviation2(x: Array) -> Array:
    """Mean square of the deviations of tokens from their mean, per draw."""
    return np.asarray(((x - x.mean(axis=1, keepdims=True)) ** 2).mean(axis=(1, 2)))


def measured(block: Block, factors: Factors, setting: Setting, seed: int) -> list[Measurement]:
    """The three exponents of one cell: logarithms of mean growth over all blocks."""
    rng = np.random.default_rng(seed)
    draws, tokens, width, depth = setting.draws, setting.tokens, setting.width, setting.depth
    q = float(factors.q.subs(setting.values))
    trace = trace_of(with_softmax(block, d_k, 1 / d, 1 / d), token_input(gaussian=True))
    x = q**0.5 * (rng.standard_normal((draws, 1, width)) + SPREAD * rng.standard_normal((draws, tokens, width)))
    start, pulls = deviation2(x), []
    for _ in range(depth):
        x, pull = pullback(trace, x, rng, setting.numbers)
        pulls.append(pull)
    apart = rng.standard_normal((draws, tokens, width))
    apart -= apart.mean(axis=1, keepdims=True)
    shared = np.broadcast_to(rng.standard_normal((draws, 1, width)), apart.shape)
    growths = {"angle": deviation2(x) / start}
    for name, gradient in (("gradient deviation", apart), ("gradient common", shared)):
        back = gradient
        for pull in reversed(pulls):
            back = pull(back)
        size = deviation2(back) if name == "gradient deviation" else (back.mean(axis=1) ** 2).mean(axis=1)
        first = deviation2(gradient) if name == "gradient deviation" else (gradient.mean(axis=1) ** 2).mean(axis=1)
        growths[name] = size / first
    wanted = {"angle": factors.angle, "gradient deviation": factors.deviation, "gradient common": factors.common}
    return [
        _exponent(name, setting, float(sp.N(sp.log(wanted[name].subs(setting.values)), 15)), growth, depth)
        for name, growth in growths.items()
    ]


def _exponent(name: str, setting: Setting, predicted: float, growth: Array, depth: int) -> Measurement:
    """The logarithm of the mean growth over depth; its standard error by the delta method, its bias taken off."""
    mean, relative = growth.mean(), growth.std(ddof=1) / growth.mean()
    value = (np.log(mean) + relative**2 / (2 * len(growth))) / depth
    error = relative / len(growth) ** 0.5 / depth
    return Measurement(f"exponent: {name}", str(setting), predicted, float(value), float(error), len(growth))
