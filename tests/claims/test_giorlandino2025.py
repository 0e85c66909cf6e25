"""Giorlandino and Goldt 2025: verdicts, overlaps against independent numbers, and its evaluators."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop import bench_diagram, bundled
from symprop.claims import check
from symprop.codegen import evaluate
from symprop.codegen.render import load
from symprop.components import Elementwise, LayerNorm, Linear, UniformAttention
from symprop.core.errors import InputError
from symprop.functions.activation import Relu
from symprop.network import residual, sequential, token_input, trace_of
from symprop.network.gram import GramSignal, propagate
from symprop.network.gram_attention import pattern

DERIVATION = bundled.derivation("giorlandino2025")
NAMES = [claim.id for claim in DERIVATION.claims]
POINT = {"rho": 0.2, "gain_v": 0.2, "gain_w": 0.2, "sigma_b2": 4e-4, "alpha_sa": 1.0, "alpha_mlp": 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_verdict(name):
    verdict = check(DERIVATION.claim(name))
    assert verdict.as_expected, (verdict.status, verdict.detail)


def test_every_refuted_claim_names_the_right_one():
    for claim in DERIVATION.claims:
        assert (claim.expected.value == "refuted") == bool(claim.corrected_by)
        assert not claim.corrected_by or DERIVATION.claim(claim.corrected_by)


@pytest.mark.parametrize(("beta", "want"), [
    (0.5, [0.236, 0.407, 0.641, 0.920, 0.986, 0.9996]), (3.0, [0.220, 0.311, 0.449, 0.771, 0.956, 0.999]),
])
def test_overlaps_are_those_of_an_independent_map(beta, want):
    got = load(DERIVATION.evaluator("overlap_rem"))(**POINT, beta_a=beta, L=np.array([1, 5, 10, 20, 30, 50])).overlap
    np.testing.assert_allclose(got, want, atol=1.1e-3)


def test_preln_freezes_by_the_tokens_that_enter_attention():
    """With the stream's own q gap the overlap at beta = 2 would be 0.500; a simulation of the blocks gives 0.955(5)."""
    given = {**POINT, "gain_v": 1.0, "sigma_b2": 0.0, "q_0": 1.0}
    got = load(DERIVATION.evaluator("preln_overlap_rem"))(**given, beta_a=np.array([0.1, 0.5, 1.0, 2.0]), L=60).overlap
    np.testing.assert_allclose(got, [0.985, 0.985, 0.985, 0.978], atol=6e-4)


def test_exact_softmax_in_the_loop_is_the_simulated_overlap():
    """Simulated Pre-LN blocks (n = 64, d = 256) have .985, .984(1), .981(2), .955(5) after 60 layers."""
    given = {**POINT, "gain_v": 1.0, "sigma_b2": 0.0, "q_0": 1.0, "n": 64, "L": 60}
    got = load(DERIVATION.evaluator("preln_overlap_exact"))(**given, beta_a=np.array([0.1, 0.5, 1.0, 2.0])).overlap
    np.testing.assert_allclose(got, [0.985, 0.984, 0.981, 0.956], atol=6e-4)


@pytest.mark.slow
def test_simulated_overlaps_stay_within_two_hundredths_over_fifty_layers():
    low, high = DERIVATION.accuracy(0, None)
    assert low.settings == high.settings == 50 and not low.missed and not high.missed


def test_exact_softmax_has_its_limits():
    exact, uniform = (load(DERIVATION.evaluator(f"overlap_{name}")) for name in ("exact", "uniform"))
    cold = exact(**POINT, n=64, beta_a=0.0, L=5).overlap
    assert float(cold) == pytest.approx(float(uniform(**POINT, n=64, L=5).overlap), rel=1e-9)
    assert exact(**{**POINT, "rho": 1.0}, n=64, beta_a=3.0, L=5).one_minus_overlap == 0


def test_evaluators_against_thirty_digits():
    for spec in DERIVATION.evaluators:
        interpolated = spec.name.endswith("_exact") or spec.name.startswith("tanh")
        values = {"rho_T": 0.95, "beta_a": 0.8 if interpolated else 2.5, "L": 12, "n": 16, "q_0": 1.5, **POINT}
        values = {parameter.name: values[parameter.name] for parameter in spec.parameters}
        exact, got = evaluate(spec, values, 30), load(spec)(**values)
        digits = 1e-10 if interpolated else 1e-12
        for (name, _), value in zip(spec.outputs, got if len(spec.outputs) > 1 else (got,), strict=True):
            assert float(value) == pytest.approx(float(exact[name]), rel=digits), (spec.name, name)


def test_collapsed_and_cold_ends():
    function = load(DERIVATION.evaluator("overlap_rem"))
    assert function(**{**POINT, "rho": 1.0}, beta_a=3.0, L=5).one_minus_overlap == 0
    cold = function(**POINT, beta_a=0.0, L=5).overlap
    assert cold == pytest.approx(float(load(DERIVATION.evaluator("overlap_uniform"))(**POINT, n=10**9, L=5).overlap), rel=1e-8)
    rate = load(DERIVATION.evaluator("angle_exponent"))(**{key: value for key, value in POINT.items() if key != "rho"})
    near = function(**{**POINT, "rho": 1 - 1e-9}, beta_a=3.0, L=np.array([20, 21])).one_minus_overlap
    assert np.log(near[1] / near[0]) == pytest.approx(float(rate), rel=1e-4)


def test_critical_strength_keeps_the_overlap_of_attention_at_its_bound():
    point = {"rho": 0.2, "rho_T": 0.95, "L": 50, "gain_v": 0.2}
    strength = evaluate(DERIVATION.evaluator("critical_strength"), point)["alpha_sa"]
    assert float(strength) == pytest.approx(1.488 * (0.2 / 0.2004) ** 0.5, abs=1e-3)  # 1.488 with a bias of 4e-4
    only = {"rho": 0.2, "gain_v": 0.2, "gain_w": 0.0, "sigma_b2": 0.0, "alpha_sa": float(strength), "alpha_mlp": 1.0}
    got = load(DERIVATION.evaluator("overlap_uniform"))(**only, n=10**9, L=50).overlap
    assert got == pytest.approx(0.95, abs=1e-7)


@pytest.mark.parametrize("backend", ["numpy", "torch", "compiled"])
@pytest.mark.filterwarnings("error")
def test_critical_strength_up_to_equal_tokens(backend, monkeypatch, tmp_path):
    """An overlap of 1 is reached in a finite number of blocks without the skip only."""
    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path))
    if backend == "torch":
        pytest.importorskip("torch")
    spec = DERIVATION.evaluator("critical_strength")
    for largest in (0.5, 1 - 1e-9, 1 - 2**-53, 1.0):
        for overlap, layers in ((1e-12, 1), (0.2, 1), (0.2, 50), (0.45, 10**6)):
            point = {"rho": overlap, "rho_T": largest, "L": layers, "gain_v": 0.2}
            exact = float(evaluate(spec, point, 30)["alpha_sa"])
            assert float(load(spec, backend)(**point)) == pytest.approx(exact, rel=1e-13, abs=0), point
            assert (exact == 0) == (largest == 1)


def test_what_many_tokens_cannot_have_is_refused():
    """A bound below the overlap that tokens enter with, one that no overlap grows to, and a negative overlap of all pairs."""
    strength, point = DERIVATION.evaluator("critical_strength"), {"rho": 0.5, "rho_T": 0.4, "L": 50, "gain_v": 0.2}
    rem, negative = DERIVATION.evaluator("overlap_rem"), {**POINT, "rho": -0.1, "beta_a": 1.0, "L": 3}
    for spec, given in ((strength, point), (strength, {**point, "rho": 0.0}), (rem, negative)):
        with pytest.raises(InputError, match="rho"):
            evaluate(spec, given)
        with pytest.raises(ValueError, match="rho"):
            load(spec)(**given)


def test_states_beyond_doubles_give_no_overlap():
    huge = {**POINT, "beta_a": 1e6, "gain_v": 1e12, "gain_w": 1e12, "alpha_sa": 1e6, "alpha_mlp": 1e6, "L": 40}
    with np.errstate(all="ignore"):
        annealed = load(DERIVATION.evaluator("overlap_annealed"))(**{**POINT, "beta_a": 1e3, "n": 64, "L": 1})
        found = [load(DERIVATION.evaluator(f"{name}_overlap_rem"))(**huge, q_0=1.0) for name in ("preln", "noln")]
    assert all(np.isnan(item.overlap) and np.isnan(item.one_minus_overlap) for item in (annealed, *found))
    assert not any(np.isfinite(item.second_moment) for item in found)


@pytest.mark.parametrize("backend", ["numpy", "torch", "compiled"])
def test_exponents_keep_their_digits_where_one_block_nearly_ends_the_gap(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path))
    if backend == "torch":
        pytest.importorskip("torch")
    spec = DERIVATION.evaluator("angle_exponent")
    nearly = {"gain_w": 0.0, "sigma_b2": 1e12, "alpha_sa": 1e-12, "alpha_mlp": 1e-12}
    for changed in ({"alpha_sa": 1e-12}, {"gain_v": 1e12}, {"sigma_b2": 1e12, "alpha_sa": 1e-6}, {"alpha_sa": 1e6}, {}, nearly):
        point = {key: value for key, value in {**POINT, **changed}.items() if key != "rho"}
        exact = float(evaluate(spec, point)["lyapunov_angle"])
        assert float(load(spec, backend)(**point)) == pytest.approx(exact, rel=1e-14), changed


@pytest.mark.slow
@pytest.mark.parametrize("grid", bench_diagram.GRIDS, ids=lambda grid: grid.label)
def test_diagrams_take_seconds(grid):
    assert bench_diagram.seconds(grid) < grid.limit


def test_centred_attention_keeps_tokens_apart():
    """Against feed-forward alone, which it is where scores vanish and stays below where they do not."""
    centred, depths = load(DERIVATION.evaluator("centred_overlap_exact")), np.array([1, 10, 50])
    point = {**POINT, "sigma_b2": 0.0, "n": 16, "L": depths}
    alone = load(DERIVATION.evaluator("overlap_uniform"))(**{**point, "gain_v": 0.0}).overlap
    # What the table misses of 1/n, layer by layer.
    np.testing.assert_allclose(centred(**point, beta_a=0.0).overlap, alone, rtol=1e-8)
    assert np.all(centred(**point, beta_a=2.0).overlap < alone)


def test_frozen_query_gradient():
    found = load(DERIVATION.evaluator("query_gradient_frozen"))
    critical = float(sp.sqrt(2 / sp.Rational(4, 5)))
    assert found(beta_a=critical * 0.9, rho=0.2) == 0
    assert found(beta_a=2 * critical, rho=0.2) == pytest.approx(1 / 12)


def test_late_tokens_under_a_causal_mask_follow_the_map_without_one():
    """Blocks simulated under the mask have overlaps of 0.923(4) among the last 16 of 64 tokens and 0.907(4) among the first."""
    tokens, width, layers = 64, sp.Integer(10**6), 20
    gain, bias = sp.Rational(1, 5), sp.Rational(1, 2500)
    attention = residual(UniformAttention(width, gain / width), 1, sp.S.One)
    branch = sequential(Linear(width, gain / width, bias), Elementwise(Relu()), Linear(width, gain / width, bias))
    body = sequential(attention, LayerNorm(), residual(branch, 1, sp.S.One), LayerNorm())
    block = trace_of(body, token_input(sp.Integer(tokens), width, gaussian=True))
    found = {}
    for causal in (False, True):
        signal = GramSignal(0.8 * np.eye(tokens) + 0.2, float(width))
        for _ in range(layers):
            signal = GramSignal(propagate(block, signal, pattern(tokens, causal=causal)).output.gram, float(width))
        for name, part in (("first", signal.gram[:16, :16]), ("last", signal.gram[-16:, -16:])):
            found[causal, name] = (part.sum() - np.trace(part)) / (15 * np.trace(part))
    plain = load(DERIVATION.evaluator("overlap_uniform"))(**POINT, n=tokens, L=layers).overlap
    # Equal weights have no bias of the values here, which is worth a thousandth.
    assert found[False, "first"] == pytest.approx(found[False, "last"], rel=1e-12) and 0 < plain - found[False, "last"] < 2e-3
    assert found[True, "last"] == pytest.approx(0.920, abs=2e-3) and found[True, "first"] == pytest.approx(0.903, abs=2e-3)
    assert abs(found[True, "last"] - plain) < 0.01 < plain - found[True, "first"]


def test_a_critical_strength_whose_odds_only_three_hundred_digits_tell_from_none():
    """1 + x is 1e-312: it is no zero at the first precisions, whose infinite growths would agree on a strength of zero."""
    spec, values = DERIVATION.evaluator("critical_strength"), {"rho_T": 1 - 1e-12, "L": 64, "gain_v": 1, "rho": 1e-300}
    with mpmath.workdps(400):
        rho, wanted = mpmath.mpf(values["rho"]), mpmath.mpf(values["rho_T"])
        exact = 1 / mpmath.sqrt(((wanted / (1 - wanted)) / (rho / (1 - rho))) ** (mpmath.mpf(1) / 64) - 1)
        assert abs(evaluate(spec, values, 20)["alpha_sa"] / exact - 1) < 1e-19
