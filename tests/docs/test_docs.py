"""The documentation: notebooks give the stored outputs again, the site builds without a warning."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from symprop import bundled
from symprop.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def derived_pages():
    spec = importlib.util.spec_from_file_location("derived_pages", DOCS / "derived_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(book):
    """What a reader sees: of an output in several forms, those beside plain text."""
    found = []
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            data = dict(output.get("data", {}))
            if len(data) > 1:
                data.pop("text/plain")
            found.append((cell.source, data or output["text"]))
    return found


@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_give_their_stored_outputs(path, tmp_path):
    stored = nbformat.read(path, as_version=4)
    again = nbformat.from_dict(stored)
    NotebookClient(again, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert shown(stored) == shown(again)
    assert len(shown(stored)) >= 4


COMMANDS = [
    (path, command)
    for path in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md")))
    for command in re.findall(r"symprop eval [^`\n]*", path.read_text(encoding="utf-8"))
    if "..." not in command and "=" in command
]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=lambda item: getattr(item, "stem", item))
def test_evaluations_in_the_text_have_a_value(path, command, capsys):
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out


def test_the_errata_quote_a_witness_for_every_refuted_claim():
    stored = json.loads((DOCS / "measured.json").read_text())
    assert set(stored) == set(bundled.names())
    for name, entry in bundled.index()["derivations"].items():
        refuted = {claim["id"] for claim in entry["claims"] if claim["expected"] == "refuted"}
        assert set(stored[name]["witnesses"]) == refuted


def test_stored_measurements_are_found_again(derived_pages):
    again, stored = derived_pages.measure("dong2021"), derived_pages.measured()["dong2021"]
    assert again["witnesses"] == stored["witnesses"]
    for row, old in zip(again["failures"], stored["failures"], strict=True):
        assert (row["quantity"], row["setting"], row["draws"]) == (old["quantity"], old["setting"], old["draws"])
        # Nearly equal tokens keep few digits of their difference, and which ones depends on the processor's matrix product.
        assert row["measured"] == pytest.approx(old["measured"], abs=0.01 * old["stderr"])


def test_a_theory_page_is_written_from_the_component(derived_pages):
    page = derived_pages.component_page(derived_pages.COMPONENTS[1])
    assert r"\Delta' = d \sigma^2\,\Delta_{X}" in page and "independent weights" in page and "Lemma A.4" in page


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "derived" / "errata.html").exists()
