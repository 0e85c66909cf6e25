"""A whole architecture on (q, gap): the fast state, for models whose tokens are exchangeable.

Every component's own map of a :class:`~symprop.core.signal.Signal` and of a :class:`~symprop.core.signal.Gradient` is compiled
once and run over the layers. Norms are wide and attention weights uniform but for their derivative, so that the numbers are
those of the Gram matrix up to O(1/d) and the variance of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from symprop.architectures.description import Architecture
from symprop.architectures.layer import NORMS, norm_of
from symprop.architectures.readout import readout_gradient
from symprop.architectures.signal import WEIGHTS, Words, embed
from symprop.components import Attention, Component, GatedUnit, LayerNorm, Linear, Sum
from symprop.core.signal import Gradient, Signal
from symprop.core.symbols import n
from symprop.functions.activation import Activation
from symprop.functions.pair_kernel import CalledActivation, PairKernel
from symprop.functions.piece_rule import gauss_rule
from symprop.network import Step, Trace, token_input, trace_of
from symprop.network.gram_attention import pattern

Array = npt.NDArray[np.float64]

# Covariances v - u^2 gap crowd where the kernel of a kink has its square root.
_ROOTS, _SHARES = np.array(gauss_rule(12)).T
KEPT = 256
"""Variances whose moments are remembered, about a layer each."""


class _Opaque(sp.Function):
    """A moment of the activation that does not depend on the scale of its input.

    Only the O(1/d) term of gated units asks for that dependence, an order which this state drops throughout.
    """

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.Zero


class SecondCall(_Opaque):
    """SecondCall(order, v): E phi(x)^2 of a Gaussian of variance v, of the slope for order 1."""

    nargs = (2,)


class GapCall(_Opaque):
    """GapCall(order, v, gap): what the same moment of two tokens of covariance v - gap lacks."""

    nargs = (3,)


@dataclass(frozen=True)
class _CarriedGap(CalledActivation):
    """Calls whose gap keeps its digits as it vanishes."""

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return SecondCall(0, v)

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return GapCall(0, v, gap)

    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return SecondCall(1, v)

    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return GapCall(1, v, gap)


@dataclass(frozen=True)
class CarriedMoments:
    r"""What :class:`SecondCall` and :class:`GapCall` stand for, at most one series for each variance and order."""

    activation: Activation
    _seconds: dict[float, float] = field(default_factory=dict, repr=False, compare=False)
    _slopes: dict[float, tuple[float, Array]] = field(default_factory=dict, repr=False, compare=False)

    def second(self, order: int, v: float) -> float:
        """E phi(x)^2, of the slope for order 1."""
        if order == 0:
            if v not in self._seconds:
                _make_room(self._seconds)
                self._seconds[v] = float(PairKernel(self.activation).of(*[np.asarray(v)] * 3))
            return self._seconds[v]
        return float((self._slopes[v][1] if v in self._slopes else self._series(v, 0.0))[-1])

    def gap(self, order: int, v: float, gap: float) -> float:
        r"""E phi(x)^2 - E phi(x) phi(y), to relative accuracy however small it is; a plain difference for the slopes.

        Price's theorem: it is the integral of :math:`E \phi'(x) \phi'(y)` over the covariance, from v - gap to v.

        >>> from symprop.functions.activation import Relu
        >>> f"{CarriedMoments(Relu()).gap(0, 1.0, 1e-40):.6g}"
        '5e-41'
        """
        *between, apart, equal = self._series(v, gap)
        return float(equal - apart) if order == 1 else float(gap * (2 * _ROOTS * _SHARES * between).sum())

    def _series(self, v: float, gap: float) -> Array:
        """E phi'(x) phi'(y) over the range of covariances, at its lower and at its upper end."""
        if v not in self._slopes or self._slopes[v][0] != gap:
            _make_room(self._slopes)
            own, below = np.asarray(v), np.append(_ROOTS**2, (1.0, 0.0)) * gap
            self._slopes[v] = gap, PairKernel(self.activation, 1).of(own, own, v - below)
        return self._slopes[v][1]


def _make_room(remembered: dict[float, Any]) -> None:
    if len(remembered) >= KEPT:
        remembered.clear()


@dataclass(frozen=True)
class Moments:
    """Second moments of a signal or of a gradient as numbers: ``q`` of one token, ``gap`` = q - p with p of two tokens."""

    q: float
    gap: float

    @property
    def cosine(self) -> float:
        """p/q, zero for a signal that vanishes."""
        return 1 - self.gap / self.q if self.q > 0 else 0.0


@dataclass(frozen=True, eq=False)
class _Compiled:
    """One step: its map, that of the gradient, the squared norms of its weight gradients, and of attention its logits.

    Functions of the factors of residual branches and of logits, the number of tokens and (q, gap) of every input; of those of
    the incoming gradient before, where one comes in.
    """

    step: Step
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    weights: dict[str, Callable[..., Any]]
    scores: Callable[..., Any] | None


@dataclass(frozen=True, eq=False)
class ExchangeablePass:
    """All layers: ``streams`` and ``gradients`` before every layer and after the last, the rest by layer.

    ``score_variance`` is that of a logit about what its row shares.
    """

    tokens: int
    streams: tuple[Moments, ...]
    score_variance: tuple[float, ...]
    gradients: tuple[Moments, ...]
    weights: tuple[dict[str, float], ...]


@dataclass(frozen=True, eq=False)
class ExchangeableModel:
    """An architecture at a number of tokens, all different.

    >>> from symprop.architectures.presets import preset
    >>> small = preset("bert").replace(layers=2, width=64, heads=4, key_width=0, hidden=256)
    >>> [f"{stream.q:.6f}" for stream in ExchangeableModel(small, 8).run().streams]
    ['1.000000', '1.000000', '1.000000']
    """

    architecture: Architecture
    tokens: int

    @cached_property
    def _trace(self) -> Trace:
        return _traced(self.architecture, self.tokens == 1)

    @cached_property
    def _steps(self) -> tuple[_Compiled, ...]:
        return _compiled_layer(self.architecture, self.tokens == 1)

    def run(
        self, branch_factor: float = 1.0, embedding_factor: float = 1.0, logit_factor: float = 1.0
    ) -> ExchangeablePass:
        """Forward and backward, the residual branches, what enters the first layer and all logits multiplied by factors."""
        scales = branch_factor, logit_factor, self.tokens
        layers: list[list[Moments]] = []
        start, size = self._embedded, embedding_factor**2
        streams = [Moments(size * start.q, size * start.gap)]
        for _ in range(self.architecture.layers):
            signals = [streams[-1]]
            for item in self._steps:
                found = item.forward(*scales, *_numbers(item.step, signals))
                signals.append(Moments(*map(float, found)))
            layers.append(signals)
            streams.append(signals[self._trace.output])
        gradients, weights, scores = [self._cotangent(streams[-1])], [], []
        for signals in reversed(layers):
            below, found, variance = self._pulled(scales, signals, gradients[-1])
            gradients.append(below)
            weights.append(found)
            scores.append(variance)
        return ExchangeablePass(
            self.tokens, tuple(streams), tuple(reversed(scores)), tuple(reversed(gradients)), tuple(reversed(weights))
        )

    def _pulled(
        self, scales: tuple[float, ...], signals: list[Moments], above: Moments
    ) -> tuple[Moments, dict[str, float], float]:
        """Through one layer from its output: the gradient at its input, squared weight gradients, and the logit variance."""
        gradients = {self._trace.output: above}
        weights: dict[str, float] = {}
        scores = 0.0
        for position in range(len(self._steps), 0, -1):
            item, incoming = self._steps[position - 1], gradients.pop(position)
            numbers = (*scales, *_numbers(item.step, signals))
            for name, norm in item.weights.items():
                weights[name] = float(norm(incoming.q, incoming.gap, *numbers))
            if item.scores is not None:
                scores = float(item.scores(*numbers))
            parts = item.backward(incoming.q, incoming.gap, *numbers)
            for source, (q, gap) in zip(item.step.inputs, parts, strict=True):
                known = gradients.get(source, Moments(0.0, 0.0))
                gradients[source] = Moments(known.q + float(q), known.gap + float(gap))
        return gradients[0], weights, scores

    @cached_property
    def _embedded(self) -> Moments:
        words: Words = np.arange(self.tokens)
        gram = embed(self.architecture, words, pattern(self.tokens)).gram
        return mean_moments(gram)

    def readout(self, last: Moments) -> Moments:
        """What the readout reads, given the last stream."""
        if not self.architecture.final_norm:
            return last
        norm = self._last_norm
        return Moments(*map(float, norm.forward(1.0, 1.0, self.tokens, *_numbers(norm.step, [last]))))

    def _cotangent(self, last: Moments) -> Moments:
        """Independent unit cotangents, or the cross-entropy of labels drawn uniformly where the readout is linear.

        That of a class token is, on average over tokens, a gradient of 1/n of its size, with nothing shared by two tokens.
        """
        if self.architecture.head is None:
            return Moments(1.0, 0.0 if self.tokens == 1 else 1.0)
        read = self.readout(last)
        pair = np.array([[read.q, read.q - read.gap], [read.q - read.gap, read.q]])
        gram = readout_gradient(self.architecture, pair)
        if self.architecture.has_class_token:
            above = Moments(gram[0, 0] / self.tokens, gram[0, 0] / self.tokens)
        else:
            above = Moments(gram[0, 0] / self.tokens**2, (gram[0, 0] - gram[0, 1]) / self.tokens**2)
        above = above if self.tokens > 1 else Moments(above.q, 0.0)
        if not self.architecture.final_norm:
            return above
        norm = self._last_norm
        return Moments(*map(float, norm.backward(above.q, above.gap, 1.0, 1.0, self.tokens, *_numbers(norm.step, [last]))[0]))

    @cached_property
    def _last_norm(self) -> _Compiled:
        """The norm before the readout."""
        trace = trace_of(norm_of(self.architecture), self._trace.input)
        return _compiled(trace.steps[0], trace)


def mean_moments(gram: Array) -> Moments:
    """Averages of a token Gram matrix over tokens and over pairs of two of them."""
    count = len(gram)
    own = float(np.trace(gram)) / count
    if count == 1:
        return Moments(own, 0.0)
    return Moments(own, own - (float(gram.sum()) - count * own) / (count * (count - 1)))


def _numbers(step: Step, signals: list[Moments]) -> list[float]:
    return [number for source in step.inputs for number in (signals[source].q, signals[source].gap)]


_UNSORTED = {"fully_qualified_modules": False, "allow_unknown_functions": True, "order": "none"}
"""Settings of a printer that leaves sums as they are stored: to sort them takes as long as to derive them."""
_FACTOR, _LOGITS = sp.symbols("branch_factor logit_factor", positive=True)
_INCOMING = Gradient(sp.Symbol("q_above", nonnegative=True), sp.Symbol("gap_above", nonnegative=True))


@lru_cache(maxsize=4)
def _traced(architecture: Architecture, single: bool) -> Trace:
    """One layer; its number of tokens is one or a symbol, so that sequences of any length share what is compiled."""
    start = token_input(sp.S.One if single else n, sp.Integer(architecture.width), gaussian=True)
    return trace_of(architecture.block(called=True), start)


@lru_cache(maxsize=4)
def _compiled_layer(architecture: Architecture, single: bool) -> tuple[_Compiled, ...]:
    trace = _traced(architecture, single)
    return tuple(_compiled(step, trace) for step in trace.steps)


def _compiled(step: Step, trace: Trace) -> _Compiled:
    component = _opened(step.component)
    inputs = [trace.signal(source) for source in step.inputs]
    # Structural zeros, as the gap of a single token, are passed like any other number.
    arguments: list[sp.Basic] = [_FACTOR, _LOGITS, n]
    arguments += [item if item.is_Symbol else sp.Dummy() for signal in inputs for item in (signal.q, signal.gap)]
    activation = getattr(component, "activation", None)
    modules: list[Any] = ["math"]
    if activation is not None:
        moments = CarriedMoments(activation.activation)
        modules.insert(0, {SecondCall.__name__: moments.second, GapCall.__name__: moments.gap})

    def compiled(expression: Any, before: tuple[sp.Basic, ...] = ()) -> Callable[..., Any]:
        function: Callable[..., Any] = sp.lambdify(
            [*before, *arguments], expression, modules=modules, printer=PythonCodePrinter(_UNSORTED), docstring_limit=0
        )
        return function

    above = (_INCOMING.q, _INCOMING.gap)
    incoming = _INCOMING if inputs[0].tokens != 1 else Gradient(_INCOMING.q, sp.S.Zero)
    value, below = component.forward(*inputs), component.backward(incoming, *inputs)
    label = step.atoms.label
    norms = _weight_norms(component, incoming, inputs[0], value, below[0])
    return _Compiled(
        step, compiled([value.q, value.gap]), compiled([[part.q, part.gap] for part in below], above),
        {WEIGHTS[f"{label}.{name}" if name else label]: compiled(norm, above) for name, norm in norms.items()},
        compiled(component.score_variance(inputs[0])) if isinstance(component, Attention) else None,
    )


def _opened(component: Component) -> Component:
    """The component as it is compiled: weights of attention at first order, activations as calls."""
    if isinstance(component, Attention):
        if (component.query_variance * component.key_variance).is_zero:
            return replace(component, level="uniform", query_variance=sp.S.Zero, key_variance=sp.S.Zero)
        return replace(component, level="uniform", temperature=component.temperature * _LOGITS)
    if isinstance(component, Sum):
        return replace(component, branch_scale=component.branch_scale * _FACTOR)
    activation = getattr(component, "activation", None)
    if isinstance(activation, CalledActivation):
        return replace(component, activation=_CarriedGap(activation.activation))  # type: ignore[call-arg]
    return component


def _weight_norms(
    component: Component, above: Gradient, x: Signal, value: Signal, below: Gradient
) -> dict[str, sp.Expr]:
    """E ||dLoss/dW||^2 of every matrix of a component."""
    if isinstance(component, Linear):
        return {"": x.width * component.width * component.weight_gradient(above, x)}
    if isinstance(component, Attention):
        norms = component.weight_gradients(above, x)
        return {"query": norms.query, "key": norms.key, "value": norms.value}
    if isinstance(component, GatedUnit):
        # <x, dLoss/dx> counts the gradient of every matrix on the way once in the inner products that it sees.
        through = _paired(x, below) * x.width
        up = _paired(value, above) * value.width
        return {"gate": (through - up) / component.gate_variance, "up": up / component.up_variance}
    return {}


def _paired(x: Signal, gradient: Gradient) -> sp.Expr:
    """Sum over tokens of E x_t x_s E g_t g_s."""
    return x.tokens * (x.q * gradient.q + (x.tokens - 1) * x.p * gradient.p)


def obstacle(architecture: Architecture, words: Words) -> str | None:
    """Why the tokens are not exchangeable, None where they are.

    >>> from symprop.architectures.presets import preset
    >>> obstacle(preset("bert"), np.arange(4)), obstacle(preset("gpt2"), np.arange(4))
    (None, 'a causal mask tells tokens apart')
    """
    if not architecture.has_input:
        return "its input has zero variance"
    if architecture.cross:
        return "every layer attends to an encoder's output"
    if architecture.causal:
        return "a causal mask tells tokens apart"
    if architecture.has_class_token:
        return "a class token enters differently"
    if architecture.positions not in ("none", "learned"):
        return f"{architecture.positions} positions correlate near tokens more"
    if (architecture.number("query") > 0) != (architecture.number("key") > 0):
        return "logits vanish but one of their weights has a gradient"
    return None if len(np.unique(words)) == len(words) else "words are repeated"


def normalised_stream(architecture: Architecture) -> bool:
    """Whether the stream itself has no coordinate mean, as after a LayerNorm."""
    return architecture.order == "post" and NORMS[architecture.norm] is LayerNorm
