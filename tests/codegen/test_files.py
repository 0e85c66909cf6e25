"""Files appear together or not at all, and differences are listed."""

from __future__ import annotations

import pytest

from symprop.codegen.files import stale_or_different, write_files
from symprop.core.errors import InputError


def test_writes_and_compares(tmp_path):
    files = {"a.py": "x = 1\n", "sub/b.bin": b"\x00"}
    folder = tmp_path / "new" / "out"
    assert stale_or_different(files, folder) == ["a.py: missing", "sub/b.bin: missing"]
    assert write_files(files, folder) == [folder / "a.py", folder / "sub" / "b.bin"]
    assert stale_or_different(files, folder) == []
    assert sorted(path.name for path in folder.iterdir()) == ["a.py", "sub"]
    (folder / "a.py").write_bytes(b"x = 1\r\n")
    (folder / "old.py").write_text("")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("")
    assert stale_or_different(files, folder) == ["a.py: different", "old.py: stale"]


def test_a_failure_changes_nothing(tmp_path):
    (tmp_path / "a.py").write_text("old")
    (tmp_path / "z").mkdir()
    with pytest.raises(InputError, match="not a folder"):
        write_files({"a.py": "new", "z": "in the way"}, tmp_path)
    with pytest.raises(InputError, match="a folder, not a file"):
        write_files({"b.py": "new", "a.py/c": "below a file"}, tmp_path)
    assert (tmp_path / "a.py").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.py", "z"]
    with pytest.raises(InputError, match="can be written"):
        write_files({"c.py": "new"}, tmp_path / "a.py")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", ""])
def test_paths_stay_inside(tmp_path, name):
    with pytest.raises(InputError, match="relative path inside"):
        write_files({name: ""}, tmp_path)


@pytest.mark.parametrize(("name", "folder"), [("a\0.txt", "out"), ("a.txt", "o\0ut")])
def test_null_characters_are_refused(tmp_path, name, folder):
    with pytest.raises(InputError, match="without null characters"):
        write_files({name: ""}, tmp_path / folder)
    assert not list(tmp_path.iterdir())
