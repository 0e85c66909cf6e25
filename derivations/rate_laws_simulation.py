"""What is simulated for the laws near collapse: powers of the depth and growth of 1 - rho in real blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import sympy as sp
from symprop.derivations.named_blocks import X
from symprop.derivations.named_blocks_simulation import Setting, path, power_row, share_row

from symprop.claims import StudyPoint
from symprop.core.symbols import layer
from symprop.depth.flow import DepthFlow, integrate_flow
from symprop.depth.rate import RateLaw
from symprop.network import Block
from symprop.simulate.measurement import Measurement


def study_points(
    cases: Mapping[str, tuple[Block, Setting, RateLaw | None]], named: Callable[[sp.Expr], sp.Expr], seed: int
) -> list[StudyPoint]:
    """Power of 1 - rho where there is a law of one, its growth otherwise; ``named`` puts the moments of an activation in.

    The law is counted from the layer at which it has the value that the tokens enter with.
    """
    return [partial(_measured, *case, named, seed + index) for index, case in enumerate(cases.values())]


def _measured(
    block: Block, setting: Setting, law: RateLaw | None, named: Callable[[sp.Expr], sp.Expr], seed: int
) -> tuple[Measurement]:
    found = path(block, setting, seed)
    if law is None:
        return (share_row("log (1 - rho)_L/(1 - rho)_0", found, setting),)
    first = float(sp.N(named(law.share.subs(layer, 1)).subs(setting.values)))
    before = (setting.share / first) ** (1 / float(law.rate))
    return (power_row("power of 1 - rho", found, setting, float(law.rate), before=before),)


def flowing(block: Block, flow: DepthFlow, setting: Setting, seed: int) -> tuple[Measurement]:
    """Growth of 1 - rho over all layers beside that of the map, and the flow at infinite depth, which is right to O(1/L)."""
    end = integrate_flow(flow, {X.q: 1.0, X.gap: setting.share}, setting.numbers)
    limit = float(end[X.gap][-1] / end[X.q][-1])
    return (share_row("log (1 - rho)_L/(1 - rho)_0", path(block, setting, seed), setting, limit=limit),)
