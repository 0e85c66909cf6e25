"""The web page: one file without a network, every formula in it, nothing live from plain text."""

from __future__ import annotations

import json
import math
import re
import subprocess
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from symprop import bundled
from symprop.claims import Curve, Paper, PaperDerivation
from symprop.codegen.render import load
from symprop.report.appendix import with_sweeps
from symprop.report.document import Display, Document, Paragraph, Picture, Section, Statement, Sweep, numbering
from symprop.report.mathml import mathml
from symprop.report.page import html_page
from symprop.report.prose import prose
from symprop.report.sweep import FIRST_COSINE, TOKENS, sweeps

HOSTILE = '<script>alert(1)</script><img src="//x" onerror=alert(1)> & "quoted" \'text\''
CORE = {
    "math", "mi", "mn", "mo", "mtext", "mspace", "mrow", "mfrac", "msqrt", "msub", "msup", "msubsup", "munder", "mover",
    "munderover", "mtable", "mtr", "mtd",
}  # fmt: skip
CHILDREN = {"mfrac": 2, "msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "munderover": 3}
BROWSER = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
           "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
           "--virtual-time-budget=5000")  # fmt: skip
PROBE = """
const slider = document.querySelector("figure.sweep input");
const line = () => document.querySelector("figure.sweep path.line").getAttribute("d");
const before = line();
slider.value = slider.max;
slider.dispatchEvent(new Event("input"));
const visible = item => item.getBoundingClientRect().width > 0 && item.getBoundingClientRect().height > 0;
const formulas = [...document.querySelectorAll("math")];
const found = {
  moved: before !== line(), shown: document.querySelector("figure.sweep output").textContent,
  formulas: formulas.length, empty: formulas.filter(item => !visible(item)).length,
  fraction: document.querySelector("mfrac").getBoundingClientRect().height,
  letter: document.querySelector("mi").getBoundingClientRect().height,
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
};
const note = document.createElement("pre");
note.id = "probe";
note.textContent = JSON.stringify(found);
document.body.append(note);
"""


@pytest.fixture(scope="module")
def explored(document: Document, derivation: PaperDerivation) -> Document:
    return with_sweeps(document, sweeps(derivation, derivation.view))


@pytest.fixture(scope="module")
def page(explored: Document) -> str:
    return html_page(explored)


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def test_the_page_is_well_formed_and_its_links_arrive(page: str, explored: Document) -> None:
    root = parsed(page)
    anchors = [item.get("id") for item in root.iter() if item.get("id")]
    assert len(anchors) == len(set(anchors))
    targets = [item.get("href", "") for item in root.iter("a")]
    assert {target[1:] for target in targets if target.startswith("#")} <= set(anchors)
    # The anchors are the labels of the LaTeX form.
    assert set(numbering(explored)) <= set(anchors)


def test_a_page_of_two_derivations(both: Document) -> None:
    page = html_page(both)
    anchors = re.findall(r' id="([^"]*)"', page)
    assert len(anchors) == len(set(anchors)) and set(numbering(both)) <= set(anchors)
    assert '[<a href="#ref:noci2022">1</a>, <a href="#ref:other2023">2</a>]' in page


def test_nothing_is_fetched(page: str) -> None:
    root = parsed(page)
    assert not any(item.get("src") or item.tag in ("link", "img", "iframe", "object") for item in root.iter())
    assert not re.search(r"url\(|@import|@font-face|fetch\(|XMLHttp", page)
    assert re.findall(r"https?://[^\"<\s]+", page) == ["https://example.org/a_b"] * 2
    assert "default-src 'none'" in page


def test_every_formula_is_there_in_mathml_core(page: str, explored: Document) -> None:
    root = parsed(page)
    displays = [block for block in explored.blocks() if isinstance(block, Display)]
    assert len(displays) == sum(item.get("class") == "aligned" for item in root.iter("mtable"))
    for formula in root.iter("math"):
        for item in formula.iter():
            assert item.tag in CORE
            assert len(item) == CHILDREN.get(item.tag, len(item))
        assert not any(re.fullmatch(r"\\[A-Za-z]+", item.text or "") for item in formula.iter("mtext"))
    for block in explored.blocks():
        if isinstance(block, Statement):
            assert f'id="{block.label}"' in page
    assert len(list(root.iter("svg"))) == sum(isinstance(block, Picture | Sweep) for block in explored.blocks())


def test_numbers_are_those_of_latex(page: str, document: Document) -> None:
    found = numbering(document)
    assert (found["claim:products"].word, found["claim:products"].number) == ("Lemma", "5.1")
    assert (found["claim:norm-printed"].word, found["claim:norm-printed"].number) == ("Remark", "5.4")
    assert '<a href="#claim:norm">5.2</a> replaces it' in page


def test_plain_text_is_no_markup() -> None:
    paper = Paper("x", HOSTILE, HOSTILE, HOSTILE, 2024, "javascript:alert(1)")
    section = Section(prose(HOSTILE), "sec:a", (Paragraph(prose(HOSTILE)), Statement("remark", prose(HOSTILE), "claim:a", ())))
    page = html_page(Document(prose(HOSTILE), (), (section,), (paper,)))
    root = parsed(page)
    assert sum(item.tag == "script" for item in root.iter()) == 1
    assert not any(item.tag == "img" or "onerror" in item.attrib for item in root.iter())
    assert "javascript:" not in page
    heading = root.find(".//h2")
    assert heading is not None
    # What looks like a formula is set without its spaces.
    assert "".join("".join(heading.itertext()).replace("”", '"').split()) == "1" + HOSTILE.replace(" ", "")


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\frac{1}{n}\,\alpha_2^2", "1nα22"),
        (r"\mathbb{E}\|X'\|_F^2", "𝔼‖X′‖F2"),
        (r"\stackrel{\text{skip $W_1$ a}}{=} -x", "=skip\u00a0W1\u00a0a−x"),
        (r"\Bigl(\mathbf{1}\mathbf{1}^\top\Bigr)^2", "(𝟏𝟏⊤)2"),
        (r"x^23", "x23"),
        (r"\begin{cases} 1 & \text{if } x < 0 \\ -2 & \text{otherwise} \end{cases}", "{1if\u00a0x<0−2otherwise"),
        (r"\nosuch & a}b{c^", "\\nosuchabc"),
        ("<script>", "<script>"),
        ("", ""),
    ],
)
def test_formulas_are_read(latex: str, text: str) -> None:
    assert "".join(ElementTree.fromstring(mathml(latex)).itertext()) == text


def test_scripts_belong_to_their_base() -> None:
    assert mathml("x^23") == "<math><msup><mi>x</mi><mn>2</mn></msup><mn>3</mn></math>"
    assert mathml(r"\sigma_v^2") == "<math><msubsup><mi>σ</mi><mi>v</mi><mn>2</mn></msubsup></math>"
    assert mathml(r"= -x").count('form="prefix"') == 1 and "prefix" not in mathml("a - x")


def test_a_sweep_is_the_recursion_over_depth(derivation: PaperDerivation) -> None:
    (found,) = sweeps(derivation, derivation.view)
    for value, (curve,) in zip(found.values[::5], found.curves[::5], strict=True):
        second, gap = 1.0, 1.0 - FIRST_COSINE
        for y in curve.y:
            # Both sides round once per operation.
            assert math.isclose(y, gap / second, rel_tol=1e-13)
            # Uniform attention adds the mean token, the feed-forward branch as much again as there is.
            second += value**2 * (second - (1 - 1 / TOKENS) * gap)
            second, gap = 2 * second, 2 * gap


def test_the_slider_holds_every_position(page: str, derivation: PaperDerivation) -> None:
    (found,) = sweeps(derivation, derivation.view)
    content = json.loads(next(item.text or "" for item in parsed(page).iter("script") if item.get("type")))
    assert [float(name) for name in content["names"]] == list(found.values)
    assert len({paths[0] for paths in content["paths"]}) == len(found.values)


def test_values_that_no_axis_shows_interrupt_a_curve() -> None:
    curve = Curve("a", (0.0, 1.0, 2.0, 3.0), (1.0, 0.0, math.nan, 10.0))
    sweep = Sweep("s", "", "fig:s", "x", (1.0,), ((curve,),), "x", "y", logy=True)
    page = html_page(Document("", (), (Section("S", "sec:s", (sweep,)),)))
    line = next(item.get("d", "") for item in parsed(page).iter("path") if (item.get("class") or "").startswith("line"))
    assert line.count("M") == 2 and "nan" not in line


@pytest.mark.browser
@pytest.mark.parametrize("size", ["1200,900", "500,900"])
def test_in_a_browser(page: str, tmp_path: Path, size: str) -> None:
    probed = page.replace("</body>", f"<script>{PROBE}</script></body>")
    (tmp_path / "page.html").write_text(probed, encoding="utf-8")
    address = (tmp_path / "page.html").as_uri()
    done = subprocess.run(
        [*BROWSER, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size}", "--dump-dom", address],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    body = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert body is not None
    found = json.loads(unescape(body[1]))
    assert found["moved"] and found["shown"] == "1"
    assert found["formulas"] == page.count("<math") and found["empty"] == 0
    # A fraction is drawn as one: higher than a letter.
    assert found["fraction"] > 1.5 * found["letter"] > 0
    assert found["wide"] <= 0


@pytest.mark.parametrize("name", ["cowsik2024", "kedia2024", pytest.param("softmax_attention", marks=pytest.mark.slow)])
def test_a_slider_over_a_diagram_moves_its_evaluator(name: str) -> None:
    found = bundled.derivation(name)
    assert found.diagram is not None
    (sweep,) = sweeps(found, found.view)
    level, evaluator = next(iter(found.diagram.evaluators.items()))
    spec = found.evaluator(evaluator)
    names = {parameter.name for parameter in spec.parameters}
    given = {str(symbol): value for symbol, value in found.diagram.values.items() if str(symbol) in names}
    function = load(spec)
    for value, (curve,) in zip(sweep.values[::10], sweep.curves[::10], strict=True):
        assert curve.label == level
        theory = function(**{found.diagram.x.name: np.array(curve.x), found.diagram.y.name: value}, **given)
        # Softmax moments are interpolated, in the range of the points of one call.
        np.testing.assert_allclose(curve.y, getattr(theory, str(found.diagram.output)), rtol=1e-9)
