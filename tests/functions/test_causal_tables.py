"""Interpolated moments under a causal mask: exact values as references, ends of the range, and points that do not meet."""

import numpy as np
import pytest

from symprop.functions.causal_numeric import overlap_and_slope, overlap_growth
from symprop.functions.causal_tables import tabulated_ends, tabulated_rows
from symprop.functions.softmax_numeric import row_moments

REQUESTS = [((2, 0),), ((1, 1),), ((1, 1), (1, 2)), ((2, 0), (2, 0)), ((1, 1), (1, 1), (1, 1), (1, 1))]


@pytest.mark.parametrize(("dimension", "reach"), [
    (np.inf, 4.0), (16.0, 1.0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((256.0, 20.0), (-30.0, 6.0))),
])
def test_rows_have_the_error_that_is_stated(dimension, reach):
    rng = np.random.default_rng(0)
    variance, tokens = rng.uniform(0.03, reach, 30) ** 2, rng.choice([2.0, 5.0, 64.0, 1e4], 30)
    law = np.full(30, dimension)
    exact = row_moments(REQUESTS, variance, tokens, law)
    assert tabulated_rows(REQUESTS, variance, tokens, law, {}) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("dimension", "reach"), [
    (None, 1.5), *(pytest.param(64.0, reach, marks=pytest.mark.slow) for reach in (0.8, 5.0)),
])
def test_pairs_have_the_error_that_is_stated(dimension, reach):
    tokens, extra = np.array([1.0, 3.0, 20.0])[:, None], np.array([4.0, 1.0, 60.0])[:, None]
    variance = np.array([0.1, 0.45, 0.7, 1.0])[None] ** 2 * reach**2
    gap, tables = variance * np.array([1.0, 0.5, 0.01, 1.2]), {}

    def interpolated(*at):
        return tabulated_ends(*at, tables)

    direct = overlap_and_slope(variance, gap, tokens, extra, dimension)
    found = overlap_and_slope(variance, gap, tokens, extra, dimension, interpolated)
    assert found[0] == pytest.approx(direct[0], rel=2e-5)
    # The slope has the error of a derivative of the middle value, which is known to 1e-5.
    assert found[1] == pytest.approx(direct[1], rel=2e-4, abs=1e-12)
    at = variance, gap, tokens, extra, dimension
    assert overlap_growth(*at, interpolated) == pytest.approx(overlap_growth(*at), abs=2e-4 * found[0].max())


def test_vanishing_scores_keep_their_digits():
    tokens, extra, variance = np.array([[12.0]]), np.array([[12.0]]), np.array([[1e-30, 1e-12, 1e-6]])
    overlap, slope = overlap_and_slope(variance, variance / 5, tokens, extra, None, lambda *at: tabulated_ends(*at, {}))
    assert 24 * overlap == pytest.approx(1, abs=1e-5) and 24 * slope == pytest.approx(11 / 12, rel=1e-5)
    mean = tabulated_rows([((1, 1),)], variance[0], np.full(3, 8.0), np.full(3, np.inf), {})
    # The mean score of a key is s (1 - Y).
    assert mean[0] == pytest.approx(7 / 8 * np.sqrt(variance[0]), rel=1e-5)


def test_sharper_scores_are_nan_and_make_no_table():
    tables, one = {}, np.ones(3)
    found = tabulated_rows([((2, 0),)], np.array([1.0, 4096.0, np.inf]), 8 * one, np.inf * one, tables)[0]
    assert np.isfinite(found[0]) and np.isnan(found[1:]).all()
    ends = tabulated_ends(np.array([0.01, 400.0, np.nan]), np.inf * one, np.array([2.0]), np.array([3.0]), {})
    assert np.isfinite(ends[..., 0]).all() and np.isnan(ends[..., 1:]).all()


def test_a_value_does_not_depend_on_the_other_points():
    variance, tokens = np.array([0.04, 0.3, 0.3, 1.2]), np.array([3.0, 3.0, 7.0, 7.0])
    law = np.array([np.inf, 16.0, np.inf, 16.0])
    together = tabulated_rows(REQUESTS[:2], variance, tokens, law, {})
    for k in range(4):
        alone = tabulated_rows(REQUESTS[:2], variance[k : k + 1], tokens[k : k + 1], law[k : k + 1], {})
        assert together[:, k] == pytest.approx(alone[:, 0], rel=1e-10)
