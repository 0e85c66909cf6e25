"""The appendix: the same bytes everywhere, nothing live from plain text, and a PDF without warnings."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from symprop.claims import PaperDerivation
from symprop.core.errors import SympropError
from symprop.report import pdf
from symprop.report.document import Document
from symprop.report.page import html_page
from symprop.report.pdf import compile_document, engine, log_warnings
from symprop.report.tex import bibliography, latex_files

SAMPLE = Path(__file__).with_name("sample.py")
DIGEST = """
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("report_sample", sys.argv[1])
sample = importlib.util.module_from_spec(spec); sys.modules["report_sample"] = sample; spec.loader.exec_module(sample)
from symprop.claims import check
from symprop.report.appendix import appendix
from symprop.report.page import html_page
from symprop.report.tex import latex_files
d = sample.make()
document = appendix(d, d.view, [check(c) for c in d.claims], sample.measurements(), sample.figures())
files = latex_files(document) | {"page.html": html_page(document)}
for name, body in sorted(files.items()):
    print(name, hashlib.sha256(body if isinstance(body, bytes) else body.encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def files(document: Document) -> dict[str, str | bytes]:
    return latex_files(document)


def test_same_bytes_under_two_hash_seeds(document: Document, files: dict[str, str | bytes]) -> None:
    files = files | {"page.html": html_page(document)}
    wanted = "".join(
        f"{name} {hashlib.sha256(body if isinstance(body, bytes) else body.encode()).hexdigest()}\n"
        for name, body in sorted(files.items())
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", DIGEST, str(SAMPLE)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == wanted


def test_files_and_parts(files: dict[str, str | bytes]) -> None:
    assert sorted(files) == ["appendix.tex", "figures/norm-over-depth.pdf", "macros.tex", "references.bib"]
    page = str(files["appendix.tex"])
    for part in (
        r"\begin{theorem}",
        r"\begin{lemma}",
        r"\begin{remark}",
        r"\label{claim:norm}",
        r"\label{asm:fresh-branch}",
        r"\stackrel{\text{skip}}{=}",
        r"\Cref{claim:norm} replaces it",
        r"\section{Errata}",
        r"\section{Where the assumption fails}",
        r"\stackrel{\mathbb{E}_{W^{K}}}{=}",
        r"\bibliography{references}",
    ):
        assert part in page


def test_every_reference_has_its_label(files: dict[str, str | bytes]) -> None:
    page = str(files["appendix.tex"])
    labels = re.findall(r"\\label\{([^}]*)\}", page)
    assert len(labels) == len(set(labels))
    wanted = {name for group in re.findall(r"\\[cC]ref\{([^}]*)\}", page) for name in group.split(",")}
    assert wanted <= set(labels)


def test_plain_text_is_escaped(files: dict[str, str | bytes]) -> None:
    page = str(files["appendix.tex"])
    assert re.findall(r"\\input\b", page) == [r"\input"]
    assert "^^5c" not in page
    assert r"100\% \& more" in str(files["references.bib"])


def test_bibliography(derivation: PaperDerivation) -> None:
    assert bibliography([derivation.paper]).startswith("@misc{noci2022,\n  author = {Noci, Lorenzo and")


@pytest.mark.skipif(engine() is None, reason="no LaTeX engine on the path")
def test_compiles_without_warnings(files: dict[str, str | bytes], tmp_path: Path) -> None:
    for name, body in files.items():
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(body if isinstance(body, bytes) else body.encode())
    before = sorted(tmp_path.rglob("*"))
    made, log = compile_document(tmp_path)
    assert made.startswith(b"%PDF")
    assert log_warnings(log) == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(engine() is None, reason="no LaTeX engine on the path")
def test_a_broken_document_names_its_error(tmp_path: Path) -> None:
    (tmp_path / "appendix.tex").write_text(r"\documentclass{article}\begin{document}\nosuch\end{document}")
    with pytest.raises(SympropError, match="Undefined control sequence"):
        compile_document(tmp_path)


def test_without_an_engine_the_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    with pytest.raises(SympropError, match=r"texlive-latex-recommended .* latexmk"):
        compile_document(tmp_path)


def test_log_parser() -> None:
    log = """LaTeX Warning: Reference `claim:x' on page 1 undefined on input line 3.
LaTeX Warning: Citation `y' on page 1 undefined on input line 4.
LaTeX Warning: Label `z' multiply defined.
Overfull \\hbox (3.2pt too wide) in alignment at lines 5--6
Underfull \\hbox (badness 10000) in paragraph
Warning--I didn't find a database entry for "y"
LaTeX Font Info: fine
"""
    assert len(log_warnings(log)) == 5
    assert log_warnings("This is pdfTeX\nOutput written on appendix.pdf") == []
