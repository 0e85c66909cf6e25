"""Configs that the transformers library writes, read back; the variances it draws against those read."""

import json

import numpy as np
import pytest

from symprop.architectures.readers import READERS, from_config
from symprop.architectures.signal import run
from symprop.auditing import overridden

LIBRARY = {
    "gpt2": {"n_layer": 3, "n_embd": 96, "n_head": 6},
    "bert": {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 6},
    "roberta": {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 6},
    "llama": {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 6},
    "mistral": {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 8, "head_dim": 12},
    "qwen2": {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2},
    "gpt_neox": {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 6},
    "gptj": {"n_layer": 3, "n_embd": 96, "n_head": 6, "rotary_dim": 8},
    "vit": {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 6},
    "t5": {"num_layers": 3, "d_model": 96, "num_heads": 6, "d_kv": 16},
}
SHAPES = {
    "gpt2": ("h.0", {"attn.c_attn": "query", "attn.c_proj": "output", "mlp.c_fc": "up", "mlp.c_proj": "down"}, "wte"),
    "bert": ("encoder.layer.0", {"attention.self.query": "query", "attention.self.key": "key", "attention.self.value": "value",
             "attention.output.dense": "output", "intermediate.dense": "up", "output.dense": "down"},
             "embeddings.word_embeddings"),
    "llama": ("layers.0", {"self_attn.q_proj": "query", "self_attn.k_proj": "key", "self_attn.v_proj": "value",
              "self_attn.o_proj": "output", "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down"},
              "embed_tokens"),
    "gpt_neox": ("layers.0", {"attention.query_key_value": "query", "attention.dense": "output", "mlp.dense_h_to_4h": "up",
                 "mlp.dense_4h_to_h": "down"}, "embed_in"),
    "gptj": ("h.0", {"attn.q_proj": "query", "attn.k_proj": "key", "attn.v_proj": "value", "attn.out_proj": "output",
             "mlp.fc_in": "up", "mlp.fc_out": "down"}, "wte"),
    "t5": ("encoder.block.0", {"layer.0.SelfAttention.q": "query", "layer.0.SelfAttention.k": "key",
           "layer.0.SelfAttention.v": "value", "layer.0.SelfAttention.o": "output", "layer.1.DenseReluDense.wi": "up",
           "layer.1.DenseReluDense.wo": "down"}, "shared"),
}  # fmt: skip
SHAPES |= {"roberta": SHAPES["bert"], "mistral": SHAPES["llama"], "qwen2": SHAPES["llama"]}


def config_of(kind, **changes):
    import transformers

    return transformers.AutoConfig.for_model(kind, **LIBRARY[kind] | changes)


def test_every_reader_is_held_against_the_library():
    assert set(LIBRARY) == set(READERS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIBRARY)
@pytest.mark.parametrize("whole", [True, False])
def test_a_config_that_the_library_writes(kind, whole):
    config = config_of(kind)
    model = from_config(json.dumps(config.to_dict() if whole else config.to_diff_dict()))
    assert (model.layers, model.width, model.heads) == (3, 96, config.num_attention_heads)
    given = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
    assert model.key_width == (given or 96 // model.heads)
    if kind != "vit":
        assert model.vocabulary == config.vocab_size
    assert len(run(overridden(model, depth=1), np.arange(3)).streams) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIBRARY)
def test_defaults_of_a_config_are_those_of_the_library(kind):
    import transformers

    bare = from_config(json.dumps({"model_type": kind}))
    assert bare == from_config(json.dumps(transformers.AutoConfig.for_model(kind).to_dict()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_variances_are_those_that_the_library_draws(kind):
    import torch
    import transformers

    config = config_of(kind, vocab_size=500)
    torch.manual_seed(0)
    drawn = transformers.AutoModel.from_config(config)
    model = from_config(json.dumps(config.to_dict()))
    block, names, embedding = SHAPES[kind]
    for module, role in {**{f"{block}.{name}": role for name, role in names.items()}, embedding: "token"}.items():
        weight = drawn.get_submodule(module).weight.detach().double()
        # The mean square of N Gaussian weights has a relative standard error of sqrt(2/N).
        assert float((weight**2).mean()) == pytest.approx(model.number(role), rel=5 * (2 / weight.numel()) ** 0.5), module
