"""What is simulated for softmax attention: one layer from small to large scores, Gaussian and normalised tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from symprop.derivations import kedia2024_simulation as single
from symprop.derivations.kedia2024_blocks import scored_attention
from symprop.derivations.kedia2024_simulation import GRADIENT, Case, Setting

from symprop.claims import Curve, Figure, Points, Progress, StudyPoint
from symprop.components import RMSNorm
from symprop.core.symbols import P
from symprop.network import sequential


def _uniform_gradient(setting: Setting) -> float:
    """The gradient by values at weights 1/n, as published."""
    return GRADIENT[0] / setting.tokens / (1 - setting.dropout) + (1 - 1 / setting.tokens) * (GRADIENT[0] - GRADIENT[1])


def _cases(full: bool) -> Iterator[Case]:
    published = {"g_q": _uniform_gradient}
    few = ((32, 0.0, 2.0), (48, 0.5, 1.5), (16, 0.3, 0.5))
    for tokens, correlation, deviation in product((16, 64), (0.0, 0.3, 0.8), (0.3, 1.0, 2.0, 3.0)) if full else few:
        dropout = 0.1 if tokens == 16 else 0.0
        setting = Setting(correlation=correlation, tokens=tokens, width=64, score=deviation, dropout=dropout)
        yield Case("attention", scored_attention(P if setting.dropout else 0), setting, published, fewer=8)
    wide = Setting(correlation=0.3, tokens=32, width=64, score=1.0, dropout=0.0)
    yield Case("RMSNorm, attention", sequential(RMSNorm(finite=True), scored_attention(0)), wide,
               fewer=8)


def study_points(seed: int, full: bool) -> list[StudyPoint]:
    """Output and input gradient of a layer beside its simulation."""
    return single.study_points(tuple(_cases(full)), seed, full)


def figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    """The gradient over the deviation of the scores."""
    deviations = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
    settings = [Setting(correlation=0.3, tokens=32, width=64, score=item, dropout=0.0) for item in deviations]
    rows = [single.measured(Case("attention", scored_attention(0), item), seed, 4000 if full else 400)[2] for item in settings]
    if progress is not None:
        progress("figures", 1, 1)
    return (
        Figure(
            "gradient-deviation", "Second moment of the input gradient of an attention layer over the deviation of its scores, "
            "r = 0.3, 32 tokens of width 64.", "score deviation", "second moment",
            (Curve("all paths", deviations, [row.predicted for row in rows]),
             Curve("values at uniform weights", deviations, [_uniform_gradient(item) for item in settings])),
            (Points("all paths, simulated", deviations, [row.measured for row in rows], [row.stderr for row in rows]),),
        ),
    )
