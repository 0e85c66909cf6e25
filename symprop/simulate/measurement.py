"""One comparison of theory with simulation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Measurement:
    """A predicted expectation beside the mean of independent draws.

    ``setting`` names the configuration (sizes, scales), ``stderr`` is the standard error of ``measured``. With
    ``expected_to_hold`` False the row documents where an assumption fails, and its z-score judges nothing.
    ``published`` is the value of a paper's own formula where that differs from ours.
    """

    quantity: str
    setting: str
    predicted: float
    measured: float
    stderr: float
    draws: int
    expected_to_hold: bool = True
    published: float | None = None

    @property
    def z(self) -> float:
        """(measured - predicted)/stderr; zero where both agree exactly and nothing fluctuates."""
        difference = self.measured - self.predicted
        if self.stderr == 0:
            rounding = 1e-12 * max(abs(self.predicted), abs(self.measured))
            return 0.0 if abs(difference) <= rounding else math.copysign(math.inf, difference)
        return difference / self.stderr


def measurement(
    quantity: str,
    setting: str,
    predicted: float,
    samples: npt.NDArray[np.float64],
    *,
    expected_to_hold: bool = True,
    controls: npt.NDArray[np.float64] | None = None,
    published: float | None = None,
) -> Measurement:
    """Summarise independent draws of a quantity whose expectation is ``predicted``; ``samples`` has shape (draws,).

    ``controls``, of shape (draws, k), are statistics of the same draws whose expectation is exactly zero; what the
    samples share with them linearly is subtracted, which narrows the standard error and moves the mean by O(1/draws).
    """
    draws = len(samples)
    if controls is not None:
        centred = controls - controls.mean(axis=0)
        slopes = np.linalg.lstsq(centred, samples - samples.mean(), rcond=None)[0]
        samples = samples - controls @ slopes
    mean = float(samples.mean())
    spread = float(samples.std(ddof=1))
    rounding = 1e-14 * abs(mean)
    stderr = 0.0 if spread <= rounding * draws else spread / math.sqrt(draws)
    return Measurement(quantity, setting, float(predicted), mean, stderr, draws, expected_to_hold, published)


SURE = 2.0
"""Standard errors beyond the limit of z at which an error is all but sure (98 %) to be seen."""


def visible_error(row: Measurement, limit: float) -> float:
    """The relative error of a prediction that the draws of a row would show as ``abs(z) > limit`` in 98 % of runs.

    Infinite where the prediction is within a standard error of zero: no relative error of it is visible.

    >>> round(visible_error(Measurement("q", "n = 2", 1.0, 1.01, 0.005, 100), 4.0), 3)
    0.03
    """
    return (limit + SURE) * row.stderr / abs(row.predicted) if abs(row.predicted) > row.stderr else math.inf


def rms_z(measurements: Iterable[Measurement]) -> float:
    """Root mean square of the z-scores of the rows that are expected to hold and fluctuate."""
    scores = [row.z for row in measurements if row.expected_to_hold and row.stderr > 0]
    return math.sqrt(sum(score**2 for score in scores) / len(scores)) if scores else 0.0


Measure: TypeAlias = int | str
"""A percentile of relative errors, or ``largest`` or ``rms`` of absolute ones."""


@dataclass(frozen=True)
class Accuracy:
    """Errors over many settings: percentiles of relative ones, or the largest and the root mean square of absolute ones.

    ``limits`` maps a percentile, "largest" or "rms" to the largest error allowed there, ``errors`` the same to the errors
    found, and ``noise`` to the same of the standard errors: the error of a perfect theory is about as large.
    """

    quantity: str
    settings: int
    errors: Mapping[Measure, float]
    noise: Mapping[Measure, float]
    limits: Mapping[Measure, float]

    @property
    def missed(self) -> tuple[Measure, ...]:
        """Where the error is larger than allowed."""
        return tuple(at for at, limit in self.limits.items() if not self.errors[at] <= limit)


NOISE = 0.02
"""Relative standard error beyond which a setting says nothing of the theory."""


def accuracy(quantity: str, rows: Sequence[Measurement], limits: Mapping[Measure, float]) -> Accuracy:
    """Percentiles of ``abs(predicted/measured - 1)`` of one quantity at many settings whose noise is below :data:`NOISE`.

    What is within one standard error is not counted as an error.

    >>> rows = [Measurement("q", str(k), 1.0 + k / 1000, 1.0, 0.0, 10) for k in range(11)]
    >>> accuracy("q", rows, {50: 0.01}).errors[50]
    0.005
    """
    known = [row for row in rows if row.measured != 0 and row.stderr < NOISE * abs(row.measured)]
    sizes = [max(0.0, abs(row.predicted - row.measured) - row.stderr) / abs(row.measured) for row in known]
    spreads = [row.stderr / abs(row.measured) for row in known]

    def percentiles(of: Sequence[float]) -> dict[Measure, float]:
        return {at: round(float(np.percentile(of, int(at))), 12) if of else math.nan for at in limits}

    return Accuracy(quantity, len(known), percentiles(sizes), percentiles(spreads), limits)


def distance(quantity: str, rows: Sequence[Measurement], limits: Mapping[Measure, float]) -> Accuracy:
    """``abs(predicted - measured)`` over ``rows``: its largest value and its root mean square, those with a limit.

    >>> rows = [Measurement("rho", "", 0.5, 0.51, 0.001, 10), Measurement("rho", "", 0.7, 0.7, 0.002, 10)]
    >>> found = distance("rho", rows, {"largest": 0.02})
    >>> round(found.errors["largest"], 12), found.noise["largest"], found.missed
    (0.01, 0.002, ())
    """
    def summary(of: Sequence[float]) -> dict[Measure, float]:
        both: dict[Measure, float] = {"largest": max(of), "rms": math.sqrt(sum(item**2 for item in of) / len(of))}
        return {at: both[at] for at in limits}

    sizes = [abs(row.predicted - row.measured) for row in rows]
    return Accuracy(quantity, len(rows), summary(sizes), summary([row.stderr for row in rows]), limits)
