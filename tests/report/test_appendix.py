"""The appendix: the same bytes everywhere, nothing live from plain text, and a PDF without warnings."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sympy as sp

from symprop.bundled import derivation
from symprop.claims import PaperDerivation
from symprop.core.errors import SympropError, UnknownNameError
from symprop.core.symbols import d, n
from symprop.notation import COLUMN, COWSIK, LINE, NOCI
from symprop.report import pdf
from symprop.report.appendix import Part, appendix, notation_table
from symprop.report.content import block_report, dynamics
from symprop.report.document import Display, Document, Paragraph
from symprop.report.page import html_page
from symprop.report.pdf import compile_document, engine, log_warnings
from symprop.report.tex import bibliography, latex_files
from symprop.report.width import width
from symprop.wick.attention import AttentionLayer
from symprop.wick.matrices import Commutation, averaging

OWN_STATEMENTS = r"""\documentclass[a4paper]{article}
\usepackage[margin=2.5cm]{geometry}
\usepackage{amsthm}
\newtheorem{theorem}{Satz}
\newtheorem{remark}{Bemerkung}"""
"""A document that has statements of its own."""
HOST = r"""
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\input{macros}
\setlength{\textwidth}{16cm}\emergencystretch=3em
\begin{document}
As \cref{claim:norm} says.
\appendix
\input{derivation}
\bibliographystyle{plain}
\bibliography{references}
\end{document}
"""
SAMPLE = Path(__file__).with_name("sample.py")
DIGEST = """
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("report_sample", sys.argv[1])
sample = importlib.util.module_from_spec(spec); sys.modules["report_sample"] = sample; spec.loader.exec_module(sample)
from symprop.claims import check
from symprop.report.appendix import Part, appendix
from symprop.report.page import html_page
from symprop.report.tex import latex_files
d = sample.make()
document = appendix([Part(d, [check(c) for c in d.claims], sample.measurements(), sample.figures())], d.view)
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


def test_what_a_claim_is_said_to_be(files: dict[str, str | bytes]) -> None:
    page = str(files["appendix.tex"])
    growth = page.partition(r"\label{claim:growth}")[2].partition(r"\label{claim:relation}")[0]
    assert "the printed formula" not in growth
    assert r"e^{\lambda} & \stackrel{\text{chain rule}}{=} 1 + \alpha_2^2" in growth
    assert r"\lambda & \stackrel{\text{logarithm}}{=} \log(1 + \alpha_2^2)" in growth
    relation = page.partition(r"\label{claim:relation}")[2].partition(r"\end{remark}")[0]
    assert r"\lambda > 1" in relation and r"\lambda & = \lambda" not in relation and "printed side" not in relation
    assert "which is the printed formula" in page


def test_a_title_that_begins_with_a_symbol_keeps_it() -> None:
    notation = appendix([], COWSIK).sections[0]
    assert isinstance(notation.blocks[0], Paragraph) and notation.blocks[0].text.startswith("$q = ")


def test_a_branch_that_is_decided_is_not_printed() -> None:
    noci = derivation("noci2022")
    limit = block_report(noci, noci.view).correlation
    assert limit is not None and len(limit.expression.args) == 3 and limit.expression.args[-1][1] == True  # noqa: E712


def test_plain_text_is_escaped(files: dict[str, str | bytes]) -> None:
    page = str(files["appendix.tex"])
    assert re.findall(r"\\input\b", page) == [r"\input"]
    assert "^^5c" not in page
    assert r"100\% \& more" in str(files["references.bib"])


def test_two_derivations_share_notation_assumptions_and_numbers(both: Document, document: Document) -> None:
    files = latex_files(both)
    page = str(files["appendix.tex"])
    labels = re.findall(r"\\label\{([^}]*)\}", page)
    assert len(labels) == len(set(labels))
    wanted = {name for group in re.findall(r"\\[cC]ref\{([^}]*)\}", page) for name in group.split(",")}
    assert wanted <= set(labels)
    assert {"claim:noci2022-norm", "claim:other2023-norm", "sec:notation"} <= set(labels)
    titles = [section.title for section in both.sections]
    assert titles[:3] == ["Notation", "Assumptions", "The block (Noci et al. 2022)"] and "Results (Other 2023)" in titles
    single = [section.blocks for section in document.sections[:2]]
    assert [section.blocks for section in both.sections[:2]] == single
    assert {name for name in files if name.startswith("figures/")} == {
        "figures/noci2022-norm-over-depth.pdf", "figures/other2023-norm-over-depth.pdf"
    }
    assert str(files["references.bib"]).count("@misc") == 2


def test_matrices_stand_in_the_notation_with_their_shapes() -> None:
    layer = AttentionLayer()
    formulas = [sp.KroneckerProduct(layer.W_V.T, averaging(n)) * Commutation(n, d), sp.Trace(layer.X * layer.X.T)]
    rows = notation_table(formulas, NOCI).rows
    shapes = {sign: (meaning, values) for sign, meaning, values in rows}
    assert shapes["$W^{V}$"] == ("weights of the values", r"$d_v \times d_o$")
    assert shapes["$X$"][1] == r"$n \times d_v$" and shapes["$P$"][1] == r"$n \times n$" and "$W^{K}$" not in shapes
    assert "commutation matrix" in shapes["$K_{m,k}$"][0]


def _compiled(files: dict[str, str | bytes], folder: Path) -> list[str]:
    for name, body in files.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True, parents=True)
        target.write_bytes(body if isinstance(body, bytes) else body.encode())
    return log_warnings(compile_document(folder)[1])


@pytest.mark.slow
@pytest.mark.skipif(engine() is None, reason="no LaTeX engine on the path")
def test_two_derivations_compile_without_warnings(both: Document, tmp_path: Path) -> None:
    assert _compiled(latex_files(both), tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(engine() is None, reason="no LaTeX engine on the path")
@pytest.mark.parametrize("preamble", [r"\documentclass{report}", OWN_STATEMENTS])
def test_input_only_goes_into_another_document(document: Document, tmp_path: Path, preamble: str) -> None:
    files = latex_files(document, "input-only")
    page = str(files.pop("appendix.tex"))
    assert "documentclass" not in page and r"\begin{document}" not in page
    host = preamble + HOST
    assert _compiled(files | {"derivation.tex": page, "appendix.tex": host}, tmp_path) == []


def test_two_columns_break_formulas_for_a_column_and_keep_tables_over_both(narrow: Document, document: Document) -> None:
    page, wide = (str(latex_files(item)["appendix.tex"]) for item in (narrow, document))
    assert "twocolumn" in page and "twocolumn" not in wide
    assert "longtable" not in page and page.count(r"\begin{table*}") >= wide.count(r"\begin{longtable}")
    for text, room in ((page, COLUMN), (wide, LINE)):
        bodies = [line.split("&", 1)[-1] for block in re.findall(r"\\begin\{align\*\}\n(.*?)\n\\end", text, re.DOTALL)
                  for line in block.split("\n") if "stackrel" not in line]
        assert bodies and max(map(width, bodies)) <= room
    # Both say the same.
    assert [section.title for section in narrow.sections] == [section.title for section in document.sections]
    assert re.findall(r"\\label\{[^}]*\}", page) == re.findall(r"\\label\{[^}]*\}", wide)


@pytest.mark.slow
@pytest.mark.skipif(engine() is None, reason="no LaTeX engine on the path")
def test_two_columns_compile_without_warnings(narrow: Document, tmp_path: Path) -> None:
    assert _compiled(latex_files(narrow), tmp_path) == []


def test_an_unknown_style_is_refused(document: Document) -> None:
    with pytest.raises(UnknownNameError, match="input-only"):
        latex_files(document, "input")


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


def test_exponents_and_boundaries_over_depth_are_printed():
    """Every formula that ``derive`` prints for the depth is a display of its own section, in the paper's symbols."""
    cowsik = derivation("cowsik2024")
    document = appendix([Part(cowsik, ())], cowsik.view)
    section = next(item for item in document.sections if item.label == "sec:dynamics")
    shown = [block.quantity for block in section.blocks if isinstance(block, Display)]
    assert shown == [formula.quantity for formula in dynamics(cowsik, cowsik.view)] and r"\chi_c" in shown
    assert all(block.steps[0][1] for block in section.blocks if isinstance(block, Display))
