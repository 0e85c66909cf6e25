"""Published architectures with their initialisation, each with its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy as sp

from symprop.architectures.description import Architecture
from symprop.architectures.entries import BUNDLED
from symprop.core.errors import UnknownNameError
from symprop.core.provenance import Source
from symprop.core.symbols import L, d, d_F, d_k, heads

_DENSE = ("query", "key", "value", "output", "up", "down")


def absolute(variance: Any, *more: str) -> dict[str, Any]:
    """One absolute variance for every matrix of the blocks, and for the fields named besides."""
    return dict.fromkeys((*_DENSE, *more), sp.sympify(variance))


def _square(std: str) -> sp.Rational:
    return sp.Rational(std) ** 2


STD2 = _square("0.02")


def _glorot(fan_in: Any, fan_out: Any) -> Any:
    return sp.Integer(2) / (fan_in + fan_out)


def _transformer() -> Architecture:
    # Glorot's uniform rule on every matrix; embeddings of variance 1/d times sqrt(d), and sinusoids.
    square, wide = _glorot(d, d_k * heads), _glorot(d, d_F)
    return Architecture(
        "transformer", Source("vaswani2017", "Section 3"), 6, 512, 8, 2048, 37000, order="post", activation="relu",
        causal=False, final_norm=False, positions="sinusoidal", token=1, query=square, key=square, value=square,
        output=square, up=wide, down=wide, head=1 / d,
    )  # fmt: skip


def _gpt2() -> Architecture:
    return Architecture(
        "gpt2", Source("radford2019", "Section 2.3"), 12, 768, 12, 3072, 50257, activation="gelu_tanh",
        **absolute(STD2, "token", "position", "head") | {"output": STD2 / (2 * L), "down": STD2 / (2 * L)},
    )  # fmt: skip


def _bert() -> Architecture:
    return Architecture(
        "bert", Source("devlin2019", "Appendix A.2"), 12, 768, 12, 3072, 30522, order="post", epsilon=1e-12, causal=False,
        embedding_norm=True, final_norm=False, **absolute(STD2, "token", "position", "segment"),
    )  # fmt: skip


def _llama() -> Architecture:
    return Architecture(
        "llama", Source("touvron2023", "Section 2.2"), 32, 4096, 32, 11008, 32000, norm="rms", epsilon=1e-6,
        activation="silu", gated=True, positions="rotary", rotated=128, **absolute(STD2, "token", "gate", "head"),
    )  # fmt: skip


def _neox() -> Architecture:
    return Architecture(
        "gpt_neox", Source("black2022", "Section 2"), 44, 6144, 64, 24576, 50432, order="parallel", positions="rotary",
        rotated=24, **absolute(STD2, "token", "head"),
    )  # fmt: skip


def _gptj() -> Architecture:
    return Architecture(
        "gptj", Source("wang2021", "mesh-transformer-jax"), 28, 4096, 16, 16384, 50400, order="parallel",
        activation="gelu_tanh", positions="rotary", rotated=64, **absolute(STD2, "token", "head"),
    )  # fmt: skip


def _vit() -> Architecture:
    # A patch of 16 x 16 x 3 independent pixels of unit variance; the class token and the positions have the same std.
    return Architecture(
        "vit", Source("dosovitskiy2021", "Section 3.1"), 12, 768, 12, 3072, 1000, epsilon=1e-12, causal=False,
        class_token=STD2, **absolute(STD2, "position") | {"token": 768 * STD2},
    )  # fmt: skip


def _t5() -> Architecture:
    return Architecture(
        "t5", Source("raffel2020", "Section 2.1, encoder alone"), 12, 768, 12, 3072, 32128, norm="rms", epsilon=1e-6,
        activation="relu", causal=False, positions="none", temperature=sp.sqrt(d_k), token=1, query=1 / (d * d_k), key=1 / d,
        value=1 / d, output=1 / (heads * d_k), up=1 / d, down=1 / d_F,
    )  # fmt: skip


def _decoder(encoder: Callable[[], Architecture]) -> Architecture:
    model = encoder()
    source = Source(model.source.key, model.source.where.partition(",")[0])
    return model.replace(name=f"{model.name}_decoder", source=source, causal=True, cross=True)


def _deepnet() -> Architecture:
    # An encoder: the stream is scaled by (2L)^(1/4), values, outputs and feed-forward weights by (8L)^(-1/4).
    beta2 = (8 * L) ** sp.Rational(-1, 2)
    square, wide = _glorot(d, d), _glorot(d, d_F)
    return Architecture(
        "deepnet", Source("wang2022", "Figure 2"), 200, 512, 8, 2048, 32000, order="post", activation="relu", causal=False,
        final_norm=False, skip_scale=(2 * L) ** sp.Rational(1, 4), token=1, query=square, key=square,
        value=beta2 * square, output=beta2 * square, up=beta2 * wide, down=beta2 * wide, head=1 / d,
        positions="sinusoidal",
    )  # fmt: skip


def _peri() -> Architecture:
    return Architecture(
        "peri_ln", Source("kim2025", "Section 3"), 24, 1024, 16, 4096, 50257, order="peri", norm="rms", activation="silu",
        gated=True, positions="rotary", rotated=64, **absolute(STD2, "token", "gate", "head"),
    )  # fmt: skip


def _layer_scale() -> Architecture:
    # CaiT-S24: the gain of every residual branch starts at 1e-5 from 24 layers on.
    return Architecture(
        "layer_scale", Source("touvron2021", "Section 2.1"), 24, 384, 8, 1536, 1000, epsilon=1e-6, causal=False,
        branch_scale=sp.Rational(1, 10**5), **absolute(STD2, "position") | {"token": 768 * STD2},
    )  # fmt: skip


def _rezero() -> Architecture:
    square, wide = _glorot(d, d), _glorot(d, d_F)
    return Architecture(
        "rezero", Source("bachlechner2020", "Eq. 2"), 12, 512, 8, 2048, 32000, order="none", activation="relu",
        causal=False, final_norm=False, branch_scale=0, positions="sinusoidal", token=1, query=square, key=square,
        value=square, output=square, up=wide, down=wide, head=1 / d,
    )  # fmt: skip


def _mup() -> Architecture:
    # Hidden weights 1/fan-in, logits over d_k instead of its root, and a readout of variance 1/d^2.
    return Architecture(
        "mup", Source("yang2022", "Table 3"), 12, 768, 12, 3072, 50257, temperature=1 / sp.sqrt(d_k), token=1, position=1,
        query=1 / d, key=1 / d, value=1 / d, output=1 / (heads * d_k), up=1 / d, down=1 / d_F, head=1 / d**2,
    )  # fmt: skip


PRESETS: Mapping[str, Callable[[], Architecture]] = dict(zip(
    BUNDLED,
    (_transformer, _gpt2, _bert, _llama, _neox, _gptj, _vit, _t5, _deepnet, _peri, _layer_scale, _rezero, _mup,
     lambda: _decoder(_transformer), lambda: _decoder(_t5)),
    strict=True,
))  # fmt: skip


def preset(name: str) -> Architecture:
    """The bundled architecture of that name; :class:`UnknownNameError` otherwise.

    >>> preset("bert").order
    'post'
    """
    if name not in PRESETS:
        raise UnknownNameError("architecture", name, PRESETS)
    return PRESETS[name]()
