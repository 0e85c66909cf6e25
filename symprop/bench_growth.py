"""How running times grow with points, layers and tokens: times at several sizes, and the powers of the size between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import log
from typing import Any

import numpy as np

from symprop.bench_depth import best_of, block
from symprop.bench_softmax import seconds_per_layer
from symprop.codegen.render import load
from symprop.functions.activation import Relu

POINTS, LAYERS, TOKENS = (1, 10**3, 10**5, 10**6), (1, 10, 100, 1000), (16, 1024, 65536, 2**22)


def rows(repeats: int) -> Iterator[str]:
    """The rows as text."""
    for backend in ("numpy", "compiled"):
        function = load(block(Relu()), backend)
        yield _row(f"points, 20 layers, {backend}", POINTS, [_seconds(function, size, 20, repeats) for size in POINTS])
        yield _row(f"layers, 10000 points, {backend}", LAYERS, [_seconds(function, 10_000, size, repeats) for size in LAYERS])
    gaps = np.linspace(0.05, 0.95, repeats + 1)[1:].tolist()
    yield _row("tokens, a softmax layer", TOKENS, [seconds_per_layer(gaps, float(size)) for size in TOKENS])


def _row(name: str, sizes: Sequence[int], spent: Sequence[float]) -> str:
    """Times, and between neighbours the power p of size^p that they grow with."""
    text = f"{name:32}{sizes[0]}: {1e3 * spent[0]:.2f} ms"
    for k in range(1, len(sizes)):
        power = log(spent[k] / spent[k - 1]) / log(sizes[k] / sizes[k - 1])
        text += f"  ^{power:.2f}  {sizes[k]}: {1e3 * spent[k]:.2f} ms"
    return text


def _seconds(function: Callable[..., Any], points: int, layers: int, repeats: int) -> float:
    correlations = np.linspace(0, 0.9, points)
    return best_of([partial(function, q_0=1.0, rho=correlations, L=layers, sigma_w2=1.0, alpha_1=0.05)], repeats)[0]
