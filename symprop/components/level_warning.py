"""The warning of a layer whose formulas are used beyond the range in which they were measured."""

from __future__ import annotations

import warnings
from abc import abstractmethod

import sympy as sp

from symprop.components.base import Component
from symprop.core.errors import RefusedError
from symprop.core.signal import Signal


class LevelWarning(UserWarning):
    """A level of weight moments outside its range, with the error to expect."""


class RangedAttention(Component):
    """A layer that says how large its error is outside its range."""

    level: str

    def accept(self, *signals: Signal) -> None:
        """Gaussian tokens, or tokens of fixed norm that have directions to differ in."""
        super().accept(*(x if x.fixed_norm is None else x.replace(gaussian=True) for x in signals))
        for x in signals:
            free = sp.oo if x.fixed_norm is None else sp.sympify(x.fixed_norm)
            if free.is_number and free <= 1 and self.level != "uniform" and self.score_variance(x) != 0:
                raise RefusedError(
                    f"{self.describe()} of {x.label}",
                    f"the norm before it leaves tokens of {free} degrees of freedom, which are zero or equal up to a sign",
                    "take a larger width",
                )

    @abstractmethod
    def score_variance(self, x: Signal) -> sp.Expr:
        """Variance of the scores of a row about what they share."""

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
