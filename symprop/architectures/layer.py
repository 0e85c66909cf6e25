"""One layer of an architecture as a block of components."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from symprop.architectures.description import SCALES, SIZES, VARIANCES, Architecture
from symprop.architectures.entries import NORM_NAMES
from symprop.components import Attention, Elementwise, GatedUnit, LayerNorm, Linear, RMSNorm
from symprop.core import symbols
from symprop.functions.activation import Activation
from symprop.functions.pair_kernel import CalledActivation
from symprop.network import Block, Sequential, named, parallel, residual, sequential
from symprop.network.gram_memory import MemoryAttention

NORMS: Mapping[str, type[LayerNorm] | type[RMSNorm]] = dict(zip(NORM_NAMES, (LayerNorm, RMSNorm), strict=True))
"""Norms by their name in a description."""


def norm_of(model: Architecture) -> LayerNorm | RMSNorm:
    """The norm of a description, with its epsilon."""
    return NORMS[model.norm](epsilon=sp.Float(model.epsilon, 17))


def block_of(model: Architecture, *, called: bool = False, symbolic: bool = False) -> Block:
    """One layer; see :meth:`Architecture.block`."""
    at = {} if symbolic else {name: sp.Float(model.number(name), 17) for name in (*VARIANCES, *SCALES)}
    sizes = {name: symbol if symbolic else model.sizes[symbol] for name, symbol in SIZES.items()}

    def value(name: str) -> sp.Expr:
        return getattr(model, name) if symbolic else at[name]

    def norm() -> Block:
        return NORMS[model.norm](epsilon=symbols.eps) if symbolic and model.epsilon else norm_of(model)

    phi: Activation = CalledActivation(model.phi()) if called else model.phi()
    width, hidden, key_width = sizes["width"], sizes["hidden"], sizes["key_width"]

    def attending(kind: type[Attention], label: str, projection: str) -> Block:
        return sequential(
            named(
                kind(
                    key_width * sizes["heads"], value("value"), key_width, value("query"), value("key"),
                    temperature=value("temperature"), heads=sizes["heads"],
                ),
                label,
            ),
            named(Linear(width, value("output")), projection),
        )  # fmt: skip

    attention = attending(Attention, "S", "O")
    first = (
        (named(GatedUnit(hidden, value("gate"), value("up"), phi), "G"),)
        if model.gated
        else (named(Linear(hidden, value("up")), "U"), named(Elementwise(phi), "A"))
    )
    feed_forward = sequential(*first, named(Linear(width, value("down")), "D"))
    branch, skip = value("branch_scale"), value("skip_scale")
    if model.order == "parallel":
        branches = sequential(norm(), attention), sequential(norm(), feed_forward)
        return parallel(*branches, scale=branch, skip_scale=skip, norm=Sequential(()))

    def joined(part: Block) -> Block:
        if model.order == "post":
            return sequential(residual(part, branch, skip), norm())
        if model.order == "peri":
            return residual(sequential(norm(), part, norm()), branch, skip)
        return residual(sequential(norm(), part) if model.order == "pre" else part, branch, skip)

    reading = (joined(attending(MemoryAttention, "C", "P")),) if model.cross else ()
    return sequential(joined(attention), *reading, joined(feed_forward))
