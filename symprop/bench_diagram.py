"""Running times of phase diagrams: overlaps over a grid after 60 layers, by the evaluators of Giorlandino and Goldt 2025."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from symprop.codegen.render import load

LAYERS = 60
VALUES = {"rho": 0.2, "gain_v": 0.2, "gain_w": 0.2, "sigma_b2": 4e-4, "alpha_mlp": 1.0}


@dataclass(frozen=True)
class Grid:
    """An evaluator over ``side`` x ``side`` points, and the seconds of one core that it should stay below."""

    label: str
    evaluator: str
    backend: str
    side: int
    limit: float
    tokens: int | None = None


GRIDS = (
    Grid("ReLU, numpy", "overlap_rem", "numpy", 1000, 3.0),
    Grid("ReLU, compiled", "overlap_rem", "compiled", 1000, 3.0),
    Grid("tanh, numpy", "tanh_overlap_rem", "numpy", 1000, 10.0),
    Grid("tanh, compiled", "tanh_overlap_rem", "compiled", 1000, 10.0),
    Grid("ReLU, exact softmax of 64 tokens", "overlap_exact", "numpy", 200, 60.0, 64),
)


def seconds(grid: Grid) -> float:
    """Processor time of a diagram of the temperature and of the skip around attention, tables of softmax moments included.

    Raises :class:`ImportError` where the derivation is not installed.
    """
    derivation = importlib.import_module("symprop.derivations.giorlandino2025").DERIVATION
    function = load(derivation.evaluator(grid.evaluator), grid.backend)
    more = {} if grid.tokens is None else {"n": grid.tokens}
    function(**VALUES, **more, beta_a=0.0, alpha_sa=1.0, L=1)
    beta, strength = np.linspace(0.2, 5, grid.side), np.linspace(0.1, 3, grid.side)[:, None]
    start = time.process_time()
    function(**VALUES, **more, beta_a=beta, alpha_sa=strength, L=LAYERS)
    return time.process_time() - start


def rows(grids: tuple[Grid, ...] = GRIDS) -> Iterator[str]:
    """The rows as text."""
    for grid in grids:
        label = f"diagram, {grid.label}, {grid.side} x {grid.side} x {LAYERS}"
        yield f"{label:62}{seconds(grid):8.1f} s{grid.limit:8.0f} s allowed"
