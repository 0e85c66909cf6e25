"""Interpolated moments of softmax weights against exact ones, at scales, gaps and lengths that are no nodes."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from symprop.codegen import FunctionSpec
from symprop.codegen.render import load
from symprop.codegen.spec import parameters
from symprop.core.errors import RefusedError
from symprop.core.symbols import gap, n, q
from symprop.functions.softmax_closures import EXACT
from symprop.functions.softmax_numeric import pair_moments, row_moments
from symprop.functions.softmax_overlap import JacobianOverlap, Participation, RowGap
from symprop.functions.softmax_tables import table_row_gap, table_weight_gap
from symprop.functions.softmax_values import value

ERROR = 1e-4
"""The relative error of the row gap that the module states for 16 tokens and more."""


def exact(variance, gaps, tokens):
    ends = np.full_like(variance, float(tokens))
    own = row_moments([((2, 0),)], variance, ends, np.full_like(variance, np.inf))[0]
    return own, own - pair_moments([((1, 1),)], variance, variance, gaps / variance, ends, 0 * ends, 0.5)[0]


@pytest.mark.parametrize(("tokens", "reach", "error"), [
    (2, 4.0, 10 * ERROR), (64, 4.0, ERROR), pytest.param(512, 16.0, ERROR, marks=pytest.mark.slow),
    pytest.param(64, 19.9, ERROR, marks=pytest.mark.slow),
])
def test_error_is_the_stated_one(tokens, reach, error):
    rng = np.random.default_rng(0)
    variance = rng.uniform(0.3, reach, 12) ** 2
    gaps = variance * rng.uniform(0.05, 1, 12) ** 3
    own, apart = exact(variance, gaps, tokens)
    tables = {}
    many = np.full_like(variance, float(tokens))
    np.testing.assert_allclose(table_weight_gap(variance, many, tables), (tokens * own - 1) / (tokens - 1),
                               rtol=2e-7 if tokens == 2 else 1e-7)
    np.testing.assert_allclose(table_row_gap(variance, gaps, many, tables), apart, rtol=error)


def test_a_vanishing_variance_keeps_its_digits():
    """Weights that are almost equal differ by the variance of their scores over n."""
    small = np.array([0.0, 1e-300, 1e-12])
    np.testing.assert_allclose(table_weight_gap(small, np.full(3, 16.0), {}), small / 16, rtol=1e-7)
    assert table_weight_gap(np.array(1.0), np.array(1.0), {}) == 0


def test_a_vanishing_gap_keeps_its_digits():
    """At equal tokens the row gap is the gap of the scores times the overlap of the Jacobians."""
    slope = float(sp.N(JacobianOverlap(sp.Integer(2), sp.S.Zero, sp.Integer(16)), 15))
    found = table_row_gap(np.array(2.0), np.array([1e-300, 1e-12, 0.0]), np.array(16.0), {})
    np.testing.assert_allclose(found, slope * np.array([1e-300, 1e-12, 0.0]), rtol=ERROR)
    assert table_row_gap(np.array(0.0), np.array(0.0), np.array(16.0), {}) == 0
    assert table_row_gap(np.array(1.0), np.array(0.5), np.array(1.0), {}) == 0


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_scores_beyond_the_tables_are_nan_and_refused(backend):
    """No grid of the size of a score deviation of 1e12 is made."""
    array = np.asarray if backend == "numpy" else pytest.importorskip("torch").as_tensor
    both = EXACT(Participation(q, n) + RowGap(q, gap, n))
    closed = load(FunctionSpec("closed", parameters(q, gap, n), (("value", both),), "Closed."), backend)
    variance = array(np.array([1.0, 400.0, 1e24, np.inf]))
    found = np.asarray(closed(q=variance, gap=0.5 * variance, n=array(np.array(8.0))))
    assert np.isfinite(found[0]) and np.isnan(found[1:]).all()
    # The only weight of a single token is 1, however sharp its scores.
    assert np.asarray(closed(q=variance, gap=array(np.array(0.0)), n=array(np.array(1.0))))[2] == 1
    for node in (EXACT(Participation(sp.Integer(10) ** 24, 8)), Participation(sp.Integer(10) ** 24, 8),
                 JacobianOverlap(sp.Integer(10) ** 24, 1, 8)):
        with pytest.raises(RefusedError, match="limit of condensed weights"):
            sp.N(node, 5)
        with pytest.raises(RefusedError, match="limit of condensed weights"):
            value(node)


@pytest.mark.slow
def test_a_value_does_not_depend_on_the_other_points():
    a, g, tokens = np.array([0.5, 3.0, 5.0]), np.array([0.1, 2.0, 0.3]), np.array([4.0, 8.0, 8.0])
    together = table_row_gap(a, g, tokens, {})
    alone = [float(table_row_gap(*(item[k : k + 1] for item in (a, g, tokens)), {})[0]) for k in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-13)


def test_generated_code_of_both_backends():
    torch = pytest.importorskip("torch")
    closed = EXACT(Participation(q, n) + RowGap(q, gap, n))
    spec = FunctionSpec("closed", parameters(q, gap, n), (("value", closed),), "Closed moments.")
    want = load(spec)(q=3.0, gap=0.7, n=8)
    variance = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    got = load(spec, "torch")(q=variance, gap=torch.tensor(0.7, dtype=torch.float64), n=torch.tensor(8))
    assert float(got.detach()) == pytest.approx(float(want), rel=1e-12)
    got.backward()
    step = 1e-5
    slope = (load(spec)(q=3 + step, gap=0.7, n=8) - load(spec)(q=3 - step, gap=0.7, n=8)) / (2 * step)
    assert float(variance.grad) == pytest.approx(float(slope), rel=1e-6)
