"""Theory against randomly initialised models of the transformers library."""

from dataclasses import replace

import numpy as np
import pytest

from symprop.architectures.verification import CASES, Comparison, compare, predicted, tokens_of
from symprop.core.errors import MissingExtraError


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("repeated", [False, True])
def test_every_layer_of_a_drawn_model(name, repeated):
    rows = compare(CASES[name], seeds=16, repeated=repeated)
    wrong = [row for row in rows if not row.agrees]
    assert not wrong


def test_a_small_drawn_model_without_its_library_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match="hf"):
        compare(CASES["gpt2"], seeds=1, rows=1, tokens=4)


@pytest.mark.parametrize("name", CASES)
def test_predictions_name_every_matrix_that_is_measured(name):
    case = CASES[name]
    depth = {"n_layer": 2} if name == "gpt2" else {"num_hidden_layers": 2}
    theory, _ = predicted(replace(case, config={**case.config, **depth}), tokens_of(0, 2, 6, 4000, repeated=False))
    assert len(theory) == 3
    assert {item for names in case.weights.values() for item in names} <= set(theory[0])


def test_agreement_counts_the_standard_error():
    row = Comparison("x", 0, "q", 1.08, 1.0, 0.02, 0.02)
    assert not row.agrees
    assert replace(row, stderr=0.03).agrees
    assert Comparison("x", 0, "rho", 0.51, 0.5, 0.0, 0.0101).agrees


def test_tokens_by_zipfs_law_repeat():
    words = [tokens_of(0, 2, 64, 4000, repeated=repeated) for repeated in (False, True)]
    assert len(np.unique(words[1])) < len(np.unique(words[0]))
    assert words[1].shape == (2, 64)
