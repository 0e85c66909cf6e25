"""Architectures from presets and files, and their audit."""

import json
import math
import time

import numpy as np
import pytest

from symprop.architectures.audit import audit, gradient_growth
from symprop.architectures.description import Architecture
from symprop.architectures.presets import PRESETS, preset
from symprop.architectures.readers import MAX_BYTES, from_config, from_toml, load
from symprop.architectures.signal import embed, run
from symprop.auditing import data, formulas, overridden, text
from symprop.core.errors import InputError, RefusedError, SympropError
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
    ],
)  # fmt: skip
def test_configs(config, expected):
    model = from_config(json.dumps(config))
    assert {name: getattr(model, name) for name in expected} == expected


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


def _toml(expression):
    return f'[model]\nbase = "gpt2"\n[variances]\noutput = "{expression}"\n'


HOSTILE = [
    ("x.json", "[" * 200_000 + "]" * 200_000),
    ("x.json", '{"model_type": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001),
    ("x.json", "[1]"),
    ("x.json", " " * (MAX_BYTES + 1)),
    ("x.json", '{"model_type": "mamba"}'),
    ("x.json", '{"model_type": "gpt2", "n_embd": -768}'),
    ("x.json", '{"model_type": "gpt2", "n_embd": true}'),
    ("x.json", '{"model_type": "gpt2", "n_embd": "__import__(\'os\')"}'),
    ("x.json", '{"model_type": "gpt2", "n_layer": 1' + "0" * 6000 + "}"),
    ("x.json", '{"model_type": "gpt2", "initializer_range": NaN}'),
    ("x.json", '{"model_type": "gpt2", "initializer_range": 1e200}'),
    ("x.json", '{"model_type": "gpt2", "layer_norm_epsilon": 1e999}'),
    ("x.json", '{"model_type": "llama", "num_attention_heads": 0}'),
    ("x.json", '{"model_type": "llama", "rope_scaling": {"rope_type": "yarn"}}'),
    ("x.json", '{"model_type": "gpt_neox", "rotary_pct": 7}'),
    ("x.json", '{"model_type": "vit", "patch_size": 1' + "0" * 200 + "}"),
    ("x.toml", "a = " + "[" * 50_000 + "]" * 50_000),
    ("x.toml", _toml("__import__('os').system('true')")),
    ("x.toml", _toml("V**V**V**V")),
    ("x.toml", _toml("exp(exp(V))")),
    ("x.toml", _toml("((((V**1000)**1000)**1000)**1000)**1000")),
    ("x.toml", _toml("9**9**9**9")),
    ("x.toml", _toml("-1")),
    ("x.toml", _toml("sqrt(d - 1000)")),
    ("x.toml", _toml("1/(d - 768)")),
    ("x.toml", '[model]\nbase = "gpt2"\nlayrs = 3\n'),
    ("x.toml", "[model]\nlayers = 3\n"),
    ("x.toml", '[model]\nlayers = "3"\n'),
    ("x.toml", "model = 3\n"),
    ("x.txt", "gpt2"),
]


@pytest.mark.parametrize(("name", "content"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_file_is_one_line_and_no_time(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    start = time.process_time()
    with pytest.raises(SympropError) as error:
        load(str(path))
    assert time.process_time() - start < 1
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(path))


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


def test_branches_of_scale_zero_leave_the_stream_alone():
    rows = audit(small("rezero"), tokens=5).rows
    assert rows[-1].q == rows[0].q and rows[-1].cosine == rows[0].cosine
    assert gradient_growth(rows) == 1


def test_a_repair_reaches_what_it_promises():
    wild = small("gpt2", layers=6, output=0.05, down=0.05)
    found = audit(wild, tokens=16, growth=4)
    (repair,) = [item for item in found.repairs if item.problem == "gradient growth"]
    repaired = audit(wild.replace(branch_scale=repair.factor), tokens=16, growth=4)
    assert gradient_growth(found.rows) > 4
    assert gradient_growth(repaired.rows) == pytest.approx(4, rel=1e-3)
    # Scaling a branch is scaling the matrices that end it.
    same = audit(wild.replace(output=0.05 * repair.factor**2, down=0.05 * repair.factor**2), tokens=16)
    assert gradient_growth(same.rows) == pytest.approx(4, rel=1e-3)


def test_collapse_is_said_with_its_layer_and_repaired():
    deep = small("bert", layers=8, **dict.fromkeys(("query", "key"), 0.0), value=1 / 64, output=1 / 64, up=4e-4, down=4e-4)
    found = audit(deep, tokens=16)
    layer = next(row.layer for row in found.rows if row.cosine >= 0.99)
    assert any(f"by layer {layer}" in sentence for sentence in found.verdict)
    (repair,) = [item for item in found.repairs if item.problem == "rank collapse"]
    repaired = audit(deep.replace(branch_scale=repair.factor), tokens=16)
    assert repaired.rows[-1].cosine == pytest.approx(0.9, abs=1e-3)


def test_large_logits_are_said_to_be_outside_the_theory():
    found = audit(small("t5", query=0.5, key=0.5), tokens=8)
    assert any("leaves the uniform pattern" in sentence for sentence in found.verdict)
    assert any(item.problem == "large logits" and item.factor < 1 for item in found.repairs)


def test_a_deep_and_wide_model_draws_no_weight():
    model = preset("gpt2").replace(layers=200, width=12288, heads=96, key_width=128, hidden=49152)
    start = time.process_time()
    audit(model, tokens=4, growth=1e9)
    assert time.process_time() - start < 20


def test_the_loss_gradient_needs_a_linear_readout_and_labels():
    with pytest.raises(RefusedError, match="not a linear layer"):
        run(small("bert"), np.arange(4)).loss_gradient(np.arange(4))
    with pytest.raises(InputError, match="labels"):
        run(small("gpt2"), np.arange(4)).loss_gradient(np.full(4, -1))


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
