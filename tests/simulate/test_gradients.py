"""The simulated layer: its Jacobians by two engines, its tokens, and theory against simulation."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest

from symprop.core.errors import InputError, MissingExtraError, UnknownNameError
from symprop.simulate import gradients
from symprop.simulate.gradients import AttentionSetting, gradient_study, squared_jacobian_norms
from symprop.simulate.measurement import Measurement, rms_z

LAYER = AttentionSetting(4, 5, 3, 6, 1.4, 0.2, 0.3, 0.4, 0.9, rho=0.3)
BLOCK = AttentionSetting(3, 4, 5, 4, 0.8, 0.3, 0.2, 0.25, 1.1, d_F=6, alpha_1=0.7, alpha_2=-0.5, sigma_up2=0.3,
                         sigma_down2=0.2)


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("setting", [LAYER, BLOCK], ids=["layer", "block"])
def test_engines_agree(setting: AttentionSetting, uniform: bool) -> None:
    pytest.importorskip("torch")
    matrices = setting.draw(np.random.default_rng(5), 50)
    for parameter in setting.shapes:
        by_torch, by_step = (
            squared_jacobian_norms(parameter, matrices, setting, uniform=uniform, engine=engine)
            for engine in ("torch", "complex-step")
        )
        np.testing.assert_allclose(by_torch, by_step, rtol=1e-12, atol=1e-13)


def test_complex_step_is_the_derivative() -> None:
    matrices = LAYER.draw(np.random.default_rng(6), 1)
    found = squared_jacobian_norms("W_Q", matrices, LAYER, uniform=False, engine="complex-step")[0]
    total, h = 0.0, 1e-5
    for index in np.ndindex(LAYER.shapes["W_Q"]):
        ends = []
        for sign in (1, -1):
            moved = {name: np.array(matrix) for name, matrix in matrices.items()}
            moved["W_Q"][(0, *index)] += sign * h
            ends.append(gradients.attention_layer(moved, LAYER.tau, gradients._numpy_softmax))
        total += float((((ends[0] - ends[1]) / (2 * h)) ** 2).sum())
    assert found == pytest.approx(total, rel=1e-7)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = LAYER.draw(np.random.default_rng(7), 30)
    whole = squared_jacobian_norms("X", matrices, LAYER, engine="complex-step")
    monkeypatch.setattr(gradients, "_CHUNK", 1)
    assert squared_jacobian_norms("X", matrices, LAYER, engine="complex-step") == pytest.approx(whole, rel=1e-13)


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def absent(name: str, package: str | None = None) -> Any:
        return None if name == "torch" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    assert gradients.available_engine() == "complex-step"
    with pytest.raises(MissingExtraError, match=r"symprop\[torch\]"):
        gradients.available_engine("torch")


def test_refusals() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'torch'"):
        gradients.available_engine("troch")
    with pytest.raises(UnknownNameError, match="W_Z"):
        squared_jacobian_norms("W_Z", LAYER.draw(np.random.default_rng(0), 1), LAYER)
    with pytest.raises(InputError, match="rho"):
        AttentionSetting(4, 5, 3, 6, rho=-0.5)
    with pytest.raises(InputError, match="d_o"):
        AttentionSetting(4, 5, 3, 6, d_F=8)


@pytest.mark.parametrize("rho", [0.6, 0.0, -1 / 3, 1.0])
def test_tokens_are_equicorrelated(rho: float) -> None:
    setting = AttentionSetting(4, 3, 1, 1, sigma_x2=1.7, rho=rho)
    X = setting.draw(np.random.default_rng(8), 40_000)["X"]
    covariance = np.einsum("kia,kja->ij", X, X) / (X.shape[0] * X.shape[2])
    expected = 1.7 * ((1 - rho) * np.eye(4) + rho)
    np.testing.assert_allclose(covariance, expected, atol=0.03)
    if rho == -1 / 3:
        assert abs(X.sum(axis=1)).max() < 1e-7


def test_neglected_order_is_below_the_standard_error() -> None:
    for setting in gradients._SMALL_LOGITS:
        matrices = setting.draw(np.random.default_rng(9), 3000)
        for samples in (gradients.distance_samples, gradients.growth_samples):
            stderr = samples(matrices, setting).std(ddof=1) / math.sqrt(3000)
            neglected = gradients.neglected_order(samples, matrices, setting)
            # The full study has 20 times as many draws.
            assert abs(neglected.mean()) < 0.1 * stderr / math.sqrt(20)


def test_true_softmax_at_rank_collapse_has_no_query_gradient() -> None:
    setting = AttentionSetting(4, 6, 3, 5, 1.0)
    matrices = setting.draw(np.random.default_rng(10), 100)
    matrices["X"] = np.broadcast_to(setting.fixed_tokens[:1], (100, 4, 6))
    for parameter in ("W_Q", "W_K"):
        assert not squared_jacobian_norms(parameter, matrices, setting, uniform=False).any()


@pytest.fixture(scope="module")
def study() -> tuple[Measurement, ...]:
    calls: list[tuple[str, int, int]] = []
    rows = gradient_study(0, False, lambda name, done, total: calls.append((name, done, total)))
    assert [done for _, done, _ in calls] == list(range(len(rows) + 1))
    return rows


def test_theory_agrees_with_simulation(study: tuple[Measurement, ...]) -> None:
    holding = [row for row in study if row.expected_to_hold]
    fluctuating = [row for row in holding if row.stderr > 0]
    assert len(fluctuating) >= 40
    for row in holding:
        assert abs(row.z) < 4, row
    assert 0.8 < rms_z(study) < 1.2


def test_what_should_fail_is_seen_failing(study: tuple[Measurement, ...]) -> None:
    printed = [row for row in study if "as printed" in row.quantity]
    assert len(printed) == 2 and all(row.z > 4 for row in printed)
    softmax = [row for row in study if not row.expected_to_hold and "true softmax" in row.quantity]
    large, small = ([row for row in softmax if ("sigma_x2=0.01" in row.setting) is tiny] for tiny in (False, True))
    assert all(abs(row.z) > 4 for row in large) and all(abs(row.z) < 4 for row in small)


def test_rows_are_named_once(study: tuple[Measurement, ...]) -> None:
    names = [(row.quantity, row.setting) for row in study]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_full_study_agrees() -> None:
    rows = gradient_study(0, True)
    assert max(abs(row.z) for row in rows if row.expected_to_hold) < 4
    assert 0.8 < rms_z(rows) < 1.2
