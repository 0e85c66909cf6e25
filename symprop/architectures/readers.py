"""Architectures from files: Hugging Face ``config.json`` and one's own TOML. Nothing in a file is evaluated as code."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import sympy as sp

from symprop.architectures.deepscalelm import ACTIVATIONS
from symprop.architectures.description import NORMS, ORDERS, POSITIONS, SIZES, Architecture
from symprop.architectures.presets import PRESETS, absolute, preset
from symprop.architectures.signal import MAX_TOKENS
from symprop.core.errors import InputError, UnknownNameError
from symprop.core.parsing import parse_expression
from symprop.core.provenance import Source
from symprop.core.symbols import L, d

MAX_BYTES, MAX_DESCRIPTION = 10**6, 2 * 10**4
"""A longer config or description in TOML describes no architecture; TOML takes quadratic time to parse."""
MAX_INTEGER = 10**15
"""No size of a model is larger; integers of any length parse, but neither print nor become floats."""
MAX_WORD = 1000
"""Characters of a word in a file."""
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
    if target in PRESETS:
        return preset(target)
    if not target.isprintable() or len(target) > MAX_WORD:
        raise InputError("architecture", repr(target), f"a name or path of at most {MAX_WORD} printable characters")
    path = Path(target)
    if path.suffix == ".toml":
        return from_toml(_text(path, MAX_DESCRIPTION))
    if path.suffix == ".json":
        return from_config(_text(path))
    if target and _is_folder(path):
        return from_config(_text(path / "config.json"))
    raise UnknownNameError("architecture (or file ending in .json or .toml)", target, PRESETS)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _text(path: Path, limit: int = MAX_BYTES) -> str:
    try:
        if not path.is_file():
            raise InputError("file", path, "a file that exists")
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise InputError("file", path, f"at most {limit} bytes")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("file", path, f"a readable UTF-8 file ({type(error).__name__})") from None


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key given twice is refused, as TOML does, since readers differ in which of the two they keep."""
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise InputError("config", key[:60], "every key once")
        table[key] = value
    return table


class _Entries:
    """A parsed table whose entries are read once, with their types checked."""

    def __init__(self, table: Any, where: str) -> None:
        if not isinstance(table, dict):
            raise InputError(where, type(table).__name__, "a table of names and values")
        self._table, self._where = table, where

    def has(self, key: str) -> bool:
        return self._table.get(key) is not None

    def names(self) -> tuple[str, ...]:
        return tuple(self._table)

    def of(self, key: str, default: Any = MISSING) -> Any:
        value = self._table.get(key)
        if value is None:
            if default is MISSING:
                raise InputError(f"{self._where}: {key}", "missing", "a value")
            return default
        return value

    def integer(self, key: str, default: Any = MISSING) -> int:
        value = self.of(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{self._where}: {key}", value, "an integer")
        if abs(value) > MAX_INTEGER:
            raise InputError(f"{self._where}: {key}", "an integer of many digits", f"at most {MAX_INTEGER:.0e}")
        return value

    def number(self, key: str, default: Any = MISSING) -> float:
        value = self.of(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return float(self.integer(key, default))
        if not isinstance(value, float) or not abs(value) < 1e300:
            raise InputError(f"{self._where}: {key}", value, "a finite number")
        return value

    def flag(self, key: str, default: Any = MISSING) -> bool:
        value = self.of(key, default)
        if not isinstance(value, bool):
            raise InputError(f"{self._where}: {key}", value, "true or false")
        return value

    def word(self, key: str, default: Any = MISSING) -> str:
        value = self.of(key, default)
        if not isinstance(value, str):
            raise InputError(f"{self._where}: {key}", value, "text")
        if len(value) > MAX_WORD or not value.isprintable():
            raise InputError(f"{self._where}: {key}", repr(value[:40]), f"at most {MAX_WORD} printable characters")
        return value

    def expression(self, key: str) -> sp.Expr:
        value = self.of(key)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InputError(f"{self._where}: {key}", value, "a number, or an expression as text")
        if not isinstance(value, str):
            value = self.integer(key) if isinstance(value, int) else self.number(key)
        return parse_expression(str(value), NAMES, argument=f"{self._where}: {key}")


def from_config(text: str) -> Architecture:
    """The architecture that a Hugging Face ``config.json`` describes, with the initialisation its library draws.

    Initialisation rules are those of transformers 5.23. Unknown model types are refused with the list of known ones.

    >>> config = '{"model_type": "gpt2", "n_layer": 3, "n_embd": 64, "n_head": 4, "vocab_size": 100}'
    >>> from_config(config).hidden
    256
    """
    try:
        entries = _Entries(json.loads(text, object_pairs_hook=_table), "config")
    except (ValueError, RecursionError):
        raise InputError("config", "its text", "JSON that parses, without deep nesting") from None
    kind = entries.word("model_type")
    if kind not in READERS:
        raise InputError(
            "model_type", kind, f"one of {', '.join(READERS)}; describe any other model in a .toml file (symprop audit --keys)"
        )
    return READERS[kind](entries)


def _activation(entries: _Entries, key: str, default: str) -> str:
    name = entries.word(key, default)
    if name not in _ACTIVATIONS:
        raise UnknownNameError(key, name, _ACTIVATIONS)
    return _ACTIVATIONS[name]


def _variance(entries: _Entries) -> sp.Expr:
    std = entries.number("initializer_range", 0.02)
    return parse_expression(repr(std), argument="initializer_range") ** 2


def _plain(entries: _Entries, key: str, value: Any) -> None:
    """Refuse an option that changes the signal and has no rule here."""
    if entries.has(key) and entries.of(key) != value:
        raise InputError(key, entries.of(key), f"{value}, the only value with a rule here")


def _gpt2(entries: _Entries) -> Architecture:
    for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        _plain(entries, key, False)
    _plain(entries, "scale_attn_weights", True)
    s2, width = _variance(entries), entries.integer("n_embd", 768)
    return preset("gpt2").replace(
        layers=entries.integer("n_layer", 12), width=width, heads=entries.integer("n_head", 12), key_width=0,
        hidden=entries.integer("n_inner", 4 * width), vocabulary=entries.integer("vocab_size", 50257),
        epsilon=entries.number("layer_norm_epsilon", 1e-5),
        activation=_activation(entries, "activation_function", "gelu_new"),
        **absolute(s2, "token", "position", "head") | {"output": s2 / (2 * L), "down": s2 / (2 * L)},
    )  # fmt: skip


def _encoder(entries: _Entries, name: str, vocabulary: int) -> dict[str, Any]:
    return {
        "name": name, "layers": entries.integer("num_hidden_layers", 12), "width": entries.integer("hidden_size", 768),
        "heads": entries.integer("num_attention_heads", 12), "key_width": 0,
        "hidden": entries.integer("intermediate_size", 3072), "vocabulary": vocabulary,
        "epsilon": entries.number("layer_norm_eps", 1e-12), "activation": _activation(entries, "hidden_act", "gelu"),
    }  # fmt: skip


def _bert(entries: _Entries) -> Architecture:
    kind = entries.word("model_type")
    _plain(entries, "position_embedding_type", "absolute")
    for key in ("is_decoder", "add_cross_attention"):
        _plain(entries, key, False)
    vocabulary = entries.integer("vocab_size", 50265 if kind == "roberta" else 30522)
    return preset("bert").replace(
        **_encoder(entries, kind, vocabulary), **absolute(_variance(entries), "token", "position", "segment")
    )


def _vit(entries: _Entries) -> Architecture:
    patch, channels = entries.integer("patch_size", 16), entries.integer("num_channels", 3)
    s2 = _variance(entries)
    return preset("vit").replace(
        **_encoder(entries, "vit", 1000), class_token=s2,
        **absolute(s2, "position") | {"token": channels * patch**2 * s2},
    )  # fmt: skip


def _rotary_base(entries: _Entries) -> float:
    """The base of the angles; other scalings of rotary embeddings are refused."""
    nested = _Entries(entries.of("rope_parameters", entries.of("rope_scaling", {})), "rope_parameters")
    kind = nested.word("rope_type", nested.word("type", "default"))
    if kind != "default":
        raise InputError("rope_type", kind, "default, the only value with a rule here")
    return nested.number("rope_theta", entries.number("rope_theta", entries.number("rotary_emb_base", 10000.0)))


_LLAMA_DEFAULTS = {"llama": (11008, 32000, 32), "mistral": (14336, 32000, 8), "qwen2": (22016, 151936, 32)}
"""Hidden width, vocabulary and key heads where a config leaves them out."""


def _llama(entries: _Entries) -> Architecture:
    hidden, vocabulary, key_heads = _LLAMA_DEFAULTS[entries.word("model_type")]
    width, count = entries.integer("hidden_size", 4096), entries.integer("num_attention_heads", 32)
    if count < 1:
        raise InputError("num_attention_heads", count, "an integer >= 1")
    key_width = entries.integer("head_dim", width // count)
    groups = entries.integer("num_key_value_heads", count if entries.has("num_attention_heads") else key_heads)
    window = entries.integer("sliding_window", MAX_TOKENS) if entries.flag("use_sliding_window", True) else MAX_TOKENS
    if window < MAX_TOKENS:
        raise InputError("sliding_window", window, f"at least {MAX_TOKENS}, where it hides no token of an audit")
    if groups < 1 or count % groups:
        raise InputError("num_key_value_heads", groups, f"a divisor of {count}")
    return preset("llama").replace(
        name=entries.word("model_type"), layers=entries.integer("num_hidden_layers", 32), width=width, heads=count,
        key_width=key_width, hidden=entries.integer("intermediate_size", hidden),
        vocabulary=entries.integer("vocab_size", vocabulary), epsilon=entries.number("rms_norm_eps", 1e-6),
        activation=_activation(entries, "hidden_act", "silu"), rotated=key_width, rotary_base=_rotary_base(entries),
        **absolute(_variance(entries), "token", "gate", "head"),
    )  # fmt: skip


def _neox(entries: _Entries) -> Architecture:
    width, count = entries.integer("hidden_size", 6144), entries.integer("num_attention_heads", 64)
    if count < 1:
        raise InputError("num_attention_heads", count, "an integer >= 1")
    nested = _Entries(entries.of("rope_parameters", {}), "rope_parameters")
    share = nested.number("partial_rotary_factor", entries.number("rotary_pct", 0.25))
    if not 0 <= share <= 1:
        raise InputError("partial_rotary_factor", share, "a number in [0, 1]")
    return preset("gpt_neox").replace(
        layers=entries.integer("num_hidden_layers", 44), width=width, heads=count, key_width=0,
        hidden=entries.integer("intermediate_size", 24576), vocabulary=entries.integer("vocab_size", 50432),
        epsilon=entries.number("layer_norm_eps", 1e-5), activation=_activation(entries, "hidden_act", "gelu"),
        order="parallel" if entries.flag("use_parallel_residual", True) else "pre",
        rotated=int(share * (width // count)), rotary_base=_rotary_base(entries),
        **absolute(_variance(entries), "token", "head"),
    )  # fmt: skip


def _gptj(entries: _Entries) -> Architecture:
    width = entries.integer("n_embd", 4096)
    return preset("gptj").replace(
        layers=entries.integer("n_layer", 28), width=width, heads=entries.integer("n_head", 16), key_width=0,
        hidden=entries.integer("n_inner", 4 * width), vocabulary=entries.integer("vocab_size", 50400),
        epsilon=entries.number("layer_norm_epsilon", 1e-5),
        activation=_activation(entries, "activation_function", "gelu_new"), rotated=entries.integer("rotary_dim", 64),
        **absolute(_variance(entries), "token", "head"),
    )  # fmt: skip


def _t5(entries: _Entries) -> Architecture:
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
        layers=entries.integer("num_layers", 6), width=entries.integer("d_model", 512),
        heads=entries.integer("num_heads", 8), key_width=entries.integer("d_kv", 64),
        hidden=entries.integer("d_ff", 2048), vocabulary=entries.integer("vocab_size", 32128),
        epsilon=entries.number("layer_norm_epsilon", 1e-6), activation=activation, gated=gated,
        gate=1 / d if gated else 0,
    )  # fmt: skip


READERS: Mapping[str, Callable[[_Entries], Architecture]] = {
    "gpt2": _gpt2, "bert": _bert, "roberta": _bert, "llama": _llama, "mistral": _llama, "qwen2": _llama,
    "gpt_neox": _neox, "gptj": _gptj, "vit": _vit, "t5": _t5,
}  # fmt: skip
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
    "norm": Key("block", f"one of {', '.join(NORMS)}", "LayerNorm or RMSNorm"),
    "epsilon": Key("block", _REAL, "what a norm adds to the mean square"),
    "activation": Key("block", f"one of {', '.join(ACTIVATIONS)}", "activation of the feed-forward block"),
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
    lines = ["Tables and entries of a .toml file. Every entry may be left out where [model] has base = \"gpt2\" or another of:",
             f"  {', '.join(PRESETS)}",
             f"Expressions are numbers, or text in {', '.join(NAMES)} with + - * / **, sqrt, exp, log, pi.",
             "Variances are absolute."]
    for table in TABLES:
        lines += ["", f"[{table}]"]
        lines += [f"  {name:<15} {key.meaning}; {key.allowed}" for name, key in KEYS.items() if key.table == table]
    return "\n".join(lines) + "\n"


def from_toml(text: str) -> Architecture:
    """One's own architecture: tables ``model``, ``block``, ``attention`` and ``variances`` with the fields of
    :class:`Architecture`; ``base`` in ``model`` names a preset to start from.

    Variances and scales are numbers, or expressions in L, d, H, d_k, d_F, V as text.

    >>> from_toml('[model]\\nbase = "gpt2"\\nlayers = 48\\n[variances]\\noutput = "0.02**2/(4*L)"').number("output")
    2.0833333333333334e-06
    """
    try:
        tables = _Entries(tomllib.loads(text), "file")
    except (ValueError, RecursionError):
        raise InputError("file", "its text", "TOML that parses, without deep nesting") from None
    found: dict[str, Any] = {}
    base: str | None = None
    for section in tables.names():
        if section not in TABLES:
            raise UnknownNameError("table", section[:60], TABLES)
        entries = _Entries(tables.of(section), section)
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


def _field(entries: _Entries, name: str) -> Any:
    allowed = KEYS[name].allowed
    if allowed == _WHOLE:
        return entries.integer(name)
    if allowed == _REAL:
        return entries.number(name)
    if allowed == _FLAG:
        return entries.flag(name)
    if allowed == _EXPRESSION:
        return entries.expression(name)
    word = entries.word(name)
    if name == "name" and len(word) > 60:
        raise InputError("name", word, "at most 60 printable characters")
    return word


__all__ = ["KEYS", "MAX_BYTES", "READERS", "from_config", "from_toml", "keys_text", "load"]
