r"""Averages over the positions of rotary embeddings, in double precision: lags only, no matrix of pairs of positions.

Query i and key j are rotated by the angles :math:`\theta_f i` and :math:`\theta_f j` in :math:`d_k/2` planes, so that the
scores of what tokens share have the correlation :math:`K(\tau) = \frac{2}{d_k} \sum_f \cos \theta_f \tau` at the lag
:math:`\tau = j - l`. The softmax sees the part that differs between keys, :math:`K_c`: K with its rows and columns centred over
n positions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from symprop.functions.softmax_numeric import gamma_nodes


def frequencies(key_width: int, rotated: int, base: float) -> Any:
    """Angles per position, one for each plane: base^(-2f/rotated), and 0 for planes that are not rotated.

    >>> frequencies(8, 4, 100.0).tolist()
    [1.0, 0.1, 0.0, 0.0]
    """
    turned = float(base) ** (-2 * np.arange(rotated // 2) / max(rotated, 2))
    return np.concatenate([turned, np.zeros(key_width // 2 - rotated // 2)])


@lru_cache(maxsize=64)
def lag_correlations(tokens: int, key_width: int, rotated: int, base: float) -> tuple[Any, Any, dict[str, Any]]:
    r"""K and K_c at the lags 0, ..., n - 1, and the averages ``coherence``, ``square``, ``sharing`` and ``peak``.

    ``coherence`` is the mean of K and ``square`` that of K^2 over all pairs of positions, ``sharing`` is
    :math:`\mathrm{tr} K_c^2/(\mathrm{tr} K_c)^2` (one over the number of modes) and ``peak`` is
    :math:`\sum_f \lambda_f^2/(\sum_f \lambda_f)^2` with the share :math:`\lambda_f` of
    plane f that is not constant over the positions.

    >>> lag_correlations(64, 64, 64, 1e4)[2]["coherence"].round(3), (1/lag_correlations(64, 64, 64, 1e4)[2]["sharing"]).round(1)
    (np.float64(0.633), np.float64(9.4))
    """
    theta = frequencies(key_width, rotated, base)
    lags = np.arange(tokens)
    waves = np.cos(theta[:, None] * lags)
    plain = waves.mean(axis=0)
    half = np.sin(theta / 2)
    kernel = np.where(half == 0, 1.0, np.sin(tokens * theta / 2) / np.where(half == 0, 1.0, tokens * half))
    share = 1 - kernel**2
    count = np.where(lags == 0, tokens, 2.0 * (tokens - lags))
    total = float(share.sum())
    sums = np.cumsum(plain)
    rows = sums + sums[::-1] - plain[0]
    coherence = float((kernel**2).mean())
    square = float((count * plain**2).sum())
    trace = tokens * (1 - coherence)
    centred = square - 2 * float((rows**2).sum()) / tokens + (tokens * coherence) ** 2
    found = {
        "coherence": np.float64(coherence),
        "square": np.float64(square / tokens**2),
        "sharing": np.float64(centred / trace**2 if total > 1e-9 else 0.0),
        "peak": np.float64((share**2).sum() / total**2 if total > 1e-9 else 0.0),
    }
    return plain, share @ waves / total if total > 1e-9 else plain, found


def lag_mean(function: Any, tokens: int, key_width: int, rotated: int, base: float, spread: float) -> float:
    """E f(K, K_c, G, x) over pairs of positions, a Gamma law of G with mean 1 and variance ``spread``, and a normal x."""
    if tokens < 2:
        return 0.0
    plain, centred, _ = lag_correlations(tokens, key_width, rotated, base)
    lags = np.arange(1, tokens)
    weight = 2.0 * (tokens - lags) / (tokens * (tokens - 1.0))
    scales, masses = gamma_nodes(np.array([max(spread, 1e-12)]))
    total = 0.0
    for scale, mass in zip(scales[0], masses[0], strict=True):
        for x, part in ((-np.sqrt(3), 1 / 6), (0.0, 2 / 3), (np.sqrt(3), 1 / 6)):
            total += float(mass * part * (weight * function(plain[1:], centred[1:], scale, x)).sum())
    return total
