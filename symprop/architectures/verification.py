"""Architectures against randomly initialised models of the transformers library: nothing is downloaded."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from symprop.architectures.description import Architecture
from symprop.architectures.library_modules import BERT, GPT2, GPT_NEOX, GPTJ, LLAMA, T5_ATTENTION
from symprop.architectures.presets import preset
from symprop.architectures.readers import from_config
from symprop.architectures.signal import rotary_of, run
from symprop.core.display import aligned
from symprop.core.errors import MissingExtraError
from symprop.core.progress import Progress
from symprop.core.symbols import d
from symprop.network.gram import EVERYTHING, Closure, GramGradient
from symprop.network.gram_attention import pattern

Array = npt.NDArray[np.float64]
Words = npt.NDArray[np.int64]
MARGIN = 2.5
"""A quantity agrees within its tolerance and this many standard errors."""


@dataclass(frozen=True)
class Tolerance:
    """Allowed error: relative for a moment, absolute for a correlation."""

    q: float
    rho: float
    gradient: float
    gradient_rho: float
    weights: float
    query_key: float
    place: tuple[float, float] = (0.03, 0.05)
    """At single positions, for the second moment of the stream and of the gradient."""

    def of(self, quantity: str) -> float:
        """The tolerance of a quantity by its name."""
        if quantity in GROUPS["Q,K"]:
            return self.query_key
        if " at " in quantity:
            return max(self.of(quantity.partition(" at ")[0]), self.place[quantity.startswith("gradient")])
        names = {"q": self.q, "rho": self.rho, "gradient": self.gradient, "gradient_rho": self.gradient_rho}
        return names.get(quantity, self.weights)


VOCABULARY, PATCH = 4000, 16
_USUAL = {"layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads", "hidden": "intermediate_size"}
_BRIEF = {"layers": "n_layer", "width": "n_embd", "heads": "n_head"}


GROUPS: Mapping[str, tuple[str, ...]] = {
    "q": ("q",), "rho": ("rho",), "gradient": ("gradient",), "gradient_rho": ("gradient_rho",),
    "V,O,FFN": ("value", "output", "cross_value", "cross_output", "up", "gate", "down"),
    "Q,K": ("query", "key", "cross_query", "cross_key"),
}  # fmt: skip
"""Columns of a table: moments, and the weight matrices that share one."""


@dataclass(frozen=True)
class Setting:
    """Sizes of the models, the tokens they read, and the number of weight draws.

    ``std`` is the library's ``initializer_range``; ``repeated`` draws words by Zipf's law. The last ``padding`` of the
    ``tokens`` are seen by nobody, and compared with nothing.
    """

    name: str
    layers: int = 12
    width: int = 256
    heads: int = 4
    std: float = 0.02 * 3**0.5
    tokens: int = 64
    rows: int = 2
    seeds: int = 16
    repeated: bool = False
    padding: int = 0

    @property
    def real(self) -> int:
        """Tokens of a row that are no padding."""
        return self.tokens - self.padding


@dataclass(frozen=True)
class Case:
    """A library model to draw: its class, the names of its sizes in a config, and where its parts are."""

    name: str
    library_class: str
    tolerance: Tolerance
    blocks: str
    weights: Mapping[str, tuple[str, ...]]
    """Parameter name inside a block, and the matrices it holds one after the other."""
    sizes: Mapping[str, str] = field(default_factory=lambda: _USUAL)
    """Names of layers, width, heads, hidden and key_width in the config, where it has them."""
    grouped: bool = False
    """Whether two query heads share a key head."""
    causal: bool = False
    by_head: bool = False
    """Whether a matrix that holds several has those of one head after those of another."""
    inputs_first: bool = False
    """Whether a matrix has a row for every input, so that those it holds are side by side."""
    decoder_of: str = ""
    """The model type whose decoder is compared, the encoder reading the same words; none for a single sequence."""

    @property
    def model(self) -> str:
        """The ``model_type`` of the config."""
        return self.decoder_of or self.name

    @property
    def pads(self) -> bool:
        """Whether padding at the end reaches tokens before it."""
        return self.name != "vit" and (not self.causal or bool(self.decoder_of))

    def architecture(self, setting: Setting) -> Architecture:
        """The model in theory."""
        found = from_config(json.dumps({"model_type": self.model, **self.config(setting)}))
        return found.replace(name=self.name, cross=True, causal=True) if self.decoder_of else found

    def config(self, setting: Setting) -> dict[str, Any]:
        """The changes to the library's default config."""
        numbers = {"layers": setting.layers, "width": setting.width, "heads": setting.heads, "hidden": 4 * setting.width,
                   "key_width": setting.width // setting.heads}  # fmt: skip
        found: dict[str, Any] = {self.sizes[name]: value for name, value in numbers.items() if name in self.sizes}
        if self.grouped:
            found["num_key_value_heads"] = setting.heads // 2
        if self.name == "gptj":
            # A quarter of the coordinates of a head, as in the published model.
            found["rotary_dim"] = numbers["key_width"] // 4
        if self.model != "t5":
            found["initializer_range"] = setting.std
        if self.name == "vit":
            return found | {"image_size": PATCH * _side(setting.tokens), "patch_size": PATCH}
        # RoBERTa counts positions from its padding token, 1.
        places = {"max_position_embeddings": setting.tokens + 2} if self.sizes is _USUAL else {}
        return found | places | {"vocab_size": VOCABULARY}

    def drawn(self, setting: Setting, torch: Any, library: Any) -> Any:
        """A model at initialisation."""
        config = library.AutoConfig.for_model(self.model, **self.config(setting), attn_implementation="eager")
        return getattr(library, self.library_class)(config).eval()

    def read(self, words: Words, pixels: Array | None, setting: Setting, torch: Any) -> dict[str, Any]:
        """What a drawn model is called with."""
        if pixels is not None:
            return {"pixel_values": torch.as_tensor(pixels).float()}
        found = {"input_ids": torch.as_tensor(words)}
        if setting.padding:
            found["attention_mask"] = (torch.arange(setting.tokens) < setting.real).long().expand(len(words), -1)
        return found | {f"decoder_{name}": value for name, value in found.items()} if self.decoder_of else found

    def places(self, tokens: int) -> Mapping[str, slice]:
        """Tokens that are compared apart: the class token and the patches, or some positions of a causal model."""
        if self.name == "vit":
            return {"class": slice(0, 1), "patches": slice(1, None)}
        if not self.causal:
            return {}
        return {str(at): slice(at, at + 1) for at in sorted({0, 1, tokens // 4, tokens // 2, tokens - 1})}


@dataclass(frozen=True)
class TorchDecoder(Case):
    """torch's own ``nn.Transformer`` on embedded words, of which the decoder is compared.

    torch draws query, key and value as one matrix of 3d rows, of variance 1/(2d) by Glorot's rule, and biases of the
    feed-forward layer; so it is left if ``fused``. Otherwise each matrix follows the rule by itself, as the preset
    ``transformer_decoder`` says, and biases are zero.
    """

    fused: bool = False

    def architecture(self, setting: Setting) -> Architecture:
        found = preset("transformer_decoder").replace(
            name=self.name, layers=setting.layers, width=setting.width, heads=setting.heads, hidden=4 * setting.width,
            key_width=0,
        )  # fmt: skip
        return found.replace(**dict.fromkeys(("query", "key", "value"), 1 / (2 * d))) if self.fused else found

    def drawn(self, setting: Setting, torch: Any, library: Any) -> Any:
        nn = torch.nn
        model = nn.Transformer(
            setting.width, setting.heads, setting.layers, setting.layers, 4 * setting.width, dropout=0.0, batch_first=True
        )
        for name, value in () if self.fused else model.named_parameters():
            if name.endswith("in_proj_weight"):
                for part in value.detach().chunk(3):
                    nn.init.xavier_uniform_(part)
            elif name.endswith("bias"):
                nn.init.zeros_(value)
        return model

    def read(self, words: Words, pixels: Array | None, setting: Setting, torch: Any) -> dict[str, Any]:
        table = torch.randn(VOCABULARY, setting.width)
        places = torch.as_tensor(sinusoids(setting.tokens, setting.width)).float()
        embedded = (table[torch.as_tensor(words)] + places).requires_grad_()
        hidden = (torch.arange(setting.tokens) >= setting.real).expand(len(words), -1)
        future = torch.triu(torch.ones(setting.tokens, setting.tokens, dtype=torch.bool), diagonal=1)
        # What the encoder sends back is no gradient of the decoder's stream.
        return {"src": embedded.detach(), "tgt": embedded, "tgt_mask": future, "src_key_padding_mask": hidden,
                "tgt_key_padding_mask": hidden, "memory_key_padding_mask": hidden}  # fmt: skip


def sinusoids(tokens: int, width: int) -> Array:
    """Positions of shape (tokens, width), sines first, at the angles of Vaswani et al. 2017.

    >>> sinusoids(2, 4).round(2).tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.84, 0.01, 0.54, 1.0]]
    """
    angles = np.arange(tokens)[:, None] * 10000.0 ** (-np.arange(width // 2) / (width // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _side(tokens: int) -> int:
    """Patches along an image, so that it has ``tokens`` of them or a little less."""
    return math.isqrt(tokens)


@dataclass(frozen=True)
class Comparison:
    """One quantity at one layer; ``error`` is relative, or absolute for a correlation."""

    case: str
    setting: str
    layer: int
    quantity: str
    predicted: float
    measured: float
    stderr: float
    tolerance: float

    @property
    def absolute(self) -> bool:
        """Whether the error is a difference, not a ratio."""
        return self.quantity.endswith("rho")

    @property
    def error(self) -> float:
        """Predicted minus measured, over the measured value unless ``absolute``."""
        difference = self.predicted - self.measured
        return difference if self.absolute else difference / self.measured

    @property
    def agrees(self) -> bool:
        """Whether the error is at most the tolerance plus MARGIN standard errors."""
        spread = self.stderr if self.absolute else self.stderr / self.measured
        return abs(self.error) <= self.tolerance + MARGIN * spread


def _weights(modules: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"{module}.weight": roles for module, roles in modules.items()}


_TORCH_WEIGHTS = {
    "self_attn.in_proj_weight": ("query", "key", "value"), "self_attn.out_proj.weight": ("output",),
    "multihead_attn.in_proj_weight": ("cross_query", "cross_key", "cross_value"),
    "multihead_attn.out_proj.weight": ("cross_output",), "linear1.weight": ("up",), "linear2.weight": ("down",),
}  # fmt: skip
_T5_SIZES = {"layers": "num_layers", "width": "d_model", "heads": "num_heads", "hidden": "d_ff", "key_width": "d_kv"}
_POST = Tolerance(0.003, 0.01, 0.03, 0.005, 0.05, 0.08)
_ROTARY = Tolerance(0.03, 0.01, 0.04, 0.01, 0.05, 0.10)
_PARALLEL = Tolerance(0.02, 0.01, 0.03, 0.005, 0.06, 0.08)
CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(
            "gpt2", "GPT2LMHeadModel", Tolerance(0.02, 0.01, 0.03, 0.005, 0.05, 0.08), "transformer.h", _weights(GPT2), _BRIEF,
            causal=True, inputs_first=True,
        ),
        Case("bert", "BertForMaskedLM", _POST, "bert.encoder.layer", _weights(BERT)),
        Case("roberta", "RobertaForMaskedLM", _POST, "roberta.encoder.layer", _weights(BERT)),
        Case("llama", "LlamaForCausalLM", _ROTARY, "model.layers", _weights(LLAMA), causal=True),
        Case("mistral", "MistralForCausalLM", _ROTARY, "model.layers", _weights(LLAMA), grouped=True, causal=True),
        Case("qwen2", "Qwen2ForCausalLM", _ROTARY, "model.layers", _weights(LLAMA), grouped=True, causal=True),
        Case(
            "gpt_neox", "GPTNeoXForCausalLM", _PARALLEL, "gpt_neox.layers", _weights(GPT_NEOX), causal=True, by_head=True,
        ),
        Case("gptj", "GPTJForCausalLM", _PARALLEL, "transformer.h", _weights(GPTJ), _BRIEF, causal=True),
        Case(
            "vit", "ViTModel", Tolerance(0.02, 0.005, 0.03, 0.005, 0.05, 0.10), "layers",
            _weights({
                "attention.q_proj": ("query",), "attention.k_proj": ("key",), "attention.v_proj": ("value",),
                "attention.o_proj": ("output",), "mlp.fc1": ("up",), "mlp.fc2": ("down",),
            }),
        ),
        Case(
            "t5", "T5EncoderModel", Tolerance(0.02, 0.01, 0.02, 0.005, 0.06, 0.08), "encoder.block",
            _weights({**T5_ATTENTION, "layer.1.DenseReluDense.wi": ("up",), "layer.1.DenseReluDense.wo": ("down",)}),
            _T5_SIZES,
        ),
        Case(
            "t5_decoder", "T5Model", Tolerance(0.02, 0.01, 0.02, 0.005, 0.06, 0.08), "decoder.block",
            _weights({
                **T5_ATTENTION, "layer.1.EncDecAttention.q": ("cross_query",), "layer.1.EncDecAttention.k": ("cross_key",),
                "layer.1.EncDecAttention.v": ("cross_value",), "layer.1.EncDecAttention.o": ("cross_output",),
                "layer.2.DenseReluDense.wi": ("up",), "layer.2.DenseReluDense.wo": ("down",),
            }),
            _T5_SIZES, causal=True, decoder_of="t5",
        ),
        *(
            TorchDecoder(name, "nn.Transformer", _POST, "decoder.layers", _TORCH_WEIGHTS, causal=True,
                         decoder_of="transformer", fused=fused)
            for name, fused in (("transformer_decoder", False), ("torch_decoder", True))
        ),
    )
}  # fmt: skip
QUICK = (Setting("std .0346, uniform words"),)
FULL = (
    *QUICK,
    Setting("std .02, uniform words", std=0.02, seeds=24),
    Setting("std .0346, words by Zipf's law", repeated=True),
    Setting("12x768, 128 tokens", width=768, heads=12, std=0.02, tokens=128, rows=1, repeated=True),
    Setting("512 tokens", tokens=512, rows=1),
    Setting("24 of 64 tokens padding, std .0346", padding=24),
)
"""Settings of the verification, and of the one that takes an hour."""


def tokens_of(seed: int, rows: int, tokens: int, vocabulary: int, *, repeated: bool) -> Words:
    """Token identifiers of shape (rows, tokens): uniform, or by Zipf's law so that words repeat."""
    rng = np.random.default_rng(seed)
    if not repeated:
        return rng.integers(5, vocabulary, size=(rows, tokens))
    weights = 1 / np.arange(1, vocabulary - 4)
    return rng.choice(np.arange(5, vocabulary), size=(rows, tokens), p=weights / weights.sum())


def inputs_of(case: Case, setting: Setting) -> tuple[Words, Array | None]:
    """Words of shape (rows, tokens) for the theory, and for a vision model the pixels that the library reads instead.

    The class token comes first; patches of independent pixels are nearly orthogonal.
    """
    if case.name != "vit":
        return tokens_of(0, setting.rows, setting.tokens, VOCABULARY, repeated=setting.repeated), None
    side = _side(setting.tokens)
    pixels = np.random.default_rng(0).standard_normal((setting.rows, 3, PATCH * side, PATCH * side))
    return np.arange(setting.rows * (side**2 + 1)).reshape(setting.rows, -1), pixels


def patches_alike(pixels: Array) -> Array:
    """Inner products of all patches per pixel, with a class token, of which there are none, before those of each image.

    >>> patches_alike(np.ones((1, 3, 16, 32))).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """
    rows, channels, height, width = pixels.shape
    cut = pixels.reshape(rows, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    patches = cut.transpose(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * PATCH**2)
    first = np.zeros((rows, 1, patches.shape[2]))
    flat = np.concatenate([first, patches], axis=1).reshape(-1, patches.shape[2])
    found = flat @ flat.T / flat.shape[1]
    classes = np.arange(0, len(flat), patches.shape[1] + 1)
    found[np.ix_(classes, classes)] = 1.0
    return np.asarray(found)


def predicted(case: Case, setting: Setting, *, closure: Closure = EVERYTHING) -> list[dict[str, float]]:
    """Theory for unit cotangents at the last block, layer by layer, for the words or pixels that :func:`inputs_of` gives."""
    architecture = case.architecture(setting)
    words, pixels = inputs_of(case, setting)
    rows = len(words)
    # A mask that hides nothing is left to the model itself, which knows faster ways.
    visible = pattern(setting.tokens, sequences=rows, causal=architecture.causal, padding=setting.padding,
                      rotary=rotary_of(architecture)) if setting.padding else None  # fmt: skip
    alike = None if pixels is None else patches_alike(pixels)
    model = run(architecture, words.ravel(), rows=rows, visible=visible, closure=closure, alike=alike)
    real = _real(setting, words)
    gradients, weights = model.backward(GramGradient(np.diag(real.astype(float))))
    found = []
    for layer, (stream, gradient) in enumerate(zip(model.streams, gradients, strict=True)):
        names = weights[layer] if layer < architecture.layers else {}
        found.append(_moments(case, stream.gram[np.ix_(real, real)], gradient.gram[np.ix_(real, real)], rows) | names)
    return found


def _real(setting: Setting, words: Words) -> npt.NDArray[np.bool_]:
    """Which tokens of all rows are no padding."""
    rows, tokens = words.shape
    return np.tile(np.arange(tokens) < tokens - setting.padding, rows)


def _moments(case: Case, gram: Array, gradient: Array, rows: int) -> dict[str, float]:
    tokens = len(gram) // rows
    found = {}
    for name, matrix in (("q", gram), ("gradient", gradient)):
        found[name], found["rho" if name == "q" else f"{name}_rho"] = _pair(matrix, rows)
        own = np.diag(matrix).reshape(rows, tokens)
        found |= {f"{name} at {place}": float(own[:, at].mean()) for place, at in case.places(tokens).items()}
    return found


def _pair(gram: Array, rows: int) -> tuple[float, float]:
    """Mean diagonal, and the mean of two tokens of one row over it."""
    tokens = len(gram) // rows
    own = float(np.diag(gram).mean())
    blocks = [gram[k * tokens : (k + 1) * tokens, k * tokens : (k + 1) * tokens] for k in range(rows)]
    total = sum(float(block.sum() - np.trace(block)) for block in blocks)
    return own, total / (rows * tokens * (tokens - 1)) / own if tokens > 1 else 1.0


def measured(
    case: Case, setting: Setting, words: Words, pixels: Array | None, seeds: Sequence[int]
) -> Iterator[list[dict[str, float]]]:
    """The same numbers from drawn models, one list for every seed; hooks on every block, forward and backward.

    Raises :class:`MissingExtraError` without torch and transformers.
    """
    try:
        import torch
        import transformers
    except ImportError as missing:
        raise MissingExtraError("models of the transformers library", "hf") from missing
    library: Any = transformers
    library.logging.set_verbosity_error()
    for seed in seeds:
        torch.manual_seed(seed)
        model, read = case.drawn(setting, torch, library), case.read(words, pixels, setting, torch)
        yield _draw(case, setting, model, read, _real(setting, words), len(words), torch)


def _draw(
    case: Case, setting: Setting, model: Any, read: Mapping[str, Any], real: npt.NDArray[np.bool_], rows: int, torch: Any
) -> list[dict[str, float]]:
    blocks = model.get_submodule(case.blocks)
    streams: list[Any] = []

    def keep(value: Any) -> None:
        hidden = value[0] if isinstance(value, tuple) else value
        hidden.retain_grad()
        streams.append(hidden)

    hooks = [blocks[0].register_forward_pre_hook(lambda _, args, named: keep(args[0] if args else named["hidden_states"]),
                                                 with_kwargs=True)]
    hooks += [block.register_forward_hook(lambda _, __, output: keep(output)) for block in blocks]
    model(**read)
    for hook in hooks:
        hook.remove()
    last = streams[-1]
    last.backward(torch.randn_like(last) * torch.as_tensor(real.reshape(rows, -1, 1)))
    width = last.shape[-1]
    found = []
    for layer, stream in enumerate(streams):
        x, g = (item.detach().double().reshape(-1, width).numpy()[real] for item in (stream, stream.grad))
        numbers = _moments(case, x @ x.T / width, g @ g.T / width, rows)
        if layer < len(blocks):
            numbers |= _weight_norms(case, blocks[layer], setting.heads)
        found.append(numbers)
    return found


def _weight_norms(case: Case, block: Any, heads: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for path, names in case.weights.items():
        gradient = block.get_parameter(path).grad.double()
        if case.by_head and len(names) > 1:
            parts = gradient.reshape(heads, len(names), -1).unbind(dim=1)
        else:
            parts = gradient.chunk(len(names), dim=int(case.inputs_first))
        found |= {name: float((part**2).sum()) for name, part in zip(names, parts, strict=True)}
    return found


def compare(
    case: Case, setting: Setting = QUICK[0], *, first_seed: int = 0, closure: Closure = EVERYTHING,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Theory beside the mean over drawn models, at every layer, for one fixed batch of tokens."""
    return beside(case, setting, predicted(case, setting, closure=closure),
                  draws_of(case, setting, first_seed=first_seed, progress=progress))  # fmt: skip


def draws_of(
    case: Case, setting: Setting, *, first_seed: int = 0, progress: Progress | None = None
) -> list[list[dict[str, float]]]:
    """The measured numbers of every weight draw."""
    words, pixels = inputs_of(case, setting)
    draws = []
    for found in measured(case, setting, words, pixels, range(first_seed, first_seed + setting.seeds)):
        draws.append(found)
        if progress is not None:
            progress(f"{case.name}, {setting.name}", len(draws), setting.seeds)
    return draws


def beside(
    case: Case, setting: Setting, theory: list[dict[str, float]], draws: list[list[dict[str, float]]]
) -> list[Comparison]:
    """The comparisons of a theory with measured numbers; a correlation is the ratio of means, as the theory's is."""
    found = []
    for layer, expected in enumerate(theory):
        for quantity in draws[0][layer]:
            values = np.array([draw[layer][quantity] for draw in draws])
            if quantity.endswith("rho"):
                size = np.array([draw[layer][quantity.removesuffix("rho").rstrip("_") or "q"] for draw in draws])
                mean = float((values * size).mean() / size.mean())
                deviation = float(((values - mean) * size).std(ddof=1) / size.mean())
            else:
                mean, deviation = float(values.mean()), float(values.std(ddof=1))
            found.append(
                Comparison(
                    case.name, setting.name, layer, quantity, expected[quantity], mean, deviation / math.sqrt(len(draws)),
                    case.tolerance.of(quantity),
                )
            )
    return found


def verify(
    *, first_seed: int = 0, full: bool = False, minutes: float = math.inf,
    progress: Progress | None = None,
) -> Iterator[list[Comparison]]:
    """One model in one setting after the other, of the quick or the full verification; pixels have no words to repeat.

    None is begun after so many ``minutes``.
    """
    last = time.monotonic() + 60 * minutes
    for setting in FULL if full else QUICK:
        for case in CASES.values():
            if time.monotonic() > last:
                return
            said_before = setting.repeated and case.name == "vit" and setting.std == QUICK[0].std
            if not said_before and (case.pads or not setting.padding):
                yield compare(case, setting, first_seed=first_seed, progress=progress)


ABLATIONS: Mapping[str, Closure] = {
    "nothing": EVERYTHING,
    "finite-width norms": Closure(finite_norms=False),
    "post-norm fresh fraction": Closure(fresh_norms=False),
    "logits": Closure(attention="uniform"),
    "rotary phases": Closure(rotary=False),
    "growth of Gram fluctuation": Closure(fluctuation="initial"),
    "Gram fluctuation": Closure(fluctuation="none"),
    "softmax beyond first order": Closure(attention="first_order"),
}
"""What an ablation takes from the theory, one at a time."""
ABLATED = ("gpt2", "bert", "llama", "t5")
@dataclass(frozen=True)
class Ablation:
    """What a theory without one ingredient says of a model: the largest error over layers for each group of quantities,
    and how many of the comparisons fail."""

    case: str
    removed: str
    errors: Mapping[str, float]
    failed: int
    compared: int


def ablate(
    setting: Setting = QUICK[0], *, first_seed: int = 0, progress: Progress | None = None
) -> list[Ablation]:
    """Every ingredient removed from the theory of a few models, against one set of drawn models each."""
    found = []
    for case in (CASES[name] for name in ABLATED):
        draws = draws_of(case, setting, first_seed=first_seed, progress=progress)
        for removed, closure in ABLATIONS.items():
            rows = beside(case, setting, predicted(case, setting, closure=closure), draws)
            errors = {
                group: max(abs(row.error) for row in rows if row.quantity in names) for group, names in GROUPS.items()
            }
            found.append(Ablation(case.name, removed, errors, sum(not row.agrees for row in rows), len(rows)))
    return found


def verification_text(rows: Sequence[Comparison]) -> str:
    """Theory beside measurement, one line for each layer of each model, and one for each position that is compared apart.

    A cell is the predicted value and its error in percent (a correlation's: in hundredths); those of weight gradients are
    the largest error among the matrices. A star marks what is further off than the tolerance and 2.5 standard errors.
    """
    lines: list[str] = []
    for heading in dict.fromkeys((row.case, row.setting) for row in rows):
        chosen = [row for row in rows if (row.case, row.setting) == heading]
        lines += ["", ", ".join(heading)]
        table = [("layer", *GROUPS)]
        for layer in sorted({row.layer for row in chosen}):
            cells: dict[str, str] = {}
            for name, names in GROUPS.items():
                found = [row for row in chosen if row.layer == layer and row.quantity in names]
                if found:
                    cells[name] = _cell(found)
            table.append((str(layer), *(cells.get(name, "") for name in GROUPS)))
        lines += aligned(table)
        for quantity in dict.fromkeys(row.quantity for row in chosen if " at " in row.quantity):
            place = [row for row in chosen if row.quantity == quantity]
            worst = max(place, key=lambda row: abs(row.error))
            lines.append(f"  {quantity:<20} largest error {_cell([worst]).strip()} (layer {worst.layer})"
                         f"{'' if all(row.agrees for row in place) else '  DISAGREES'}")
    return "\n".join(lines) + "\n"


def verdict_text(rows: Sequence[Comparison]) -> str:
    """What disagrees, and how much agrees."""
    wrong = [row for row in rows if not row.agrees]
    lines = ["", *(
        f"DISAGREES: {row.case}, {row.setting}, layer {row.layer}, {row.quantity}: {row.predicted:.5g}"
        f" against {row.measured:.5g} +- {row.stderr:.2g}" for row in wrong
    )]  # fmt: skip
    lines.append(f"{len(rows) - len(wrong)} of {len(rows)} within tolerance + {MARGIN} standard errors")
    return "\n".join(lines) + "\n"


def _cell(rows: Sequence[Comparison]) -> str:
    worst = max(rows, key=lambda row: abs(row.error))
    value = "" if worst.quantity in (*GROUPS["V,O,FFN"], *GROUPS["Q,K"]) else f"{worst.predicted:.3g} "
    return f"{value}{100 * worst.error:+.1f}{' ' if all(row.agrees for row in rows) else '*'}"


def ablation_text(rows: Sequence[Ablation]) -> str:
    """What each ingredient is worth: largest errors over layers in percent, and failed comparisons, model by model."""
    lines: list[str] = []
    for case in dict.fromkeys(row.case for row in rows):
        chosen = [row for row in rows if row.case == case]
        table: list[Sequence[str]] = [("removed", *(name.replace("gradient", "grad") for name in GROUPS), "failed")]
        table += [
            (row.removed, *(f"{100 * row.errors[group]:.1f}" for group in GROUPS), str(row.failed)) for row in chosen
        ]
        lines += ["", f"{case}, {chosen[0].compared} comparisons", *aligned(table)]
    return "\n".join(lines[1:]) + "\n"
