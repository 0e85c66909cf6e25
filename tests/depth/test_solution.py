"""What a solved stack stands on."""

from dataclasses import dataclass, replace

import pytest
import sympy as sp

from symprop.components import Linear
from symprop.components.base import PairState
from symprop.core.symbols import alpha_1, d
from symprop.depth.solution import solve
from symprop.network import residual, stack


@dataclass(frozen=True)
class Wrong(Linear):
    """A linear layer whose rule for entries of the Gram matrix takes a part of their average for their own."""

    share: sp.Expr = sp.S.Zero

    def pair(self, *states: PairState) -> PairState:
        found = super().pair(*states)
        return replace(found, entry=found.entry + self.share * states[0].average)


def test_pair_rules_that_disagree_with_the_exchangeable_map_are_noticed():
    for share in (sp.S.Zero, sp.Rational(1, 1000)):
        block = stack(residual(Wrong(d, 1 / d, share=share), alpha_1))
        if share == 0:
            solve(block)
        else:
            with pytest.raises(AssertionError, match="disagree"):
                solve(block)
