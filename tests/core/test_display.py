"""What results show of themselves in a notebook."""

from html.parser import HTMLParser

import pytest
import sympy as sp

from symprop import Linear, UniformAttention, named, residual, sequential, solve, stack
from symprop.architectures import solve_recipe
from symprop.architectures.audit import audit
from symprop.architectures.presets import preset
from symprop.bundled import derivation
from symprop.claims import check
from symprop.components import Elementwise, LayerNorm
from symprop.core.display import html_table, latex
from symprop.core.signal import Gradient
from symprop.core.symbols import L, alpha_1, d
from symprop.functions.activation import Gelu
from symprop.functions.depth_nodes import ExpMinusOne, GrowthMinusOne
from symprop.network import parallel, token_input, trace_of


class Balanced(HTMLParser):
    """Collects text and fails on a tag that does not close."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def text_of(shown):
    parser = Balanced()
    parser.feed(shown)
    assert not parser.open
    return parser.text


@pytest.fixture(scope="module")
def network():
    return solve(stack(residual(UniformAttention(d, 1 / d), alpha_1)))


def test_formulas_print_moments_and_registered_symbols(network):
    assert network.signal._repr_latex_().count("&=") == 2
    assert r"\Delta_L &= \Delta_{X}" in network._repr_latex_()
    assert r"\alpha_1^{2}" in network._repr_latex_()
    assert r"\mu &= \frac{1}{2}" in network.signal.replace(mean=sp.Rational(1, 2))._repr_latex_()


def test_a_gradient_shows_its_radial_part_only_where_it_has_one():
    assert "r_g" not in Gradient(sp.S.One, sp.S.Zero)._repr_latex_()
    assert "r_g &= 2" in Gradient(sp.S.One, sp.S.Zero, sp.Integer(2))._repr_latex_()


def test_a_result_prints_its_symbols_as_the_paper_does():
    shown = derivation("noci2022").claim("eq10").derived()._repr_latex_()
    assert shown.startswith(r"$\displaystyle") and shown.endswith("$") and "C_X" not in shown.replace("C_{X", "")


def test_huge_expressions_are_counted():
    x = sp.Symbol("x")
    assert "operations" in latex(sp.Add(*(sp.sin(k * x) for k in range(1, 1500))))


def test_tables_say_what_the_object_holds(network):
    steps = text_of(network.trace._repr_html_())
    assert "skip" in steps and "attention" in steps
    assert "Noci et al" not in steps and Linear(d, 1 / d).describe() in text_of(Linear(d, 1 / d)._repr_html_())
    claim = derivation("noci2022").claim("footnote2")
    assert claim.corrected_by in text_of(claim._repr_html_())
    assert "refuted" in text_of(check(claim)._repr_html_())


def test_audits_and_recipes_are_tables_with_a_row_for_each_layer():
    found = audit(preset("gpt2").replace(layers=2, width=64, heads=4, key_width=0, hidden=256), tokens=8)
    assert found._repr_html_().count("<tr>") == 1 + len(found.rows)
    assert found.verdict[0] in "".join(text_of(found._repr_html_()))
    recipe = solve_recipe(layers=3, width=64, vocabulary=100)
    assert recipe._repr_html_().count("<tr>") == 4


def test_tables_escape_what_they_are_given():
    assert text_of(html_table("<script>", ["&"], [["<b>"]])) == ["<script>", "&", "<b>"]


def test_a_block_is_an_outline_of_what_it_holds():
    block = stack(sequential(residual(named(UniformAttention(d, 1 / d), "S"), alpha_1, 2), parallel(Linear(d, 1 / d))), L)
    shown = [text.strip() for text in text_of(block._repr_html_())]
    wanted = ["L times", "one after the other", "2 x + alpha_1 branch(x)", "S =", UniformAttention(d, 1 / d).describe()]
    assert [item for item in shown if item in wanted] == wanted
    assert {LayerNorm().describe(), Linear(d, 1 / d).describe()} <= set(shown)


def test_sums_over_depth_are_written_out():
    assert latex(sp.Symbol("x") * GrowthMinusOne(alpha_1**2, L)) == r"x \left(\left(\alpha_1^{2} + 1\right)^{L} - 1\right)"
    assert latex(ExpMinusOne(sp.Symbol("x")) ** 2) == r"\left(e^{x} - 1\right)^{2}"


def test_denominators_are_factors_that_meet_the_roots_above():
    block = sequential(Linear(d, 1 / d), Elementwise(Gelu()), Linear(d, 1 / d))
    shown = trace_of(block, token_input(gaussian=True)).expand()._repr_latex_()
    assert r"q &= \frac{q_{X}^{2}}{\pi \left(q_{X} + 1\right) \sqrt{2 q_{X} + 1}} +" in shown
