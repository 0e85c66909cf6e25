"""DeepScaleLM's conditions, solved: against the paper's formulas where they hold, and its recursion by hand."""

import json
import math

import numpy as np
import pytest
import sympy as sp

from symprop.architectures import ACTIVATIONS, solve_recipe, torch_snippet
from symprop.cli import main
from symprop.components import Attention, Dropout, Elementwise, LayerNorm, Linear
from symprop.core.errors import InputError, UnknownNameError
from symprop.core.signal import Gradient, Signal
from symprop.functions.activation import LeakyRelu, Relu
from symprop.functions.softmax_double import in_double
from symprop.network import residual, sequential, trace_of


def test_many_tokens_and_relu_are_the_paper():
    # A softmax of unit scores keeps no trace of its weights at infinitely many tokens and width.
    width, dropout, layers = 2**40, 0.1, 24
    recipe = solve_recipe(layers, width, 32000, dropout=dropout)
    assert recipe.embedding_variance == pytest.approx((1 - dropout) / 2)
    r = recipe.layers[0].correlation
    for layer in recipe.layers:
        assert layer.correlation == pytest.approx(r, rel=1e-8)
        assert layer.ffn_variance == pytest.approx(math.sqrt((1 - dropout) / 2) / width)
        assert layer.value_variance == pytest.approx(math.sqrt((1 - dropout) / r) / width, rel=1e-6)
        share = 2 / layers
        r = (1 - share) * r + share * (1 - dropout)
        kernel = (math.sqrt(1 - r * r) + r * (math.pi - math.acos(r))) / (2 * math.pi)
        r = (1 - share) * r + share * 2 * (1 - dropout) * kernel
    assert recipe.final_correlation == pytest.approx(r, rel=1e-8)


def test_few_tokens_need_less_gain():
    many, few = solve_recipe(12, 64, 1000), solve_recipe(12, 64, 1000, tokens=8)
    assert few.layers[0].value_variance < many.layers[0].value_variance


SUMS = ("gelu_tanh", "silu", "tanh", "sigmoid")
"""Activations whose moments are sums: these take seconds to compile."""


@pytest.mark.parametrize("activation", [
    pytest.param(item, id=item.name, marks=[pytest.mark.slow] if item.name in SUMS else [])
    for item in (*ACTIVATIONS.values(), LeakyRelu(sp.Rational(1, 5)))
])
def test_every_activation_is_solved(activation):
    recipe = solve_recipe(12, 64, 1000, activation=activation, dropout=0.0)
    variance = recipe.layers[3].ffn_variance
    nodes = np.linspace(-12, 12, 20001)
    second = (activation.apply((64 * variance) ** 0.5 * nodes) ** 2 * np.exp(-(nodes**2) / 2)).sum() * (nodes[1] - nodes[0])
    assert 256 * variance * second / math.sqrt(2 * math.pi) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("change", "error"), [({"layers": 2}, InputError), ({"dropout": 1.0}, InputError),
                                               ({"width": 2}, InputError), ({"tokens": 0}, InputError),
                                               ({"activation": "gelo"}, UnknownNameError)])
def test_bad_input_names_the_argument(change, error):
    with pytest.raises(error, match=next(iter(change))):
        solve_recipe(**{"layers": 12, "width": 64, "vocabulary": 1000, **change})


def test_variances_fall_with_the_width_however_wide_the_model():
    small, wide = (solve_recipe(3, width, 1000, tokens=4, activation="gelu") for width in (64 * 10**3, 64 * 10**9))
    assert wide.layers[0].ffn_variance * 10**6 == pytest.approx(small.layers[0].ffn_variance, rel=1e-9)


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


def _number(expression):
    return float(sp.N(expression.xreplace(in_double(expression, {}))))


def test_scores_are_in_the_variances_and_in_the_gradient():
    """The solved variances against the component itself, which is not interpolated, for a layer in the middle."""
    layers, width, tokens, dropout = 24, 128, 32, sp.Rational(1, 10)
    recipe = solve_recipe(layers, width, 1000, tokens=tokens, dropout=float(dropout), gradient_correlation=0.3)
    layer, above = recipe.layers[-1], Gradient(sp.S.One, sp.Rational(7, 10))
    gap, scores = sp.Float(1 - layer.correlation), sp.Rational(1, width)
    value, ffn = sp.Float(layer.value_variance), sp.Float(layer.ffn_variance)
    x = Signal(q=sp.S.One, gap=gap, tokens=sp.Integer(tokens), width=sp.Integer(width), gaussian=True)
    attention = sequential(
        LayerNorm(), Attention(width, value, 64, scores, scores, heads=2), Linear(width, value), Dropout(dropout)
    )
    feed_forward = sequential(LayerNorm(), Linear(4 * width, ffn), Elementwise(Relu()), Linear(width, ffn), Dropout(dropout))
    assert _number(trace_of(attention, x).expand().q) == pytest.approx(1, rel=1e-6)
    blocks = [residual(block, recipe.branch_scale, recipe.skip_scale) for block in (attention, feed_forward)]
    whole = trace_of(sequential(*blocks), x)
    below = whole.substitute_moments(whole.backpropagate(above).q)
    assert _number(below) == pytest.approx(layer.gradient, rel=1e-6)


def _torch_run(torch, names, sizes, dropout):
    """Second moments of the stream at the top and of the gradient at the bottom, of one network with one sequence."""
    layers, width, tokens = sizes
    table, position = torch.nn.Embedding(1000, width), torch.nn.Embedding(tokens, width)
    names["initialise_embeddings"](table, position)
    words = torch.multinomial(1 / torch.arange(1, 1001), tokens, replacement=True)
    functional = torch.nn.functional
    start = functional.dropout(table(words) + position(torch.arange(tokens)), dropout).detach().requires_grad_()
    x = start
    for index in range(layers):
        query, key, value, output = (torch.nn.Linear(width, width) for _ in range(4))
        up, down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        names["initialise_layer"](index, query, key, value, output, up, down)
        normed = functional.layer_norm(x, (width,))
        scores = query(normed) @ key(normed).T / width**0.5
        branch = output(torch.softmax(scores, -1) @ value(normed))
        x = names["SKIP"] * x + names["BRANCH"] * functional.dropout(branch, dropout)
        normed = functional.layer_norm(x, (width,))
        branch = down(torch.relu(up(normed)))
        x = names["SKIP"] * x + names["BRANCH"] * functional.dropout(branch, dropout)
    x.backward(torch.randn(x.shape))
    return (x**2).mean().item(), (start.grad**2).mean().item()


def test_a_torch_model_keeps_unit_variance():
    torch = pytest.importorskip("torch")
    layers, width, tokens, dropout = 192, 64, 32, 0.1
    recipe = solve_recipe(layers, width, 1000, tokens=tokens, dropout=dropout, heads=1)
    names: dict[str, object] = {}
    exec(torch_snippet(recipe), names)
    torch.manual_seed(0)
    found = np.array([_torch_run(torch, names, (layers, width, tokens), dropout) for _ in range(6)])
    mean, error = found.mean(axis=0), found.std(axis=0, ddof=1) / len(found) ** 0.5
    # What the exact level leaves out: second order in 1/d_k + 2/d, and the fourth moments of tokens that are not Gaussian.
    neglected = (3 / width) ** 2
    for measured, spread, predicted in zip(mean, error, (1.0, recipe.layers[0].gradient), strict=True):
        assert abs(measured - predicted) < 4 * spread + neglected
