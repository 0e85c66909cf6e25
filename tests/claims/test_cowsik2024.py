"""The verdicts of Cowsik et al. 2024, its exponents in simulated blocks, and what the terminal prints."""

import numpy as np
import pytest
import sympy as sp
from symprop.derivations.cowsik2024 import CELLS, study_points

from symprop.bundled import derivation
from symprop.claims import Status, check
from symprop.codegen import evaluate
from symprop.codegen.render import load
from symprop.report.listing import listing
from symprop.simulate.measurement import rms_z

COWSIK = derivation("cowsik2024")


@pytest.mark.parametrize("claim", COWSIK.claims, ids=lambda claim: claim.id)
def test_verdict_is_the_one_held_fast(claim):
    verdict = check(claim)
    assert verdict.as_expected, verdict.detail


def test_refuted_claims_say_why_and_what_is_right():
    names = [claim.id for claim in COWSIK.claims]
    assert len(names) == len(set(names))
    refuted = [claim for claim in COWSIK.claims if claim.expected is Status.REFUTED]
    assert refuted and all(claim.note and claim.corrected_by in names for claim in refuted)


def test_exponents_agree_with_the_real_softmax():
    points = study_points(CELLS, 5, tokens=16, width=128, key_width=16, draws=12, depth=4)
    rows = [row for point in points for row in point()]
    assert all(abs(row.z) < 4 for row in rows)
    # Nine scores: the root mean square of standard normal ones lies within 0.36 and 1.76 with probability 0.998.
    assert 0.3 < rms_z(rows) < 1.8


@pytest.mark.slow
def test_exponents_on_the_grid_agree_within_a_hundredth():
    angle, deviation = COWSIK.accuracy(0, None)
    assert angle.settings == deviation.settings == 16 and not angle.missed and not deviation.missed


def test_overview_prints_exponents_and_boundaries():
    text = listing(COWSIK)
    after = text.split("Exponents and boundaries over depth")[1]
    for quantity in ("q^*", "λ_a", "λ_g^dev", "λ_g^com", "L_×", "χ_c"):
        assert quantity in after


def test_evaluators_agree_with_fifty_digits():
    for name, values in (
        ("exponents", {"A": 0.09, "M": 0.16, "m": 0.7, "chi": 1.3}),
        ("exponents_tanh", {"A": 0.09, "M": 0.36, "sigma_w": 4.0}),
        ("boundary", {"A": 0.25, "M": 0.04, "m": 0.8}),
        ("crossover_depth", {"A": 1e-6, "M": 1e-6, "m": 0.8, "n": 64}),
        ("crossover_depth", {"A": 1.0, "M": 0.5, "m": 0.8, "n": 64}),
    ):
        spec = COWSIK.evaluator(name)
        exact = evaluate(spec, values, 20)
        for backend in ("numpy", "torch"):
            found = load(spec, backend)(**values)
            numbers = [float(item) for item in found] if len(exact) > 1 else [float(found)]
            assert np.allclose(numbers, [float(item) for item in exact.values()], rtol=1e-9), (name, backend)


def test_exponents_at_the_edges():
    """Attention alone, logarithms of factors that cancel, and growth that only three hundred digits tell from one."""
    spec = COWSIK.evaluator("exponents_relu")
    for values in ({"A": 1 - 2**-53, "M": 0.5, "sigma_w": 1e12}, {"A": 0.984, "M": 1e-12, "sigma_w": 1e12},
                   {"A": 1e-12, "M": 1.0, "sigma_w": 1e-12}):
        exact, found = evaluate(spec, values, 20), load(spec)(**values)
        assert float(found.lyapunov_angle) == pytest.approx(float(exact["lyapunov_angle"]), rel=1e-13, abs=0)
    depth, values = COWSIK.evaluator("crossover_depth"), {"A": 1e-300, "M": 0.5, "m": 1.0, "n": 64}
    assert float(evaluate(depth, values)["depth"]) == pytest.approx(np.log(64) * 1e300, rel=1e-14)


@pytest.mark.parametrize("backend", ["numpy", "compiled"])
def test_a_gradient_that_attention_and_large_slopes_leave_as_it_is(backend):
    """The moment 1e12 cancels in a denominator all but 1 - A = 1e-6 of it; logarithms of 10^6 are rounded L times."""
    spec, values = COWSIK.evaluator("gradient_growth"), {"A": 0.999999, "M": 0.0843, "m": 1e12, "chi": 1e12, "n": 64, "L": 1000}
    exact = float(evaluate(spec, values, 20)["growth"])
    assert float(load(spec, backend)(**values)) == pytest.approx(exact, rel=1000 * np.log(1e6) * 2**-52, abs=0)


def test_tanh_exponents_vanish_on_the_tabulated_boundary():
    exact = evaluate(COWSIK.evaluator("exponents_tanh"), {"A": sp.Rational(9, 100), "M": sp.Rational(9, 100),
                                                          "sigma_w": sp.Rational("3.58391978")}, 15)
    assert abs(float(exact["lyapunov_angle"])) < 1e-8
    assert float(exact["lyapunov_gradient_common"]) == pytest.approx(0.1057, abs=6e-5)


@pytest.mark.parametrize(("name", "values"), [
    ("tanh", {"A": 0.999999, "M": 0.94, "sigma_w": 1e-6}),
    ("gelu", {"A": 1 - 2.0**-53, "M": 0.5, "sigma_w": 1e12}),
])
def test_exponents_of_named_activations_round_as_one_does(name, values):
    """Small weights, where slope and second moment agree to all digits, and large ones that undo what attention mixes."""
    spec = COWSIK.evaluator(f"exponents_{name}")
    function = load(spec)
    assert "Rounding: of lyapunov_angle" in function.__doc__
    for key, exact in evaluate(spec, values, 20).items():
        assert abs(float(getattr(function(**values), key)) - float(exact)) < 1e-14
