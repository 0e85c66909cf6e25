"""Attention against torch autograd: forward, input gradient and weight gradients over scores, widths, norms and options."""

import importlib.util
import random
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from symprop.bench_softmax import seconds_per_layer
from symprop.components import Attention, LayerNorm, Linear, QueryKeyNormAttention, RMSNorm
from symprop.components.level_warning import LevelWarning
from symprop.core.signal import Gradient, Signal
from symprop.functions.softmax_layer import LEVELS, gamma_rule, layer_moment, small_scores
from symprop.functions.softmax_values import evaluator, value
from symprop.network import sequential, token_input, trace_of

_PATH = Path(__file__).parents[1] / "oracle" / "attention.py"


@pytest.fixture(scope="module")
def oracle():
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("attention_oracle", _PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["attention_oracle"] = module
    spec.loader.exec_module(module)
    return module


def predicted(cell, level="exact"):
    """The same names as the oracle's."""
    n, d, d_k, width = (sp.Integer(x) for x in (cell.n, cell.d, cell.d_k, cell.d_k * cell.heads))
    exact = {name: sp.nsimplify(getattr(cell, name)) for name in ("r", "r_g", "std", "dropout", "bias_q", "bias_k", "bias_v")}
    stream = token_input(n, d, gaussian=True)
    norm = {"rms": RMSNorm, "layernorm": LayerNorm}
    kind, more = Attention, {"query_bias": exact["bias_q"], "key_bias": exact["bias_k"]}
    if cell.qk_norm:
        kind, more = QueryKeyNormAttention, {"norm": norm[cell.qk_norm](sp.nsimplify(cell.gain2), finite=True)}
    layer = kind(
        width, 1 / d, d_k, exact["std"] / d, exact["std"] / d, exact["dropout"], heads=cell.heads,
        key_heads=cell.heads // cell.shared, value_bias=exact["bias_v"], level=level, **more,
    )
    second = d / width if cell.project else sp.S.One
    g = Gradient(second, second * (1 - exact["r_g"]))
    norms = () if cell.law == "gaussian" else (norm[cell.law](finite=True),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LevelWarning)
        trace = trace_of(sequential(*norms, layer), stream)
        x = trace.signal(len(norms))
        back, *before = trace.sweep(g)
        y, weights = trace.steps[-1].value, layer.weight_gradients(g, x)
    found = {"q": y.q, "p": y.p, "var": back.q, "cov": back.p, "v": weights.value, "q_weight": weights.query, "k": weights.key}
    for item in before:
        found |= {"stream_var": item.q, "stream_cov": item.p}
    if cell.project:
        found["o"] = width * d * Linear(d, 1 / width).weight_gradient(Gradient(sp.S.One, 1 - exact["r_g"]), y)
    at = {stream.q: sp.S.One, stream.gap: 1 - exact["r"]}
    values = [trace.substitute_moments(item).xreplace(at) for item in found.values()]
    return dict(zip(found, evaluator(tuple(values), ())(), strict=True))


CELLS = {
    "independent": {"r": 0.0, "std": 2.0},
    "correlated": {"r": 0.5, "std": 1.0, "r_g": 0.3},
    "dropout": {"r": 0.3, "std": 1.0, "dropout": 0.3},
    "dropout, biases": {"r": 0.3, "std": 1.0, "dropout": 0.4, "bias_q": 0.4, "bias_v": 2.0, "r_g": 0.2},
    "RMSNorm, dropout, biases": {"r": 0.2, "std": 1.0, "dropout": 0.4, "bias_v": 2.0, "law": "rms"},
    "biases": {"r": 0.3, "std": 1.0, "bias_q": 0.4, "bias_k": 0.5, "bias_v": 0.3, "r_g": 0.2},
    "shared keys": {"r": 0.3, "std": 1.5, "heads": 4, "shared": 2, "project": True},
    "projection": {"r": 0.4, "std": 1.5, "heads": 2, "project": True, "r_g": 0.3},
    "RMSNorm": {"r": 0.2, "std": 2.0, "law": "rms"},
    "LayerNorm": {"r": 0.0, "std": 2.0, "law": "layernorm", "r_g": 0.2},
    "RMSNorm, correlated": {"r": 0.4, "std": 2.0, "law": "rms", "r_g": 0.3},
    "LayerNorm, large scores": {"r": 0.1, "std": 3.0, "law": "layernorm", "r_g": 0.3},
    "QK-norm": {"r": 0.2, "std": 1.0, "qk_norm": "rms", "gain2": 1.5, "r_g": 0.2},
    "RMSNorm, QK-norm": {"r": 0.3, "std": 1.0, "law": "rms", "qk_norm": "layernorm", "gain2": 2.0, "r_g": 0.2},
}


@pytest.mark.parametrize("name", CELLS)
def test_against_autograd(oracle, name):
    cell = oracle.Cell(**{"n": 24, "d": 48, "d_k": 32, **CELLS[name]})
    deviation = cell.gain2 if cell.qk_norm else cell.std
    measured, theory = oracle.simulate(cell, 1500, 3, 250), predicted(cell)
    # Neglected: second order in w = 1/d_k + 2/d, for weight gradients with a coefficient of the order of the score variance.
    w = 1 / cell.d_k + 2 / cell.d
    for key in theory:
        mean, error = measured[key]
        order = w**2 * (1 + deviation**2 * (key in ("q_weight", "k")))
        assert abs(theory[key] - mean) < 4 * error + order * abs(mean), (key, theory[key], mean, error)


def test_a_query_bias_has_the_gradient_of_what_it_adds_to_queries():
    x = Signal(q=sp.S.One, gap=sp.S.One, tokens=sp.Integer(8), width=sp.Integer(64), gaussian=True)

    def gradients(bias):
        layer = Attention(64, sp.Rational(1, 64), 32, sp.Rational(1, 64), sp.Rational(1, 64), query_bias=bias)
        return layer.weight_gradients(Gradient(sp.S.One, sp.S.One), x)

    without, little = gradients(0), gradients(sp.Rational(1, 10**6))
    # Its gradient is that of the query times 1, that of a weight the same times a coordinate; both are of variance one.
    ratio = float(sp.N(little.query_bias / little.query, 15))
    assert without.query_bias == 0 and 0.5 / 64 < ratio < 2 / 64


@pytest.mark.parametrize("std", [pytest.param(2.0, marks=pytest.mark.slow), 4.0])
def test_the_reference_level_against_autograd(oracle, std):
    cell = oracle.Cell(n=16, d=64, d_k=64, r=0.4, r_g=0.3, std=std)
    measured, theory = oracle.simulate(cell, 1500, 5, 250), predicted(cell, "reference")
    w = 1 / cell.d_k + 2 / cell.d
    for key, number in theory.items():
        mean, error = measured[key]
        order = w**2 * (1 + cell.std**2 * (key in ("q_weight", "k")))
        assert abs(number - mean) < 4 * error + order * abs(mean), (key, number, mean, error)


def test_dropped_weights_meet_the_norms_of_few_coordinates(oracle):
    """Of relative order 1/d in the query path, which w**2 of the other cells does not resolve."""
    cell = oracle.Cell(n=48, d=7, d_k=64, r=0.0, std=0.1, dropout=0.5)
    measured, theory = oracle.simulate(cell, 4000, 3, 1000), predicted(cell)
    for key in ("var", "q_weight", "k"):
        mean, error = measured[key]
        # Neglected: a token's own norm in its row, 4/(n d) of the part that is dropped.
        assert abs(theory[key] - mean) < 3 * error + 4 / (cell.n * cell.d) * abs(mean), (key, theory[key], mean, error)


def drawn_participation(tokens, width, key_width, deviation, draws, seed):
    """E sum_j A_ij^2 of independent Gaussian tokens with its standard error, from fresh weights in every draw."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        x = rng.standard_normal((tokens, width))
        query, key = (x @ rng.standard_normal((width, key_width)) / np.sqrt(width) for _ in range(2))
        scores = deviation * query @ key.T / np.sqrt(key_width)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        found.append((weights**2).sum(axis=1).mean())
    return np.mean(found), np.std(found) / np.sqrt(draws)


@pytest.mark.parametrize(("level", "deviation"), [
    ("uniform", 0.5), ("uniform", 1.5), ("closed_form", 1.5), pytest.param("closed_form", 3.0, marks=pytest.mark.slow),
])
def test_the_expected_error_of_a_level_is_its_error(level, deviation):
    tokens, width, key_width = 64, 96, 48
    x = Signal(q=sp.S.One, gap=sp.S.One, tokens=sp.Integer(tokens), width=sp.Integer(width), gaussian=True)
    strength = sp.nsimplify(deviation) / width
    layer = Attention(width, 1, key_width, strength, strength, level=level)
    mean, error = drawn_participation(tokens, width, key_width, deviation, 600, 7)
    found = abs(value(layer.participation(x)) / mean - 1)
    assert error / mean < found / 4
    assert found / 2 < layer.expected_error(x) < 2 * found, (found, error / mean)


@pytest.mark.slow
def test_percentiles_over_a_random_grid(oracle):
    rng, errors = random.Random(17), {}
    limits = {"q": (0.5, 2, 5), "p": (0.5, 2, 5), "var": (0.5, 2, 5), "cov": (0.5, 2, 5), "v": (1, 3, 6), "q_weight": (1, 3, 6),
              "k": (1, 3, 6)}
    for index in range(40):
        cell = oracle.Cell(
            n=rng.choice([16, 64, 200]), d=rng.choice([64, 128, 256]), d_k=rng.choice([32, 64]),
            r=rng.choice([0, 0.1, 0.3, 0.6, 0.9]), std=rng.choice([0.05, 0.3, 1, 2, 3, 4, 6]), r_g=rng.choice([0, 0.3]),
        )
        measured, theory = oracle.simulate(cell, 6000, 100 + index, 100), predicted(cell)
        for key, (mean, error) in measured.items():
            if error < 0.02 * abs(mean):
                # What the simulation does not know is not counted against the theory.
                errors.setdefault(key, []).append(100 * max(0.0, abs(theory[key] - mean) - error) / abs(mean))
    for key, limit in limits.items():
        assert np.all(np.percentile(errors[key], [50, 90, 99]) <= limit), (key, np.percentile(errors[key], [50, 90, 99]))


@pytest.mark.slow
def test_percentiles_after_a_norm(oracle):
    rng, errors = random.Random(23), {}
    limits = {"q": 0.5, "p": 0.5, "var": 1.5, "cov": 1.5, "stream_var": 2, "stream_cov": 2, "v": 3, "q_weight": 3, "k": 3}
    for index in range(20):
        cell = oracle.Cell(
            n=rng.choice([16, 32, 64]), d=rng.choice([64, 128, 256]), d_k=rng.choice([32, 64]),
            r=rng.choice([0, 0.1, 0.3, 0.6, 0.9]), std=rng.choice([0.3, 1, 1.5, 2, 3]), r_g=rng.choice([0, 0.3]),
            law=rng.choice(["rms", "layernorm"]),
        )
        measured, theory = oracle.simulate(cell, 4000, 300 + index, 100), predicted(cell)
        for key, (mean, error) in measured.items():
            if error < 0.02 * abs(mean):
                # What the simulation does not know is not counted against the theory.
                errors.setdefault(key, []).append(100 * max(0.0, abs(theory[key] - mean) - error) / abs(mean))
    for key, limit in limits.items():
        assert np.percentile(errors[key], 90) <= limit, (key, errors[key])


def test_levels_agree_where_the_scores_are_small_and_warn_beyond_their_range():
    x = Signal(q=sp.S.One, gap=sp.Rational(7, 10), tokens=sp.Integer(64), width=sp.Integer(128), gaussian=True)
    small, large = sp.Rational(1, 128 * 50), sp.Rational(4, 128)
    results = [value(Attention(128, 1, 64, small, small, level=level).forward(x).q) for level in LEVELS]
    # The score variance is 3e-4, and 1/n of it enters.
    assert results == pytest.approx([results[-1]] * 4, rel=1e-4)
    assert results[1] == pytest.approx(results[2], rel=1e-7)
    for level in ("uniform", "closed_form", "exact"):
        layer = Attention(128, 1, 64, large, large, level=level)
        with pytest.warns(LevelWarning, match=re.escape(f"expect an error of {100 * layer.expected_error(x):.2g}%")):
            layer.forward(x)
        assert f"level={level}" in layer.describe()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Attention(128, 1, 64, large, large, level="reference").forward(x)


def test_the_rule_of_the_scale_has_the_moments_of_a_gamma_law():
    for v in (sp.Rational(1, 100), sp.Rational(1, 8), sp.Integer(2)):
        rule, moment = gamma_rule(v), sp.S.One
        for k in range(6):
            assert abs(sp.N(sum(weight * (1 + shift) ** k for shift, weight in rule) - moment, 30)) < 1e-25 * moment
            moment *= 1 + k * v
        assert all(1 + sp.N(shift) > 0 for shift, _ in rule)


def test_small_scores_are_the_limit_of_the_integrals():
    q, gap = sp.S.One, sp.Rational(3, 10)
    for unit in (None, sp.Integer(96)):
        x = Signal(q=q, gap=gap, tokens=sp.Integer(24), width=sp.Integer(96), gaussian=True, fixed_norm=unit)
        strength = sp.Rational(1, 10**6) / 96
        layer = Attention(96, 1, 32, strength, strength)
        # Two rows on a sphere have the contractions of both Jacobians up to a relative 1/d only.
        more = () if unit else ("joint", "scaled_joint", "pair_jacobian", "pair_slope")
        for name in ("own", "gap", "row_gap", "token_gap", "mean", *more):
            node = layer.moment(name, x)
            # The next order is a few times the score variance, 3e-13; moments near 1/n keep an absolute 1e-15.
            assert value(node) == pytest.approx(float(small_scores(node)), rel=1e-6), name


def test_the_layer_is_fast_after_the_first():
    assert seconds_per_layer([0.55, 0.6, 0.65, 0.7, 0.75]) < 0.05


@pytest.mark.parametrize("kind", ["tokens", "queries and keys"])
@pytest.mark.parametrize(
    ("level", "deviation"),
    [("exact", 5), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("reference", 5), ("uniform", 1)))],
)
def test_levels_warn_with_the_expected_error_where_scores_are_cosines(kind, level, deviation):
    """Fixed norms have no exact kernel of two rows, so that the best two levels warn alike."""
    x = Signal(q=sp.S.One, gap=sp.S.One, tokens=sp.Integer(32), width=sp.Integer(64), gaussian=True)
    if kind == "tokens":
        given, strength = RMSNorm(finite=True).forward(x), sp.Rational(deviation, 64)
        layer = Attention(64, 1, 32, strength, strength, level=level)
    else:
        given = x
        layer = QueryKeyNormAttention(64, 1, 32, norm=RMSNorm(deviation, finite=True), level=level)
    error = layer.expected_error(given)
    with pytest.warns(LevelWarning, match=re.escape(f"expect an error of {100 * error:.2g}%")) as caught:
        layer.forward(given)
    if level in ("exact", "reference"):
        assert error == pytest.approx(0.15 * (25 / 36) ** 1.15, rel=1e-6) and "No level is better" in str(caught[0].message)
    else:
        own, right = (value(layer_moment("own", item, layer.geometry(given))) for item in (level, "exact"))
        assert error == pytest.approx(abs(own / right - 1)) and error > 0.03
