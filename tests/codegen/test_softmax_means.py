"""Generated code of averages over rows, pairs of rows and lags: both backends, derivatives, lengths, and sums of harmonics."""

import numpy as np
import pytest
import sympy as sp

from symprop.codegen import FunctionSpec, evaluate, parameters
from symprop.codegen.render import load, render
from symprop.components import CausalAttention, RotaryAttention
from symprop.core.errors import RefusedError
from symprop.core.signal import Gradient, Signal
from symprop.core.symbols import L, d, d_k, gap, n, q, rho, sigma_q2
from symprop.functions.rotary_means import CENTRED, LAG, NORMAL, SCALE, RotaryMean
from symprop.functions.softmax_overlap import JacobianOverlap, Participation, RowOverlap
from symprop.functions.token_means import AMPLITUDE, COSINE, LATER, ROW, PairMean, RowMean, sharp

torch = pytest.importorskip("torch")

BOUND = (ROW, LATER, AMPLITUDE, COSINE)


def spec(outputs, *wanted):
    return FunctionSpec("means", parameters(*wanted), tuple(outputs.items()), "Means.")


def moments(kind):
    """Of the output of a layer of twelve tokens, and under a mask of the input gradient, in q, gap and the query variance."""
    x = Signal(q=q, gap=gap, tokens=sp.Integer(12), width=sp.Integer(64), gaussian=True)
    layer = kind(16, sp.Rational(1, 64), 16, sigma_q2, sp.Rational(1, 64))
    out, gradient = layer.forward(x), Gradient(sp.S.One, sp.Rational(7, 10))
    more = {"variance": layer.backward(gradient, x)[0].q} if kind is CausalAttention else {}
    return spec({"q": out.q, "gap": out.gap, **more}, q, gap, sigma_q2)


@pytest.mark.parametrize("kind", [CausalAttention, RotaryAttention])
def test_moments_have_the_digits_of_evaluate_in_both_backends_and_derivatives_by_autograd(kind):
    item = moments(kind)
    at = {"q": 1.0, "gap": 0.7, "sigma_q2": 1 / 64}
    function, twin = (load(item, backend) for backend in ("numpy", "torch"))
    plain = [float(value) for value in function(**at)]
    assert plain == pytest.approx([float(value) for value in evaluate(item, at).values()], rel=1e-9)
    tensors = {key: torch.tensor(value, dtype=torch.float64, requires_grad=True) for key, value in at.items()}
    found = twin(**tensors)
    assert [value.item() for value in found] == pytest.approx(plain, rel=1e-11)
    sum(found).backward()
    for key in at:
        step = 1e-4 * at[key]
        above, below = (sum(function(**{**at, key: at[key] + side * step})) for side in (1, -1))
        # The central difference has a relative error of step^2.
        assert float(tensors[key].grad) == pytest.approx(float(above - below) / (2 * step), rel=1e-5), key


def test_lengths_and_points_of_a_grid_do_not_know_of_each_other():
    mean = PairMean(sp.Lambda(BOUND, RowOverlap(q, q * (1 - COSINE), ROW, LATER - ROW)), n, sharp(rho))
    row = RowMean(sp.Lambda(ROW, Participation(q, ROW)), n)
    function = load(spec({"row": row, "pair": mean}, q, rho, n))
    variance, tokens = np.array([0.0, 0.04, 1.0, 9.0])[:, None], np.array([1, 2, 40, 300])
    together = function(variance, 0.5, tokens)
    for j, count in enumerate(tokens):
        for i in (1, 3):
            alone = function(variance[i, 0], 0.5, count)
            # Points share the ends of their grids, with an error of 1e-10.
            assert [float(item[i, j]) for item in together] == pytest.approx([float(item) for item in alone], rel=1e-8)
    assert together.row[0] == pytest.approx([sum(1 / k for k in range(1, count + 1)) / count for count in tokens], rel=1e-11)
    assert together.pair[:, 0] == pytest.approx(0, abs=0)
    # Independent rows at vanishing scores: the mean of 1/u over pairs.
    assert together.pair[0, 1:] == pytest.approx(
        [sum((u - 1) / u for u in range(2, count + 1)) * 2 / (count * (count - 1)) for count in tokens[1:]], rel=1e-9)


def test_a_correlation_by_the_name_of_the_bound_symbol_is_not_captured():
    moment = JacobianOverlap(q, q * (1 - COSINE), ROW, LATER - ROW) * rho
    item = spec({"value": PairMean(sp.Lambda(BOUND, moment), n, sharp(sp.S.Half))}, q, rho, n)
    assert float(evaluate(item, {"q": 1, "rho": 0, "n": 5})["value"]) == 0


def test_lag_means_of_one_token_vanish_and_settings_are_kept_apart():
    mean = RotaryMean(sp.Lambda((LAG, CENTRED, SCALE, NORMAL), LAG * SCALE), 1 / d, n, d_k, d_k, sp.Integer(10000))
    function = load(spec({"value": mean}, d, d_k, n))
    got = function(64.0, np.array([8, 16])[:, None], np.array([1, 5, 24]))
    assert got[:, 0].tolist() == [0, 0]
    for i, width in enumerate((8, 16)):
        for j, count in ((1, 5), (2, 24)):
            exact = sp.N(mean.subs({d: 64, d_k: width, n: count}), 15)
            assert got[i, j] == pytest.approx(float(exact), rel=1e-12)


def test_equal_weights_under_a_mask_are_code_with_harmonic_numbers():
    x = Signal(q=q, gap=gap, tokens=n, width=d, gaussian=True)
    output = spec({"value": CausalAttention(d, 1 / d).forward(x).q}, q, gap, n)
    for backend in ("numpy", "torch"):
        tokens = np.array([1.0, 2.0, 1000.0])
        got = load(output, backend)(1.0, 1.0, tokens if backend == "numpy" else torch.tensor(tokens))
        harmonic = [sum(1 / k for k in range(1, int(count) + 1)) for count in tokens]
        assert np.asarray(got) * tokens == pytest.approx(harmonic, rel=1e-13)


def test_the_compiled_backend_refuses_means():
    mean = RowMean(sp.Lambda(ROW, Participation(q * sigma_q2, ROW)), L)
    item = spec({"value": mean}, q, sigma_q2, L)
    with pytest.raises(RefusedError, match="compiled backend"):
        render([item], "compiled", "Means.")
