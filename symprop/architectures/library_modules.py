"""Modules of a layer of the transformers library, with the weight matrices that each holds one after the other, by family."""

from __future__ import annotations

BERT = {
    "attention.self.query": ("query",), "attention.self.key": ("key",), "attention.self.value": ("value",),
    "attention.output.dense": ("output",), "intermediate.dense": ("up",), "output.dense": ("down",),
}  # fmt: skip
GPT2 = {
    "attn.c_attn": ("query", "key", "value"), "attn.c_proj": ("output",), "mlp.c_fc": ("up",), "mlp.c_proj": ("down",),
}  # fmt: skip
GPT_NEOX = {
    "attention.query_key_value": ("query", "key", "value"), "attention.dense": ("output",), "mlp.dense_h_to_4h": ("up",),
    "mlp.dense_4h_to_h": ("down",),
}  # fmt: skip
GPTJ = {
    "attn.q_proj": ("query",), "attn.k_proj": ("key",), "attn.v_proj": ("value",), "attn.out_proj": ("output",),
    "mlp.fc_in": ("up",), "mlp.fc_out": ("down",),
}  # fmt: skip
LLAMA = {
    "self_attn.q_proj": ("query",), "self_attn.k_proj": ("key",), "self_attn.v_proj": ("value",),
    "self_attn.o_proj": ("output",), "mlp.gate_proj": ("gate",), "mlp.up_proj": ("up",), "mlp.down_proj": ("down",),
}  # fmt: skip
T5_ATTENTION = {
    "layer.0.SelfAttention.q": ("query",), "layer.0.SelfAttention.k": ("key",), "layer.0.SelfAttention.v": ("value",),
    "layer.0.SelfAttention.o": ("output",),
}  # fmt: skip
