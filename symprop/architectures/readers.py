"""Architectures from files: Hugging Face ``config.json`` and one's own TOML. Nothing in a file is evaluated as code."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import sympy as sp

from symprop.architectures.description import ORDERS, POSITIONS, SIZES, Architecture
from symprop.architectures.entries import (
    ACTIVATION_NAMES,
    MAX_TOKENS,
    MODEL_TYPES,
    NORM_NAMES,
    Entries,
    config,
    description,
    read,
)  # fmt: skip
from symprop.architectures.presets import PRESETS, absolute, preset
from symprop.core.display import COLUMNS
from symprop.core.errors import InputError, UnknownNameError
from symprop.core.parsing import parse_expression
from symprop.core.provenance import Source
from symprop.core.symbols import L, d

NAMES: Mapping[str, sp.Expr] = {str(symbol): symbol for symbol in SIZES.values()}
"""What expressions in a file may contain besides numbers."""

_ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu", "relu2": "squared_relu",
}  # fmt: skip


def load(target: str) -> Architecture:
    """An architecture by preset name, or from a ``.toml`` file, a ``.json`` file, or a folder with a ``config.json``.

    Raises :class:`SympropError` in one line for anything else, and for a file that is too long or does not parse.

    >>> load("gpt2").layers
    12
    """
    return architecture(target, read(target))


def architecture(target: str, entries: Entries | None) -> Architecture:
    """The preset of a name, or what the entries of a file describe; see :func:`load`."""
    if entries is None:
        return preset(target)
    return _configured(entries) if entries.kind == "config" else _described(entries)


def _expression(entries: Entries, key: str) -> sp.Expr:
    return parse_expression(str(entries.formula(key)), NAMES, argument=f"{entries.kind}: {key}")


def from_config(text: str) -> Architecture:
    """The architecture that a Hugging Face ``config.json`` describes, with the initialisation its library draws.

    Initialisation rules are those of transformers 5.23. Unknown model types are refused with the list of known ones.

    >>> config = '{"model_type": "gpt2", "n_layer": 3, "n_embd": 64, "n_head": 4, "vocab_size": 100}'
    >>> from_config(config).hidden
    256
    """
    return _configured(config(text))


def _configured(entries: Entries) -> Architecture:
    return READERS[entries.word("model_type")](entries)


def _activation(entries: Entries, key: str, default: str) -> str:
    name = entries.word(key, default)
    if name not in _ACTIVATIONS:
        raise UnknownNameError(key, name, _ACTIVATIONS)
    return _ACTIVATIONS[name]


def _variance(entries: Entries) -> sp.Expr:
    std = entries.number("initializer_range", 0.02)
    return parse_expression(repr(std), argument="initializer_range") ** 2


def _plain(entries: Entries, key: str, value: Any) -> None:
    """Refuse an option that changes the signal and has no rule here."""
    if entries.has(key) and entries.of(key) != value:
        raise InputError(key, entries.of(key), f"{value}, the only value with a rule here")


def _gpt2(entries: Entries) -> Architecture:
    for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        _plain(entries, key, False)
    _plain(entries, "scale_attn_weights", True)
    s2, width = _variance(entries), entries.size("n_embd", 768)
    return preset("gpt2").replace(
        layers=entries.size("n_layer", 12), width=width, heads=entries.size("n_head", 12), key_width=0,
        hidden=entries.size("n_inner", 4 * width), vocabulary=entries.size("vocab_size", 50257),
        epsilon=entries.number("layer_norm_epsilon", 1e-5),
        activation=_activation(entries, "activation_function", "gelu_new"),
        **absolute(s2, "token", "position", "head") | {"output": s2 / (2 * L), "down": s2 / (2 * L)},
    )  # fmt: skip


def _encoder(entries: Entries, name: str, vocabulary: int) -> dict[str, Any]:
    return {
        "name": name, "layers": entries.size("num_hidden_layers", 12), "width": entries.size("hidden_size", 768),
        "heads": entries.size("num_attention_heads", 12), "key_width": 0,
        "hidden": entries.size("intermediate_size", 3072), "vocabulary": vocabulary,
        "epsilon": entries.number("layer_norm_eps", 1e-12), "activation": _activation(entries, "hidden_act", "gelu"),
    }  # fmt: skip


def _bert(entries: Entries) -> Architecture:
    kind = entries.word("model_type")
    _plain(entries, "position_embedding_type", "absolute")
    for key in ("is_decoder", "add_cross_attention"):
        _plain(entries, key, False)
    vocabulary = entries.size("vocab_size", 50265 if kind == "roberta" else 30522)
    return preset("bert").replace(
        **_encoder(entries, kind, vocabulary), **absolute(_variance(entries), "token", "position", "segment")
    )


def _vit(entries: Entries) -> Architecture:
    patch, channels = entries.size("patch_size", 16), entries.size("num_channels", 3)
    s2 = _variance(entries)
    return preset("vit").replace(
        **_encoder(entries, "vit", 1000), class_token=s2,
        **absolute(s2, "position") | {"token": channels * patch**2 * s2},
    )  # fmt: skip


def _rotary_base(entries: Entries) -> float:
    """The base of the angles; other scalings of rotary embeddings are refused."""
    nested = Entries(entries.of("rope_parameters", entries.of("rope_scaling", {})), "rope_parameters")
    kind = nested.word("rope_type", nested.word("type", "default"))
    if kind != "default":
        raise InputError("rope_type", kind, "default, the only value with a rule here")
    return nested.number("rope_theta", entries.number("rope_theta", entries.number("rotary_emb_base", 10000.0)))


_LLAMA_DEFAULTS = {"llama": (11008, 32000, 32), "mistral": (14336, 32000, 8), "qwen2": (22016, 151936, 32)}
"""Hidden width, vocabulary and key heads where a config leaves them out."""


def _llama(entries: Entries) -> Architecture:
    hidden, vocabulary, key_heads = _LLAMA_DEFAULTS[entries.word("model_type")]
    width, count = entries.size("hidden_size", 4096), entries.size("num_attention_heads", 32)
    key_width = entries.size("head_dim", width // count)
    groups = entries.size("num_key_value_heads", count if entries.has("num_attention_heads") else key_heads)
    # Qwen2 has a window only where it is switched on, Mistral wherever it is given.
    windowed = entries.flag("use_sliding_window", entries.word("model_type") != "qwen2")
    window = entries.integer("sliding_window", MAX_TOKENS) if windowed else MAX_TOKENS
    if window < MAX_TOKENS:
        raise InputError("sliding_window", window, f"at least {MAX_TOKENS}, where it hides no token of an audit")
    if count % groups:
        raise InputError("num_key_value_heads", groups, f"a divisor of {count}")
    return preset("llama").replace(
        name=entries.word("model_type"), layers=entries.size("num_hidden_layers", 32), width=width, heads=count,
        key_width=key_width, hidden=entries.size("intermediate_size", hidden),
        vocabulary=entries.size("vocab_size", vocabulary), epsilon=entries.number("rms_norm_eps", 1e-6),
        activation=_activation(entries, "hidden_act", "silu"), rotated=key_width, rotary_base=_rotary_base(entries),
        **absolute(_variance(entries), "token", "gate", "head"),
    )  # fmt: skip


def _neox(entries: Entries) -> Architecture:
    width, count = entries.size("hidden_size", 6144), entries.size("num_attention_heads", 64)
    nested = Entries(entries.of("rope_parameters", {}), "rope_parameters")
    share = nested.number("partial_rotary_factor", entries.number("rotary_pct", 0.25))
    if not 0 <= share <= 1:
        raise InputError("partial_rotary_factor", share, "a number in [0, 1]")
    return preset("gpt_neox").replace(
        layers=entries.size("num_hidden_layers", 44), width=width, heads=count, key_width=0,
        hidden=entries.size("intermediate_size", 24576), vocabulary=entries.size("vocab_size", 50432),
        epsilon=entries.number("layer_norm_eps", 1e-5), activation=_activation(entries, "hidden_act", "gelu"),
        order="parallel" if entries.flag("use_parallel_residual", True) else "pre",
        rotated=int(share * (width // count)), rotary_base=_rotary_base(entries),
        **absolute(_variance(entries), "token", "head"),
    )  # fmt: skip


def _gptj(entries: Entries) -> Architecture:
    width = entries.size("n_embd", 4096)
    return preset("gptj").replace(
        layers=entries.size("n_layer", 28), width=width, heads=entries.size("n_head", 16), key_width=0,
        hidden=entries.size("n_inner", 4 * width), vocabulary=entries.size("vocab_size", 50400),
        epsilon=entries.number("layer_norm_epsilon", 1e-5),
        activation=_activation(entries, "activation_function", "gelu_new"), rotated=entries.integer("rotary_dim", 64),
        **absolute(_variance(entries), "token", "head"),
    )  # fmt: skip


def _t5(entries: Entries) -> Architecture:
    factor = parse_expression(repr(entries.number("initializer_factor", 1.0)), argument="initializer_factor") ** 2
    if factor != 1:
        raise InputError("initializer_factor", factor, "1: any other value changes the gains of the norms as well")
    forward = entries.word("feed_forward_proj", "relu")
    gated = forward.startswith("gated-")
    name = forward.removeprefix("gated-")
    # The library reads gated-gelu as the tanh form.
    activation = "gelu_tanh" if gated and name == "gelu" else _ACTIVATIONS.get(name)
    if activation is None:
        raise UnknownNameError("feed_forward_proj", forward, ("relu", "gated-gelu", "gated-silu"))
    return preset("t5").replace(
        layers=entries.size("num_layers", 6), width=entries.size("d_model", 512),
        heads=entries.size("num_heads", 8), key_width=entries.size("d_kv", 64),
        hidden=entries.size("d_ff", 2048), vocabulary=entries.size("vocab_size", 32128),
        epsilon=entries.number("layer_norm_epsilon", 1e-6), activation=activation, gated=gated,
        gate=1 / d if gated else 0,
    )  # fmt: skip


READERS: Mapping[str, Callable[[Entries], Architecture]] = dict(zip(
    MODEL_TYPES, (_gpt2, _bert, _bert, _llama, _llama, _llama, _neox, _gptj, _vit, _t5), strict=True
))  # fmt: skip
"""Readers by the ``model_type`` of a config."""


@dataclass(frozen=True)
class Key:
    """An entry of one's own description: its table, what may stand there, and what it means."""

    table: str
    allowed: str
    meaning: str


_WHOLE, _REAL, _FLAG, _TEXT = "an integer", "a number", "true or false", "text"
_EXPRESSION = "an expression"

KEYS: Mapping[str, Key] = {
    "name": Key("model", _TEXT, "name in what is printed"),
    "layers": Key("model", _WHOLE, "number of blocks, L in expressions"),
    "width": Key("model", _WHOLE, "width of the residual stream, d"),
    "heads": Key("model", _WHOLE, "attention heads, H"),
    "key_width": Key("model", _WHOLE, "width of a head, d_k (width/heads unless given)"),
    "hidden": Key("model", _WHOLE, "hidden width of the feed-forward block, d_F"),
    "vocabulary": Key("model", _WHOLE, "number of words or classes, V"),
    "order": Key("block", f"one of {', '.join(ORDERS)}", "where the norm stands"),
    "norm": Key("block", f"one of {', '.join(NORM_NAMES)}", "LayerNorm or RMSNorm"),
    "epsilon": Key("block", _REAL, "what a norm adds to the mean square"),
    "activation": Key("block", f"one of {', '.join(ACTIVATION_NAMES)}", "activation of the feed-forward block"),
    "gated": Key("block", _FLAG, "whether a gate multiplies the hidden layer"),
    "branch_scale": Key("block", _EXPRESSION, "factor of a residual branch"),
    "skip_scale": Key("block", _EXPRESSION, "factor of the stream that it is added to"),
    "embedding_norm": Key("block", _FLAG, "LayerNorm after the embedding"),
    "final_norm": Key("block", _FLAG, "norm before the readout"),
    "causal": Key("attention", _FLAG, "whether a token sees its past only"),
    "cross": Key("attention", _FLAG, "whether each layer attends to an encoder's output besides"),
    "positions": Key("attention", f"one of {', '.join(POSITIONS)}", "how positions enter"),
    "rotated": Key("attention", _WHOLE, "coordinates of a head that rotary embeddings turn, even"),
    "rotary_base": Key("attention", _REAL, "base of their angles"),
    "temperature": Key("attention", _EXPRESSION, "factor of the logits q.k/sqrt(d_k)"),
    "token": Key("variances", _EXPRESSION, "word embedding"),
    "position": Key("variances", _EXPRESSION, "learned position embedding"),
    "segment": Key("variances", _EXPRESSION, "embedding that all tokens share"),
    "class_token": Key("variances", _EXPRESSION, "a first token that carries the readout, 0 for none"),
    "query": Key("variances", _EXPRESSION, "query weights"),
    "key": Key("variances", _EXPRESSION, "key weights"),
    "value": Key("variances", _EXPRESSION, "value weights"),
    "output": Key("variances", _EXPRESSION, "output projection of attention"),
    "up": Key("variances", _EXPRESSION, "first feed-forward weights"),
    "gate": Key("variances", _EXPRESSION, "weights of the gate"),
    "down": Key("variances", _EXPRESSION, "last feed-forward weights"),
    "head": Key("variances", _EXPRESSION, "readout; left out where it is not linear"),
}
"""What a description may contain, besides ``base`` in ``model``: a preset to start from."""
TABLES = tuple(dict.fromkeys(key.table for key in KEYS.values()))


def keys_text() -> str:
    """What one's own description may contain, for a terminal."""
    lines = [*_filled('Tables and entries of a .toml file. Every entry may be left out where [model] has base = "gpt2" or'
                      " another of:"),
             *_filled(", ".join(PRESETS), "  ", "  "),
             *_filled(f"Expressions are numbers, or text in {', '.join(NAMES)} with + - * / **, sqrt, exp, log, pi."),
             *_filled("Variances are absolute, and zero where neither the file nor its base gives one (token: 1).")]
    for table in TABLES:
        lines += ["", f"[{table}]"]
        for name, key in KEYS.items():
            if key.table == table:
                lines += _filled(f"{key.meaning}; {key.allowed}", f"  {name:<15} ", " " * 18)
    return "\n".join(lines) + "\n"


def _filled(sentence: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(sentence, COLUMNS, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def from_toml(text: str) -> Architecture:
    """One's own architecture: tables ``model``, ``block``, ``attention`` and ``variances`` with the fields of
    :class:`Architecture`; ``base`` in ``model`` names a preset to start from.

    Variances and scales are numbers, or expressions in L, d, H, d_k, d_F, V as text.

    >>> from_toml('[model]\\nbase = "gpt2"\\nlayers = 48\\n[variances]\\noutput = "0.02**2/(4*L)"').number("output")
    2.0833333333333334e-06
    """
    return _described(description(text))


def _described(tables: Entries) -> Architecture:
    found: dict[str, Any] = {}
    base: str | None = None
    for section in tables.names():
        if section not in TABLES:
            raise UnknownNameError("table", section[:60], TABLES)
        entries = Entries(tables.of(section), section)
        names = [name for name, key in KEYS.items() if key.table == section]
        for name in entries.names():
            if section == "model" and name == "base":
                base = entries.word(name)
            elif name not in names:
                raise InputError(f"entry of [{section}]", name, f"one of {', '.join(names)}")
            else:
                found[name] = _field(entries, name)
    if base is not None:
        sized = {"width", "heads"} & found.keys()
        return preset(base).replace(**({"key_width": 0} if sized else {}) | found)
    needed = [item.name for item in fields(Architecture) if item.default is MISSING and item.name not in ("name", "source")]
    for name in needed:
        if name not in found:
            raise InputError(f"model: {name}", "missing", "an integer, or base = a preset to start from")
    described: dict[str, Any] = {"name": "own", "source": Source("own", "description in a file")} | found
    return Architecture(**described)


def _field(entries: Entries, name: str) -> Any:
    allowed = KEYS[name].allowed
    if allowed == _WHOLE:
        return entries.integer(name)
    if allowed == _REAL:
        return entries.number(name)
    if allowed == _FLAG:
        return entries.flag(name)
    if allowed == _EXPRESSION:
        return _expression(entries, name)
    word = entries.word(name)
    if name == "name" and len(word) > 60:
        raise InputError("name", word, "at most 60 printable characters")
    return word


__all__ = ["KEYS", "READERS", "from_config", "from_toml", "keys_text", "load"]
