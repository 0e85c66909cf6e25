"""What was derived is found again, under a key that follows every source."""

import json

import pytest

from symprop import bundled, cache, cli
from symprop.cache import folder, remembered


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path / "kept"))


def test_texts_are_derived_once():
    asked = []

    def derive():
        asked.append(1)
        return {"text": "λ\n"}

    for _ in range(2):
        assert remembered("derive", derive, "name") == {"text": "λ\n"}
    assert asked == [1] and remembered("derive", derive, "another name") and asked == [1, 1]


@pytest.mark.parametrize("damage", [
    lambda text: text[: len(text) // 2], lambda text: text.replace("true", "fals"), lambda text: "", lambda text: "[1]",
    lambda text: '{"sha256": "0", "texts": {"text": "forged"}}',
])  # fmt: skip
def test_a_damaged_entry_is_derived_again(damage):
    for round_ in range(2):
        assert remembered("derive", lambda: {"text": "true"}) == {"text": "true"}
        (entry,) = folder().iterdir()
        stored = entry.read_text()
        assert json.loads(stored)["texts"] == {"text": "true"}
        if not round_:
            entry.write_text(damage(stored))


def test_a_changed_source_is_another_key(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "part").mkdir(parents=True)
    formula = package / "part" / "formula.py"
    keys = []
    for text in ("x + 1", "x + 2", "x + 1"):
        formula.write_text(text)
        monkeypatch.setattr(cache.resources, "files", lambda name: package)
        keys.append(cache.source_key.__wrapped__())
    assert keys[0] == keys[2] != keys[1]
    monkeypatch.setattr(cache.metadata, "version", lambda name: "0")
    assert cache.source_key.__wrapped__() != keys[2]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path / "file"))
    assert remembered("derive", lambda: {"text": "x"}) == {"text": "x"}


def test_generate_uses_it_and_the_check_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundled, "generated_files", lambda: {"a.py": "x = 1\n"})
    assert cli.main(["generate", "-o", str(tmp_path / "out")]) == 0
    monkeypatch.setattr(bundled, "generated_files", lambda: {"a.py": "x = 2\n"})
    assert cli.main(["generate", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "a.py").read_text() == "x = 1\n"
    assert cli.main(["generate", "--check", "-o", str(tmp_path / "out")]) == 1
    assert "a.py: different" in capsys.readouterr().out
