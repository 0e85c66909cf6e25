"""Files of tensors in the safetensors format, their header checked before anything else is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from symprop.core.errors import InputError, MissingExtraError

MAX_HEADER = 10**7
"""Bytes of a header; a model of a thousand layers needs a tenth of it."""
MAX_DIMENSIONS, MAX_SIDE = 8, 10**10
ITEM_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U16": 2, "U32": 4,
    "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_READ = ("F64", "F32", "F16")


@dataclass(frozen=True)
class Entry:
    """One tensor of a file; ``begin`` and ``end`` count bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name.

    Raises :class:`InputError` unless the header is short, its tensors have known types and sizes that fit, and they fill
    the rest of the file without gap or overlap. Nothing is allocated on the word of the file.
    """
    try:
        if not path.is_file():
            raise InputError("checkpoint", path, "a file that exists")
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                raise InputError("checkpoint", path, f"a header of at most {MAX_HEADER} bytes that the file holds")
            content = file.read(length)
    except OSError as error:
        raise InputError("checkpoint", path, f"a readable file ({type(error).__name__})") from None
    try:
        table = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise InputError("checkpoint", path, "a header of JSON, every name once") from None
    if not isinstance(table, dict):
        raise InputError("checkpoint", path, "a header with tensors by name")
    entries = {name: _entry(name, value) for name, value in table.items() if name != "__metadata__"}
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise InputError(f"tensor {_shown(name)}", f"begins at {entry.begin}", f"{place}, where the one before ends")
        place = entry.end
    if place != size - 8 - length:
        raise InputError("checkpoint", f"{size - 8 - length} bytes of tensors", f"{place}, as the header says")
    return entries


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError
    return table


def _shown(name: str) -> str:
    return repr(name[:60])


def _entry(name: str, value: Any) -> Entry:
    where = f"tensor {_shown(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise InputError(where, "its entry", "dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise InputError(where, f"dtype {dtype!r:.40}", f"one of {', '.join(ITEM_BYTES)}")
    if not _integers(shape) or len(shape) > MAX_DIMENSIONS:
        raise InputError(where, f"shape {shape!r:.40}", f"at most {MAX_DIMENSIONS} sizes, integers in [0, {MAX_SIDE}]")
    if not _integers(offsets, 1 << 62) or len(offsets) != 2:
        raise InputError(where, f"data_offsets {offsets!r:.40}", "two integers")
    begin, end = offsets
    wanted = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != wanted:
        raise InputError(where, f"{end - begin} bytes", f"{wanted}, those of its shape and type")
    return Entry(dtype, tuple(shape), begin, end)


def _integers(value: Any, most: int = MAX_SIDE) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= most for item in value)


class TensorFiles:
    """The tensors of one or more files, read one at a time."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths: dict[str, Path] = {}
        self.entries: dict[str, Entry] = {}
        for path in paths:
            for name, entry in read_header(path).items():
                if name in self.entries:
                    raise InputError("checkpoint", _shown(name), "every tensor in one file only")
                self._paths[name], self.entries[name] = path, entry

    def read(self, name: str) -> npt.NDArray[np.float64]:
        """A tensor in double precision. Raises :class:`InputError` for types that numpy lacks and for numbers that are none."""
        entry = self.entries[name]
        if entry.dtype not in _READ:
            raise InputError(f"tensor {_shown(name)}", entry.dtype, f"one of {', '.join(_READ)}: convert the checkpoint")
        with _opened(self._paths[name]) as file:
            tensor = np.asarray(file.get_tensor(name), dtype=float)
        if not np.isfinite(tensor).all():
            raise InputError(f"tensor {_shown(name)}", "nan or infinite entries", "finite numbers")
        return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as missing:
        raise MissingExtraError("checkpoints", "hf") from missing
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise InputError("checkpoint", path, f"a file that safetensors reads ({error})") from None
