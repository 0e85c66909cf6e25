"""The benchmark rows: that what is compared agrees, and starts stay below what is allowed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from symprop import bench_mlp, bench_start
from symprop.functions.arc_cosine import arc_cosine


def test_the_kernels_compared_are_those_of_an_mlp():
    """By the same recursion in the angle, for two inputs of one norm."""
    given, got = bench_mlp.inputs(), bench_mlp.kernel("numpy")()
    gap = 1 - given[0] @ given[1] / bench_mlp.WIDTH
    for _ in range(bench_mlp.LAYERS):
        gap = gap - float(arc_cosine(1, gap, 1)) / np.pi
    assert got[0, 1] == pytest.approx(2 * (1 - gap), rel=1e-13)
    assert np.diag(got) == pytest.approx(2.0, rel=1e-13)


def test_what_is_not_installed_is_named():
    installed = importlib.util.find_spec("neural_tangents") is not None
    assert any("pip install neural-tangents" in row for row in bench_mlp.rows(1)) is not installed


def test_generated_modules_start_fast():
    spent = bench_start.milliseconds(2)
    assert all(spent[name] < allowed for name, (_, allowed) in bench_start.STARTS.items()), spent
