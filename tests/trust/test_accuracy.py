"""The check of generated code itself: its fast numbers are those of evaluate, and it sees a wrong digit."""

from dataclasses import replace
from itertools import islice

import pytest
import sympy as sp

from symprop import bundled
from symprop.accuracy import edge_points, measure
from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, evaluate, parameters
from symprop.core.errors import RefusedError
from symprop.core.symbols import L, alpha_1
from symprop.functions.depth_nodes import GrowthMinusOne
from symprop.reference import Reference

EVALUATORS = [
    "noci2022:norm", "noci2022:correlation", "noci2022:norm_second_moment", "kedia2024:relu_moments",
    "kedia2024:silu_moments", "kedia2024:erf_moments", "kedia2024:preln_gradient", "giorlandino2025:overlap_annealed",
    "scaled_residuals:ds_init_gap",
]


def evaluator(name):
    derivation, own = name.split(":")
    return next(spec for spec in bundled.derivation(derivation).evaluators if spec.name == own)


@pytest.mark.parametrize("name", EVALUATORS)
def test_numbers_of_many_digits_are_those_of_evaluate(name):
    spec = evaluator(name)
    reference, compared = Reference(spec), 0
    for point in islice(edge_points(spec, 5), 12):
        found = reference.at(point)
        for output, exact in (evaluate(spec, point, 20) if found else {}).items():
            assert abs(sp.Float(str(found[output]), 30) - exact) <= 1e-18 * abs(exact), (output, point)
            compared += 1
    assert compared >= 6


@pytest.mark.parametrize("alpha", [1e-12, 1e-60, 1e-150])
def test_a_growth_below_every_precision_is_not_lost(alpha):
    spec = FunctionSpec("growth", parameters(alpha_1, L), (("C", GrowthMinusOne(alpha_1**2, L)),), "Growth beyond one.")
    point = {"alpha_1": alpha, "L": 5}
    for found in (evaluate(spec, point, 20), Reference(spec).at(point)):
        assert float(found["C"]) == pytest.approx(5 * alpha**2, rel=1e-14, abs=0)


def test_moments_of_softmax_weights_are_left_to_evaluate():
    with pytest.raises(RefusedError, match="digits of doubles"):
        Reference(evaluator("softmax_attention:output_q"))


def test_a_wrong_digit_is_seen():
    spec = evaluator("noci2022:value_gradient_gaussian")
    (right,) = measure(spec, "noci2022", points=300)
    assert right.worst == 0 and right.points == 300
    (output, formula), *others = spec.outputs
    wrong = replace(spec, outputs=((output, formula * (1 + 1e-9)), *others))
    exact = Reference(spec)

    class Swapped:
        def __init__(self, _):
            self.at = exact.at

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("symprop.reference.Reference", Swapped)
        (seen,) = measure(wrong, "noci2022", points=300)
    assert seen.worst == pytest.approx(1e-9, rel=1e-3) and seen.output == output


@pytest.mark.parametrize("name", [
    "noci2022:correlation", "noci2022:correlation_limit", "noci2022:norm", "noci2022:norm_limit", "noci2022:gram_entry",
    "noci2022:inner_products", "noci2022:norm_second_moment",
])
def test_growth_near_the_largest_number_meets_what_is_small_first(name):
    found = measure(evaluator(name), name, ("numpy", "torch", "compiled"), points=400)
    assert [(item.backend, item.worst, item.lost) for item in found] == [(item.backend, 0, 0) for item in found]
    assert len(found) == 3


@pytest.mark.parametrize("backend", ["numpy", "torch", "compiled"])
@pytest.mark.parametrize("name", ["exponents_relu", "exponents_gelu"])
@pytest.mark.parametrize(("A", "sigma_w"), [(0.9999999999999999, 6.271806152324232e-09), (0.999999999999, 7e-9)])
def test_one_minus_a_share_is_taken_before_a_small_term_is_added(backend, name, A, sigma_w):
    spec = evaluator(f"cowsik2024:{name}")
    point = {"A": A, "M": 1.0, "sigma_w": sigma_w}
    found = load(spec, backend)(**point)
    for value, exact in zip(found, evaluate(spec, point, 20).values(), strict=True):
        assert float(value) == pytest.approx(float(exact), rel=1e-14, abs=1e-15)
