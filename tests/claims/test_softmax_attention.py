"""The derivation of softmax attention: its verdicts, and its evaluators in three forms."""

import time

import numpy as np
import pytest

from symprop import bundled
from symprop.claims import check
from symprop.codegen.render import load
from symprop.codegen.spec import evaluate

DERIVATION = bundled.derivation("softmax_attention")
POINT = {"n": 48, "d": 64, "q": 1.5, "gap": 0.5, "P": 0.1}


@pytest.mark.parametrize("claim", DERIVATION.claims, ids=lambda claim: claim.id)
def test_verdicts(claim):
    verdict = check(claim)
    assert verdict.as_expected, verdict.detail


def test_a_derivation_is_a_module_that_declares_one():
    assert set(bundled.names()) >= {"kedia2024", "noci2022", "softmax_attention"}
    assert not any(name.endswith("_simulation") for name in bundled.names())


QUICK = {"output_q", "output_moments", "input_gradient", "weight_gradients", "prenorm_gradient", "centred_gradient"}
"""One evaluator of a kind of layer: the others call the same functions of moments."""
SPECS = [
    pytest.param(spec, id=spec.name, marks=() if spec.name in QUICK else pytest.mark.slow) for spec in DERIVATION.evaluators
]


@pytest.mark.parametrize("spec", SPECS)
def test_generated_code_is_the_formula(spec):
    torch = pytest.importorskip("torch")
    numbers = evaluate(spec, POINT)
    plain = load(spec)(**{key: np.array([item]) for key, item in POINT.items()})
    tensors = load(spec, "torch")(**{key: torch.tensor([item], dtype=torch.float64) for key, item in POINT.items()})
    for k, (name, number) in enumerate(numbers.items()):
        one, two = (item[k] if len(numbers) > 1 else item for item in (plain, tensors))
        assert float(one[0]) == pytest.approx(float(number), rel=1e-9), name
        assert float(two[0]) == pytest.approx(float(number), rel=1e-9), name


@pytest.mark.parametrize("name", ["prenorm_gradient", pytest.param("query_key_norm_gradient", marks=pytest.mark.slow)])
def test_torch_derivatives_are_differences(name):
    torch = pytest.importorskip("torch")
    spec, at = DERIVATION.evaluator(name), {"n": 48.0, "d": 64.0, "q": 1.5, "gap": 0.5, "r_g": 0.3}
    change = "gain2" if name.startswith("query") else "sigma_q2"
    at[change] = 0.03
    function = load(spec, "torch")
    free = ("q", "gap", change)
    leaves = {key: torch.tensor(item, dtype=torch.float64, requires_grad=key in free) for key, item in at.items()}
    found = function(**leaves)
    (found.variance + found.gap).backward()
    for key in free:
        ends = []
        for sign in (1, -1):
            moved = {**at, key: at[key] * (1 + sign * 1e-4)}
            out = function(**{name: torch.tensor(item, dtype=torch.float64) for name, item in moved.items()})
            ends.append(float(out.variance + out.gap))
        # Central differences are right to (1e-4)^2 times the third derivative over the first.
        assert float(leaves[key].grad) * at[key] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-6), key


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_single_token_attends_to_itself_in_every_evaluator(dropout):
    torch = pytest.importorskip("torch")
    at = {"n": 1, "d": 64, "P": dropout}
    # One weight of 1, dropped or scaled up: the value path alone, and no second token to differ from.
    wanted = {"output_q": [1 / (1 - dropout)], "output_moments": [1 / (1 - dropout), 0],
              "input_gradient": [1 / (1 - dropout), 0], "weight_gradients": [0, 0, 64**2 / (1 - dropout)]}
    for name, values in wanted.items():
        spec = DERIVATION.evaluator(name)
        # Moments of weights are evaluated to ten digits.
        assert [float(item) for item in evaluate(spec, at).values()] == pytest.approx(values, rel=1e-10), name
        plain = load(spec)(**{key: np.array([item, item]) for key, item in at.items()})
        tokens = torch.tensor([1.0, 1.0, 7.0], dtype=torch.float64)
        variance = torch.full((3,), 1 / 64, dtype=torch.float64, requires_grad=True)
        tensors = load(spec, "torch")(**{**at, "n": tokens}, sigma_q2=variance)
        one, two = ([item] if len(values) == 1 else list(item) for item in (plain, tensors))
        assert [item[1] for item in one] == pytest.approx(values, rel=1e-12), name
        assert [item[1].item() for item in two] == pytest.approx(values, rel=1e-12), name
        sum(item.sum() for item in two).backward()
        assert bool(torch.isfinite(variance.grad).all()) and variance.grad[0] == 0 != variance.grad[2], name


def test_the_gap_is_carried_to_collapse():
    spec = DERIVATION.evaluator("output_moments")
    gaps = np.array([1e-3, 1e-30, 1e-300, 0.0])
    out = load(spec)(n=32.0, d=64.0, q=1.0, gap=gaps).gap
    assert out[2] == 0 and out[3] == 0
    # Quadratic in the gap at collapse: 1e-60.
    assert out[1] == pytest.approx(float(evaluate(spec, {"n": 32, "d": 64, "q": 1, "gap": 1e-30})["gap"]), rel=1e-8)
    assert 0 < out[1] < 1e-60


@pytest.mark.parametrize("name", ["uniform-beyond-range", "lognormal", "random-energy", "kedia-gradient"])
def test_a_refuted_claim_says_by_how_much(name):
    claim = DERIVATION.claim(name)
    comparison = check(claim).comparison
    one, two = sorted((float(comparison.left), float(comparison.right)))
    shown = [text.rstrip(".,") for text in claim.note.replace(":", "").split()]
    assert f"{two / one:.2f}" in shown or {f"{one:.3f}", f"{two:.3f}"} <= set(shown), (claim.note, two / one)


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "output_q", "output_moments", "input_gradient", "weight_gradients", "causal_weights", "causal_prenorm_output",
    "causal_prenorm_gradient",
])
def test_torch_derivatives_in_the_scores_the_correlation_and_the_size(name):
    torch = pytest.importorskip("torch")
    function = load(DERIVATION.evaluator(name), "torch")

    def outputs(deviation, r, q):
        variance = deviation / 32
        found = function(n=6.0, d=32.0, q=q, gap=q * (1 - r), d_k=16.0, sigma_q2=variance, sigma_k2=variance)
        return found if isinstance(found, torch.Tensor) else tuple(found)

    point = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.9, 0.3, 1.2)]
    assert torch.autograd.gradcheck(outputs, point, eps=1e-4, atol=1e-9, rtol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("at", [
    {"n": 2, "d": 16, "sigma_q2": 1e-6}, {"n": 512, "d": 64, "q": 2.0, "gap": 1.9, "r_g": 0.3}, {"n": 5, "d": 256, "gap": 1e-8},
])
def test_evaluators_give_the_digits_of_eval(at):
    torch = pytest.importorskip("torch")
    for spec in DERIVATION.evaluators:
        given = {key: item for key, item in at.items() if key in {str(p.symbol) for p in spec.signature}}
        exact = [float(item) for item in evaluate(spec, given).values()]
        plain = load(spec)(**given)
        tensors = load(spec, "torch")(**{key: torch.tensor(float(item), dtype=torch.float64) for key, item in given.items()})
        for found in (plain, tensors):
            values = [float(item) for item in (found if len(exact) > 1 else [found])]
            assert values == pytest.approx(exact, rel=1e-9), spec.name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal_gradient", "causal_prenorm_gradient"])
def test_a_masked_layer_after_the_first_takes_less_than_fifty_milliseconds(name):
    function, gaps = load(DERIVATION.evaluator(name)), np.linspace(0.5, 0.6, 11)
    function(n=64.0, d=128.0, gap=gaps)
    start = time.process_time()
    for gap in gaps[:-1] + 0.003:
        function(n=64.0, d=128.0, gap=gap)
    assert (time.process_time() - start) / 10 < 0.05
