r"""Averages over the positions of rotary embeddings, in double precision: lags only, no matrix of pairs of positions.

Query i and key j are rotated by the angles :math:`\theta_f i` and :math:`\theta_f j` in :math:`d_k/2` planes, so that the
scores of what tokens share have the correlation :math:`K(\tau) = \frac{2}{d_k} \sum_f \cos \theta_f \tau` at the lag
:math:`\tau = j - l`. The softmax sees the part that differs between keys, :math:`K_c`: K with its rows and columns centred over
n positions. The functions use what numpy and torch have in common, so that generated modules of both backends contain their
text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from symprop.functions.softmax_numeric import _one_shape, gamma_nodes


def frequencies(key_width: int, rotated: int, base: float) -> Any:
    """Angles per position, one for each plane: base^(-2f/rotated), and 0 for planes that are not rotated.

    >>> frequencies(8, 4, 100.0).tolist()
    [1.0, 0.1, 0.0, 0.0]
    """
    turned = base ** (-2 * np.arange(rotated // 2, dtype=np.float64) / max(rotated, 2))
    return np.concatenate([turned, np.zeros(key_width // 2 - rotated // 2, dtype=np.float64)])


def lag_correlations(tokens: int, key_width: int, rotated: int, base: float) -> Any:
    r"""K and K_c at the lags 0, ..., n - 1, and the averages ``coherence``, ``square``, ``sharing`` and ``peak``, stacked.

    ``coherence`` is the mean of K and ``square`` that of K^2 over all pairs of positions, ``sharing`` is
    :math:`\mathrm{tr} K_c^2/(\mathrm{tr} K_c)^2` (one over the number of modes) and ``peak`` is
    :math:`\sum_f \lambda_f^2/(\sum_f \lambda_f)^2` with the share :math:`\lambda_f` of
    plane f that is not constant over the positions.

    >>> _, _, (coherence, _, sharing, _) = lag_correlations(64, 64, 64, 1e4)
    >>> float(coherence.round(3)), float((1/sharing).round(1))
    (0.633, 9.4)
    """
    theta = frequencies(key_width, rotated, base)
    lags = np.arange(tokens, dtype=np.float64)
    waves = np.cos(theta[:, None] * lags)
    plain = waves.mean(0)
    half = np.sin(theta / 2)
    kernel = np.where(half == 0, 1.0, np.sin(tokens * theta / 2) / np.where(half == 0, 1.0, tokens * half))
    share = 1 - kernel**2
    count = np.where(lags == 0, 0 * lags + tokens, 2.0 * (tokens - lags))
    total = float(share.sum())
    sums = np.cumsum(plain, 0)
    rows = sums + np.flip(sums, (0,)) - plain[0]
    coherence = (kernel**2).mean()
    square = (count * plain**2).sum()
    trace = tokens * (1 - coherence)
    centred = square - 2 * (rows**2).sum() / tokens + (tokens * coherence) ** 2
    if total <= 1e-9:
        return plain, plain, np.stack([coherence, square / tokens**2, 0 * square, 0 * square])
    peak = (share**2).sum() / total**2
    return plain, share @ waves / total, np.stack([coherence, square / tokens**2, centred / trace**2, peak])


def _by_setting(values: Any) -> Any:
    """The different settings of vectors of tokens, key widths, rotated coordinates and bases, and where each is."""
    left = values[0] > 0
    while bool(left.any()):
        first = [value[left][0] for value in values]
        here = left
        for value, one in zip(values, first, strict=True):
            here = here & (value == one)
        yield (*(int(one) for one in first[:3]), float(first[3])), here
        left = left & ~here


def lag_averages(tokens: Any, key_width: Any, rotated: Any, base: Any) -> Any:
    """``coherence``, ``square``, ``sharing`` and ``peak``, of shape (4, broadcast shape)."""
    shape, places = _one_shape(tokens, key_width, rotated, base)
    found = np.zeros((4, len(places[0])), dtype=np.float64)
    for setting, here in _by_setting(places):
        found[:, here] = lag_correlations(*setting)[2][:, None] + 0 * places[0][here]
    return found.reshape(4, *shape)


def lag_means(
    moment: Any, count: int, spread: Any, tokens: Any, key_width: Any, rotated: Any, base: Any, *free: Any
) -> Any:
    """E of the ``count`` values of moment(K, K_c, G, x, ``free``) over pairs of positions, of shape (count, broadcast shape).

    Also over a Gamma law of G with mean 1 and variance ``spread``, and a normal x. 0 for a single token.
    """
    shape, columns = _one_shape(tokens, key_width, rotated, base, spread, *free)
    found = np.zeros((count, len(columns[0])), dtype=np.float64)
    normal = 3**0.5 * np.arange(-1, 2, dtype=np.float64)
    part = np.asarray([1 / 6, 2 / 3, 1 / 6], dtype=np.float64)
    for setting, here in _by_setting(columns[:4]):
        if setting[0] < 2:
            continue
        plain, centred, _ = lag_correlations(*setting)
        weight = 2 * (1 - np.arange(1, setting[0], dtype=np.float64) / setting[0]) / (setting[0] - 1)
        places = np.arange(len(columns[0]))[here]
        size = max(1, 200000 // setting[0])
        for start in range(0, len(places), size):
            at = places[start : start + size]
            scales, masses = gamma_nodes(np.clip(columns[4][at], 1e-12, None))
            values = moment(
                plain[1:, None, None, None], centred[1:, None, None, None], scales.T[:, None, :], normal[:, None],
                *[column[at] for column in columns[5:]],
            )
            mass = weight[:, None, None, None] * masses.T[:, None, :] * part[:, None]
            found[:, at] = np.stack([(mass * value).sum(2).sum(1).sum(0) for value in values])
    return found.reshape(count, *shape)
