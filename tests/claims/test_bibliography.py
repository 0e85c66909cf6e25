"""The papers that the bundled derivations are about and cite."""

from symprop import bundled


def test_a_key_is_one_paper_in_all_derivations():
    found = {}
    for item in map(bundled.derivation, bundled.names()):
        for paper in (item.paper, *item.references):
            assert found.setdefault(paper.key, paper) == paper, item.key


def test_the_bibliography_is_no_derivation():
    assert "bibliography" not in bundled.names()
