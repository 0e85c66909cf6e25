"""Write a set of files all together, and compare a folder with what should be in it."""

from __future__ import annotations

import contextlib
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from symprop.core.errors import InputError

_IGNORED = frozenset({"__pycache__"})
STAGING = ".symprop-"
"""How the name of a temporary folder begins in which files are written before they are moved into place."""
_ABANDONED = 600.0
"""Seconds after which a temporary folder is that of a run that was killed: writing takes less than one."""


def write_files(files: Mapping[str, str | bytes], folder: Path) -> list[Path]:
    """Write files, given by relative path, into a folder, and return their paths in sorted order.

    All of them are written in full to a temporary folder beside the target before the first is moved into place, so
    a failure to write leaves the target as it was; a file appears whole or not at all. Text is written as UTF-8 with
    ``\\n``. Other files in the folder stay. Raises ``InputError`` for a path that leaves the folder or a folder that
    cannot be written.
    """
    contents = {_relative(name): _bytes(content) for name, content in files.items()}
    folder = Path(folder)
    for name in contents:
        refuse_null_characters("file", folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in contents:
            if (folder / name).is_dir():
                raise InputError("file", folder / name, "a path that is not a folder")
            for parent in list(name.parents)[:-1]:
                if (folder / parent).exists() and not (folder / parent).is_dir():
                    raise InputError("file", folder / parent, "a folder, not a file")
        _remove_abandoned(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=STAGING) as staging:
            for name, content in contents.items():
                path = Path(staging) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            for name in contents:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(staging) / name).replace(folder / name)
    except OSError as error:
        raise InputError("folder", folder, f"a folder that can be written ({error.strerror})") from error
    return sorted(folder / name for name in contents)


def refuse_null_characters(argument: str, path: Path) -> None:
    """Raise ``InputError`` for a path that no file system takes."""
    if "\0" in str(path):
        raise InputError(argument, repr(str(path)), "a path without null characters")


def stale_or_different(files: Mapping[str, str | bytes], folder: Path) -> list[str]:
    """What keeps a folder from holding exactly these files: one sorted line each, ``path: missing|different|stale``.

    Stale is a file that should not be there; ``__pycache__`` and temporary folders of other runs are ignored.
    """
    expected = {_relative(name).as_posix(): _bytes(content) for name, content in files.items()}
    folder = Path(folder)
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not staged(path, folder) and not _IGNORED.intersection(path.relative_to(folder).parts)
    }
    wrong = dict.fromkeys(present - set(expected), "stale")
    for name, content in expected.items():
        if name not in present:
            wrong[name] = "missing"
        elif (folder / name).read_bytes() != content:
            wrong[name] = "different"
    return [f"{name}: {wrong[name]}" for name in sorted(wrong)]


def staged(path: Path, folder: Path) -> bool:
    """Whether a path in a folder lies in the temporary folder of a run that is writing there, or was killed there."""
    return path.relative_to(folder).parts[0].startswith(STAGING)


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{STAGING}*"):
        # Another run may end, and remove its folder, at any moment.
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and time.time() - found.st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _relative(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise InputError("file", name, "a relative path inside the folder")
    return path


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()
