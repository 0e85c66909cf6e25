"""Trees of components: a block is a component, a sequence, a residual branch, a named block or a stack over depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy as sp

from symprop.components.base import Component
from symprop.components.norm import LayerNorm
from symprop.components.sum import Sum
from symprop.core import symbols
from symprop.core.display import html_table
from symprop.core.errors import InputError


class _Tree:
    """Shows itself as an outline, every block with what it holds below it."""

    def _repr_html_(self: Any) -> str:
        return html_table(type(self).__name__, ("block",), [("\u2003" * depth + text,) for depth, text in outline(self)])


@dataclass(frozen=True)
class Sequential(_Tree):
    """Blocks applied one after the other."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Residual(_Tree):
    """A branch added to the stream it reads: ``skip_scale * x + branch_scale * branch(x)``."""

    branch: Block
    sum: Sum


@dataclass(frozen=True)
class Parallel(_Tree):
    """Branches that read one signal, ``before`` applied to the stream, each added to the stream in turn."""

    branches: tuple[Block, ...]
    sums: tuple[Sum, ...]
    before: Block


@dataclass(frozen=True)
class Named(_Tree):
    """A block whose output prints under a name of its own."""

    block: Block
    label: str


@dataclass(frozen=True)
class Stack(_Tree):
    """A block repeated over depth, with independent weights in every layer."""

    body: Block
    depth: sp.Expr


Block: TypeAlias = Component | Sequential | Residual | Parallel | Named | Stack


def outline(block: Block, depth: int = 0) -> Iterator[tuple[int, str]]:
    """A block and what it holds, each with its depth in the tree.

    >>> from symprop.components import Linear
    >>> from symprop.core.symbols import alpha_1, d
    >>> list(outline(residual(Linear(d, 1/d), alpha_1)))
    [(0, '1 x + alpha_1 branch(x)'), (1, 'Linear(d, 1/d, 0)')]
    """
    match block:
        case Sequential(blocks):
            heading, inner = "one after the other", blocks
        case Residual(branch, added):
            heading, inner = f"{added.skip_scale} x + {added.branch_scale} branch(x)", (branch,)
        case Parallel(branches, sums, before):
            heading = " + ".join([f"{sums[0].skip_scale} x", *(f"{item.branch_scale} branch(y)" for item in sums)])
            heading, inner = f"{heading} of the first block y(x)", (before, *branches)
        case Named(named_block, label):
            heading, inner = f"{label} =", (named_block,)
        case Stack(body, layers):
            heading, inner = f"{layers} times", (body,)
        case _:
            heading, inner = block.describe(), ()
    yield depth, heading
    for item in inner:
        yield from outline(item, depth + 1)


def sequential(*blocks: Block) -> Block:
    """Apply blocks one after the other."""
    if not blocks:
        raise InputError("blocks", "()", "at least one block")
    return Sequential(blocks)


def residual(branch: Block, scale: Any = 1, skip_scale: Any = 1) -> Block:
    """Add a branch, times the amplitude ``scale``, to the stream it reads, times ``skip_scale``."""
    return Residual(branch, Sum(scale, skip_scale))


def pre_norm(branch: Block, scale: Any = 1, skip_scale: Any = 1, norm: Block | None = None) -> Block:
    """``skip_scale x + scale branch(norm(x))``; the norm is LayerNorm unless given. Xiong et al. 2020."""
    return residual(sequential(norm or LayerNorm(), branch), scale, skip_scale)


def post_norm(branch: Block, scale: Any = 1, skip_scale: Any = 1, norm: Block | None = None) -> Block:
    """``norm(skip_scale x + scale branch(x))``; the norm is LayerNorm unless given. Vaswani et al. 2017."""
    return sequential(residual(branch, scale, skip_scale), norm or LayerNorm())


def peri_norm(branch: Block, scale: Any = 1, skip_scale: Any = 1, norm: Block | None = None) -> Block:
    """``skip_scale x + scale norm(branch(norm(x)))``: a norm on both sides of the branch, also called sandwich norm.

    Kim et al. 2025; Ding et al. 2021.
    """
    around = norm or LayerNorm()
    return residual(sequential(around, branch, around), scale, skip_scale)


def parallel(*branches: Block, scale: Any = 1, skip_scale: Any = 1, norm: Block | None = None) -> Block:
    """``skip_scale x + scale (branch_1(norm(x)) + branch_2(norm(x)) + ...)``: all branches read the same norm.

    Wang & Komatsuzaki 2021.

    >>> from symprop.components import Linear
    >>> from symprop.core.symbols import d
    >>> from symprop.network import trace_of
    >>> trace_of(parallel(Linear(d, 1/d), Linear(d, 2/d))).expand().q
    q_X + 3
    """
    if not branches:
        raise InputError("branches", "()", "at least one block")
    sums = (Sum(scale, skip_scale), *(Sum(scale) for _ in branches[1:]))
    return Parallel(branches, sums, norm or LayerNorm())


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
