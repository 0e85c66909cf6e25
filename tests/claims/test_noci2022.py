"""The verdicts of the paper's claims, and depth solutions at their edges."""

from dataclasses import replace

import pytest
import sympy as sp

from symprop.bundled import derivation
from symprop.claims import Claim, EvaluatorBuilder, Result, Status, check
from symprop.components import Linear, UniformAttention
from symprop.core.errors import RefusedError, UnknownNameError
from symprop.core.expression import compare
from symprop.core.symbols import L, a_1, a_2, alpha_1, alpha_2, d, n, sigma_v2, sigma_x2
from symprop.depth import solve
from symprop.network import residual, sequential, stack, token_input
from symprop.notation import VIEWS

NOCI = derivation("noci2022")


@pytest.mark.parametrize("claim", NOCI.claims, ids=lambda claim: claim.id)
def test_verdict_is_the_one_held_fast(claim):
    verdict = check(claim)
    assert verdict.as_expected, verdict.detail


def test_claim_names_are_unique_and_refuted_ones_say_why():
    names = [claim.id for claim in NOCI.claims]
    assert len(names) == len(set(names))
    for claim in NOCI.claims:
        if claim.expected is Status.REFUTED:
            assert claim.note
            assert not claim.corrected_by or claim.corrected_by in names


def test_a_wrong_formula_is_refuted():
    right = NOCI.claim("eq12")
    wrong = Claim("wrong", "", "", right.derived, right.stated * sp.Rational(102, 100), domain=right.domain)
    assert check(wrong).status is Status.REFUTED


def test_an_unproved_identity_is_not_called_proved():
    x = sp.Symbol("x", positive=True)
    nested = sp.sin(x) ** 8 + 4 * sp.sin(x) ** 6 * sp.cos(x) ** 2
    other = nested + sp.Float("1e-45")
    found = check(Claim("close", "", "", lambda: Result(nested), other))
    assert found.status in (Status.AGREES, Status.REFUTED)


def test_unknown_claim_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'eq12'"):
        NOCI.claim("eq12x")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_closed_form_is_the_iterated_block(depth):
    solution = NOCI.solution
    once = solution.trace.expand()
    start = solution.input
    state = {start.q: start.q, start.gap: start.gap}
    for _ in range(depth):
        state = {start.q: once.q.xreplace(state), start.gap: once.gap.xreplace(state)}
    for key, value in ((start.q, solution.signal.q), (start.gap, solution.signal.gap)):
        assert compare(value.subs(L, depth), state[key]).equal is not False


@pytest.mark.parametrize("values", [{alpha_1: 0}, {alpha_2: 0}, {sigma_v2: 0}, {alpha_1: 0, alpha_2: 0}, {n: 1}])
def test_degenerate_parameters_are_branches(values):
    signal = NOCI.solution.signal
    q = signal.q.subs(values)
    assert q.is_finite is not False and not q.has(sp.nan, sp.zoo)
    limit = NOCI.solution.scaling_limit({alpha_1: sp.sqrt(a_1 / L), alpha_2: sp.sqrt(a_2 / L)})
    assert not limit.signal.q.subs(values).has(sp.nan, sp.zoo)


def test_one_token_has_no_gap():
    block = residual(UniformAttention(d, 1 / d), alpha_1)
    solution = solve(stack(block), token_input(tokens=1))
    assert solution.signal.gap == 0
    assert compare(solution.signal.q, solution.input.q * (1 + alpha_1**2) ** L).equal


def test_pure_attention_collapses_in_one_layer():
    signal = solve(stack(UniformAttention(d, 1 / d))).signal
    assert signal.gap == 0
    assert compare(signal.q, solve(stack(UniformAttention(d, 1 / d))).input.common).equal


def test_biases_drift_and_the_resonant_case_is_finite():
    signal = solve(stack(residual(Linear(d, 1 / d, sigma_x2), alpha_2))).signal
    assert compare(signal.q.subs(alpha_2, 0), token_input().q).equal
    plain = solve(stack(Linear(d, 1 / d, sigma_x2))).signal
    assert compare(plain.q, token_input().q + L * sigma_x2).equal


def test_limit_error_coefficient():
    limit = NOCI.solution.scaling_limit({alpha_1: sp.sqrt(a_1 / L), alpha_2: sp.sqrt(a_2 / L)})
    at = {**NOCI.values, a_1: sp.Rational(13, 10), a_2: sp.Rational(6, 10)}
    coefficient = float(limit.relative_error["common"].subs(NOCI.values).subs(at))
    depth = 10**6
    finite = NOCI.solution.mode("common").factor.subs({alpha_1: sp.sqrt(a_1 / depth), alpha_2: sp.sqrt(a_2 / depth)})
    exact = (sp.N(finite.subs(NOCI.values).subs(at), 40) ** depth) / sp.exp(sp.Rational(19, 10)) - 1
    # The next order is 1/L^2.
    assert float(exact * depth) == pytest.approx(coefficient, abs=10 / depth)
    assert coefficient == pytest.approx(-1.025)


def test_a_branch_that_is_not_fresh_is_refused():
    with pytest.raises(RefusedError, match="not fresh"):
        solve(stack(residual(residual(Linear(d, 1 / d), 1), 1)))


def test_widths_must_agree():
    with pytest.raises(RefusedError, match="widths"):
        solve(stack(residual(Linear(2 * d, 1 / d), 1)))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_views_round_trip(view):
    signal = token_input()
    back = view.signal(signal, view.values(signal))
    for one, two in ((back.q, signal.q), (back.gap, signal.gap), (back.mean, signal.mean)):
        assert sp.simplify(one - two) == 0


def test_composition_in_two_ways_is_one_result():
    branch = sequential(Linear(d, 1 / d), Linear(d, 1 / d))
    once = solve(stack(residual(branch, alpha_2), 6)).signal.q
    twice = solve(stack(sequential(residual(branch, alpha_2), residual(branch, alpha_2)), 3)).signal.q
    assert compare(once, twice).equal is not False


def test_an_evaluator_is_found_without_deriving_the_others():
    def never(name):
        raise AssertionError(name)

    spec = NOCI.evaluator("norm")
    several = replace(NOCI, build_evaluators=(EvaluatorBuilder("first", never), lambda: (spec,),
                                                    EvaluatorBuilder("last", never)))
    assert several.evaluator("norm") is spec and several.chosen(["norm", "norm"]) == (spec,)
    with pytest.raises(UnknownNameError, match=r"did you mean 'noci2022:last'\? \(known: noci2022:first, noci2022:norm"):
        several.evaluator("lats")
