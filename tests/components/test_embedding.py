"""Gradients of the tables against drawn words and segments, and the forms of a repeat against its sums."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop.components.embedding import Embedding, RepeatProbability, Zipf
from symprop.core.errors import InputError
from symprop.core.signal import Gradient

DRAWS, TOKENS, Q, P = 40_000, 5, 1.3, 0.4
"""Gradients of two tokens have the covariance P."""


def in_rows(rng, rows, count):
    """Squares of the gradients of a weight in each row of a table, for tokens that use given rows."""
    shared, own = rng.standard_normal((DRAWS, 1)), rng.standard_normal((DRAWS, TOKENS))
    each = np.sqrt(P) * shared + np.sqrt(Q - P) * own
    return np.stack([np.where(rows == row, each, 0).sum(axis=1) ** 2 for row in range(count)])


@pytest.mark.parametrize("both", [False, True])
def test_gradients_of_the_tables_are_those_of_samples(both):
    rng = np.random.default_rng(int(both))
    layer = Embedding(8, 1, Zipf(4), segment_variance=1, both_segments=both, tokens=TOKENS)
    gradient = Gradient(q=sp.Float(Q), gap=sp.Float(Q - P))
    squares = in_rows(rng, layer.draw_segments(rng, DRAWS, TOKENS), 2).mean(axis=0)
    assert abs(squares.mean() - float(layer.segment_gradient(gradient))) < 4 * squares.std() / np.sqrt(DRAWS)
    # H_4 = 25/12.
    words = in_rows(rng, layer.words.draw(rng, (DRAWS, TOKENS), float), 4)
    for k, sample in enumerate(words, 1):
        expected = float(layer.token_gradient(gradient, sp.Rational(12, 25 * k)))
        assert abs(sample.mean() - expected) < 4 * sample.std() / np.sqrt(DRAWS), k
    assert layer.position_gradient(gradient) == gradient.q


@pytest.mark.parametrize("words", [Zipf(4), Zipf(6, 2), RepeatProbability(sp.Rational(1, 5))], ids=str)
def test_drawn_words_repeat_as_often(words):
    drawn = words.draw(np.random.default_rng(2), (DRAWS, 2), float)
    repeat = float(words.repeat)
    assert abs((drawn[:, 0] == drawn[:, 1]).mean() - repeat) < 4 * np.sqrt(repeat * (1 - repeat) / DRAWS)


def test_forms_of_a_repeat():
    for exponent in (1, 2):
        zipf = Zipf(50, exponent)
        first, second = (sum(sp.Rational(1, k ** (power * exponent)) for k in range(1, 51)) for power in (1, 2))
        assert sp.simplify(zipf.repeat - second / first**2) == 0
        assert abs(sp.N(zipf.polygamma() - zipf.repeat, 50)) < 1e-48
    # The sum formula neglects relative orders V^(-s - 3) at a head that is of order 1.
    for exponent in (1, 1.2):
        errors = []
        for size in (50, 500):
            with mpmath.workdps(30):
                first, second = (
                    mpmath.fsum(mpmath.mpf(k) ** (-power * exponent) for k in range(1, size + 1)) for power in (1, 2)
                )
                form = sp.N(Zipf(size, sp.Rational(str(exponent))).expansion(), 30)
                errors.append(abs(form._to_mpmath(110) / (second / first**2) - 1))
        assert float(mpmath.log(errors[0] / errors[1], 10)) == pytest.approx(3 + exponent, abs=0.15)
    for power in (60, 120):
        size = sp.Float(f"1e{power}", 200)
        off = float(Zipf(size).logarithmic() / Zipf(size).polygamma()) - 1
        # ln^2 V stands for (ln V + gamma)^2.
        assert off == pytest.approx((1 + 0.5772156649 / (power * np.log(10))) ** 2 - 1, rel=1e-6)
    for refused, word in (
        (lambda: Zipf(9, -1), "a number >= 0"),
        (lambda: Zipf(9, 2).logarithmic(), "1"),
        (lambda: Zipf(9, sp.Rational(1, 2)).polygamma(), "positive integer"),
        (lambda: Zipf(9, 0).polygamma(), "positive"),
    ):
        with pytest.raises(InputError, match=word):
            refused()
