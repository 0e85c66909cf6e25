"""Killed, out of space, forbidden, raced: a file is whole or absent, and an earlier one survives."""

import ast
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from symprop.codegen.files import STAGING, stale_or_different, write_files
from symprop.core.errors import InputError

WRITER = """
import sys
from pathlib import Path
from symprop.codegen.files import write_files
folder, mark = Path(sys.argv[1]), sys.argv[2]
files = {f"part{k}/file{k % 3}.txt": mark * 200_000 for k in range(12)}
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    write_files(files, folder)
"""


def writer(folder, mark, rounds):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), mark, str(rounds)], stdout=subprocess.PIPE, text=True)


def whole(folder, marks):
    """Every file in place is of one run and complete."""
    found = [path for path in folder.rglob("*.txt") if not path.relative_to(folder).parts[0].startswith(STAGING)]
    for path in found:
        text = path.read_text()
        assert len(text) == 200_000 and set(text) <= set(marks) and len(set(text)) == 1, path
    return len(found)


def test_killed_while_writing(tmp_path):
    draw = random.Random(0)
    for _ in range(3):
        process = writer(tmp_path, "a", 10_000)
        process.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole(tmp_path, "a")
    assert whole(tmp_path, "a") == 12


def test_two_runs_into_one_folder(tmp_path):
    runs = [writer(tmp_path, mark, 20) for mark in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    assert whole(tmp_path, "ab") == 12
    assert not list(tmp_path.glob(f"{STAGING}*"))


def test_a_run_that_ends_while_another_looks_for_what_is_left(tmp_path, monkeypatch):
    """Its folder is seen and gone before its age is asked for."""
    monkeypatch.setattr(Path, "glob", lambda folder, _: [folder / f"{STAGING}gone"])
    write_files({"a.txt": "whole"}, tmp_path)
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_what_a_killed_run_left_is_no_one_s_file_and_is_removed(tmp_path):
    left = tmp_path / f"{STAGING}killed"
    left.mkdir()
    (left / "a.txt").write_text("half")
    assert stale_or_different({}, tmp_path) == []
    write_files({"b.txt": "whole"}, tmp_path)
    assert left.exists(), "it may belong to a run that is still writing"
    os.utime(left, (0, 0))
    write_files({"b.txt": "whole"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


@pytest.fixture
def no_space():
    """Files cannot grow beyond 1000 bytes, as on a full disk: the write fails in its middle."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_leaves_the_earlier_files(tmp_path, no_space):
    write_files({"a.txt": "old", "b.txt": "old"}, tmp_path)
    with pytest.raises(InputError, match="can be written"):
        write_files({"a.txt": "new", "b.txt": "x" * 5000}, tmp_path)
    assert [(tmp_path / name).read_text() for name in ("a.txt", "b.txt")] == ["old", "old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_full_disk_leaves_the_earlier_page(tmp_path, no_space):
    from symprop.cli import _write

    page = tmp_path / "page.html"
    page.write_bytes(b"old")
    with pytest.raises(InputError, match=r"html = .*can be written"):
        _write(page, b"x" * 5000, "html")
    assert page.read_bytes() == b"old"


def test_full_disk_while_keeping_a_derivation(tmp_path, no_space, monkeypatch):
    from symprop.cache import remembered

    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path))
    texts = {"listing": "x" * 5000}
    assert remembered("derive", lambda: texts, "one") == texts
    assert list(tmp_path.iterdir()) == []


def test_cut_entry_of_the_cache_is_derived_anew(tmp_path, monkeypatch):
    from symprop.cache import remembered

    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path))
    texts = {"listing": "x" * 100}
    remembered("derive", lambda: texts, "one")
    (entry,) = tmp_path.iterdir()
    content = entry.read_bytes()
    for length in (*range(0, len(content), 17), len(content) - 1):
        entry.write_bytes(content[:length])
        assert remembered("derive", lambda: texts, "one") == texts
        assert entry.read_bytes() == content


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError):
        write_files({"a.txt": "x"}, tmp_path / "file" / "out")
    with pytest.raises(InputError):
        write_files({"a.txt": "x"}, "/proc/symprop")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("generate", "-o"), ("appendix", "noci2022", "--no-pdf", "-o"), ("verify", "noci2022")],
                         ids=lambda arguments: arguments[0])  # fmt: skip
def test_commands_killed_at_random_moments(arguments, tmp_path):
    draw = random.Random(arguments[0])
    for number in range(5):
        folder = tmp_path / str(number)
        target = [str(folder)] if arguments[-1] == "-o" else []
        environment = os.environ | {"SYMPROP_CACHE": str(tmp_path / "cache")}
        process = subprocess.Popen([sys.executable, "-m", "symprop.cli", *arguments, *target], env=environment,
                                   stdout=subprocess.DEVNULL, cwd=tmp_path)  # fmt: skip
        time.sleep(draw.uniform(0.5, 25.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in folder.rglob("*"):
            if path.is_dir() or path.relative_to(folder).parts[0].startswith(STAGING):
                continue
            text = path.read_bytes()
            assert text, path
            if path.suffix == ".py":
                ast.parse(text)
            elif path.suffix == ".json":
                json.loads(text)
            elif path.name == "appendix.tex":
                assert b"\\end{document}" in text
