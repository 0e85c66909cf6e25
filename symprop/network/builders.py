"""Trees of components: a block is a component, a sequence, a residual branch, a named block or a stack over depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy as sp

from symprop.components.base import Component
from symprop.components.sum import Sum
from symprop.core import symbols
from symprop.core.errors import InputError


@dataclass(frozen=True)
class Sequential:
    """Blocks applied one after the other."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Residual:
    """A branch added to the stream it reads: ``skip_scale * x + branch_scale * branch(x)``."""

    branch: Block
    sum: Sum


@dataclass(frozen=True)
class Parallel:
    """Branches that read the same stream and are all added to it."""

    branches: tuple[Residual, ...]


@dataclass(frozen=True)
class Named:
    """A block whose output prints under a name of its own."""

    block: Block
    label: str


@dataclass(frozen=True)
class Stack:
    """A block repeated over depth, with independent weights in every layer."""

    body: Block
    depth: sp.Expr


Block: TypeAlias = Component | Sequential | Residual | Parallel | Named | Stack


def sequential(*blocks: Block) -> Block:
    """Apply blocks one after the other."""
    if not blocks:
        raise InputError("blocks", "()", "at least one block")
    return Sequential(blocks)


def residual(branch: Block, scale: Any = 1, skip_scale: Any = 1) -> Block:
    """Add a branch, times the amplitude ``scale``, to the stream it reads, times ``skip_scale``."""
    return Residual(branch, Sum(scale, skip_scale))


def parallel(*branches: Block, scale: Any = 1) -> Block:
    """Add several branches, each times the amplitude ``scale``, to the stream that all of them read."""
    if not branches:
        raise InputError("branches", "()", "at least one branch")
    return Parallel(tuple(Residual(branch, Sum(scale)) for branch in branches))


def named(block: Block, label: str) -> Block:
    """Give the output of a block the name it has on paper (``S``, ``Z``)."""
    if not label.replace("'", "").isalnum():
        raise InputError("label", label, "letters, digits and primes")
    return Named(block, label)


def stack(body: Block, depth: Any = symbols.L) -> Stack:
    """Repeat a block ``depth`` times with independent weights."""
    depth = sp.sympify(depth) if not isinstance(depth, str) else sp.nan
    if depth.is_number and not (depth.is_Integer and depth > 0):
        raise InputError("depth", depth, str(symbols.info(symbols.L).domain))
    return Stack(body, depth)
