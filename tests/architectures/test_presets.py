"""Presets against the default configs of the transformers library, and against the weights that it draws."""

import json

import numpy as np
import pytest

from symprop.architectures.presets import preset
from symprop.architectures.readers import from_config
from symprop.architectures.verification import CASES, Setting, TorchDecoder

SETTING = Setting("small", layers=2, width=64, heads=4, std=0.03, tokens=16)
SIZES = ("layers", "width", "heads", "hidden", "vocabulary", "epsilon", "activation", "rotated", "order", "norm")
NAMES = {
    "layers": ("num_hidden_layers",), "width": ("hidden_size",), "heads": ("num_attention_heads",),
    "vocabulary": ("vocab_size",), "epsilon": ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama", "gpt_neox", "gptj", "vit"])
def test_sizes_and_variances_are_those_of_the_default_config(name):
    config = pytest.importorskip("transformers").AutoConfig.for_model(name)
    known, read = preset(name), from_config(json.dumps(config.to_dict(), default=str))
    for field, keys in NAMES.items():
        values = [getattr(config, key) for key in keys if hasattr(config, key)]
        assert not values or getattr(known, field) == values[0], field
    for field in (*SIZES, "token", "query", "key", "value", "output", "up", "gate", "down", "head", "causal", "final_norm"):
        assert getattr(known, field) == getattr(read, field), field


@pytest.mark.parametrize("name", CASES)
def test_variances_are_those_of_drawn_weights(name):
    """Per matrix; the sum of N squares of normal entries has the relative standard error sqrt(2/N)."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("transformers")
    case = CASES[name]
    theory = case.architecture(SETTING)
    torch.manual_seed(0)
    model = case.drawn(SETTING, torch, library)
    for block in model.get_submodule(case.blocks):
        for path, names in case.weights.items():
            whole = block.get_parameter(path).detach().double().numpy()
            for matrix, drawn in zip(names, np.split(whole, len(names), axis=-1 if case.inputs_first else 0), strict=True):
                expected = theory.number(matrix.removeprefix("cross_"))
                assert np.mean(drawn**2) == pytest.approx(expected, rel=4.5 * np.sqrt(2 / drawn.size)), matrix
        constants = {key: value.unique().tolist() for key, value in block.named_parameters() if value.ndim == 1}
        # torch draws biases of the feed-forward layer.
        known = {key for key in constants if name != "torch_decoder" or not key.startswith("linear")}
        assert all(constants[key] == ([0.0] if key.endswith("bias") else [1.0]) for key in known)
    if isinstance(case, TorchDecoder):
        return
    words = model.get_input_embeddings().weight if name != "vit" else model.embeddings.cls_token
    variance = theory.number("class_token" if name == "vit" else "token")
    # The row of the padding token is zero where there is one.
    assert float((words.detach().double() ** 2).mean()) == pytest.approx(variance, rel=4.5 * np.sqrt(2 / words.numel()) + 1e-3)


def test_rules_of_models_that_the_library_does_not_have():
    """Published rules at width 512, 6 layers: Glorot's 2/(fan_in + fan_out), DeepNet's encoder, muP's readout."""
    glorot = preset("transformer")
    assert glorot.number("query") == pytest.approx(2 / (512 + 512))
    assert glorot.number("up") == glorot.number("down") == pytest.approx(2 / (512 + 2048))
    deep = preset("deepnet").replace(layers=50)
    assert deep.number("skip_scale") == pytest.approx(100**0.25)
    assert deep.number("value") / deep.number("query") == pytest.approx(400**-0.5)
    mup = preset("mup")
    assert mup.number("head") == pytest.approx(1 / 768**2)
    assert mup.number("temperature") == pytest.approx(64**-0.5)
    assert preset("rezero").number("branch_scale") == 0
