"""Named blocks (placement of norms, scaled residuals, pure and shaped attention, rate laws): verdicts, numbers, simulation."""

import numpy as np
import pytest
from scipy.optimize import brentq

from symprop import bundled
from symprop.claims import Status, check
from symprop.codegen import evaluate
from symprop.codegen.render import load

DERIVATIONS = {name: bundled.derivation(name)
               for name in ("norm_placement", "scaled_residuals", "dong2021", "noci2023", "rate_laws")}
POINT = {"q_0": 1.5, "gain_v": 0.7, "m": 0.6, "chi": 1.1, "L": 24, "lam": 2.5, "beta": 0.6,
         "alpha_1": 0.3, "alpha_2": 0.4, "n": 16, "d": 64, "sigma_q2": 0.02, "sigma_k2": 0.015, "gap": 0.01, "rho": 0.3,
         "tau_0": 1.3, "depth_ratio": 0.2, "sigma_w": 1.4, "c_2": 0.8, "layer": 40}


@pytest.mark.parametrize(("name", "claim"), [
    pytest.param(name, claim, id=f"{name}:{claim.id}") for name, item in DERIVATIONS.items() for claim in item.claims
])  # fmt: skip
def test_verdict_is_the_one_held_fast(name, claim):
    verdict = check(claim)
    assert verdict.as_expected, (name, verdict.status, verdict.detail)


@pytest.mark.parametrize("name", DERIVATIONS)
def test_refuted_claims_say_why_and_what_is_right(name):
    claims = DERIVATIONS[name].claims
    ids = [claim.id for claim in claims]
    assert len(ids) == len(set(ids))
    for claim in claims:
        if claim.expected is Status.REFUTED:
            right = DERIVATIONS[name].claim(claim.corrected_by)
            assert claim.note and right.expected is not Status.REFUTED


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", DERIVATIONS)
def test_evaluators_agree_with_thirty_digits(name, backend):
    for spec in DERIVATIONS[name].evaluators:
        values = {parameter.name: POINT[parameter.name] for parameter in spec.parameters}
        exact, found = evaluate(spec, values, 30), load(spec, backend)(**values)
        for (output, _), value in zip(spec.outputs, found if len(spec.outputs) > 1 else (found,), strict=True):
            assert float(value) == pytest.approx(float(exact[output]), rel=1e-12), (spec.name, output)


def test_pure_attention_collapses_below_every_power_that_a_double_holds():
    """Twelve layers: the logarithm of the gap is about -2.5 million, and of three layers that of the cubes in turn."""
    spec = DERIVATIONS["dong2021"].evaluator("log_gap")
    given = {name: POINT[name] for name in ("n", "d", "gain_v", "sigma_q2", "sigma_k2", "gap")}
    layer = load(DERIVATIONS["dong2021"].evaluator("layer"))
    first = layer(**given)
    third = layer(**{**given, "gap": layer(**{**given, "gap": first})})
    assert load(spec)(**given, L=3) == pytest.approx(np.log(third), rel=1e-12)
    deep = load(spec)(**given, L=12)
    assert np.isfinite(deep) and deep < -1e6


def test_deepnorm_keeps_the_update_at_one_for_every_depth():
    function = load(DERIVATIONS["scaled_residuals"].evaluator("deepnorm_update"))
    depth = np.array([1.0, 10.0, 1e3, 1e6])
    found = function(lam=(2 * depth) ** 0.25, beta=(8 * depth) ** -0.25, L=depth)
    # The branch itself, which the published rule leaves out, is 1/(8 L sqrt(2 L)) of the squared skip.
    np.testing.assert_allclose(found * (1 + 1 / (8 * depth * np.sqrt(2 * depth))), 1, rtol=1e-12)
    np.testing.assert_allclose(function(lam=1.0, beta=1.0, L=depth), 2 * depth, rtol=1e-12)


def test_deepnorm_skip_makes_the_update_one():
    item = DERIVATIONS["scaled_residuals"]
    skip = float(evaluate(item.evaluator("deepnorm_skip"), {"beta": 0.4, "L": 30})["skip"])
    assert load(item.evaluator("deepnorm_update"))(lam=skip, beta=0.4, L=30) == pytest.approx(1, rel=1e-12)


def test_streams_at_the_edges():
    """No slope: the gap stays and 1 - rho falls with the stream; a billion layers; no depth scaling of ReZero at alpha = 0."""
    item = DERIVATIONS["norm_placement"]
    still = load(item.evaluator("pre_stream"))(q_0=1.0, gain_v=1.0, m=1.0, chi=0.0, L=10)
    assert (still.second_moment, still.share_growth) == (21, pytest.approx(1 / 21, rel=1e-14))
    deep = load(item.evaluator("pre_stream"))(q_0=1.0, gain_v=1.0, m=1.0, chi=1.0, L=np.array([10**9, 4 * 10**9]))
    assert np.log(deep.share_growth[1] / deep.share_growth[0]) / np.log(4) == pytest.approx(-0.5, abs=1e-8)
    assert load(DERIVATIONS["scaled_residuals"].evaluator("rezero_growth"))(alpha_1=0.0, L=10**6) == 1


def test_shaped_attention_reaches_infinity_at_its_stopping_depth():
    item = DERIVATIONS["noci2023"]
    given = {"n": 8, "rho": 0.1, "beta": 0.7, "tau_0": 0.6, "q_0": 1.0}
    stop = float(load(item.evaluator("stopping_depth"))(**given))
    norm = load(item.evaluator("norm"))
    assert norm(**given, depth_ratio=0.0) == 1
    assert norm(**given, depth_ratio=stop * (1 - 1e-8)) == pytest.approx(1e4, rel=1e-6)


def test_pure_attention_in_simulated_layers():
    rows = DERIVATIONS["dong2021"].study(1, False, None)
    powers = {row.predicted: row for row in rows if row.quantity.startswith("power of the gap")}
    assert set(powers) == {3.0, 9.0}
    assert all(abs(row.z) < 4 for row in rows if row.expected_to_hold)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DERIVATIONS if name not in ("dong2021", "rate_laws")])
def test_simulated_blocks_agree(name):
    _agree(name)


def test_a_law_of_each_kind_is_simulated_in_the_default_run():
    _agree("rate_laws")


def _agree(name):
    rows = DERIVATIONS[name].study(0, False, None)
    held = [row for row in rows if row.expected_to_hold]
    assert held and all(abs(row.z) < 3.5 for row in held)
    # What is published is the exponent at infinite depth: the finite one is within its standard errors.
    assert all(abs(row.measured - row.published) < 2.5 * row.stderr for row in held if row.published is not None)


def test_constants_of_tfixup():
    """Constants of T-Fixup by another road."""
    residuals = DERIVATIONS["scaled_residuals"]
    fourth = brentq(lambda x: 4 * x * np.exp(2 * x) - 1, 0, 1, xtol=1e-15)
    assert float(residuals.claim("tfixup-constant").derived().expression) == pytest.approx(fourth**0.25, rel=1e-12)
    assert float(residuals.claim("tfixup-decoder").derived().expression) == pytest.approx(2 / 3 * np.exp(1 / 3), rel=1e-10)
