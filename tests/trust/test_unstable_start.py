"""Tokens that are orthogonal or opposite, in blocks that multiply what they have in common by up to 1e13 a layer."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from symprop import bundled
from symprop.codegen.spec import evaluate

WEAK = {"gain_v": 59.88, "gain_w": 1e-12, "sigma_b2": 0.0, "alpha_sa": 1e-6, "alpha_mlp": 1e12}
SPECS = {spec.name: spec for spec in bundled.derivation("giorlandino2025").evaluators}
POINTS = [
    ("overlap_rem", {**WEAK, "rho": 0.0, "L": 40, "beta_a": 0.0}),
    ("overlap_rem", {**WEAK, "rho": 0.0, "L": 4, "beta_a": 0.0}),
    ("overlap_rem", {**WEAK, "rho": 1e-290, "L": 20, "beta_a": 0.0, "gain_w": 0.0}),
    ("overlap_uniform", {**WEAK, "rho": 0.0, "L": 3, "n": 10**9}),
    ("overlap_uniform", {**WEAK, "gain_v": 0.00265, "gain_w": 0.0, "alpha_sa": 1e-12, "rho": -1 / 39, "L": 40, "n": 40}),
    ("overlap_annealed", {**WEAK, "rho": -0.49999999999999994, "L": 40, "n": 3, "beta_a": 1e-3}),
    ("tanh_overlap_rem", {**WEAK, "rho": 0.0, "L": 40, "beta_a": 1.0, "gain_w": 1.0, "alpha_sa": 0.1, "alpha_mlp": 1.0}),
    ("tanh_overlap_rem", {**WEAK, "rho": 1e-80, "L": 20, "beta_a": 1.0, "gain_w": 1.0, "alpha_sa": 0.1, "alpha_mlp": 1.0}),
    ("preln_overlap_rem", {**WEAK, "rho": 1e-300, "q_0": 1e6, "L": 2, "alpha_mlp": 1e6, "beta_a": 1.0}),
    ("preln_overlap_rem", {**WEAK, "rho": 1e-300, "q_0": 1.0, "L": 3, "alpha_sa": 0.0, "beta_a": 1.0}),
]


@pytest.mark.parametrize("backend", ["numpy", "torch", "compiled"])
@pytest.mark.parametrize(("name", "point"), POINTS)
def test_the_overlap_leaves_an_unstable_start_as_it_does_exactly(backend, name, point):
    generated = importlib.import_module(f"symprop.generated.giorlandino2025_{backend}")
    exact = evaluate(SPECS[name], point, 20)
    found = getattr(generated, name)(**point)
    for output in exact:
        assert float(getattr(found, output)) == pytest.approx(float(exact[output]), rel=1e-11, abs=1e-300), output


@pytest.mark.parametrize("name", ["overlap_rem", "overlap_uniform", "overlap_annealed"])
def test_an_overlap_below_the_rounding_of_one_has_all_its_digits(name):
    """As the overlap of unit vectors; attention adds to it what two random rows share, and many tokens share little."""
    generated = importlib.import_module("symprop.generated.giorlandino2025_numpy")
    point = {"rho": 0.0, "L": 1, "beta_a": 0.0, "gain_v": 1e-9, "gain_w": 0.0, "sigma_b2": 1e-30, "alpha_sa": 1.0,
             "alpha_mlp": 1.0, "n": 10**6}
    spec = SPECS[name]
    point = {item.name: point[item.name] for item in spec.parameters}
    exact = float(evaluate(spec, point, 20)["overlap"])
    found = getattr(generated, name)(**point).overlap
    many = name == "overlap_rem"
    assert exact < 1e-14 and found == pytest.approx(exact, rel=1e-14 if many else np.finfo(float).eps / exact)
