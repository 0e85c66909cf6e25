"""Sums that take no more rows of a rule than they need, against the whole rule."""

import mpmath
import pytest

from symprop.functions.covariance_integral import GAUSS, GAUSS_BITS
from symprop.functions.table_sum import _nested_sum, table_rows

BITS = 260


@pytest.mark.parametrize(
    ("function", "integral", "halves"),
    [
        (mpmath.exp, lambda: mpmath.e - 1, True),
        (lambda x: mpmath.sqrt(1 - x * x), lambda: mpmath.pi / 4, True),
        (lambda x: 1 / (1 + 10**6 * x * x), lambda: mpmath.atan(1000) / 1000, False),
        (lambda x: x - mpmath.mpf(1) / 2, lambda: mpmath.mpf(0), False),
    ],
    ids=["smooth", "end", "narrow", "cancelling"],
)
def test_fewer_rows_give_the_digits_of_all(function, integral, halves):
    assert BITS > GAUSS_BITS
    with mpmath.workprec(BITS):
        rows, taken = table_rows(GAUSS, BITS), []

        def term(row):
            taken.append(row[0])
            return row[1] * function(row[0])

        found = _nested_sum(term, rows)
        whole = mpmath.fsum(row[1] * function(row[0]) for row in rows)
        assert len(taken) <= len(rows)
        assert abs(found - integral()) <= mpmath.ldexp(1, -int(0.9 * BITS))
        assert abs(whole - integral()) <= mpmath.ldexp(1, -int(0.9 * BITS))
        assert (len(taken) < len(rows) / 1.8) == halves
