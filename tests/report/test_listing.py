"""What `symprop derive` prints."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from symprop.claims import PaperDerivation, check
from symprop.core.errors import UnknownNameError
from symprop.notation import KEDIA, VIEWS, View
from symprop.report import listing as module
from symprop.report.listing import listing, measurement_rows, measurement_table, plain, verdict_table


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize("claim", [None, "query"])
def test_unicode_fits_the_terminal(derivation: PaperDerivation, view: View, claim: str | None) -> None:
    lines = listing(derivation, claim, view).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(mark in line for line in lines for mark in (r"\frac", r"\mathbb", "\x1b", "$\\"))


def test_overview_tells_the_whole_story(derivation: PaperDerivation) -> None:
    page = listing(derivation)
    assert "E C(X^L) = (1 + α₁² d_v σ_v²)^L (1 + α₂² d_F d_v σ_F₁² σ_F₂²)^L C(X)" in page
    for part in ("[attention] = ", "fresh branch: ", "Infinite depth, α₁² = α̃₁/L", "nothing (exact)", "Lemma A.6"):
        assert part in page


def test_overview_checks_no_claim(derivation: PaperDerivation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check", lambda claim: pytest.fail("checked"))
    assert "norm-printed" in listing(derivation)


def test_claim_in_full(derivation: PaperDerivation) -> None:
    page = listing(derivation, "norm-printed")
    assert "Verdict: refuted" in page and "Corrected by norm." in page
    assert "Setup" in listing(derivation, "query")


def test_json_and_latex_and_sympy(derivation: PaperDerivation) -> None:
    data = json.loads(listing(derivation, format="json"))
    assert data["closed_form"][0]["sympy"].startswith("C")
    ids = ["products", "norm", "query", "norm-printed", "growth", "relation", "depth"]
    assert [claim["id"] for claim in data["claims"]] == ids
    assert r"\begin{align*}" in listing(derivation, "norm", format="latex")
    assert "GrowthMinusOne(" in listing(derivation, format="sympy")


def test_a_step_of_another_quantity_starts_a_line_of_its_own(derivation: PaperDerivation) -> None:
    page = listing(derivation, "growth")
    assert "\n  e^λ\n    [chain rule] = " in page and "\n  λ\n    [logarithm]  = log" in page
    tex = listing(derivation, "growth", format="latex")
    assert r"e^{\lambda} & \stackrel{\text{chain rule}}{=}" in tex
    assert r"\lambda & \stackrel{\text{logarithm}}{=}" in tex
    data = json.loads(listing(derivation, "growth", format="json"))
    assert [(step["quantity"], step["relation"]) for step in data["steps"]] == [(r"e^{\lambda}", "="), ("", "=")]
    assert "Compared with:" in page


def test_a_whole_relation_stands_alone(derivation: PaperDerivation) -> None:
    assert "    λ > 1\n" in listing(derivation, "relation") and "λ = λ" not in listing(derivation, "relation")


def test_the_depth_prints_as_the_notation_writes_it(derivation: PaperDerivation) -> None:
    kedia = listing(derivation, "depth", KEDIA)
    assert "E C(X^N) = " in kedia and "X^L" not in kedia
    assert "E C(X^L) = " in listing(derivation, "depth")


def test_unknown_names(derivation: PaperDerivation) -> None:
    with pytest.raises(UnknownNameError, match="products"):
        listing(derivation, "product")
    with pytest.raises(UnknownNameError, match="latex"):
        listing(derivation, format="latexx")


def test_tables(derivation: PaperDerivation, sample: ModuleType) -> None:
    table = plain(verdict_table([check(claim) for claim in derivation.claims]))
    assert "refuted" in table and "unexpected" not in table
    rows = sample.measurements()
    assert max(map(len, plain(measurement_table(rows)).splitlines())) <= 80
    assert json.loads(json.dumps(measurement_rows(rows)))[2]["expected_to_hold"] is False
