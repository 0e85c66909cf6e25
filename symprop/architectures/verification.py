"""Architectures against randomly initialised models of the transformers library: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from symprop.architectures.readers import from_config
from symprop.architectures.signal import ModelPass, run
from symprop.core.errors import MissingExtraError

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

    def of(self, quantity: str) -> float:
        """The tolerance of a quantity by its name."""
        if quantity in ("query", "key"):
            return self.query_key
        names = {"q": self.q, "rho": self.rho, "gradient": self.gradient, "gradient_rho": self.gradient_rho}
        return names.get(quantity, self.weights)


@dataclass(frozen=True)
class Case:
    """A library model to draw: the changes to its default config, and where its parts are."""

    name: str
    kind: str
    config: Mapping[str, Any]
    tolerance: Tolerance
    blocks: str
    weights: Mapping[str, tuple[str, ...]]
    """Parameter name inside a block, and the matrices it holds one after the other."""


@dataclass(frozen=True)
class Comparison:
    """One quantity at one layer; ``error`` is relative, or absolute for a correlation."""

    case: str
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
        """|error| <= tolerance + MARGIN standard errors."""
        spread = self.stderr if self.absolute else self.stderr / self.measured
        return abs(self.error) <= self.tolerance + MARGIN * spread


_SMALL = {"vocab_size": 4000, "initializer_range": 0.02 * 3**0.5}
CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(
            "gpt2", "gpt2", {**_SMALL, "n_embd": 256, "n_head": 4, "n_layer": 12, "n_positions": 64},
            Tolerance(0.02, 0.01, 0.03, 0.005, 0.05, 0.08), "transformer.h",
            {"attn.c_attn.weight": ("query", "key", "value"), "attn.c_proj.weight": ("output",),
             "mlp.c_fc.weight": ("up",), "mlp.c_proj.weight": ("down",)},
        ),
        Case(
            "bert", "bert", {**_SMALL, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024,
                             "max_position_embeddings": 64},
            Tolerance(0.003, 0.01, 0.03, 0.005, 0.05, 0.08), "bert.encoder.layer",
            {"attention.self.query.weight": ("query",), "attention.self.key.weight": ("key",),
             "attention.self.value.weight": ("value",), "attention.output.dense.weight": ("output",),
             "intermediate.dense.weight": ("up",), "output.dense.weight": ("down",)},
        ),
        Case(
            "llama", "llama", {**_SMALL, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
                               "intermediate_size": 688, "num_hidden_layers": 12, "head_dim": 64},
            Tolerance(0.03, 0.01, 0.04, 0.01, 0.05, 0.10), "model.layers",
            {"self_attn.q_proj.weight": ("query",), "self_attn.k_proj.weight": ("key",),
             "self_attn.v_proj.weight": ("value",), "self_attn.o_proj.weight": ("output",),
             "mlp.gate_proj.weight": ("gate",), "mlp.up_proj.weight": ("up",), "mlp.down_proj.weight": ("down",)},
        ),
        Case(
            "gpt_neox", "gpt_neox", {**_SMALL, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024,
                                     "num_hidden_layers": 12},
            Tolerance(0.02, 0.01, 0.03, 0.005, 0.06, 0.08), "gpt_neox.layers",
            {"attention.dense.weight": ("output",), "mlp.dense_h_to_4h.weight": ("up",),
             "mlp.dense_4h_to_h.weight": ("down",)},
        ),
    )
}  # fmt: skip


def tokens_of(seed: int, rows: int, tokens: int, vocabulary: int, *, repeated: bool) -> Words:
    """Token identifiers of shape (rows, tokens): uniform, or by Zipf's law so that words repeat."""
    rng = np.random.default_rng(seed)
    if not repeated:
        return rng.integers(5, vocabulary, size=(rows, tokens))
    weights = 1 / np.arange(1, vocabulary - 4)
    return rng.choice(np.arange(5, vocabulary), size=(rows, tokens), p=weights / weights.sum())


def predicted(case: Case, words: Words) -> tuple[list[dict[str, float]], ModelPass]:
    """Theory for unit cotangents at the last block, layer by layer, and the pass it comes from."""
    import json

    architecture = from_config(json.dumps({"model_type": case.kind, **case.config}))
    rows = len(words)
    model = run(architecture, words.ravel(), rows=rows)
    gradients, weights = model.backward(model.unit_gradient())
    found = []
    for layer, (stream, gradient) in enumerate(zip(model.streams, gradients, strict=True)):
        names = weights[layer] if layer < architecture.layers else {}
        found.append(_moments(stream.gram, gradient.gram, rows) | names)
    return found, model


def _moments(gram: Array, gradient: Array, rows: int) -> dict[str, float]:
    return dict(zip(("q", "rho"), _pair(gram, rows), strict=True)) | dict(
        zip(("gradient", "gradient_rho"), _pair(gradient, rows), strict=True)
    )


def _pair(gram: Array, rows: int) -> tuple[float, float]:
    """Mean diagonal, and the mean of two tokens of one row over it."""
    tokens = len(gram) // rows
    own = float(np.diag(gram).mean())
    blocks = [gram[k * tokens : (k + 1) * tokens, k * tokens : (k + 1) * tokens] for k in range(rows)]
    total = sum(float(block.sum() - np.trace(block)) for block in blocks)
    return own, total / (rows * tokens * (tokens - 1)) / own if tokens > 1 else 1.0


def measured(case: Case, words: Words, seeds: Sequence[int]) -> list[list[dict[str, float]]]:
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
    config = library.AutoConfig.for_model(case.kind, **case.config, attn_implementation="eager")
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        build = library.AutoModelForMaskedLM if case.kind == "bert" else library.AutoModelForCausalLM
        model = build.from_config(config).eval()
        found.append(_draw(case, model, words, torch))
    return found


def _draw(case: Case, model: Any, words: Words, torch: Any) -> list[dict[str, float]]:
    blocks = model.get_submodule(case.blocks)
    streams: list[Any] = []

    def keep(value: Any) -> None:
        hidden = value[0] if isinstance(value, tuple) else value
        hidden.retain_grad()
        streams.append(hidden)

    hooks = [blocks[0].register_forward_pre_hook(lambda _, args, named: keep(args[0] if args else named["hidden_states"]),
                                                 with_kwargs=True)]
    hooks += [block.register_forward_hook(lambda _, __, output: keep(output)) for block in blocks]
    model(input_ids=torch.as_tensor(words))
    for hook in hooks:
        hook.remove()
    last = streams[-1]
    last.backward(torch.randn_like(last))
    rows, width = len(words), last.shape[-1]
    found = []
    for layer, stream in enumerate(streams):
        x, g = (item.detach().double().reshape(-1, width).numpy() for item in (stream, stream.grad))
        numbers = _moments(x @ x.T / width, g @ g.T / width, rows)
        if layer < len(blocks):
            numbers |= _weight_norms(case, blocks[layer])
        found.append(numbers)
    return found


def _weight_norms(case: Case, block: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for path, names in case.weights.items():
        gradient = block.get_parameter(path).grad.double()
        parts = gradient.chunk(len(names), dim=1 if len(names) > 1 else 0)
        found |= {name: float((part**2).sum()) for name, part in zip(names, parts, strict=True)}
    return found


def compare(
    case: Case, *, seeds: int = 16, first_seed: int = 0, rows: int = 2, tokens: int = 64, repeated: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Comparison]:
    """Theory beside the mean over ``seeds`` drawn models, at every layer, for one fixed batch of tokens."""
    words = tokens_of(0, rows, tokens, int(case.config["vocab_size"]), repeated=repeated)
    theory, _ = predicted(case, words)
    draws = []
    for done in range(seeds):
        draws += measured(case, words, [first_seed + done])
        if progress is not None:
            progress(case.name, done + 1, seeds)
    rows_found = []
    for layer, expected in enumerate(theory):
        for quantity in draws[0][layer]:
            values = np.array([draw[layer][quantity] for draw in draws])
            if quantity.endswith("rho"):
                # A correlation is the ratio of means, as the theory's is.
                size = np.array([draw[layer][quantity.removesuffix("rho").rstrip("_") or "q"] for draw in draws])
                mean = float((values * size).mean() / size.mean())
                stderr = float(((values - mean) * size).std(ddof=1) / size.mean() / np.sqrt(seeds))
            else:
                mean, stderr = float(values.mean()), float(values.std(ddof=1) / np.sqrt(seeds))
            rows_found.append(
                Comparison(case.name, layer, quantity, expected[quantity], mean, stderr, case.tolerance.of(quantity))
            )
    return rows_found
