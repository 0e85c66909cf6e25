"""Weight gap and row gap that are interpolated wherever they become numbers: for maps applied at many points and layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from symprop.functions.softmax_overlap import RowGap, WeightGap, evaluated
from symprop.functions.softmax_tables import table_row_gap, table_weight_gap

_TABLES: dict[Any, Any] = {}


class _Tabulated:
    """Digits beyond double precision would be those of the interpolation."""

    def _eval_evalf(self: Any, prec: int) -> sp.Expr | None:
        return sp.Float(evaluated(self.in_double(), self), precision=prec) if self.is_number else None


class TabulatedWeightGap(_Tabulated, WeightGap):
    """Weight gap of a row of the given score variance and number of tokens, from :mod:`symprop.functions.softmax_tables`.

    >>> round(TabulatedWeightGap(4, 8).in_double(), 5)
    0.34817
    """

    def in_double(self) -> float:
        return float(table_weight_gap(_array(self.variance), _array(self.tokens), _TABLES))


class TabulatedRowGap(_Tabulated, RowGap):
    """Row gap of the given score variance, score gap and number of tokens, from :mod:`symprop.functions.softmax_tables`.

    >>> round(TabulatedRowGap(4, 4, 8).in_double(), 4)
    0.3047
    """

    def in_double(self) -> float:
        variance, score_gap, tokens = map(_array, self.args)
        return float(table_row_gap(variance, score_gap, tokens, _TABLES))


def _array(value: sp.Expr) -> Any:
    return np.array(float(sp.N(value, 17)))
