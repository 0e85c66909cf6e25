"""The percentile study of softmax attention: its draws, its grid and its verdict."""

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from symprop.derivations import softmax_attention_accuracy as study

from symprop.simulate.measurement import Measurement, accuracy

_PATH = Path(__file__).parents[1] / "oracle" / "attention.py"


@pytest.mark.parametrize(("kind", "law"), [
    (study.GAUSSIAN, "gaussian"), (study.NORMED, "rms"), (study.CAUSAL, "gaussian"), (study.CAUSAL_NORMED, "rms"),
])
def test_the_draws_have_the_moments_of_autograd(kind, law):
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("attention_oracle", _PATH)
    oracle = importlib.util.module_from_spec(spec)
    sys.modules["attention_oracle"] = oracle
    spec.loader.exec_module(oracle)
    cell = study.Cell(kind, 6, 16, 8, 0.4, 0.3, 1.5)
    found, controls = study.drawn(cell, 8000, np.random.default_rng(3))
    same = oracle.Cell(n=6, d=16, d_k=8, r=0.4, std=1.5, r_g=0.3, law=law, causal=kind in study.MASKED)
    expected = oracle.simulate(same, 2500, 4, 500)
    for name, key in zip(found, ("q", "p", "var", "cov", "v", "q_weight", "k"), strict=True):
        mean, error = expected[key]
        own = found[name].std() / len(found[name]) ** 0.5
        assert abs(found[name].mean() - mean) < 4 * (own**2 + error**2) ** 0.5, name
    assert np.all(np.abs(controls.mean(axis=0)) < 4 * controls.std(axis=0) / len(controls) ** 0.5)


def test_the_grid_has_every_value_of_an_axis_and_the_largest_layer():
    chosen = study.cells(study.GAUSSIAN, 28, random.Random(0))
    for name, values in study.GRID.items():
        assert {getattr(cell, name) for cell in chosen} == set(values)
    assert (study.CORNER.tokens, study.CORNER.width, study.CORNER.draws) == (1024, 1024, study.FEWEST)


def test_settings_that_the_simulation_does_not_resolve_do_not_count():
    rows = [Measurement("q", "", 1.1, 1.0, 0.001, 9), Measurement("q", "", 5.0, 1.0, 0.03, 9)]
    found = accuracy("q", rows, {50: 0.05})
    assert found.settings == 1 and found.errors[50] == pytest.approx(0.099) and found.missed == (50,)
    assert accuracy("q", rows[1:], {50: 0.05}).missed == (50,)
