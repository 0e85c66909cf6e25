"""Architectures from presets and files, and their audit."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import sympy as sp

from symprop.architectures import signal
from symprop.architectures.audit import REACHED, STATES, VALID_LOGITS, audit, gradient_growth
from symprop.architectures.description import Architecture
from symprop.architectures.exchangeable import CarriedMoments, ExchangeableModel
from symprop.architectures.presets import PRESETS, STD2, preset
from symprop.architectures.readers import from_config, from_toml
from symprop.architectures.readout import loss_gram
from symprop.architectures.signal import embed, run
from symprop.architectures.verification import sinusoids
from symprop.auditing import data, formulas, overridden, text
from symprop.core.errors import InputError, RefusedError, SympropError
from symprop.functions.activation import Gelu, Relu
from symprop.network.gram import propagate
from symprop.network.gram_attention import pattern


def small(name, **changes):
    model = preset(name)
    key_width = min(model.key_width, 16)
    rotated = key_width if model.rotated else 0
    sizes = {"layers": 2, "width": 4 * key_width, "heads": 4, "key_width": key_width, "hidden": 64, "rotated": rotated}
    return model.replace(**sizes | changes)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_an_audit(name):
    found = audit(small(name), tokens=6)
    assert len(found.rows) == 3
    assert all(math.isfinite(row.q) and math.isfinite(row.gradient) for row in found.rows)
    assert found.verdict and found.architecture.source.where
    json.dumps(data(found), allow_nan=False)
    assert "layer" in text(found)


def test_depth_scaled_outputs_are_read_with_their_depth():
    config = {"model_type": "gpt2", "n_layer": 8, "n_embd": 64, "n_head": 4, "initializer_range": 0.05}
    model = from_config(json.dumps(config))
    assert model.number("output") == pytest.approx(0.05**2 / 16)
    assert model.number("down") == pytest.approx(0.05**2 / 16)
    assert model.number("value") == pytest.approx(0.05**2)
    assert overridden(model, depth=2).number("output") == pytest.approx(0.05**2 / 4)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "bert", "hidden_size": 128, "num_attention_heads": 2}, {"order": "post", "key_width": 64}),
        ({"model_type": "roberta", "hidden_act": "relu"}, {"activation": "relu", "vocabulary": 50265}),
        ({"model_type": "llama", "hidden_size": 128, "num_attention_heads": 4, "rope_theta": 500.0},
         {"rotated": 32, "rotary_base": 500.0, "gated": True}),
        ({"model_type": "mistral", "head_dim": 64}, {"key_width": 64, "name": "mistral"}),
        ({"model_type": "qwen2", "num_key_value_heads": 8}, {"rotated": 128}),
        ({"model_type": "gpt_neox", "use_parallel_residual": False}, {"order": "pre", "rotated": 24}),
        ({"model_type": "vit", "patch_size": 8}, {"causal": False}),
        ({"model_type": "t5", "feed_forward_proj": "gated-gelu"}, {"gated": True, "activation": "gelu_tanh"}),
        ({"model_type": "vit", "patch_size": [8, 8]}, {"token": 192 * STD2}),
        ({"model_type": "qwen2", "sliding_window": 1024}, {"causal": True}),
        ({"model_type": "gpt2", "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4},
         {"width": 256, "layers": 8, "heads": 4, "hidden": 1024}),
        ({"model_type": "gptj", "hidden_size": 256, "n_embd": 256, "num_attention_heads": 4, "num_hidden_layers": 2},
         {"width": 256, "layers": 2, "heads": 4}),
        ({"model_type": "t5", "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4, "head_dim": 32},
         {"width": 256, "layers": 8, "heads": 4, "key_width": 32}),
    ],
)  # fmt: skip
def test_configs(config, expected):
    model = from_config(json.dumps(config))
    assert {name: getattr(model, name) for name in expected} == expected


def test_a_config_of_t5_is_said_to_be_that_of_its_encoder():
    model = from_config('{"model_type": "t5", "num_layers": 2, "num_decoder_layers": 30}')
    assert model.layers == 2 and "encoder alone" in text(audit(model, tokens=2))
    assert "encoder" not in str(preset("t5_decoder").source)


TOML = """
[model]
name = "mine"
layers = 3
width = 64
heads = 4
hidden = 256
vocabulary = 100
[block]
order = "post"
branch_scale = "1/sqrt(L)"
[attention]
causal = false
[variances]
output = "1/d"
"""


def test_ones_own_architecture():
    model = from_toml(TOML)
    assert (model.name, model.order, model.causal) == ("mine", "post", False)
    assert model.number("branch_scale") == pytest.approx(3**-0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"width": 100}, "head width"), ({"depth": 0}, "layers"), ({"init": ["nothing=1"]}, "unknown initialisation")],
)
def test_overrides_out_of_range(changes, message):
    with pytest.raises(SympropError, match=message):
        overridden(preset("gpt2"), **changes)


def test_equal_words_and_positions_share_their_vectors():
    model = small("gpt2", token=0.3, position=0.1)
    c = embed(model, np.array([5, 7, 5, 7]), pattern(2, sequences=2)).gram
    assert c == pytest.approx(np.array([[0.4, 0, 0.4, 0], [0, 0.4, 0, 0.4], [0.4, 0, 0.4, 0], [0, 0.4, 0, 0.4]]))


def test_a_class_token_enters_with_its_own_variance():
    c = embed(small("vit", token=0.3, position=0.01, class_token=0.02), np.arange(3), pattern(3)).gram
    assert np.diag(c) == pytest.approx([0.03, 0.31, 0.31])
    assert c[0, 1:] == pytest.approx([0, 0])


def test_sinusoids_have_a_sine_and_a_cosine_of_every_angle():
    model = small("transformer", token=0)
    half, positions = model.width // 2, np.arange(5)
    angles = positions[:, None] * 10000.0 ** (-np.arange(half) / half)
    vectors = np.hstack([np.sin(angles), np.cos(angles)])
    assert embed(model, positions, pattern(5)).gram == pytest.approx(vectors @ vectors.T / model.width, abs=1e-12)


def test_a_layer_norm_removes_the_coordinate_mean_of_sinusoids():
    model, tokens, draws = small("transformer", width=128, heads=8), np.arange(6), 4000
    embedded = np.random.default_rng(0).standard_normal((draws, 6, 128)) + sinusoids(6, 128)
    normed = embedded - embedded.mean(axis=2, keepdims=True)
    normed /= np.sqrt((normed**2).mean(axis=2, keepdims=True) + 1e-5)
    grams = normed @ normed.swapaxes(1, 2) / 128
    stderr = grams.std(axis=0, ddof=1) / math.sqrt(draws)
    signal = embed(model.replace(embedding_norm=True), tokens, pattern(6))
    # Words of known means fluctuate a little less than the independent coordinates that the O(1/d) factor takes them for.
    assert np.all(abs(signal.gram - grams.mean(axis=0)) <= 4 * stderr + 1 / 128)
    assert signal.mean_share == 0 and np.all(signal.means == 0)
    mean = audit(model, tokens=6).rows[0].mean
    assert mean == pytest.approx(math.sqrt((embedded.mean(axis=2) ** 2).mean()), rel=4 / math.sqrt(6 * 128))


def test_known_means_stay_in_the_stream_and_no_branch_adds_to_them():
    model = small("transformer", order="pre", gated=True, gate=1 / 64, activation="silu", norm="rms")
    first, *later = run(model, np.arange(4)).streams
    assert np.all(np.diag(first.means) > 0) and all(np.all(stream.means == first.means) for stream in later)


def test_branches_of_scale_zero_leave_the_stream_alone():
    rows = audit(small("rezero"), tokens=5).rows
    assert rows[-1].q == rows[0].q and rows[-1].cosine == rows[0].cosine
    assert gradient_growth(rows) == 1


def test_gradients_that_neither_grow_nor_arrive_are_said_so():
    said = " ".join(audit(small("rezero"), tokens=5).verdict)
    assert "same second moment at the input as at the output" in said
    found = audit(small("gpt2", head=0), tokens=5)
    assert "No gradient reaches the layers." in found.verdict and not found.repairs


def test_a_dip_of_the_gradient_between_equal_ends_is_said():
    deep = small("bert", layers=12, **MIXING)
    found = audit(deep, tokens=16, growth=10)
    gradients = [row.gradient for row in found.rows]
    assert 1 / 10 < gradient_growth(found.rows) < 10 < max(gradients) / min(gradients)
    least = gradients.index(min(gradients))
    assert 0 < least < 12
    assert any(f"least before layer {least}, most at the output" in sentence for sentence in found.verdict)
    assert "Attention is uniform: all logits of a row are the same." in found.verdict


def test_a_repair_reaches_what_it_promises_on_all_tokens():
    wild = small("gpt2", layers=6, output=0.05, down=0.05)
    found = audit(wild, tokens=40, growth=4)
    (repair,) = [item for item in found.repairs if item.problem == "gradient growth"]
    assert gradient_growth(found.rows) == repair.before > 4
    repaired = audit(wild.replace(branch_scale=repair.factor), tokens=40, growth=4)
    assert gradient_growth(repaired.rows) == pytest.approx(repair.after) == pytest.approx(4, rel=2 * REACHED)
    # Scaling a branch is scaling the matrices that end it.
    same = audit(wild.replace(output=0.05 * repair.factor**2, down=0.05 * repair.factor**2), tokens=40)
    assert gradient_growth(same.rows) == pytest.approx(repair.after, rel=1e-9)
    assert f"is {repair.after:.4g} instead of {repair.before:.4g}" in repair.sentence


MIXING = dict.fromkeys(("query", "key"), 0.0) | {"value": 1 / 64, "output": 1 / 64, "up": 4e-4, "down": 4e-4}


@pytest.mark.parametrize("state", STATES[1:])
def test_collapse_is_said_with_its_layer_and_repaired(state):
    deep = small("bert", layers=8, **MIXING)
    found = audit(deep, tokens=16, state=state)
    layer = next(row.layer for row in found.rows if row.cosine >= 0.99)
    assert any(f"by layer {layer}" in sentence for sentence in found.verdict)
    (repair,) = [item for item in found.repairs if item.problem == "rank collapse"]
    repaired = audit(deep.replace(branch_scale=repair.factor), tokens=16, state=state)
    assert repaired.rows[-1].cosine == pytest.approx(repair.after, rel=1e-9)
    assert 1 - repair.after == pytest.approx(0.1, rel=2 * REACHED)


def test_a_problem_that_no_branch_scale_solves_is_said():
    # Every branch is zero: the growth comes from the skip alone.
    lost = small("rezero", layers=40, skip_scale=1.05)
    (repair,) = [item for item in audit(lost, tokens=4).repairs if item.problem == "gradient growth"]
    assert repair.factor is None and repair.after is None and "No scale" in repair.sentence


@pytest.mark.parametrize(
    ("name", "state", "said"),
    [("t5", "gram", "drawn heads"), ("t5", "exchangeable", "leaves the uniform pattern"), ("llama", "gram", "leaves the")],
)  # fmt: skip
def test_large_logits_are_said_with_what_they_do_to_the_theory(name, state, said):
    found = audit(small(name, query=0.05, key=0.05), tokens=8, state=state)
    assert any(said in sentence for sentence in found.verdict)


def test_layers_that_are_not_kept_are_found_again(monkeypatch):
    model = small("t5", layers=3)
    kept = audit(model, tokens=6).rows
    monkeypatch.setattr(signal, "KEPT_NUMBERS", 32 * 6**2)
    assert audit(model, tokens=6).rows == kept


def test_growth_in_the_first_layer_is_said_and_repaired_at_the_embedding():
    model = small("gpt2", layers=4, output=0.01, down=0.01)
    found = audit(model, tokens=8, growth=3)
    share = math.log(found.rows[0].gradient / found.rows[1].gradient) / math.log(gradient_growth(found.rows))
    assert any(f"({share:.0%} in the logarithm)" in sentence and "layer 0" in sentence for sentence in found.verdict)
    (repair,) = [item for item in found.repairs if item.target == "embedding std"]
    larger = {name: model.number(name) * repair.factor**2 for name in ("token", "position")}
    assert gradient_growth(audit(model.replace(**larger), tokens=8).rows) == pytest.approx(repair.after, rel=1e-9)
    assert repair.after == pytest.approx(3, rel=2 * REACHED)


def test_a_repair_beyond_the_scales_of_a_description_is_none():
    # Gradients would stop growing at embeddings of variance above 1e12, which no description may name.
    large = small("gpt2", layers=1, token=1e11, position=0, value=1e10, output=1e12 - 1, query=1e-14, key=1e-14)
    found = audit(large, tokens=2)
    assert gradient_growth(found.rows) > 1e9 and found.repairs
    assert not any(repair.target == "embedding std" for repair in found.repairs)


def test_a_state_that_errs_is_not_to_be_relied_on():
    wild = small("llama", layers=4, **dict.fromkeys(("value", "output", "up", "gate", "down"), 0.05))
    found = audit(wild, tokens=16, state="exchangeable", growth=1.5)
    assert found.verdict[0].startswith("Do not rely on these numbers") and not found.repairs
    assert audit(wild, tokens=16, state="gram", growth=1.5).repairs


@pytest.mark.parametrize(("rest", "said"), [({}, "apart"), ({"output": 1 / 64}, "draw together")])
def test_how_near_tokens_come_is_said(rest, said):
    found = audit(small("bert", layers=3, **MIXING | {"output": 1e-6} | rest), tokens=8)
    assert any(said in sentence and f"{found.rows[-1].cosine:.3g}" in sentence for sentence in found.verdict)


@pytest.mark.parametrize("name", ["t5_decoder", "transformer_decoder"])
def test_a_decoder_hears_of_the_words_that_are_no_padding(name):
    model = small(name)
    alone, padded = audit(model, tokens=5), audit(model, tokens=9, padding=4)
    for one, other in zip(alone.rows, padded.rows, strict=True):
        assert (one.q, one.gradient) == pytest.approx((other.q, other.gradient), rel=0.1)
    assert {"cross_query", "cross_key", "cross_value", "cross_output"} < set(alone.rows[0].weights)
    with pytest.raises(RefusedError, match="encoder"):
        audit(model, tokens=5, state="exchangeable")
    with pytest.raises(RefusedError, match="two inputs"):
        formulas(model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"value": 0, "output": 0}, "attention branch adds nothing to the stream: the variance of value and output is zero"),
     ({"up": 0}, "feed-forward branch adds nothing to the stream: the variance of up is zero"),
     ({"branch_scale": 0}, "their scale is zero")],
)  # fmt: skip
def test_branches_that_add_nothing_are_said_so(changes, said):
    assert said in audit(small("gpt2", **changes), tokens=4).verdict[0]
    assert not any("adds nothing" in sentence for sentence in audit(small("gpt2"), tokens=4).verdict)


def test_a_hidden_layer_of_zeros_is_no_zero_after_a_sigmoid():
    found = audit(small("gpt2", activation="sigmoid", up=0), tokens=4)
    assert not any("adds nothing" in sentence for sentence in found.verdict)
    assert found.rows[1].q > audit(small("gpt2", activation="sigmoid", up=0, down=0), tokens=4).rows[1].q


def test_what_the_repair_of_logits_does_to_a_gradient_that_no_scale_repairs():
    hot = small("bert", layers=4, width=64, query=0.4, key=0.4, value=1 / 64, output=1 / 64)
    found = audit(hot, tokens=24, growth=3)
    gradient, logits = found.repairs
    assert gradient.factor is None
    cold = hot.replace(query=0.4 * logits.factor**2, key=0.4 * logits.factor**2)
    after = gradient_growth(audit(cold, tokens=24, state="gram").rows)
    assert f"The gradient's growth is {after:.4g} then." in logits.sentence


def test_large_logits_are_repaired():
    wild = small("t5", query=0.5, key=0.5)
    found = audit(wild, tokens=8)
    (repair,) = [item for item in found.repairs if item.problem == "large logits"]
    changed = wild.replace(query=0.5 * repair.factor**2, key=0.5 * repair.factor**2)
    largest = max(row.logit_deviation or 0 for row in audit(changed, tokens=8).rows)
    assert largest == pytest.approx(repair.after)
    # At the limit of the warning, and not beyond it.
    assert VALID_LOGITS * (1 - 3 * REACHED) < largest <= VALID_LOGITS


def test_the_work_grows_with_depth_alone_and_draws_no_weight(monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        return propagate(*arguments, **options)

    def drawn(*_, **__):
        raise AssertionError("a random number was drawn")

    monkeypatch.setattr(signal, "propagate", counted)
    monkeypatch.setattr(np.random, "default_rng", drawn)
    counts = []
    for layers, width in ((10, 64), (20, 64), (20, 12288)):
        model = preset("gpt2").replace(layers=layers, width=width, heads=width // 64, key_width=64, hidden=4 * width,
                                       query=1e-8, key=1e-8)  # fmt: skip
        calls.clear()
        audit(model, tokens=3, growth=1e300)
        counts.append(len(calls))
    assert counts[1] - counts[0] == 10 and counts[2] == counts[1]


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_thousand_layers_of_an_encoder_take_a_thousand_steps(name, monkeypatch):
    steps = []
    plain = ExchangeableModel._pulled
    monkeypatch.setattr(ExchangeableModel, "_pulled", lambda self, *a: steps.append(1) or plain(self, *a))
    small_logits = dict.fromkeys(("query", "key"), 1e-6)
    model = preset(name).replace(layers=1000, width=12288, heads=96, key_width=128, hidden=49152, activation="relu",
                                 branch_scale=0.01, **small_logits)  # fmt: skip
    found = audit(model, growth=1e9, state="exchangeable")
    assert len(found.rows) == 1001 and len(steps) == 1000 and not found.repairs
    assert 0 < found.rows[-1].gap <= found.rows[-1].q and found.rows[0].gradient > 0


def test_the_loss_gradient_needs_a_linear_readout_and_labels():
    with pytest.raises(RefusedError, match="not a linear layer"):
        run(small("bert"), np.arange(4)).loss_gradient(np.ones(4, dtype=bool))
    with pytest.raises(InputError, match="labels"):
        run(small("gpt2"), np.arange(4)).loss_gradient(np.zeros(4, dtype=bool))


@pytest.mark.parametrize("size", [0.05, 0.3])
def test_the_gradient_in_the_logits_is_that_of_drawn_readouts(size):
    rng, classes, draws = np.random.default_rng(0), 30, 4000
    tokens = size * (rng.standard_normal((4, 16)) + rng.standard_normal(16)) * np.array([[1.0], [1.0], [1.5], [2.0]])
    logits = tokens @ rng.standard_normal((draws, 16, classes))
    softmax = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax /= softmax.sum(axis=-1, keepdims=True)
    gradients = softmax - np.eye(classes)[rng.integers(0, classes, (draws, 4))]
    grams = gradients @ gradients.swapaxes(1, 2)
    stderr = grams.std(axis=0, ddof=1) / math.sqrt(draws)
    expected = loss_gram(classes, tokens @ tokens.T)
    assert np.all(abs(grams.mean(axis=0) - expected) <= 4 * stderr + 0.01 * abs(expected))
    assert np.linalg.eigvalsh(expected).min() > 0


def test_large_logits_of_the_readout_are_said_to_be_out_of_range():
    sharp = audit(small("gpt2", head=64.0, width=64, token=1), tokens=4)
    assert any("readout's logits deviate by 64" in line for line in sharp.verdict)
    assert not any("readout" in line for line in audit(small("gpt2"), tokens=4).verdict)


def test_labels_repeat_where_there_are_more_tokens_than_classes():
    few, many = (audit(small("gpt2", vocabulary=size), tokens=40).rows for size in (10, 10**6))
    for one, other in zip(few[:-1], many, strict=False):
        # Labels agree as often as chance has it, so that only the size of a single gradient is another.
        assert one.gradient == pytest.approx(0.9 * other.gradient, rel=0.05)
        assert all(one.weights[name] > 0.9 * value > 0 for name, value in other.weights.items())


@pytest.mark.parametrize("state", STATES[1:])
def test_the_loss_of_a_class_token_is_on_it_alone(state):
    model = small("vit", head=1e-3, final_norm=False)
    found = audit(model, tokens=10, state=state)
    assert found.cotangent == "cross-entropy at the class token, its label drawn uniformly"
    (own,) = loss_gram(model.vocabulary, np.array([[1e-3 * model.width * found.rows[-1].q]])).ravel()
    # One token of ten has a gradient, which shares nothing with the others'.
    assert found.rows[-1].gradient == pytest.approx(1e-3 * own / 10, rel=1e-4)
    assert found.rows[-1].gradient_cosine == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("llama", {"token": 0}), ("gpt2", {"token": 0, "position": 0}),
     ("bert", {"token": 0, "position": 0, "segment": 0, "order": "pre", "embedding_norm": False})],
)  # fmt: skip
def test_an_input_of_zeros_has_a_verdict_and_no_repair(name, changes):
    found = audit(small(name, **changes), tokens=4)
    assert "The model's input has zero variance." in found.verdict and not found.repairs
    assert "zero variance" in found.reason
    with pytest.raises(RefusedError, match="zero"):
        audit(small(name, **changes), tokens=4, state="exchangeable")
    with pytest.raises(RefusedError, match="without epsilon"):
        audit(small(name, **changes | {"epsilon": 0.0}), tokens=4)


def test_no_square_is_negative_and_none_is_hidden():
    found = audit(preset("gpt_neox").replace(layers=2, query=1e5, key=1e5), tokens=8)
    assert math.isnan(found.rows[0].gradient) and all(math.isnan(value) for value in found.rows[0].weights.values())
    assert all(not row.gradient < 0 for row in found.rows)
    assert any("out of range from layer 0 down" in line for line in found.verdict)
    assert [item.problem for item in found.repairs] == ["large logits"]
    json.dumps(data(found), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"order": "sandwich"}, "unknown order"), ({"width": 10, "heads": 3, "key_width": 0}, "divisor"),
     ({"rotated": 7}, "rotated"), ({"epsilon": -1.0}, "epsilon"), ({"output": "1"}, "output"), ({"layers": 10**9}, "layers")],
)  # fmt: skip
def test_descriptions_out_of_range(changes, message):
    arguments = {"layers": 2, "width": 64, "heads": 4, "hidden": 64, "vocabulary": 10} | changes
    with pytest.raises(SympropError, match=message):
        Architecture("x", preset("gpt2").source, **arguments)


def test_formulas_are_those_of_the_model():
    printed = formulas(preset("bert"))
    assert printed.count(r"\text{skip}") == 4
    assert r"\frac{d_F}{2500}" in printed and "phi is gelu" in printed


def _rows_apart(model, tokens):
    """The largest differences of the two states: relative, and of cosines absolute."""
    pairs = list(zip(*(audit(model, tokens=tokens, state=state).rows for state in STATES[1:]), strict=True))
    found = {name: max(abs(getattr(a, name) / getattr(b, name) - 1) for a, b in pairs) for name in ("q", "gap", "gradient")}
    found["cosine"] = max(max(abs(a.cosine - b.cosine), abs(a.gradient_cosine - b.gradient_cosine)) for a, b in pairs)
    found["weights"] = max(abs(a.weights[name] / b.weights[name] - 1) for a, b in pairs for name in b.weights)
    return found


@pytest.mark.parametrize(
    ("name", "changes"),
    [("bert", {}), ("bert", {"head": 1e-3, "final_norm": True}), ("bert", {"order": "pre", "epsilon": 0.1, "head": 1e-2}),
     ("bert", {"order": "parallel"}), ("bert", {"order": "peri", "activation": "relu"}),
     ("t5", {"gated": True, "activation": "gelu_tanh", "gate": 1e-9})],
)  # fmt: skip
def test_the_two_states_agree_on_exchangeable_tokens(name, changes):
    # Wide and with small logits, so that what the fast state neglects is small: O(1/d) with d = 10^7, O(logit variance).
    sizes = {"layers": 4, "width": 10**7, "heads": 10, "key_width": 10**6, "hidden": 10**7}
    variances = dict.fromkeys(("value", "output", "up", "down"), 1e-7) | dict.fromkeys(("query", "key"), 1e-10)
    apart = _rows_apart(preset(name).replace(**sizes | variances | {"temperature": 1} | changes), 5)
    assert max(apart.values()) < 3e-6, apart


def test_logits_are_carried_at_first_order_in_both_states():
    apart = _rows_apart(preset("bert").replace(layers=3), 32)
    assert apart["q"] < 1e-9 and apart["cosine"] < 2e-3 and apart["gradient"] < 1e-2 and apart["weights"] < 0.06, apart


@pytest.mark.parametrize("phi", [Relu(), Gelu()])
def test_a_gap_keeps_its_digits_as_it_vanishes(phi):
    moments = CarriedMoments(phi)
    v = sp.Symbol("v", positive=True)
    for gap in (0.9, 1e-3, 1e-12, 1e-30, 1e-300):
        exact = sp.N(phi.gap(sp.S.Zero, v, sp.Float(gap, 80)).subs(v, sp.Rational(3, 2)), 60)
        assert moments.gap(0, 1.5, gap) == pytest.approx(float(exact), rel=1e-9), gap
    assert moments.gap(0, 1.5, 0.0) == 0


def test_collapse_goes_on_below_the_digits_of_q():
    found = audit(small("bert", layers=100, **MIXING), tokens=8, state="exchangeable", cosine=0.99)
    gaps = [row.gap for row in found.rows]
    ratios = [later / earlier for earlier, later in pairwise(gaps)]
    assert max(ratios) < 1 and 0 < gaps[-1] < 1e-20
    ratios = ratios[-9:]
    assert ratios == pytest.approx([ratios[0]] * 9, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [("bert", {}, None), ("gpt2", {}, "causal"), ("vit", {}, "class token"), ("deepnet", {}, "sinusoidal"),
     ("bert", {"query": 1.0, "key": 1.0}, "logits deviate"), ("bert", {"key": 0.0}, "vanish")],
)  # fmt: skip
def test_the_state_is_chosen_and_the_reason_said(name, changes, reason):
    found = audit(small(name, **changes), tokens=4)
    assert found.state == ("exchangeable" if reason is None else "gram")
    assert reason is None or reason in found.reason
    shown = " ".join(text(found).split())
    assert found.state in shown and found.reason in shown


def test_repeated_words_and_padding_need_the_gram_matrix():
    model = small("bert")
    assert "repeated" in audit(model, words=np.array([1, 2, 1])).reason
    assert "padding" in audit(model, tokens=4, padding=1).reason


def test_what_the_fast_state_costs_a_causal_model_is_measured():
    model = small("gpt2")
    found = audit(model, tokens=12, state="exchangeable")
    full = audit(model, tokens=12, state="gram")
    cost = max(abs(a.q / b.q - 1) for a, b in zip(found.rows, full.rows, strict=True))
    assert f"by up to {cost:.2g} in E x^2" in found.reason


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_padding_changes_nothing_where_nobody_sees_it(name):
    model = small(name)
    alone, padded = audit(model, tokens=5, state="gram"), audit(model, tokens=9, padding=4)
    for one, other in zip(alone.rows, padded.rows, strict=True):
        assert (one.q, one.cosine, one.gradient) == pytest.approx((other.q, other.cosine, other.gradient), rel=2e-3)


@pytest.mark.parametrize("state", STATES[1:])
def test_a_single_token(state):
    rows = audit(small("bert"), tokens=1, state=state).rows
    assert all(row.gap == 0 and row.q > 0 and row.gradient > 0 for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tokens": 0}, "tokens"), ({"tokens": 10**6}, "tokens"), ({"padding": 4}, "padding"), ({"padding": -1}, "padding"),
     ({"state": "gramm"}, "unknown state"), ({"growth": 1.0}, "growth"), ({"cosine": 1.0}, "cosine")],
)  # fmt: skip
def test_an_audit_out_of_range(options, message):
    with pytest.raises(SympropError, match=message):
        audit(small("bert"), **{"tokens": 4} | options)


def test_the_skip_of_a_parallel_block_is_scaled():
    # Norms before both branches fix what they read, so that a layer adds the same to a stream of any size.
    rows = {skip: run(small("gpt_neox", epsilon=0.0, layers=3, skip_scale=skip), np.arange(4)).streams for skip in (1.0, 0.5)}
    start, added = rows[1.0][0].q, rows[1.0][1].q - rows[1.0][0].q
    assert rows[0.5][1].q == pytest.approx(start / 4 + added, rel=1e-9)
    whole = audit(small("bert", order="parallel", skip_scale=0.5), tokens=4, state="exchangeable").rows
    assert whole[1].q == pytest.approx(audit(small("bert", order="parallel"), tokens=4).rows[1].q - 0.75 * whole[0].q)
