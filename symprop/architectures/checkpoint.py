"""A trained model against the theory of its initialisation: measured weights and what the theory makes of them.

Gains and biases enter by their mean squares: the gain of a norm multiplies, its bias adds a vector that all tokens share.
What the theory assumes besides, independent entries, is measured beside: tails by the kurtosis, structure by the top singular
value over that of independent entries of the same variance, :math:`\\sigma (\\sqrt m + \\sqrt n)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy as sp

from symprop.architectures.audit import VALID_LOGITS, LayerRow, layer_rows
from symprop.architectures.description import Architecture
from symprop.architectures.exchangeable import mean_moments
from symprop.architectures.library_modules import BERT, GPT2, GPT_NEOX, GPTJ, LLAMA, T5_ATTENTION
from symprop.architectures.readers import load
from symprop.architectures.signal import WEIGHTS, Course, Layers, ModelPass, Words, embed, run
from symprop.architectures.tensor_file import TensorFiles
from symprop.components import LayerNorm, Linear, RMSNorm
from symprop.core.display import counted
from symprop.core.errors import InputError, MissingExtraError
from symprop.network import Block, Parallel, Residual, Sequential, named, sequential, token_input, trace_of
from symprop.network.builders import Named

Array = npt.NDArray[np.float64]

POWER_STEPS = 60
"""Steps of the power iteration for a top singular value, which it finds to about 1% where the spectrum has an edge."""
STRUCTURED, HEAVY = 1.2, 1.0
"""Top singular value over the edge, and excess kurtosis, from which a matrix does not count as independent Gaussian."""
Q_HOLDS, COSINE_HOLDS = 0.2, 0.1
"""Relative error of E x^2 and error of the cosine up to which the theory is said to hold for a real forward pass."""
PREFIX = re.compile(r"(?:(?:transformer|model|bert|roberta|gpt_neox|vit)\.)*")


@dataclass(frozen=True)
class Layout:
    """Where a family of models keeps its weights: modules of a layer with the matrices that they hold, its two norms, and the
    embeddings. ``{}`` is the number of a layer. ``transposed`` says that a weight has the shape (in, out); ``by_head`` that
    several matrices in one module alternate head by head."""

    matrices: Mapping[str, tuple[str, ...]]
    norms: tuple[str, str]
    embeddings: Mapping[str, str]
    embedding_norm: str | None = None
    transposed: bool = False
    by_head: bool = False


def _at(block: str, modules: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"{block}.{module}": roles for module, roles in modules.items()}


_BERT = Layout(
    _at("encoder.layer.{}", BERT),
    ("encoder.layer.{}.attention.output.LayerNorm", "encoder.layer.{}.output.LayerNorm"),
    {"token": "embeddings.word_embeddings.weight", "position": "embeddings.position_embeddings.weight",
     "segment": "embeddings.token_type_embeddings.weight"},
    "embeddings.LayerNorm",
)  # fmt: skip
_LLAMA = Layout(
    _at("layers.{}", LLAMA), ("layers.{}.input_layernorm", "layers.{}.post_attention_layernorm"),
    {"token": "embed_tokens.weight"},
)  # fmt: skip
LAYOUTS: Mapping[str, Layout] = {
    "gpt2": Layout(
        _at("h.{}", GPT2), ("h.{}.ln_1", "h.{}.ln_2"), {"token": "wte.weight", "position": "wpe.weight"}, transposed=True,
    ),
    "bert": _BERT, "roberta": _BERT, "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA,
    "gpt_neox": Layout(
        _at("layers.{}", GPT_NEOX), ("layers.{}.input_layernorm", "layers.{}.post_attention_layernorm"),
        {"token": "embed_in.weight"}, by_head=True,
    ),
    "gptj": Layout(_at("h.{}", GPTJ), ("h.{}.ln_1", "h.{}.ln_1"), {"token": "wte.weight"}),
    "vit": Layout(
        _at("encoder.layer.{}", {
            name.replace("attention.self", "attention.attention"): roles for name, roles in BERT.items()
        }),
        ("encoder.layer.{}.layernorm_before", "encoder.layer.{}.layernorm_after"),
        {"token": "embeddings.patch_embeddings.projection.weight", "position": "embeddings.position_embeddings",
         "class_token": "embeddings.cls_token"},
    ),
    "t5": Layout(
        _at("encoder.block.{}", {
            **T5_ATTENTION, "layer.1.DenseReluDense.wi": ("up",), "layer.1.DenseReluDense.wi_0": ("gate",),
            "layer.1.DenseReluDense.wi_1": ("up",), "layer.1.DenseReluDense.wo": ("down",),
        }),
        ("encoder.block.{}.layer.0.layer_norm", "encoder.block.{}.layer.1.layer_norm"), {"token": "shared.weight"},
    ),
}  # fmt: skip
"""By the name of an architecture that was read from a config."""


@dataclass(frozen=True)
class Matrix:
    """One weight matrix: ``second`` = mean square of its entries beside ``assumed``, the variance at initialisation;
    ``mean_share`` the part of it that is the mean, ``kurtosis`` the excess one, ``edge`` the top singular value over
    that of independent entries, and ``bias`` the mean square of its bias."""

    layer: int
    name: str
    assumed: float
    second: float
    mean_share: float
    kurtosis: float
    edge: float
    bias: float

    @property
    def ratio(self) -> float:
        """Measured over assumed; infinite where nothing was assumed."""
        return self.second / self.assumed if self.assumed > 0 else np.inf


@dataclass(frozen=True)
class NormGain:
    """Mean squares of the gain and of the bias of a norm."""

    gain2: float
    bias: float


@dataclass(frozen=True)
class Contrast:
    """A checkpoint against its initialisation.

    ``initial`` and ``trained`` are the layers in theory, with assumed and with measured moments, both for unit cotangents;
    ``real`` is (E x^2, cosine) of every stream that the library returns, None where it was not asked.
    """

    architecture: Architecture
    tokens: int
    matrices: tuple[Matrix, ...]
    norms: tuple[tuple[NormGain, NormGain], ...]
    initial: tuple[LayerRow, ...]
    trained: tuple[LayerRow, ...]
    real: tuple[tuple[float, float], ...] | None
    verdict: tuple[str, ...]


def contrast(folder: Path, files: tuple[Path, ...], words: Words, *, forward: bool = False) -> Contrast:
    """Compare the weights in ``files`` with what ``config.json`` in the folder says of their initialisation.

    ``words`` of shape (tokens,) are read by both theories, and with ``forward`` by the model itself as the transformers
    library runs it. Raises :class:`InputError` for files that do not fit the config, :class:`MissingExtraError` without
    safetensors, and with ``forward`` without transformers.
    """
    architecture = load(str(folder / "config.json"))
    if architecture.name not in LAYOUTS:
        raise InputError("checkpoint", architecture.name, f"a model of type {', '.join(LAYOUTS)}")
    weights = _Weights(architecture, TensorFiles(files))
    initial = _initial(architecture, words)
    trained = _trained(weights, words)
    real = library_streams(folder, words) if forward else None
    return Contrast(
        architecture, len(words), weights.matrices, weights.norms, initial, trained, real,
        tuple(_verdict(weights, initial, trained, real)),
    )


class _Weights:
    """The measured moments of a checkpoint."""

    def __init__(self, architecture: Architecture, files: TensorFiles) -> None:
        self.architecture, self._files = architecture, files
        self._layout = LAYOUTS[architecture.name]
        self._names = {PREFIX.sub("", name, count=1): name for name in files.entries}
        found: list[Matrix] = []
        norms = []
        for layer in range(architecture.layers):
            found += self._layer(layer)
            attention, feed_forward = (self._norm(name.format(layer)) for name in self._layout.norms)
            norms.append((attention, feed_forward))
        self.matrices, self.norms = tuple(found), tuple(norms)
        name = self._layout.embedding_norm
        self.embedding_norm = NormGain(1.0, 0.0) if name is None else self._norm(name)

    def _read(self, name: str) -> Array:
        if name not in self._names:
            raise InputError("checkpoint", f"no tensor {name}", "every weight of the model that config.json describes")
        return self._files.read(self._names[name])

    def _mean_square(self, name: str) -> float:
        return float((self._read(name) ** 2).mean()) if name in self._names else 0.0

    def _norm(self, module: str) -> NormGain:
        return NormGain(float((self._read(f"{module}.weight") ** 2).mean()), self._mean_square(f"{module}.bias"))

    def _layer(self, layer: int) -> Iterator[Matrix]:
        for module, roles in self._layout.matrices.items():
            name = module.format(layer)
            if set(roles) == {"gate"} and not self.architecture.gated:
                continue
            if self.architecture.name == "t5" and roles == ("up",) and name.endswith("wi") == self.architecture.gated:
                continue
            weight = self._read(f"{name}.weight")
            if self._layout.transposed:
                weight = weight.T
            bias = self._read(f"{name}.bias") if f"{name}.bias" in self._names else np.zeros(len(weight))
            for role, part, shift in zip(roles, self._parts(weight, len(roles)), self._parts(bias, len(roles)), strict=True):
                yield self._measured(layer, role, part, shift)

    def _parts(self, weight: Array, count: int) -> list[Array]:
        if count == 1:
            return [weight]
        if len(weight) % (count * self.architecture.heads):
            raise InputError("checkpoint", f"a matrix of {len(weight)} rows", f"{count} matrices for each of the heads in one")
        if not self._layout.by_head:
            return list(np.split(weight, count))
        rows = weight.reshape(self.architecture.heads, count, -1, *weight.shape[1:])
        return [rows[:, index].reshape(-1, *weight.shape[1:]) for index in range(count)]

    def _measured(self, layer: int, role: str, weight: Array, bias: Array) -> Matrix:
        model = self.architecture
        fan_in = {"output": model.heads * model.key_width, "down": model.hidden}.get(role, model.width)
        if weight.ndim != 2 or weight.shape[1] != fan_in or 0 in weight.shape:
            raise InputError(
                f"{role} weights of layer {layer}", f"shape {weight.shape}", f"{fan_in} inputs, as config.json says"
            )
        second, mean = float((weight**2).mean()), float(weight.mean())
        deviation2 = float(weight.var())
        kurtosis = float(((weight - mean) ** 4).mean()) / deviation2**2 - 3 if deviation2 > 0 else 0.0
        edge = np.sqrt(second) * (np.sqrt(weight.shape[0]) + np.sqrt(weight.shape[1]))
        return Matrix(
            layer, role, model.number(role), second, mean**2 / second if second > 0 else 0.0, kurtosis,
            top_singular(weight) / float(edge) if second > 0 else 0.0, float((bias**2).mean()),
        )

    def embedded(self) -> Architecture:
        """The architecture with the measured variances of its embeddings."""
        found: dict[str, float] = {}
        for role, name in self._layout.embeddings.items():
            tensor = self._read(name)
            # A patch is read by all weights of its filter.
            found[role] = float((tensor**2).mean()) * (float(np.prod(tensor.shape[1:])) if tensor.ndim == 4 else 1.0)
        return self.architecture.replace(**found)


def top_singular(weight: Array) -> float:
    """The largest singular value of a matrix, from below, by the power method.

    >>> round(top_singular(np.diag([3.0, 1.0])), 9)
    3.0
    """
    vector: Any = np.random.default_rng(0).standard_normal(weight.shape[1])
    square = 0.0
    for _ in range(POWER_STEPS):
        vector = weight.T @ (weight @ (vector / np.linalg.norm(vector)))
        square = math.sqrt(float((vector**2).sum()))
        if square == 0:
            break
    return math.sqrt(square)


def _initial(architecture: Architecture, words: Words) -> tuple[LayerRow, ...]:
    model = run(architecture, words)
    return layer_rows(model, model.unit_gradient())


def _trained(weights: _Weights, words: Words) -> tuple[LayerRow, ...]:
    embedded = weights.embedded()
    seen = run(embedded.replace(layers=1), words).pattern
    signal = embed(embedded, words, seen)
    if embedded.embedding_norm:
        gain = weights.embedding_norm
        signal = replace(signal, gram=gain.gain2 * signal.gram + gain.bias)
    start = token_input(sp.Integer(len(words)), sp.Integer(embedded.width), gaussian=True)
    traces = [trace_of(_trained_block(weights, layer), start) for layer in range(embedded.layers)]
    model = ModelPass(embedded, seen, Layers(Course(traces, signal, seen)))
    return layer_rows(model, model.unit_gradient())


def _trained_block(weights: _Weights, layer: int) -> Block:
    own = {item.name: item for item in weights.matrices if item.layer == layer}
    model = weights.architecture.replace(**{name: item.second for name, item in own.items()})
    gains = iter(weights.norms[layer])

    def shared(variance: float, width: Any) -> Block:
        """A vector that is added to all tokens; the rotation before it changes no Gram matrix."""
        return named(Linear(width, 1 / sp.sympify(width), sp.Float(variance, 17)), "B")

    def dressed(block: Block) -> Block:
        if isinstance(block, Sequential):
            return Sequential(tuple(dressed(item) for item in block.blocks))
        if isinstance(block, Residual):
            return Residual(dressed(block.branch), block.sum)
        if isinstance(block, Parallel):
            return Parallel(tuple(dressed(item) for item in block.branches), block.sums, dressed(block.before))
        if isinstance(block, Named) and WEIGHTS.get(block.label) in own and isinstance(block.block, Linear):
            bias = own[WEIGHTS[block.label]].bias
            return Named(replace(block.block, bias_variance=sp.Float(bias, 17)), block.label)
        if isinstance(block, Named) and block.label == "S" and own["value"].bias > 0:
            return sequential(block, shared(own["value"].bias, model.heads * model.key_width))
        if isinstance(block, LayerNorm | RMSNorm):
            gain = next(gains)
            scaled: Block = replace(block, gain2=sp.Float(gain.gain2, 17))
            return sequential(scaled, shared(gain.bias, model.width)) if gain.bias > 0 else scaled
        return block

    return dressed(model.block(called=True))


def library_streams(folder: Path, words: Words) -> tuple[tuple[float, float], ...]:
    """E x^2 and cosine of two tokens before every layer and after the last, of the model that the transformers library loads
    from the folder.

    Nothing is downloaded, and no code from the folder is run.
    """
    try:
        import torch
        import transformers
    except ImportError as missing:
        raise MissingExtraError("real forward passes", "hf") from missing
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        ).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError("checkpoint", folder, f"a model that transformers loads ({type(error).__name__})") from None
    if model.main_input_name != "input_ids":
        raise InputError("forward", model.config.model_type, "a model that reads words")
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    count = model.config.num_hidden_layers
    layers = next(item for item in model.modules() if isinstance(item, torch.nn.ModuleList) and len(item) == count)
    last: list[Any] = []
    layers[-1].register_forward_hook(lambda _, __, output: last.append(output[0] if isinstance(output, tuple) else output))
    with torch.no_grad():
        states = model(input_ids=torch.as_tensor(words)[None], output_hidden_states=True).hidden_states
    found = []
    # The library returns the last stream after the final norm.
    for state in (*states[:-1], *last):
        x = state[0].double().numpy()
        moments = mean_moments(x @ x.T / x.shape[1])
        found.append((moments.q, moments.cosine))
    return tuple(found)


def _verdict(
    weights: _Weights, initial: tuple[LayerRow, ...], trained: tuple[LayerRow, ...],
    real: tuple[tuple[float, float], ...] | None,
) -> Iterator[str]:
    furthest = max(weights.matrices, key=lambda item: abs(np.log(item.ratio)) if 0 < item.ratio < np.inf else 0.0)
    yield (
        f"Training moved variances furthest in the {furthest.name} weights of layer {furthest.layer}, to"
        f" {furthest.ratio:.3g} times that of the initialisation."
    )
    structured = [item for item in weights.matrices if item.edge > STRUCTURED]
    top = max(weights.matrices, key=lambda item: item.edge)
    yield (
        f"{len(structured)} of {len(weights.matrices)} matrices have a singular value beyond {STRUCTURED} times the edge of"
        f" independent entries; the furthest is {top.edge:.3g} times ({top.name}, layer {top.layer})."
    )
    heavy = [item for item in weights.matrices if item.kurtosis > HEAVY]
    tail = max(weights.matrices, key=lambda item: item.kurtosis)
    yield (
        f"{len(heavy)} matrices have an excess kurtosis above {HEAVY:g}; the largest is {tail.kurtosis:.3g}"
        f" ({tail.name}, layer {tail.layer})."
    )
    yield (
        f"With measured variances the second moment of the output is {trained[-1].q:.3g} instead of {initial[-1].q:.3g}, the"
        f" token cosine {trained[-1].cosine:.3g} instead of {initial[-1].cosine:.3g}."
    )
    large = [row.layer for row in trained if (row.logit_deviation or 0) > VALID_LOGITS]
    if large:
        yield (
            f"Logits of independent weights would deviate by more than {VALID_LOGITS} in {counted(len(large), 'layer')},"
            f" first in layer {large[0]}: there attention is beyond its first order."
        )
    if real is not None:
        yield _against(trained, real)


def _against(trained: tuple[LayerRow, ...], real: tuple[tuple[float, float], ...]) -> str:
    pairs = list(zip(trained, real, strict=True))
    for row, (q, cosine) in pairs:
        if abs(row.q / q - 1) > Q_HOLDS or abs(row.cosine - cosine) > COSINE_HOLDS:
            by_size, (size, _) = max(pairs, key=lambda pair: abs(math.log(pair[0].q / pair[1][0])))
            by_angle, (_, angle) = max(pairs, key=lambda pair: abs(pair[0].cosine - pair[1][1]))
            return (
                f"A real forward pass leaves the theory with measured variances at layer {row.layer}: E x^2 is {q:.3g} where it"
                f" says {row.q:.3g}, the cosine {cosine:.3g} where it says {row.cosine:.3g} (allowed: {Q_HOLDS:.0%} and"
                f" {COSINE_HOLDS:g}). The furthest are E x^2 = {size:.3g} for {by_size.q:.3g} at layer {by_size.layer} and the"
                f" cosine {angle:.3g} for {by_angle.cosine:.3g} at layer {by_angle.layer}."
            )
    return f"A real forward pass agrees with the theory with measured variances in every stream ({len(trained)})."
