"""Every generated function says the same in numpy, in torch and compiled, of arrays and of numbers."""

import importlib
import math
from itertools import islice

import numpy as np
import pytest

from symprop import bundled
from symprop.accuracy import drawn_points

POINTS = 6


def plain(parameter, point, rng):
    domain = parameter.domain
    low, high = domain.bounds(point)
    if domain.integer:
        return int(low or 0) + rng.choice([1, 2, 5])
    if low is not None and high is not None:
        return low + (high - low) * rng.random()
    size = math.exp(0.5 * rng.gauss(0, 1))
    return low + size if low is not None else high - size if high is not None else size * rng.choice([-1, 1])


def outputs(values):
    return [np.asarray(item) for item in (values if isinstance(values, tuple) else (values,))]


# Where there is no table, a call of a moment of softmax weights takes seconds.
CASES = [pytest.param(name, marks=[pytest.mark.slow] if name == "softmax_attention" else []) for name in bundled.names()]


@pytest.mark.parametrize("derivation", CASES)
def test_backends_agree(derivation):
    torch = pytest.importorskip("torch")
    modules = {backend: importlib.import_module(f"generated.{derivation}_{backend}") for backend in bundled.BACKENDS}
    for spec in bundled.derivation(derivation).evaluators:
        points = list(islice(drawn_points(spec, plain, 3), POINTS))
        arguments = {name: np.array([point[name] for point in points]) for name in points[0]}
        first = {key: value[0].item() for key, value in arguments.items()}
        # Beyond the depth where it reaches infinity a norm has no value.
        with np.errstate(invalid="ignore"):
            want, alone = (outputs(getattr(modules["numpy"], spec.name)(**given)) for given in (arguments, first))
        tensors = {key: torch.tensor(value) for key, value in arguments.items()}
        found = {"torch": outputs(getattr(modules["torch"], spec.name)(**tensors)),
                 "compiled": outputs(getattr(modules["compiled"], spec.name)(**arguments))}
        for place, value in enumerate(want):
            assert value.shape == (POINTS,) and np.isfinite(value).sum() >= POINTS / 2, (spec.name, arguments)
            assert alone[place].shape == () and alone[place] == pytest.approx(value[0], rel=1e-12, nan_ok=True), spec.name
            for backend, values in found.items():
                np.testing.assert_allclose(np.broadcast_to(values[place], value.shape), value, rtol=1e-9, atol=1e-300,
                                           err_msg=f"{spec.name} {backend}")
