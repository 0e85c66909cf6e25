"""DeepScaleLM's conditions, solved: against the paper's formulas where they hold, and its recursion by hand."""

import json
import math

import numpy as np
import pytest
import sympy as sp

from symprop.architectures import ACTIVATIONS, solve_recipe, torch_snippet
from symprop.cli import main
from symprop.core.errors import InputError, UnknownNameError
from symprop.functions.activation import LeakyRelu


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


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), LeakyRelu(sp.Rational(1, 5))], ids=lambda item: item.name)
def test_every_activation_is_solved(activation):
    recipe = solve_recipe(12, 64, 1000, activation=activation, dropout=0.0)
    variance = recipe.layers[3].ffn_variance
    nodes = np.linspace(-12, 12, 20001)
    second = (activation.apply((64 * variance) ** 0.5 * nodes) ** 2 * np.exp(-(nodes**2) / 2)).sum() * (nodes[1] - nodes[0])
    assert 256 * variance * second / math.sqrt(2 * math.pi) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("change", "error"), [({"layers": 2}, InputError), ({"dropout": 1.0}, InputError),
                                               ({"tokens": 0}, InputError), ({"activation": "gelo"}, UnknownNameError)])
def test_bad_input_names_the_argument(change, error):
    with pytest.raises(error, match=next(iter(change))):
        solve_recipe(**{"layers": 12, "width": 64, "vocabulary": 1000, **change})


def test_command_line(capsys):
    assert main(["init", "deepscalelm", "layers=12", "width=64", "vocab=1000", "tokens=16", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 12
    assert main(["init", "deepscalelm", "layers=12", "width=64", "vocab=1000"]) == 0
    printed = capsys.readouterr().out
    assert "correlation" in printed and "def initialise_layer" in printed
    for wrong, named in ((["layers=1/2"], "layers"), (["layers=12"], "width"), (["layer=12"], "layer")):
        assert main(["init", "deepscalelm", *wrong]) == 2
        assert named in capsys.readouterr().err
    assert main(["init", "deepscalelmm", "layers=12"]) == 2


def test_a_torch_model_keeps_unit_variance():
    torch = pytest.importorskip("torch")
    layers, width, tokens, dropout = 192, 64, 32, 0.1
    recipe = solve_recipe(layers, width, 1000, tokens=tokens, dropout=dropout)
    names: dict[str, object] = {}
    exec(torch_snippet(recipe), names)
    torch.manual_seed(0)
    means = []
    for _ in range(6):
        table = torch.nn.Embedding(1000, width)
        position = torch.nn.Embedding(tokens, width)
        names["initialise_embeddings"](table, position)
        weights = 1 / torch.arange(1, 1001)
        words = torch.multinomial(weights, tokens, replacement=True)
        x = torch.nn.functional.dropout(table(words) + position(torch.arange(tokens)), dropout)
        for index in range(layers):
            query, key, value, output = (torch.nn.Linear(width, width) for _ in range(4))
            up, down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
            names["initialise_layer"](index, query, key, value, output, up, down)
            normed = torch.nn.functional.layer_norm(x, (width,))
            scores = query(normed) @ key(normed).T / width**0.5
            branch = output(torch.softmax(scores, -1) @ value(normed))
            x = names["SKIP"] * x + names["BRANCH"] * torch.nn.functional.dropout(branch, dropout)
            normed = torch.nn.functional.layer_norm(x, (width,))
            branch = down(torch.relu(up(normed)))
            x = names["SKIP"] * x + names["BRANCH"] * torch.nn.functional.dropout(branch, dropout)
        means.append((x**2).mean().item())
    # Unit variance holds at uniform attention; scores of unit variance add chi/n with chi < e to the value path.
    spread = torch.tensor(means).std().item() / len(means) ** 0.5
    assert abs(sum(means) / len(means) - 1) < 4 * spread + math.e / tokens
