"""The Gram interpreter against direct sums over tokens, drawn networks, and the exchangeable map."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

from symprop.components import (
    Attention,
    Dropout,
    Elementwise,
    GatedUnit,
    LayerNorm,
    LayerScale,
    Linear,
    RMSNorm,
    UniformAttention,
)
from symprop.core.errors import InputError, RefusedError
from symprop.core.signal import Gradient
from symprop.functions.activation import Gelu, Relu
from symprop.functions.logistic import Silu
from symprop.network import Sequential, parallel, residual, sequential, token_input, trace_of
from symprop.network.gram import Closure, GramGradient, GramSignal, propagate
from symprop.network.gram_attention import ANGLE_ERROR, NO_ROTATION, AttentionGram, merged_angles, pattern, rotary_angles
from symprop.network.gram_memory import Memory
from symprop.simulate.network import pullback

WIDTH = 48


def gram(rng, tokens, width=WIDTH):
    x = rng.standard_normal((tokens, width)) + 0.5 * rng.standard_normal((1, width))
    return x @ x.T / width


def trace(block, tokens=6, width=WIDTH):
    return trace_of(block, token_input(sp.Integer(tokens), sp.Integer(width), gaussian=True))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [NO_ROTATION, rotary_angles(8, 6, 100.0)])
def test_attention_is_its_sum_over_tokens(causal, rotary):
    rng = np.random.default_rng(0)
    seen = pattern(4, sequences=2, causal=causal, rotary=rotary)
    c, g = gram(rng, 8), gram(rng, 8)
    layer = AttentionGram(Attention(16, 0.05, 8, 0.04, 0.03, heads=2), c, seen, 30.0, 0.0)
    t, distance = seen.weights, seen.positions[:, None] - seen.positions
    turn = sum(share * np.cos(angle * (distance[:, :, None, None] - distance)) for angle, share in rotary)

    def centred(covariance):
        covariance = covariance - np.einsum("im,ikml->ikl", t, covariance)[:, :, None]
        return covariance - np.einsum("km,ikjm->ikj", t, covariance)[..., None]

    logits, values = centred(turn * c), centred(np.broadcast_to(c, turn.shape))
    mixing = np.einsum("ij,kl,jl,ikjl->ik", t, t, c, logits)
    shared = layer.mean_weights @ c @ layer.mean_weights.T
    assert layer.forward() == pytest.approx(30 * 0.05 * (shared + layer.logit_scale * c * mixing), rel=1e-12)
    found = layer.backward(g)
    weighed = g * c
    fluctuating = np.einsum("ij,kl,ik,ikjl->jl", t, t, weighed, logits)
    value = layer.mean_weights.T @ g @ layer.mean_weights + layer.logit_scale * fluctuating
    key = np.einsum("ij,kl,ik,ikjl,ikjl->jl", t, t, weighed, turn, values)
    through = 30 * 30 * 0.05 * 0.04 * 0.03
    assert found.gram == pytest.approx(16 * (0.05 * value + through * (g * mixing + key)), rel=1e-12, abs=1e-12)
    assert found.weights["value"] == pytest.approx(30 * 16 * (c * value).sum(), rel=1e-12)
    assert found.weights["query"] * 0.04 == pytest.approx(found.weights["key"] * 0.03, rel=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_running_sums_are_products_with_the_weights(causal):
    seen = pattern(5, sequences=3, causal=causal)
    plain = replace(seen, kind="any")
    x = np.random.default_rng(1).standard_normal((15, 4)) * (1 + 1j)
    for product in ("mix", "back"):
        assert getattr(seen, product)(x) == pytest.approx(getattr(plain, product)(x), rel=1e-13)
        right = f"{product}_right"
        assert getattr(seen, right)(x.T) == pytest.approx(getattr(plain, right)(x.T), rel=1e-13)


@pytest.mark.parametrize(("key_width", "rotated", "base"), [(128, 128, 1e4), (128, 32, 5e5), (64, 64, 1e2), (8, 6, 10.0)])
@pytest.mark.parametrize("distance", [0.0, 30.0, 254.0, 4094.0])
def test_few_angles_stand_for_many(key_width, rotated, base, distance):
    angles = rotary_angles(key_width, rotated, base)
    merged = merged_angles(angles, distance)

    def mean_cosine(rotary, at):
        theta, share = np.array(rotary).T
        return np.cos(np.outer(at, theta)) @ share

    at = np.linspace(0, distance, 999)
    assert len(merged) <= len(angles)
    assert mean_cosine(merged, at) == pytest.approx(mean_cosine(angles, at), abs=ANGLE_ERROR)


def test_padded_tokens_do_not_matter():
    rng = np.random.default_rng(2)
    c = gram(rng, 6)
    block = trace(residual(sequential(LayerNorm(), Attention(WIDTH, 1 / sp.Integer(WIDTH), 8, 0.02, 0.02))))
    padded = propagate(block, GramSignal(c, WIDTH), pattern(6, padding=2), closure=Closure(attention="first_order")).output.gram
    short = propagate(block, GramSignal(c[:4, :4], WIDTH), pattern(4), closure=Closure(attention="first_order")).output.gram
    assert padded[:4, :4] == pytest.approx(short, rel=1e-13)


@pytest.mark.parametrize(
    "component",
    [Linear(32, 0.03), Elementwise(Relu()), Elementwise(Gelu()), GatedUnit(32, 2e-9, 3e-9, Gelu()),
     Dropout(0.25), LayerScale(0.3), UniformAttention(32, 0.03)],
    ids=lambda item: item.describe(),
)  # fmt: skip
def test_exchangeable_tokens_follow_the_exchangeable_map(component):
    tokens, q, gap = 5, 0.9, 0.55
    start = token_input(sp.Integer(tokens), sp.Integer(10**9), gaussian=True)
    theory = trace_of(component, start)
    values = {start.q: q, start.gap: gap}
    found = propagate(theory, GramSignal(np.full((tokens, tokens), q - gap) + gap * np.eye(tokens), 1e9), pattern(tokens))
    forward = [float(sp.N(item.subs(values))) for item in (theory.expand().q, theory.expand().p)]
    assert [found.output.gram[0, 0], found.output.gram[0, 1]] == pytest.approx(forward, rel=2e-8)
    above = GramGradient(np.full((tokens, tokens), 0.3) + 0.4 * np.eye(tokens))
    below, _ = found.backward(above)
    expected = theory.backpropagate(Gradient(sp.Float(0.7), sp.Float(0.4)))
    numbers = [float(sp.N(theory.substitute_moments(item).subs(values))) for item in (expected.q, expected.p)]
    assert [below.gram[0, 0], below.gram[0, 1]] == pytest.approx(numbers, rel=2e-8)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_a_norm_at_finite_width_has_the_exact_correlation_and_gradient(norm):
    width, r, draws = 24, 0.6, 100_000
    rng = np.random.default_rng(3)
    x = np.linalg.cholesky([[1, r], [r, 1]]) @ rng.standard_normal((draws, 2, width))
    y, vjp = norm().sample(x, rng=rng, values={})
    g = rng.standard_normal((draws, 1, width)) + 0 * y
    pulled = vjp(g)[0]
    found = propagate(trace(norm(), 2, width), GramSignal(np.array([[1, r], [r, 1]]), width), pattern(2))
    below = found.backward(GramGradient(np.ones((2, 2))))[0].gram
    for predicted, samples in (
        (found.output.gram[0, 1], (y[:, 0] * y[:, 1]).mean(axis=1)),
        (below[0, 0], (pulled[:, 0] ** 2).mean(axis=1)),
        (below[0, 1], (pulled[:, 0] * pulled[:, 1]).mean(axis=1)),
    ):
        error = samples.std(ddof=1) / np.sqrt(draws)
        # The next order of the expansion in 1/d.
        assert abs(samples.mean() - predicted) <= 4 * error + 8 / width**2


def test_the_derivative_of_the_pair_rule_is_the_backward_map_of_a_drawn_block():
    tokens, draws = 4, 1500
    width, hidden = 64, 96
    block = sequential(
        residual(sequential(LayerNorm(epsilon=0.01), GatedUnit(hidden, 1 / width, 0.5 / width, Silu()), Linear(width, 0.02)))
    )
    rng = np.random.default_rng(4)
    x = rng.standard_normal((tokens, width)) * np.array([0.5, 1.0, 1.5, 2.0])[:, None]
    x[1:] += 0.5 * x[:1]
    x -= x.mean(axis=1, keepdims=True)
    theory = trace(block, tokens, width)
    # The tokens are given: their norms do not fluctuate and their coordinates have no mean.
    found = propagate(theory, GramSignal(x @ x.T / width, width, fluctuation=0.0, mean_share=0.0), pattern(tokens))
    g = rng.standard_normal((draws, tokens, width))
    output, pull = pullback(theory, np.broadcast_to(x, (draws, *x.shape)), rng, {})
    below = pull(g)
    outer = output @ output.swapaxes(1, 2) / width
    back = below @ below.swapaxes(1, 2) / width
    predicted = found.backward(GramGradient(np.eye(tokens)))[0].gram
    for theory_matrix, samples in ((found.output.gram, outer), (predicted, back)):
        error = samples.std(axis=0, ddof=1) / np.sqrt(draws)
        # Gate and value share their input: 2/d of the moments.
        assert np.all(np.abs(samples.mean(axis=0) - theory_matrix) <= 4.5 * error + 4 / width * np.diag(theory_matrix).max())


def test_a_parallel_block_adds_both_branches_of_one_input():
    c = gram(np.random.default_rng(5), 6)
    branches = [sequential(RMSNorm(), Linear(WIDTH, scale)) for scale in (0.01, 0.02)]
    both = propagate(trace(parallel(*branches, norm=Sequential(()))), GramSignal(c, WIDTH), pattern(6)).output.gram
    alone = [propagate(trace(branch), GramSignal(c, WIDTH), pattern(6)).output.gram for branch in branches]
    assert both == pytest.approx(c + alone[0] + alone[1], rel=1e-13)


def test_a_normalised_stream_fluctuates_only_through_what_was_added():
    block = trace(sequential(residual(sequential(LayerNorm(), Linear(WIDTH, 1 / sp.Integer(WIDTH)))), LayerNorm()))
    first = propagate(block, GramSignal(np.eye(6), WIDTH), pattern(6))
    second = propagate(block, first.output, pattern(6))
    assert first.output.fluctuation == 0
    # The stream had unit variance exactly, the branch adds as much: 1 - (1/2)^2.
    assert second.signals[-2].fluctuation == pytest.approx(1 - second.signals[0].q ** 2 / second.signals[-2].q ** 2)


def test_refusals():
    with pytest.raises(InputError, match="shape"):
        propagate(trace(Linear(8, 0.1)), GramSignal(np.eye(3), WIDTH), pattern(6))
    with pytest.raises(RefusedError, match="nonzero coordinate mean"):
        propagate(trace(sequential(Elementwise(Relu()), LayerNorm())), GramSignal(np.eye(6), WIDTH), pattern(6))
    with pytest.raises(RefusedError, match="nonzero coordinate mean"):
        propagate(trace(Elementwise(Relu())), GramSignal(np.eye(6), WIDTH, means=np.ones((6, 6)) / 9), pattern(6))
    with pytest.raises(RefusedError, match="without dropout"):
        propagate(trace(Attention(8, 0.1, dropout=0.1)), GramSignal(np.eye(6), WIDTH), pattern(6))
    with pytest.raises(RefusedError, match="without biases"):
        propagate(trace(GatedUnit(8, 0.1, 0.1, Relu(), up_bias=1)), GramSignal(np.eye(6), WIDTH), pattern(6))
    with pytest.raises(InputError, match="padding"):
        pattern(4, padding=4)
    with pytest.raises(InputError, match="rotated"):
        rotary_angles(8, 3, 10.0)
    with pytest.raises(InputError, match="numbers"):
        propagate(trace(Linear(8, sp.Symbol("s"))), GramSignal(np.eye(6), WIDTH), pattern(6))


def test_one_token():
    found = propagate(trace(Attention(8, 0.1, 4, 0.1, 0.1), 1), GramSignal(np.eye(1), WIDTH), pattern(1, causal=True))
    assert found.output.gram[0, 0] == pytest.approx(WIDTH * 0.1)
    assert found.backward(GramGradient(np.eye(1)))[1]["H1.query"] == 0


def test_what_the_keys_of_a_memory_do_not_share_is_told_from_the_tokens_that_read_them():
    # Nearly equal keys, one of them padding, and tokens of another size: 1 - .99 among the four that are read.
    keys = 0.99 + 0.01 * np.eye(5)
    weights = np.tile([0.25, 0.25, 0.25, 0.25, 0.0], (3, 1))
    memory = Memory(keys, weights)
    assert memory.pattern.private(memory.joined(7 * np.eye(3))) == pytest.approx(0.01)
    alone = Memory(np.eye(1), np.ones((2, 1)))
    assert alone.pattern.private(alone.joined(np.eye(2))) == 1
