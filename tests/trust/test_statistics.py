"""The verification verified: its scores are standard normal, and it sees what it says it sees."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from symprop import Linear, named, residual, solve, stack
from symprop.cli import Z_LIMIT
from symprop.core.symbols import L, alpha_1, d, n
from symprop.report.listing import sensitivity
from symprop.simulate.measurement import Measurement, measurement, visible_error
from symprop.simulate.network import equicorrelated_tokens, simulate

SEEDS = 200
DEPTH, WIDTH = 3, 6
VALUES = {n: 2, d: WIDTH, L: DEPTH, alpha_1: 0.6}


def rows(seeds, draws, wrong=1.0):
    """The norm after a few residual linear layers, one row for each seed; ``wrong`` multiplies the formula."""
    network = stack(residual(named(Linear(d, 1 / d), "S"), alpha_1), L)
    solved = solve(network)
    predicted = float((solved.signal.q / solved.input.q).subs(VALUES))
    x = equicorrelated_tokens(2, WIDTH, 0.3, 0.5, 0)
    found = []
    found = []
    for seed in seeds:
        run = simulate(network, x, VALUES, depth=DEPTH, draws=draws, seed=seed)
        found.append(measurement("E |X|^2", f"seed {seed}", predicted * wrong, run.norm[:, -1]))
    return found


def test_scores_are_standard_normal():
    scores = [row.z for row in rows(range(SEEDS), 600)]
    assert kstest(scores, "norm").pvalue > 0.01
    # The test has the power to see scores that are a fifth too wide, or shifted by a third.
    assert kstest(np.array(scores) * 1.4, "norm").pvalue < 0.01
    assert kstest(np.array(scores) + 1 / 3, "norm").pvalue < 0.01


def test_visible_errors_are_seen_and_half_of_them_are_not_promised():
    draws = 2000
    size = visible_error(rows([0], draws)[0], Z_LIMIT)
    caught = [abs(row.z) > Z_LIMIT for row in rows(range(40), draws, 1 + 1.1 * size)]
    missed = [abs(row.z) > Z_LIMIT for row in rows(range(40), draws, 1 + size / 3)]
    assert sum(caught) >= 36 and sum(missed) <= 8


def test_table_says_what_it_cannot_detect():
    row = Measurement("E |X|^2", "n = 2", 2.0, 2.01, 0.01, 100)
    text = sensitivity([row, replace(row, quantity="difference", predicted=1e-120)], Z_LIMIT)
    assert "3.00%" in text and "E |X|^2 at n = 2" in text and "1 more predict zero" in text
    assert "no relative error" in sensitivity([replace(row, predicted=0.0)], Z_LIMIT)


@pytest.mark.slow
def test_two_percent_are_caught_at_full_settings():
    from symprop import bundled

    found = [row for row in bundled.derivation("noci2022").study(0, True, None) if row.quantity == "E ||X^L||^2"]
    assert len(found) == 8
    for row in found:
        for wrong in (0.98, 1.02):
            assert abs(replace(row, predicted=wrong * row.predicted).z) > Z_LIMIT, row
