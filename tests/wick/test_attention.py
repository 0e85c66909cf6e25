"""Gradient norms against the verified formulas, typed here and compared symbolically, and against exact enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sympy as sp

from symprop.core import symbols
from symprop.core.symbols import alpha_1, alpha_2, d, d_F, d_k, d_o, n, sigma_k2, sigma_q2, sigma_v2, tau
from symprop.wick import (
    AttentionBlock,
    AttentionLayer,
    TokenInvariants,
    at_tokens,
    attention_jacobian,
    averaging,
    block_gradient_norm,
    centring,
    collapsed_gradient_norm,
    distance_to_uniform,
    evaluate,
    gradient_norm,
    gradient_norm_second_moment,
    input_gradient,
    input_gradient_parts,
    key_gradient,
    logit_moment,
    ones,
    output_norm,
    output_norm_beyond_uniform,
    output_norm_variance,
    query_gradient,
    trace,
    value_gradient,
)
from symprop.wick.invariants import C_X, G_2, G_3, G_4, K_2, N_X, Q_X, T_X, W_X

LAYER = AttentionLayer()
X = LAYER.X


def equal(left: sp.Expr, right: sp.Expr) -> None:
    assert sp.cancel(sp.together(left - right)) == 0


def test_means_for_any_shapes_and_variances() -> None:
    equal(value_gradient().expression, d_o * C_X / n)
    equal(query_gradient().expression, tau**2 * sigma_v2 * sigma_k2 * d_o * N_X * G_2 / n**2)
    equal(key_gradient().expression, tau**2 * sigma_v2 * sigma_q2 * d_o * N_X * G_2 / n**2)
    exact = sigma_v2 * d_o * (d + tau**2 * sigma_q2 * sigma_k2 * ((n * d + 2) * G_2 + d * N_X * T_X) / n**2)
    equal(input_gradient().expression, exact)


def test_value_gradient_needs_no_weights() -> None:
    assert [a.name for a in value_gradient().assumptions] == ["uniform attention"]
    assert any("zero-mean iid" in a.statement for a in query_gradient().assumptions)
    assert not any("Gaussian needed" in a.statement for a in input_gradient().assumptions)


def test_parts_of_the_input_gradient() -> None:
    parts = {key: value.expression for key, value in input_gradient_parts().items()}
    scale = tau**2 * sigma_v2 * sigma_q2 * sigma_k2 * d_o
    equal(parts["A_1"], scale * d * G_2 / n)
    equal(parts["A_2"], scale * d * N_X * T_X / n**2)
    equal(parts["A_3"], sigma_v2 * d_o * d)
    equal(parts["A_1 A_2"], scale * G_2 / n**2)
    assert parts["A_1 A_3"] == parts["A_2 A_3"] == 0
    total = sum(parts[f"A_{i}"] for i in (1, 2, 3)) + 2 * parts["A_1 A_2"]
    equal(total, input_gradient().expression)


def test_second_moments() -> None:
    factor = tau**2 * sigma_v2 / (n**2 * d_k)
    queries = (factor * sigma_k2 * N_X) ** 2 * (
        d_o**2 * (d_k**2 * G_2**2 + 2 * d_k * G_4) + 2 * d_o * (d_k**2 * G_4 + d_k * G_2**2 + d_k * G_4)
    )
    keys = (factor * sigma_q2) ** 2 * (d_o**2 * G_2**2 + 2 * d_o * G_4) * (d_k**2 * N_X**2 + 2 * d_k * K_2)
    equal(gradient_norm_second_moment("W_Q").expression, queries)
    equal(gradient_norm_second_moment("W_K").expression, keys)
    equal(gradient_norm_second_moment("W_V").expression, value_gradient().expression ** 2)
    assert any("Gaussian needed" in a.statement for a in gradient_norm_second_moment("W_Q").assumptions)


def test_second_moment_of_the_input_gradient_by_quadrature() -> None:
    """Every weight enters to degree four, so three Gauss nodes for each of the six weights are exact."""
    layer = AttentionLayer(d=2, d_k=1, d_o=1, tau=sp.Rational(4, 5), sigma_v2=1, sigma_q2=1, sigma_k2=1)
    tokens = np.random.default_rng(0).normal(size=(3, 2))
    derived = layer.invariants.traces(gradient_norm_second_moment("X", layer).expression)
    uniform = attention_jacobian("X", layer, uniform=True)
    nodes, mass = [-(3**0.5), 0.0, 3**0.5], [1 / 6, 2 / 3, 1 / 6]
    total = 0.0
    for pick in itertools.product(range(3), repeat=6):
        w_q, w_k, w_v = np.reshape([nodes[i] for i in pick], (3, 2, 1))
        values = {layer.X: tokens, layer.W_Q: w_q, layer.W_K: w_k, layer.W_V: w_v}
        total += np.prod([mass[i] for i in pick]) * np.sum(evaluate(uniform, values) ** 2) ** 2
    assert evaluate(derived, {layer.X: tokens}) == pytest.approx(total, rel=1e-12)


def test_whole_block() -> None:
    block = AttentionBlock()
    gain = d_F * symbols.sigma_up2 * d * symbols.sigma_down2
    for name in ("W_Q", "W_K", "W_V"):
        alone = gradient_norm(name, block.layer).expression
        equal(block_gradient_norm(name).expression, (1 + alpha_2**2 * gain) * alpha_1**2 * alone)
    alone = gradient_norm("X", block.layer).expression
    equal(block_gradient_norm("X").expression, (1 + alpha_2**2 * gain) * (n * d + alpha_1**2 * alone))


def test_collapse_is_pathwise_for_the_true_softmax() -> None:
    for name in ("W_Q", "W_K"):
        result = collapsed_gradient_norm(name)
        assert result.expression == 0
        assert [a.name for a in result.assumptions] == ["rank collapse"]
    x2 = sp.Trace(sp.MatrixSymbol("x", d, 1).T * sp.MatrixSymbol("x", d, 1))
    equal(collapsed_gradient_norm("W_V").expression, d_o * n * x2)
    equal(collapsed_gradient_norm("X").expression, sigma_v2 * d_o * d)


def test_rank_one_tokens_alone_do_not_vanish() -> None:
    a, x = sp.MatrixSymbol("a", n, 1), sp.MatrixSymbol("x", d, 1)
    x2, spread = sp.Trace(x.T * x), sp.Trace(a.T * centring(n) * a)
    found = at_tokens(query_gradient(), a * x.T).expression
    expected = tau**2 * sigma_v2 * sigma_k2 * d_o / n**2 * sp.Trace(a.T * a) * x2 * (x2**2 * spread**2)
    assert sp.expand(found - expected) == 0
    assert at_tokens(query_gradient(), ones(n) * x.T).expression == 0


def test_logit_moments() -> None:
    x_i, x_j = (sp.MatrixSymbol(name, d, 1) for name in ("x_i", "x_j"))
    second = tau**2 * sigma_q2 * sigma_k2 * sp.Trace(x_i.T * x_i) * sp.Trace(x_j.T * x_j)
    assert logit_moment(1).expression == logit_moment(3).expression == 0
    assert sp.expand(logit_moment(2).expression - second) == 0
    assert sp.expand(logit_moment(4).expression - 3 * (1 + 2 / d_k) * second**2) == 0


def test_beyond_uniform_attention() -> None:
    equal(distance_to_uniform().expression, tau**2 * sigma_q2 * sigma_k2 * N_X * T_X / n**2)
    equal(output_norm().expression, d_o * sigma_v2 * C_X / n)
    equal(output_norm_variance().expression, 2 * (d_o * sigma_v2 * C_X / n) ** 2 / d_o)
    corrected = sigma_v2 * d_o * (C_X / n + tau**2 * sigma_q2 * sigma_k2 * N_X * (G_2 / n**2 + W_X / n))
    equal(output_norm_beyond_uniform().expression, corrected)
    assert output_norm_beyond_uniform().neglected == "O(tau^4)"


def test_correction_is_the_second_derivative_of_the_true_output_norm() -> None:
    """E ||S||^2 of the true softmax, over random-sign weights enumerated exactly, to second order in tau."""
    rng = np.random.default_rng(4)
    tokens = rng.normal(size=(3, 2))
    layer = AttentionLayer(d=2, d_k=1, d_o=1, sigma_v2=1, sigma_q2=1, sigma_k2=1)

    def exact(temperature: float) -> float:
        norms = []
        for signs in itertools.product([-1.0, 1.0], repeat=4):
            w_q, w_k = np.reshape(signs, (2, 2, 1))
            logits = temperature * tokens @ w_q @ w_k.T @ tokens.T
            attention = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            norms.append(np.sum((attention @ tokens) ** 2))
        return float(np.mean(norms))

    step = 1e-3
    curvature = (exact(step) - exact(0.0)) / step**2
    derived = output_norm_beyond_uniform(layer)
    second = layer.invariants.traces(derived.expression.coeff(tau, 2))
    assert evaluate(second, {layer.X: tokens}) == pytest.approx(curvature, rel=1e-4)
    distance = layer.invariants.traces(distance_to_uniform(layer).expression.coeff(tau, 2))
    assert evaluate(distance, {layer.X: tokens}) > 0


def test_means_hold_for_random_signs_exactly() -> None:
    """Only second moments enter the means: all sign matrices together give the same numbers."""
    rng = np.random.default_rng(7)
    layer = AttentionLayer(d=2, d_k=1, d_o=1, sigma_v2=1, sigma_q2=1, sigma_k2=1, tau=sp.Rational(3, 2))
    tokens = rng.normal(size=(3, 2))
    for name in ("W_Q", "W_K", "X"):
        jacobian = attention_jacobian(name, layer, uniform=True)
        norms = []
        for signs in itertools.product([-1.0, 1.0], repeat=6):
            w_q, w_k, w_v = np.reshape(signs, (3, 2, 1))
            values = {layer.X: tokens, layer.W_Q: w_q, layer.W_K: w_k, layer.W_V: w_v}
            norms.append(np.sum(evaluate(jacobian, values) ** 2))
        predicted = evaluate(layer.invariants.traces(gradient_norm(name, layer).expression), {layer.X: tokens})
        assert np.mean(norms) == pytest.approx(predicted, rel=1e-12)


def test_equation_8_has_a_witness() -> None:
    """Nearly collapsed, large tokens violate the published bound, even for d_k = d."""
    bound = 8 * sigma_q2 * sigma_k2 * sigma_v2 * d_k * d / n * G_2 + 2 * d**2 * sigma_v2
    exact = gradient_norm("X", AttentionLayer(d_o=d, tau=1)).expression
    fifth = sp.Rational(1, 5)
    point = {n: 6, d: 5, d_k: 5, sigma_q2: fifth, sigma_k2: fifth, sigma_v2: fifth}
    collapsed = np.ones((6, 1)) @ np.full((1, 5), 10.0) + 0.5 * np.random.default_rng(0).normal(size=(6, 5))
    names = LAYER.invariants
    at = {key: sp.Float(evaluate(names.definitions[key], {X: collapsed})) for key in (N_X, T_X, G_2)}
    assert exact.subs(point).subs(at) > bound.subs(point).subs(at)


def test_invariants() -> None:
    names = TokenInvariants(X)
    equal(names.relation(N_X), T_X + C_X / n)
    equal(names.relation(K_2), G_2 + 2 * Q_X / n + C_X**2 / n**2)
    P, Pi, K = averaging(n), centring(n), X * X.T
    assert names.named(trace(X * X.T)) == N_X
    assert names.named(trace((X.T * Pi * X) ** 3)) == G_3
    equal(names.named(trace(P * K * P * K)), C_X**2 / n**2)
    equal(names.named(trace(K * Pi * K * P)), Q_X / n)
    equal(names.reduced(N_X**2 - T_X**2), 2 * T_X * C_X / n + C_X**2 / n**2)
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(4, 3))
    for symbol, definition in names.definitions.items():
        value = evaluate(definition, {X: tokens})
        again = evaluate(names.traces(names.relation(symbol)), {X: tokens})
        assert value == pytest.approx(again, rel=1e-12)
    gram, pi = tokens @ tokens.T, np.eye(4) - 0.25
    centred = pi @ gram @ pi
    w = sum((centred[j, j] - np.trace(centred) / 4) * tokens.mean(axis=0) @ tokens[j] for j in range(4))
    assert evaluate(names.definitions[W_X], {X: tokens}) == pytest.approx(w, rel=1e-12)


def test_steps_form_a_chain() -> None:
    result = input_gradient()
    assert [step.rule for step in result.setup] == ["definition", "differential", "uniform attention"]
    assert result.steps[-1].expression == result.expression
    rules = [step.rule for step in result.steps]
    assert rules[0] == "traces" and rules[-1] == "invariants"
    assert sum(rule.startswith("E over") for rule in rules) == 3
    assert all(step.reason for step in result.steps)


def test_one_token() -> None:
    single = AttentionLayer(n=1)
    assert gradient_norm("W_Q", single).expression == 0
    equal(gradient_norm("X", single).expression, d * d_o * sigma_v2)
