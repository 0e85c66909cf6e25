"""The warning of a layer whose formulas are used beyond the range in which they were measured."""

from __future__ import annotations

import warnings
from abc import abstractmethod

from symprop.components.base import Component
from symprop.core.signal import Signal


class LevelWarning(UserWarning):
    """A level of weight moments outside its range, with the error to expect."""


class RangedAttention(Component):
    """A layer that says how large its error is outside its range."""

    @abstractmethod
    def expected_error(self, x: Signal) -> float | None:
        """Relative error to expect for the signal, where it is beyond the range; None inside or unknown."""

    @abstractmethod
    def _beyond(self, x: Signal) -> tuple[str, str]:
        """What is beyond which range, and what has the error, with a remedy."""

    def _warn(self, x: Signal) -> None:
        error = self.expected_error(x)
        if error is not None:
            beyond, where = self._beyond(x)
            warnings.warn(
                f"{self.describe()}: {beyond}; expect an error of {100 * error:.2g}% in {where}.", LevelWarning, stacklevel=3,
            )
