"""An architecture as data: sizes, the order of its block, and the variances of its weights as expressions in the sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.architectures.entries import ACTIVATION_NAMES, NORM_NAMES
from symprop.core import symbols
from symprop.core.errors import InputError, UnknownNameError
from symprop.core.provenance import Source

if TYPE_CHECKING:
    from symprop.functions.activation import Activation
    from symprop.network import Block

SIZES: Mapping[str, sp.Symbol] = {
    "layers": symbols.L, "width": symbols.d, "heads": symbols.heads, "key_width": symbols.d_k, "hidden": symbols.d_F,
    "vocabulary": symbols.V,
}  # fmt: skip
"""The sizes of a model, with the symbols that stand for them in expressions."""
LIMITS: Mapping[str, int] = {
    "layers": 10**5, "width": 10**7, "heads": 10**5, "key_width": 10**7, "hidden": 10**8, "vocabulary": 10**9,
}  # fmt: skip
ORDERS = ("pre", "post", "parallel", "peri", "none")
POSITIONS = ("none", "learned", "sinusoidal", "rotary")
VARIANCES = (
    "token", "position", "segment", "class_token", "query", "key", "value", "output", "up", "gate", "down", "head",
)  # fmt: skip
"""Fields that hold the absolute variance of a weight (not a gain)."""
SCALES = ("branch_scale", "skip_scale", "temperature")
"""Fields that hold an amplitude."""


@dataclass(frozen=True)
class Architecture:
    r"""A transformer of equal layers at initialisation.

    ``order`` says where the norm stands: before a branch (pre), after the sum (post), before both branches of one sum
    (parallel), around a branch (peri), nowhere (none). A sum is ``skip_scale * x + branch_scale * branch``. Variances are
    absolute, expressions in the symbols of :data:`SIZES`; ``temperature`` multiplies
    :math:`q \cdot k/\sqrt{d_k}`. ``rotated`` is the number of query and key coordinates of a head that rotary embeddings
    turn, with angles of base ``rotary_base``. ``cross`` says that a branch of every layer attends to the output of an
    encoder, which is the same architecture without it and without a causal mask; its matrices have the variances of
    self-attention. ``class_token`` is the variance of a first token that carries the readout (zero: none). ``head`` is the
    variance of the output embedding, None where the readout is not a linear layer. Biases are
    zero and gains one. Raises :class:`InputError` for a field out of range.

    >>> from symprop.architectures.presets import preset
    >>> preset("gpt2").number("output")*24
    0.0004
    """

    name: str
    source: Source
    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    key_width: int = 0
    order: str = "pre"
    norm: str = "layer"
    epsilon: float = 1e-5
    activation: str = "gelu"
    gated: bool = False
    causal: bool = True
    cross: bool = False
    embedding_norm: bool = False
    final_norm: bool = True
    positions: str = "learned"
    rotated: int = 0
    rotary_base: float = 10000.0
    branch_scale: Any = sp.S.One
    skip_scale: Any = sp.S.One
    temperature: Any = sp.S.One
    token: Any = sp.S.One
    position: Any = sp.S.Zero
    segment: Any = sp.S.Zero
    class_token: Any = sp.S.Zero
    query: Any = sp.S.Zero
    key: Any = sp.S.Zero
    value: Any = sp.S.Zero
    output: Any = sp.S.Zero
    up: Any = sp.S.Zero
    gate: Any = sp.S.Zero
    down: Any = sp.S.Zero
    head: Any = None

    def __post_init__(self) -> None:
        if self.key_width == 0 and self.heads > 0:
            if self.width % self.heads:
                raise InputError("heads", self.heads, f"a divisor of the width {self.width}, or key_width given")
            object.__setattr__(self, "key_width", self.width // self.heads)
        for name, limit in LIMITS.items():
            if not 1 <= getattr(self, name) <= limit:
                raise InputError(name, getattr(self, name), f"an integer in [1, {limit}]")
        for name, allowed in (
            ("order", ORDERS), ("norm", NORM_NAMES), ("activation", ACTIVATION_NAMES), ("positions", POSITIONS)
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise UnknownNameError(name, getattr(self, name), allowed)
        if self.width == 1 and self.norm == "layer" and (self.order != "none" or self.embedding_norm or self.final_norm):
            raise InputError("width", 1, "an integer >= 2 with LayerNorm, which leaves nothing of one coordinate")
        if self.cross and (self.order == "parallel" or self.positions == "rotary" or self.has_class_token):
            raise InputError("cross", "true", "a decoder of sequential branches without rotary positions and class token")
        if self.rotated % 2 or not 0 <= self.rotated <= self.key_width:
            raise InputError("rotated", self.rotated, f"an even integer in [0, {self.key_width}]")
        if not 0 <= self.epsilon < 1:
            raise InputError("epsilon", self.epsilon, "a number in [0, 1)")
        if not 1 < self.rotary_base < 1e12:
            raise InputError("rotary_base", self.rotary_base, "a number in (1, 1e12)")
        for name in (*VARIANCES, *SCALES):
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(name, value, "a number or a SymPy expression")
            if value is not None:
                object.__setattr__(self, name, sp.sympify(value))
                self._check(name)
        for name in ("gate", "up") if self.gated else ():
            if self.number(name) == 0:
                raise InputError(name, getattr(self, name), "a positive variance in a gated layer")

    def _check(self, name: str) -> None:
        unknown = getattr(self, name).free_symbols - set(SIZES.values())
        if unknown:
            raise InputError(name, getattr(self, name), f"an expression in {', '.join(map(str, SIZES.values()))}")
        if any(node.exp.free_symbols for node in getattr(self, name).atoms(sp.Pow, sp.exp)):
            raise InputError(name, getattr(self, name), "numbers as exponents")
        value = self.number(name)
        if name in VARIANCES and not 0 <= value < 1e12:
            raise InputError(name, getattr(self, name), "a variance in [0, 1e12)")
        if not abs(value) < 1e12:
            raise InputError(name, getattr(self, name), "a number below 1e12")

    @cached_property
    def sizes(self) -> dict[sp.Symbol, sp.Integer]:
        """The numbers behind the symbols."""
        return {symbol: sp.Integer(getattr(self, name)) for name, symbol in SIZES.items()}

    def number(self, name: str) -> float:
        """A variance or scale at this model's sizes; zero for a readout without one."""
        value = getattr(self, name)
        # Floats, not integers: a tower of powers then costs nothing.
        floats = {symbol: sp.Float(size, 30) for symbol, size in self.sizes.items()}
        number = sp.S.Zero if value is None else sp.N(value.xreplace(floats), 17)
        if not number.is_real or abs(number) > sp.Float("1e300"):
            raise InputError(name, value, "a real number at the sizes of the model")
        return float(number)

    @property
    def has_class_token(self) -> bool:
        """Whether a first token carries the readout."""
        return self.number("class_token") > 0

    @property
    def has_input(self) -> bool:
        """Whether anything that enters the first layer is not zero."""
        learned = ("position",) if self.positions == "learned" else ()
        return self.positions == "sinusoidal" or any(
            self.number(name) > 0 for name in ("token", "segment", "class_token", *learned)
        )

    def replace(self, **changes: Any) -> Architecture:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def phi(self) -> Activation:
        """The activation of the feed-forward block."""
        from symprop.architectures.activations import ACTIVATIONS

        return ACTIVATIONS[self.activation]

    def block(self, *, called: bool = False, symbolic: bool = False) -> Block:
        """One layer. Numbers stand for sizes and variances unless ``symbolic``.

        With ``called`` the moments of the activation stay calls of :class:`PairKernel`, which the Gram interpreter evaluates:
        the block is built in milliseconds.
        """
        # Components take a second to import, which a description that is refused does not need.
        from symprop.architectures.layer import block_of

        return block_of(self, called=called, symbolic=symbolic)
