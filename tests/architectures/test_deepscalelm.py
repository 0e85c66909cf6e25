"""DeepScaleLM's conditions, solved: against the paper's formulas where they hold, and its recursion by hand."""

import math

import pytest

from symprop.architectures import solve_recipe
from symprop.core.errors import InputError, UnknownNameError


def test_many_tokens_and_relu_are_the_paper():
    width, dropout, layers = 256, 0.1, 24
    recipe = solve_recipe(layers, width, 32000, dropout=dropout)
    assert recipe.embedding_variance == pytest.approx((1 - dropout) / 2)
    r = recipe.layers[0].correlation
    for layer in recipe.layers:
        assert layer.correlation == pytest.approx(r, rel=1e-12)
        assert layer.ffn_variance == pytest.approx(math.sqrt((1 - dropout) / 2) / width)
        assert layer.value_variance == pytest.approx(math.sqrt((1 - dropout) / r) / width)
        share = 2 / layers
        r = (1 - share) * r + share * (1 - dropout)
        kernel = (math.sqrt(1 - r * r) + r * (math.pi - math.acos(r))) / (2 * math.pi)
        r = (1 - share) * r + share * 2 * (1 - dropout) * kernel
    assert recipe.final_correlation == pytest.approx(r, rel=1e-12)


def test_few_tokens_need_less_gain():
    many, few = solve_recipe(12, 64, 1000), solve_recipe(12, 64, 1000, tokens=8)
    assert few.layers[0].value_variance < many.layers[0].value_variance


def test_other_activations_are_solved():
    recipe = solve_recipe(12, 64, 1000, activation="gelu", dropout=0.0)
    variance = recipe.layers[3].ffn_variance
    v = 64 * variance
    second = v / 4 * (1 + 2 / math.pi * math.asin(v / (1 + v)) + 4 * v / (math.pi * (1 + v) * math.sqrt(1 + 2 * v)))
    assert 256 * variance * second == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("change", "error"), [({"layers": 2}, InputError), ({"dropout": 1.0}, InputError),
                                               ({"tokens": 0}, InputError), ({"activation": "gelo"}, UnknownNameError)])
def test_bad_input_names_the_argument(change, error):
    with pytest.raises(error, match=next(iter(change))):
        solve_recipe(**{"layers": 12, "width": 64, "vocabulary": 1000, **change})
