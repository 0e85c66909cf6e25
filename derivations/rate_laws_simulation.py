"""What is simulated for the laws near collapse: powers of the depth and growth of 1 - rho in real blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy as sp
from symprop.derivations.named_blocks_simulation import Setting, path, power_row, share_row

from symprop.claims import Progress
from symprop.core.symbols import layer
from symprop.depth.rate import RateLaw
from symprop.network import Block
from symprop.simulate.measurement import Measurement


def study(
    cases: Mapping[str, tuple[Block, Setting, RateLaw | None]], named: Callable[[sp.Expr], sp.Expr], seed: int,
    progress: Progress | None,
) -> tuple[Measurement, ...]:
    """Power of 1 - rho where there is a law of one, its growth otherwise; ``named`` puts the moments of an activation in.

    The law is counted from the layer at which it has the value that the tokens enter with.
    """
    rows = []
    for index, (block, setting, law) in enumerate(cases.values()):
        found = path(block, setting, seed + index)
        if law is not None:
            first = float(sp.N(named(law.share.subs(layer, 1)).subs(setting.values)))
            before = (setting.share / first) ** (1 / float(law.rate))
            rows.append(power_row("power of 1 - rho", found, setting, float(law.rate), before=before))
        else:
            rows.append(share_row("log (1 - rho)_L/(1 - rho)_0", found, setting))
        if progress is not None:
            progress("laws", index + 1, len(cases))
    return tuple(rows)
