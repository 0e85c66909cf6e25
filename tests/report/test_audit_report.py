"""The report of an audited architecture: what the audit says, as a page and as LaTeX."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from symprop import auditing, cli
from symprop.architectures.audit import Audit, audit
from symprop.architectures.presets import preset
from symprop.audit_report import EXPLORED_TOKENS, FACTORS, explored, report
from symprop.report.document import Items, Sweep, Table
from symprop.report.page import html_page
from symprop.report.pdf import compile_document, engine, log_warnings
from symprop.report.tex import latex_files


@pytest.fixture(scope="module")
def found() -> Audit:
    small = preset("gpt2").replace(name="my_model & <b>", layers=2, width=64, heads=4, key_width=0, hidden=256)
    return audit(small, tokens=EXPLORED_TOKENS)


def test_the_report_says_what_the_audit_says(found: Audit) -> None:
    made = report(found)
    layers = next(section for section in made.sections if section.label == "sec:layers")
    table = next(block for block in layers.blocks if isinstance(block, Table))
    assert [row[1] for row in table.rows] == [auditing.number(row.q) for row in found.rows]
    root = ElementTree.fromstring(html_page(made).removeprefix("<!DOCTYPE html>\n"))
    said = " ".join(" ".join(root.itertext()).split())
    assert all(" ".join(line.split()) in said for line in found.verdict)
    heading = root.find(".//h1")
    assert heading is not None and heading.text == "Audit of my_model & <b>"


def test_every_step_of_the_layer_is_there(found: Audit) -> None:
    steps = next(block for block in report(found).blocks() if isinstance(block, Items))
    assert len(steps.items) == len(auditing.layer_trace(found.architecture).steps)


def test_the_slider_starts_at_the_audit_itself(found: Audit) -> None:
    sweep = next(block for block in explored(found).blocks() if isinstance(block, Sweep))
    assert sweep.curves[FACTORS.index(1.0)] == auditing.curves(found.rows)
    growth = [curves[0].y[-1] / curves[0].y[0] for curves in sweep.curves]
    assert growth == sorted(growth) and growth[0] < growth[-1]


@pytest.mark.skipif(engine() is None, reason="no LaTeX engine on the path")
def test_it_compiles_without_warnings(found: Audit, tmp_path: Path) -> None:
    for name, body in latex_files(report(found)).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body if isinstance(body, bytes) else body.encode())
    _, log = compile_document(tmp_path)
    assert log_warnings(log) == []


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "audit.html"
    assert cli.main(["audit", "bert", "--depth", "1", "--seq-len", "4", "--json", "--html", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 4
    assert "<h1>Audit of bert</h1>" in page.read_text(encoding="utf-8")
    assert cli.main(["audit", "bert", "--depth", "1", "--html", str(tmp_path / "none" / "audit.html")]) == 2
    assert "html = " in capsys.readouterr().err


def test_an_appendix_needs_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["appendix", "noci2022"]) == 2
    assert "--html FILE" in capsys.readouterr().err
