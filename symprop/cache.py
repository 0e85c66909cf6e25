"""What was derived, kept between runs under a hash of everything that it was derived from.

The key covers the bytes of every module of the package and of the bundled derivations, and the versions of SymPy, mpmath and
Python: a changed formula or version is another key. An entry that is damaged counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

from symprop.core.errors import InputError

_SOURCES = ("symprop", "symprop.derivations")


def folder() -> Path:
    """Where entries are kept: ``SYMPROP_CACHE``, or ``symprop`` in ``XDG_CACHE_HOME`` or in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("SYMPROP_CACHE") or Path(base) / "symprop")


@cache
def source_key() -> str:
    """The hash of the package, its derivations and what they are evaluated with."""
    digest = hashlib.sha256()
    for name in ("sympy", "mpmath"):
        digest.update(f"{name} {metadata.version(name)}\n".encode())
    digest.update(platform.python_version().encode())
    for package in _SOURCES:
        _add(digest, resources.files(package), package)
    return digest.hexdigest()[:32]


def _add(digest: hashlib._Hash, item: Traversable, name: str) -> None:
    for part in sorted(item.iterdir(), key=lambda part: part.name):
        if part.is_dir() and part.name not in ("__pycache__", "generated", "derivations"):
            _add(digest, part, f"{name}/{part.name}")
        elif part.is_file() and not part.name.endswith(".pyc"):
            content = part.read_bytes()
            digest.update(f"{name}/{part.name} {len(content)}\n".encode() + content)


def remembered(kind: str, derive: Callable[[], dict[str, str]], *asked: object) -> dict[str, str]:
    """Texts by name, from an entry of the cache where there is one; otherwise derived and kept.

    ``asked`` is what the texts depend on besides the sources. A folder that cannot be written is no error: nothing is kept.
    """
    question = hashlib.sha256(repr((source_key(), asked)).encode()).hexdigest()[:32]
    entry = f"{kind}-{question}.json"
    try:
        stored = json.loads((folder() / entry).read_text(encoding="utf-8"))
        text = json.dumps(stored["texts"], sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest() == stored["sha256"]:
            return dict(stored["texts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    from symprop.codegen.files import write_files

    texts = derive()
    text = json.dumps(texts, sort_keys=True)
    content = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "texts": texts})
    with suppress(InputError):
        write_files({entry: content}, folder())
    return texts
