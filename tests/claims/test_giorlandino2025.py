"""The verdicts of Giorlandino and Goldt 2025, and its overlaps in simulated blocks."""

import numpy as np
import pytest

from symprop.bundled import derivation
from symprop.claims import Status, check
from symprop.codegen import evaluate
from symprop.codegen.render import load

GIORLANDINO = derivation("giorlandino2025")
STANDARD = {"rho": 0.2, "gain_v": 0.2, "gain_w": 0.2, "sigma_b2": 4e-4, "alpha_sa": 1.0, "alpha_mlp": 1.0}


@pytest.mark.parametrize("claim", GIORLANDINO.claims, ids=lambda claim: claim.id)
def test_verdict_is_the_one_held_fast(claim):
    verdict = check(claim)
    assert verdict.as_expected, verdict.detail


def test_refuted_claims_say_why_and_what_is_right():
    names = [claim.id for claim in GIORLANDINO.claims]
    refuted = [claim for claim in GIORLANDINO.claims if claim.expected is Status.REFUTED]
    assert refuted and all(claim.note and claim.corrected_by in names for claim in refuted)


def test_overlap_of_the_random_energy_model_over_depth():
    overlap = load(GIORLANDINO.evaluator("overlap_rem"))
    layers = np.array([1, 5, 10, 20, 30, 50])
    # Iterated by hand in the composed map of the two halves.
    assert overlap(**STANDARD, beta_a=3.0, L=layers).overlap == pytest.approx([0.220, 0.311, 0.449, 0.771, 0.956, 0.999], abs=6e-4)
    assert overlap(**STANDARD, beta_a=0.5, L=layers).overlap[:2] == pytest.approx([0.236, 0.406], abs=1e-3)


def test_attention_behind_a_norm_freezes_by_its_own_tokens():
    """Scores are those of the normalised stream, so that the size of the stream does not matter at the first layer."""
    spec = GIORLANDINO.evaluator("preln_overlap_rem")
    overlap, start = load(spec), {**STANDARD, "beta_a": 2.0, "q_0": 1.0}
    collapsed = overlap(**start, L=60).overlap
    # With beta_c from the un-normalised stream the overlap would end at 0.5.
    assert collapsed > 0.9
    assert float(evaluate(spec, {**{key: float(value) for key, value in start.items()}, "L": 60})["overlap"]) == pytest.approx(
        collapsed, rel=1e-12
    )


def test_overlaps_agree_with_the_real_softmax():
    rows = [row for row in GIORLANDINO.study(3, False, None) if row.expected_to_hold]
    assert len(rows) == 12 and all(abs(row.z) < 4 for row in rows)
