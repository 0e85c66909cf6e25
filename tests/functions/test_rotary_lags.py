"""Averages over the lags of rotary embeddings against the matrices of all pairs of positions."""

import numpy as np
import pytest

from symprop.functions.rotary_numeric import frequencies, lag_correlations


@pytest.mark.parametrize(("tokens", "key_width", "rotated", "base"), [(7, 8, 8, 100.0), (16, 12, 6, 1e4), (2, 4, 4, 10.0)])
def test_averages_over_lags_are_those_over_pairs(tokens, key_width, rotated, base):
    theta, places = frequencies(key_width, rotated, base), np.arange(tokens)
    planes = np.cos(theta[:, None, None] * (places[:, None] - places))
    scores = planes.mean(0)
    centring = np.eye(tokens) - 1 / tokens
    centred = centring @ scores @ centring
    # What a plane has besides the mean over the positions, which rotates every token alike.
    shares = np.trace(centring @ planes @ centring, axis1=1, axis2=2)
    plain, own, (coherence, square, sharing, peak) = lag_correlations(tokens, key_width, rotated, base)
    np.testing.assert_allclose(plain, scores[0], atol=1e-14)
    np.testing.assert_allclose(own, np.tensordot(shares, planes, 1)[0] / shares.sum(), atol=1e-13)
    assert coherence == pytest.approx(scores.mean(), rel=1e-13)
    assert square == pytest.approx((scores**2).mean(), rel=1e-13)
    assert sharing == pytest.approx((centred**2).sum() / np.trace(centred) ** 2, rel=1e-12)
    assert peak == pytest.approx((shares**2).sum() / shares.sum() ** 2, rel=1e-12)
