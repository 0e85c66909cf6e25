"""A whole architecture on the token Gram matrix: embedding, layers, readout and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
import numpy.typing as npt
import sympy as sp

from symprop.architectures.description import Architecture
from symprop.architectures.entries import MAX_TOKENS
from symprop.architectures.layer import norm_of
from symprop.architectures.readout import readout_gradient
from symprop.components import LayerNorm
from symprop.core.errors import InputError, RefusedError
from symprop.network import Block, Trace, token_input, trace_of
from symprop.network.gram import EVERYTHING, Closure, GramGradient, GramPass, GramSignal, propagate
from symprop.network.gram_attention import NO_ROTATION, AttentionGram, AttentionPattern, pattern, rotary_angles
from symprop.network.gram_memory import Memory, MemoryAttentionGram
from symprop.network.gram_softmax import DRAWN_LAYERS

Words = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]
PASS_MATRICES, KEPT_NUMBERS = 32, 5 * 10**7
"""Matrices in the pass of one layer, about, and numbers that the passes of all layers may fill the memory with."""

WEIGHTS: Mapping[str, str] = {
    "S.query": "query", "S.key": "key", "S.value": "value", "O": "output", "C.query": "cross_query", "C.key": "cross_key",
    "C.value": "cross_value", "P": "cross_output", "U": "up", "G.gate": "gate", "G.up": "up",
    "D": "down",
}  # fmt: skip
"""Weight matrices of a layer by the labels of the block."""


@dataclass(frozen=True, eq=False)
class Course:
    """What a forward pass starts from: the trace of every layer, the signal that enters the first, who sees whom, what is kept
    of the corrections, and for a decoder what its encoder has read."""

    traces: Sequence[Trace]
    signal: GramSignal
    seen: AttentionPattern
    closure: Closure = EVERYTHING
    memory: Memory | None = None

    def layer(self, index: int, signal: GramSignal) -> GramPass:
        """One layer, at the signal that enters it."""
        return propagate(self.traces[index], signal, self.seen, seed=(index,), closure=self.closure, memory=self.memory)

    def forward(self) -> Iterator[GramPass]:
        """One layer after the other, none of them kept."""
        signal = self.signal
        for index in range(len(self.traces)):
            found = self.layer(index, signal)
            yield found
            signal = found.output


class Layers(Sequence[GramPass]):
    """The passes of all layers, from the ``streams`` before each and after the last: layers + 1 signals.

    As many as fit into :data:`KEPT_NUMBERS` are kept; others are propagated anew each time that they are asked for.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        streams = [course.signal]
        self._kept: dict[int, GramPass] = {}
        numbers = 0
        for layer, found in enumerate(course.forward()):
            numbers += (PASS_MATRICES + found.kept) * course.seen.tokens**2
            if numbers <= KEPT_NUMBERS:
                self._kept[layer] = found
            streams.append(replace(found.output, slope=1.0))
        self.streams = tuple(streams)

    def __len__(self) -> int:
        return len(self._course.traces)

    @overload
    def __getitem__(self, layer: int) -> GramPass: ...
    @overload
    def __getitem__(self, layer: slice) -> tuple[GramPass, ...]: ...
    def __getitem__(self, layer: int | slice) -> GramPass | tuple[GramPass, ...]:
        if isinstance(layer, slice):
            return tuple(self[index] for index in range(len(self))[layer])
        index = range(len(self))[layer]
        return self._kept.get(index) or self._course.layer(index, self.streams[index])


def widest_attention(layer: GramPass) -> AttentionGram | MemoryAttentionGram:
    """The attention of a layer whose logits deviate most."""
    return max(layer.attention.values(), key=lambda item: item.logit_deviation())


@dataclass(frozen=True, eq=False)
class PulledLayer:
    """A layer on the way back: its attention, the gradient at its input, squared norms of its weight gradients by name."""

    layer: int
    attention: AttentionGram | MemoryAttentionGram
    gradient: GramGradient
    weights: dict[str, float]


@dataclass(frozen=True, eq=False)
class ModelPass:
    """Forward pass of all layers: ``passes`` in order, with the signal that enters each and the one that leaves the last."""

    architecture: Architecture
    pattern: AttentionPattern
    passes: Layers

    @property
    def streams(self) -> tuple[GramSignal, ...]:
        """The stream before every layer and after the last: layers + 1 signals."""
        return self.passes.streams

    def pulled(self, gradient: GramGradient) -> Iterator[PulledLayer]:
        """The layers from the last to the first, with the gradient at the stream before each."""
        for layer in range(len(self.passes) - 1, -1, -1):
            item = self.passes[layer]
            gradient, found = item.backward(gradient)
            # Vectors that tokens share, as the bias of a trained norm, are no weights.
            weights = {WEIGHTS[name]: value for name, value in found.items() if name in WEIGHTS}
            yield PulledLayer(layer, widest_attention(item), gradient, weights)

    def backward(self, gradient: GramGradient) -> tuple[tuple[GramGradient, ...], tuple[dict[str, float], ...]]:
        """Gradients at every stream (layers + 1), and squared norms of the weight gradients of every layer by name."""
        layers = list(self.pulled(gradient))[::-1]
        return (*(item.gradient for item in layers), gradient), tuple(item.weights for item in layers)

    def unit_gradient(self) -> GramGradient:
        """Independent cotangents of unit variance at the last stream."""
        return GramGradient(np.eye(self.pattern.tokens))

    @property
    def readout(self) -> GramSignal:
        """What the readout reads: the last stream, after the final norm if there is one."""
        return self._final.output if self._final else self.streams[-1]

    @cached_property
    def _final(self) -> GramPass | None:
        if not self.architecture.final_norm:
            return None
        last = self.streams[-1]
        return propagate(_trace(norm_of(self.architecture), last, 1), last, self.pattern)

    def loss_gradient(self, read: npt.NDArray[np.bool_]) -> GramGradient:
        r"""The gradient of the mean cross-entropy at the last stream, absolute.

        ``read`` of shape (tokens,) says which tokens have labels; of an architecture with a class token it alone has one. The
        labels are classes, drawn independently and uniformly (:func:`~symprop.architectures.readout.loss_gram`). Raises
        :class:`RefusedError` for a readout that is not a linear layer.
        """
        if self.architecture.head is None:
            raise RefusedError(
                self.architecture.name, "its readout is not a linear layer", "use the gradient of unit cotangents"
            )
        if read.shape != (self.pattern.tokens,) or not read.any():
            raise InputError("labels", f"shape {read.shape}", f"{self.pattern.tokens} flags, not all of them false")
        if self.architecture.has_class_token:
            read = read & (self.pattern.positions == 0)
        states, chosen = self.readout.gram, np.ix_(read, read)
        gram = np.zeros_like(states)
        gram[chosen] = readout_gradient(self.architecture, states[chosen]) / int(read.sum()) ** 2
        gradient = GramGradient(gram)
        return self._final.backward(gradient)[0] if self._final else gradient


def run(
    architecture: Architecture, words: Words, *, rows: int = 1, visible: AttentionPattern | None = None,
    closure: Closure = EVERYTHING, alike: Array | None = None,
) -> ModelPass:
    """Propagate the tokens ``words`` of shape (rows*tokens,): equal integers are equal tokens.

    ``rows`` sequences follow each other. A class token, where the architecture has one, is the first of each row, whatever
    its integer. ``visible`` replaces the attention pattern, for padded sequences; ``closure`` says which
    corrections are kept. ``alike`` of shape (tokens, tokens) holds the inner products of what the tokens' vectors are made of,
    one for equal tokens, in place of one for equal words and zero for others: those of image patches, for example.
    """
    course = _start(architecture, words, rows, visible, closure, alike)
    return ModelPass(architecture, course.seen, Layers(course))


def logit_deviations(architecture: Architecture, words: Words, visible: AttentionPattern | None, padding: int) -> list[float]:
    """The deviation of the logits in every layer of :func:`run`, with attention weights at first order in their variance."""
    course = _start(architecture, words, 1, visible, Closure(attention="first_order"))
    real = slice(0, len(words) - padding)
    return [widest_attention(item).logit_deviation(real) for item in course.forward()]


def _start(
    architecture: Architecture, words: Words, rows: int, visible: AttentionPattern | None, closure: Closure,
    alike: Array | None = None,
) -> Course:
    total = len(words)
    if words.ndim != 1 or total == 0 or total % rows or total > MAX_TOKENS:
        raise InputError("words", f"shape {words.shape}", f"at most {MAX_TOKENS} tokens, a multiple of {rows} rows")
    tokens = total // rows
    seen = visible or pattern(tokens, sequences=rows, causal=architecture.causal, rotary=rotary_of(architecture))
    signal = embed(architecture, words, seen, alike)
    trace = _trace(architecture.block(called=True), signal, tokens)
    closure = replace(closure, share=closure.share * min(DRAWN_LAYERS / architecture.layers, 1.0))
    memory = _memory(architecture, words, seen, closure) if architecture.cross else None
    return Course([trace] * architecture.layers, signal, seen, closure, memory)


def _memory(architecture: Architecture, words: Words, seen: AttentionPattern, closure: Closure) -> Memory:
    """The output of the encoder, which reads the same words; tokens that nobody sees are padding there as well."""
    rows = seen.rows
    together = np.kron(np.eye(rows), np.ones((seen.tokens // rows,) * 2)) * seen.visible.any(axis=0)
    weights = together / together.sum(axis=1, keepdims=True)
    encoder = architecture.replace(cross=False, causal=False)
    own = AttentionPattern(weights, seen.positions, rows=rows)
    model = run(encoder, words, rows=rows, visible=own, closure=closure)
    last = model.streams[-1]
    if encoder.final_norm:
        last = propagate(_trace(norm_of(encoder), last, 1), last, own).output
    return Memory(last.gram, weights, last.spread)


def embed(architecture: Architecture, words: Words, seen: AttentionPattern, alike: Array | None = None) -> GramSignal:
    """The Gram matrix that enters the first layer: equal words, equal positions and one segment share their vectors.

    ``alike`` is that of :func:`run`.
    """
    positions = seen.positions
    first = (positions == 0) & architecture.has_class_token
    own = np.where(first, -1, words)
    same = (own[:, None] == own[None, :]).astype(float) if alike is None else alike
    tokens = np.where(np.outer(first, first), architecture.number("class_token"), architecture.number("token") * same)
    gram = tokens + architecture.number("segment")
    signal = GramSignal(gram, float(architecture.width))
    distance = positions[:, None] - positions[None, :]
    if architecture.positions == "learned":
        gram = gram + architecture.number("position") * (distance == 0)
    elif architecture.positions == "sinusoidal":
        half = max(architecture.width // 2, 1)
        # Half of the coordinates are sines: the inner product of two positions is the sum of the cosines of the difference.
        gram = gram + sum(np.cos(distance * 10000.0 ** (-f / half)) for f in range(half)) / architecture.width
        angles = np.multiply.outer(10000.0 ** (-np.arange(half) / half), positions)
        mean = (np.sin(angles) + np.cos(angles)).sum(axis=0) / architecture.width
        signal = replace(signal, means=np.outer(mean, mean))
    signal = replace(signal, gram=gram)
    if architecture.embedding_norm:
        norm = LayerNorm(epsilon=sp.Float(architecture.epsilon, 17))
        return propagate(_trace(norm, signal, len(words)), signal, seen).output
    return signal


def rotary_of(architecture: Architecture) -> tuple[tuple[float, float], ...]:
    """Angles of the rotary positions, each with its share of a head's coordinates."""
    if architecture.positions != "rotary":
        return NO_ROTATION
    return rotary_angles(architecture.key_width, architecture.rotated, architecture.rotary_base)


def _trace(block: Block, signal: GramSignal, tokens: int) -> Trace:
    return trace_of(block, token_input(sp.Integer(tokens), sp.Integer(int(signal.width)), gaussian=True))
