"""Files that describe an architecture, as tables of entries whose types are checked, before anything symbolic is imported."""

from __future__ import annotations

import json
import tomllib
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from symprop.core.errors import InputError, UnknownNameError

MAX_BYTES, MAX_DESCRIPTION = 10**6, 2 * 10**4
"""A longer config or description in TOML describes no architecture; TOML takes quadratic time to parse."""
MAX_INTEGER = 10**15
"""No size of a model is larger; integers of any length parse, but neither print nor become floats."""
MAX_WORD = 1000
"""Characters of a word in a file."""
BUNDLED = (
    "transformer", "gpt2", "bert", "llama", "gpt_neox", "gptj", "vit", "t5", "deepnet", "peri_ln", "layer_scale", "rezero",
    "mup", "transformer_decoder", "t5_decoder",
)  # fmt: skip
"""Names of the presets."""
MODEL_TYPES = ("gpt2", "bert", "roberta", "llama", "mistral", "qwen2", "gpt_neox", "gptj", "vit", "t5")
"""The ``model_type`` of a config that has a reader."""
NORM_NAMES = ("layer", "rms")
ACTIVATION_NAMES = (
    "relu", "gelu", "gelu_tanh", "silu", "squared_relu", "abs", "erf", "sin", "tanh", "sigmoid", "identity",
)  # fmt: skip
"""Norms and activations that a description may name."""
MAX_TOKENS = 2048
"""Tokens of the longest sequence that is audited."""
SIZES = (
    "n_embd", "n_layer", "n_head", "n_inner", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "intermediate_size", "vocab_size", "d_model", "num_layers", "num_heads", "d_kv", "d_ff", "head_dim",
    "patch_size", "num_channels",
)  # fmt: skip
NUMBERS = (
    "initializer_range", "initializer_factor", "layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "rope_theta",
    "rotary_emb_base", "rotary_pct",
)  # fmt: skip
"""Entries of configs that are sizes, and numbers, in any of them."""
_BRIEF = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
ALIASES = {
    "gpt2": _BRIEF, "gptj": _BRIEF,
    "t5": {"hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads", "head_dim": "d_kv"},
}  # fmt: skip
"""Other names by which the library reads an entry, for each ``model_type`` that has some."""


def read(target: str) -> Entries | None:
    """The entries of a ``.toml`` or ``.json`` file, of the ``config.json`` in a folder or beside a ``.safetensors`` file.

    None for the name of a preset.

    >>> read("gpt2") is None
    True
    """
    if target in BUNDLED:
        return None
    if not target.isprintable() or len(target) > MAX_WORD:
        raise InputError("architecture", repr(target), f"a name or path of at most {MAX_WORD} printable characters")
    path = Path(target)
    if path.suffix == ".toml":
        return description(_text(path, MAX_DESCRIPTION))
    if path.suffix == ".json":
        return config(_text(path))
    if path.suffix == ".safetensors":
        return config(_text(path.parent / "config.json"))
    if target and _is_folder(path):
        return config(_text(path / "config.json"))
    raise UnknownNameError("architecture (or file ending in .json, .toml or .safetensors)", target, BUNDLED)


def checkpoint_files(target: str) -> tuple[Path, tuple[Path, ...]] | None:
    """The folder and the tensor files that a path names: a ``.safetensors`` file or a folder that holds one; None else."""
    path = Path(target)
    try:
        if path.suffix == ".safetensors":
            return path.parent, (path,)
        files = tuple(sorted(path.glob("*.safetensors"))) if target.isprintable() and path.is_dir() else ()
    except OSError:
        return None
    return (path, files) if files else None


def config(text: str) -> Entries:
    """A Hugging Face config of a known type, its sizes and numbers checked."""
    try:
        entries = Entries(json.loads(text, object_pairs_hook=_table), "config")
    except (ValueError, RecursionError):
        raise InputError("config", "its text", "JSON that parses, without deep nesting") from None
    kind = entries.word("model_type")
    if kind not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise InputError("model_type", kind, f"one of {known}; describe any other model in a .toml file (symprop audit --keys)")
    for alias, key in ALIASES.get(kind, {}).items():
        entries.rename(alias, key)
    entries.join("patch_size")
    for key in filter(entries.has, SIZES):
        entries.size(key)
    for key in filter(entries.has, NUMBERS):
        if entries.number(key) < 0:
            raise InputError(f"config: {key}", entries.number(key), "a number >= 0")
    return entries


def description(text: str) -> Entries:
    """The tables of one's own description in TOML."""
    try:
        return Entries(tomllib.loads(text), "file")
    except (ValueError, RecursionError):
        raise InputError("file", "its text", "TOML that parses, without deep nesting") from None


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


class Entries:
    """A parsed table whose entries are checked as they are read; ``kind`` says of what, in messages."""

    def __init__(self, table: Any, kind: str) -> None:
        if not isinstance(table, dict):
            raise InputError(kind, type(table).__name__, "a table of names and values")
        self._table, self.kind = table, kind

    def has(self, key: str) -> bool:
        return self._table.get(key) is not None

    def names(self) -> tuple[str, ...]:
        return tuple(self._table)

    def rename(self, alias: str, key: str) -> None:
        """Take what stands under another name for the entry ``key``; two different values are refused."""
        if not self.has(alias):
            return
        value = self._table[alias]
        if self.has(key) and self._table[key] != value:
            raise InputError(f"{self.kind}: {alias}", repr(value)[:40], f"the value of {key}, whose other name it is")
        self._table = {name: entry for name, entry in self._table.items() if name != alias} | {key: value}

    def join(self, key: str) -> None:
        """Take a pair of equal numbers, the sides of a square, for one."""
        value = self._table.get(key)
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            self._table = self._table | {key: value[0]}

    def of(self, key: str, default: Any = MISSING) -> Any:
        value = self._table.get(key)
        if value is None:
            if default is MISSING:
                raise InputError(f"{self.kind}: {key}", "missing", "a value")
            return default
        return value

    def size(self, key: str, default: Any = MISSING) -> int:
        value = self.integer(key, default)
        if value < 1:
            raise InputError(f"{self.kind}: {key}", value, "an integer >= 1")
        return value

    def integer(self, key: str, default: Any = MISSING) -> int:
        value = self.of(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{self.kind}: {key}", value, "an integer")
        if self.has(key) and abs(value) > MAX_INTEGER:
            raise InputError(f"{self.kind}: {key}", "an integer of many digits", f"at most {MAX_INTEGER:.0e}")
        return value

    def number(self, key: str, default: Any = MISSING) -> float:
        value = self.of(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return float(self.integer(key, default))
        if not isinstance(value, float) or not abs(value) < 1e300:
            raise InputError(f"{self.kind}: {key}", value, "a finite number")
        return value

    def flag(self, key: str, default: Any = MISSING) -> bool:
        value = self.of(key, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.kind}: {key}", value, "true or false")
        return value

    def word(self, key: str, default: Any = MISSING) -> str:
        value = self.of(key, default)
        if not isinstance(value, str):
            raise InputError(f"{self.kind}: {key}", value, "text")
        if len(value) > MAX_WORD or not value.isprintable():
            raise InputError(f"{self.kind}: {key}", repr(value[:40]), f"at most {MAX_WORD} printable characters")
        return value

    def formula(self, key: str) -> int | float | str:
        value = self.of(key)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InputError(f"{self.kind}: {key}", value, "a number, or an expression as text")
        if isinstance(value, str):
            return value
        return self.integer(key) if isinstance(value, int) else self.number(key)
