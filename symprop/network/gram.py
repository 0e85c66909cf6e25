r"""The token Gram matrix through a trace: tokens that are not exchangeable, forward and backward, in numbers.

The state is C, with :math:`C_{ij} = E\, x_i \cdot x_j/d` for all tokens of all sequences. A component that acts on each
token alone maps an entry by its own pair rule. Backward the entry of the gradient is multiplied by the derivative of that
rule: for a random map f of one token, the expected product of the Jacobians at two tokens is
:math:`\partial E f(x_i) \cdot f(x_j) / \partial (x_i \cdot x_j)` (Price's theorem). So no component states a backward map
for the Gram matrix. Attention mixes tokens and has a rule of its own. Norms keep their O(1/d) terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy as sp

from symprop.components import Attention, Component, GatedUnit, LayerNorm, Linear, PairState, RMSNorm, Sum, UniformAttention
from symprop.core.errors import InputError, RefusedError, UnknownNameError
from symprop.functions.pair_kernel import CalledActivation, KernelCall, PairKernel
from symprop.network.gram_attention import NO_ROTATION, AttentionGram, AttentionPattern
from symprop.network.gram_memory import Memory, MemoryAttention, MemoryAttentionGram
from symprop.network.gram_softmax import HARD_LOGITS, SMALL_LOGITS, SampledAttentionGram
from symprop.network.trace import Trace

Array = npt.NDArray[np.float64]

@dataclass(frozen=True, eq=False)
class GramSignal:
    """The tokens of a stream or branch, per coordinate.

    ``gram`` has shape (tokens, tokens). ``fluctuation`` is the relative variance of a token's mean square over 2/d (one for
    independent coordinates, zero after a norm), ``mean_share`` the square of its coordinate mean over q/d. ``spread`` is
    the relative fluctuation of the centred Gram matrix over 1/d. ``slope`` is the derivative of ``gram`` in that of the
    stream which a branch reads, zero once tokens are mixed, and ``source`` the absolute fluctuation of that stream.
    ``centred`` says that coordinates have zero mean on average over the weights; ``means`` is the part of ``gram`` that
    known coordinate means make up, m_i m_j, as those of sinusoidal positions, which a LayerNorm removes.
    """

    gram: Array
    width: float
    fluctuation: float = 1.0
    mean_share: float = 1.0
    spread: float = 1.0
    slope: Array | float = 1.0
    source: float = 0.0
    centred: bool = True
    means: Array | float = 0.0

    @property
    def about_means(self) -> Array:
        """The Gram matrix of coordinates less their known means."""
        return np.asarray(self.gram - self.means)

    @property
    def q(self) -> float:
        """Mean of the diagonal: second moment of a coordinate."""
        return float(np.diag(self.gram).mean())


@dataclass(frozen=True, eq=False)
class GramGradient:
    """dLoss/dx: ``gram`` per coordinate; ``along`` and ``along_mean`` are the shares of its component along the token
    and along the constant vector that an isotropic gradient would have. ``memory`` is the Gram matrix of the gradient that a
    :class:`Memory` has received so far."""

    gram: Array
    along: float = 1.0
    along_mean: float = 1.0
    memory: Array | float = 0.0


ATTENTION = ("auto", "first_order", "sampled", "uniform")
FLUCTUATION: Mapping[str, Callable[[float], float]] = {
    "grown": lambda spread: spread, "initial": lambda spread: 1.0, "none": lambda spread: 0.0
}  # fmt: skip
"""The fluctuation of the Gram matrix that attention sees, from the one that the signal carries."""


@dataclass(frozen=True)
class Closure:
    """What is kept of the corrections to wide networks with small logits; all of it unless one asks what a part is worth.

    ``attention`` is of first order in the logit variance, sampled with the softmax as it is
    (:class:`SampledAttentionGram`), ``uniform``, or ``auto``: sampled where logits deviate by more than
    :data:`SMALL_LOGITS`, except under rotary embeddings. ``rotary`` keeps the phases of these. ``finite_norms`` keeps
    the O(1/d) terms of norms, ``fresh_norms`` that a normalised stream fluctuates only by what was added. ``fluctuation``
    is that of the Gram matrix: grown over depth, that of independent coordinates, or none. Sampled attention draws a
    ``share`` of its heads.
    """

    attention: str = "auto"
    rotary: bool = True
    finite_norms: bool = True
    fresh_norms: bool = True
    fluctuation: str = "grown"
    share: float = 1.0

    def __post_init__(self) -> None:
        for name, allowed in (("attention", ATTENTION), ("fluctuation", FLUCTUATION)):
            if getattr(self, name) not in allowed:
                raise UnknownNameError(name, getattr(self, name), allowed)

    def layer(
        self, attention: Attention, x: GramSignal, pattern: AttentionPattern, seed: tuple[int, ...],
        memory: Memory | None = None,
    ) -> AttentionGram | MemoryAttentionGram:
        """An attention layer at the signal that it reads, and at the memory if that is what it reads."""
        if not isinstance(attention, MemoryAttention):
            return self._layer(attention, x, pattern, seed)
        if memory is None:
            raise RefusedError(attention.describe(), "there is no second sequence to read", "give the memory of the decoder")
        joined = replace(x, gram=memory.joined(x.gram), spread=memory.spread)
        return MemoryAttentionGram(self._layer(attention, joined, memory.pattern, seed, memory.keys), memory)

    def _layer(
        self, attention: Attention, x: GramSignal, pattern: AttentionPattern, seed: tuple[int, ...], first: int = 0
    ) -> AttentionGram:
        """Self-attention, rows from the ``first`` one deciding how it is averaged."""
        if self.attention == "uniform":
            attention = replace(attention, query_variance=sp.S.Zero, key_variance=sp.S.Zero)
        seen = pattern if self.rotary else replace(pattern, rotary=NO_ROTATION)
        spread = FLUCTUATION[self.fluctuation](x.spread)
        layer = AttentionGram(attention, x.gram, seen, x.width, spread)
        deviation = layer.logit_deviation(slice(first, None))
        large = self.attention == "auto" and not seen.turns and deviation > SMALL_LOGITS
        if large and deviation > HARD_LOGITS:
            raise RefusedError(
                attention.describe(),
                f"its logits deviate by {deviation:.3g}, where double precision holds no gradient of a softmax",
                "smaller query and key variances, or a smaller temperature",
            )
        if not large and self.attention != "sampled":
            return layer
        if seen.turns:
            raise RefusedError(
                attention.describe(), "sampled attention has no rotary embeddings", "first-order attention, for small logits"
            )
        return SampledAttentionGram(attention, x.gram, seen, x.width, spread, fixed_norm=x.fluctuation == 0, seed=seed,
                                    share=self.share)  # fmt: skip

    def norm_factor(self, x: GramSignal, factor: Callable[[float], Array]) -> Array | float:
        """The finite-width factor of a norm, given as a function of the fluctuation of its input."""
        if not self.finite_norms:
            return 1.0
        return factor(x.fluctuation if self.fresh_norms else 1.0)


EVERYTHING = Closure()


@dataclass(frozen=True, eq=False)
class GramPass:
    """One block at one input: the signals after every step; attention layers and derivatives of pair rules by step."""

    trace: Trace
    signals: tuple[GramSignal, ...]
    attention: Mapping[int, AttentionGram | MemoryAttentionGram]
    slopes: Mapping[int, Array]
    closure: Closure

    @property
    def output(self) -> GramSignal:
        """The signal that leaves the block."""
        return self.signals[self.trace.output]

    @property
    def kept(self) -> int:
        """Matrices of drawn heads that are kept."""
        return sum(layer.kept for layer in self.attention.values())

    def backward(self, gradient: GramGradient) -> tuple[GramGradient, dict[str, float]]:
        """The gradient at the input, and the squared Frobenius norm of every weight matrix's gradient.

        Weights are named by the label of their step and, where it has several, by their role: ``S.query``. The incoming
        gradient is the Gram matrix of dLoss/d(output), cotangents independent of the block's weights.
        """
        gradients: dict[int, GramGradient] = {self.trace.output: gradient}
        weights: dict[str, float] = {}
        memory = gradient.memory
        for position in range(len(self.trace.steps), 0, -1):
            if position not in gradients:
                continue
            step, above = self.trace.steps[position - 1], gradients.pop(position)
            inputs = [self.signals[item] for item in step.inputs]
            parts, found = self._pulled(position, step.component, inputs, above)
            for name, value in found.items():
                weights[f"{step.atoms.label}.{name}" if name else step.atoms.label] = value
            memory = memory + parts[0].memory
            for source, part in zip(step.inputs, parts, strict=True):
                gradients[source] = _added(gradients.get(source), part)
        return replace(gradients[0], memory=memory), weights

    def _pulled(
        self, position: int, component: Component, inputs: list[GramSignal], above: GramGradient
    ) -> tuple[tuple[GramGradient, ...], Mapping[str, float]]:
        """The gradient at every input of a step, and the squared norms of its weight gradients."""
        x = inputs[0]
        if isinstance(component, Sum):
            stream, branch = _scales(component)
            kept = stream**2 * x.q / self.signals[position].q if self.signals[position].q > 0 else 1.0
            skip = GramGradient(stream**2 * above.gram, above.along * kept + 1 - kept, above.along_mean)
            return (skip, GramGradient(branch**2 * above.gram)), {}
        if position in self.attention:
            below = self.attention[position].backward(above.gram)
            received = 0.0 if below.memory is None else below.memory
            return (GramGradient(below.gram, memory=received),), below.weights
        if isinstance(component, LayerNorm | RMSNorm):
            return (_norm_backward(component, x, above, self.closure),), {}
        width = self.signals[position].width
        below_gram = width / x.width * above.gram * self.slopes[position]
        return (GramGradient(below_gram),), self._weights(position, component, x, above)

    def _weights(
        self, position: int, component: Component, x: GramSignal, above: GramGradient
    ) -> Mapping[str, float]:
        # The gain of one weight matrix multiplies the inner products it sees: the squared norm of its gradient is the
        # gradient's Gram matrix times the derivative of the pair rule in the logarithm of that gain, over its variance.
        width = self.signals[position].width
        if isinstance(component, Linear):
            return {"": x.width * width * float((x.gram * above.gram).sum())}
        if isinstance(component, GatedUnit):
            value = self.signals[position].gram
            gate = x.gram * self.slopes[position] - value
            return {
                "gate": width / float(component.gate_variance) * float((above.gram * gate).sum()),
                "up": width / float(component.up_variance) * float((above.gram * value).sum()),
            }
        return {}


def propagate(
    trace: Trace, signal: GramSignal, pattern: AttentionPattern, *, seed: tuple[int, ...] = (0,),
    closure: Closure = EVERYTHING, memory: Memory | None = None,
) -> GramPass:
    """Send a token Gram matrix through a block whose parameters are numbers.

    ``closure`` says which corrections are kept; ``seed`` is that of sampled attention; a :class:`MemoryAttention` reads
    ``memory``.

    Raises :class:`RefusedError` for a component whose mean the Gram state does not carry, :class:`InputError` where sizes
    do not fit.

    >>> from symprop.components import Linear
    >>> from symprop.network import trace_of
    >>> from symprop.network.gram_attention import pattern
    >>> block = trace_of(Linear(8, sp.Rational(1, 4)))
    >>> propagate(block, GramSignal(np.eye(2), 8), pattern(2)).output.gram.tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    if signal.gram.shape != (pattern.tokens, pattern.tokens):
        raise InputError("gram", f"shape {signal.gram.shape}", f"shape {(pattern.tokens, pattern.tokens)}")
    signals: list[GramSignal] = [replace(signal, slope=1.0, source=signal.spread * pattern.private(signal.gram) ** 2)]
    attention: dict[int, AttentionGram | MemoryAttentionGram] = {}
    slopes: dict[int, Array] = {}
    for position, step in enumerate(trace.steps, 1):
        inputs = [signals[item] for item in step.inputs]
        component, x = step.component, inputs[0]
        if isinstance(component, Attention | UniformAttention):
            layer = closure.layer(_as_attention(component), x, pattern, (*seed, position), memory)
            attention[position] = layer
            found = GramSignal(layer.forward(), float(component.width), slope=0.0, spread=x.spread)
        elif isinstance(component, Sum):
            found = _summed(component, x, inputs[1], pattern)
        elif isinstance(component, LayerNorm | RMSNorm):
            found = _normalised(component, x, closure)
        else:
            found, slopes[position] = _mapped(component, x)
        signals.append(found)
    return GramPass(trace, tuple(signals), attention, slopes, closure)


def _as_attention(component: Attention | UniformAttention) -> Attention:
    if isinstance(component, Attention):
        return component
    return Attention(component.width, component.value_variance)


def _without_mean(component: Component, centred: bool) -> None:
    if not centred:
        raise RefusedError(
            component.describe(), "its input has a nonzero coordinate mean, which the Gram matrix does not carry",
            "put a linear layer before it",
        )


def _mapped(component: Component, x: GramSignal) -> tuple[GramSignal, Array]:
    if isinstance(component, GatedUnit) and (component.gate_bias, component.up_bias) != (0, 0):
        raise RefusedError(component.describe(), "gates are known without biases here", "leave out its biases")
    rule = _pair_rule(component, x.width)
    if not isinstance(component, Linear | GatedUnit):
        _without_mean(component, x.centred and bool(np.all(x.means == 0)))
    slope = rule.slope(x.gram)
    found = GramSignal(
        rule.value(x.gram), rule.width, fluctuation=x.fluctuation if rule.homogeneous else 1.0,
        mean_share=x.mean_share if rule.homogeneous else 1.0,
        spread=x.spread, slope=x.slope * slope, source=x.source, centred=rule.centred,
    )
    return found, slope


def _scales(component: Sum) -> tuple[float, float]:
    return float(component.skip_scale), float(component.branch_scale)


def _summed(component: Sum, stream: GramSignal, branch: GramSignal, pattern: AttentionPattern) -> GramSignal:
    if stream.width != branch.width:
        raise InputError("width", branch.width, f"{stream.width}, that of the stream")
    skip, scale = _scales(component)
    gram = skip**2 * stream.gram + scale**2 * branch.gram
    kept, added = skip**2 * stream.q, scale**2 * branch.q
    total = kept + added
    share = kept / total if total > 0 else 1.0
    # Var |s + b|^2 of a stream and a fresh branch: their own parts and the cross term 4 s.b.
    fluctuation = stream.fluctuation * share**2 + 2 * share * (1 - share) + branch.fluctuation * (1 - share) ** 2
    before, after = skip**2 * pattern.private(stream.gram), pattern.private(gram)
    # What the branch reads fluctuates with the stream, although the stream may have moved on (parallel branches); the branch
    # brings fresh cross terms besides.
    own, through = skip**2 * pattern.pair_mean(stream.slope), scale**2 * pattern.pair_mean(branch.slope)
    variance = stream.spread * before**2 + branch.source * ((own + through) ** 2 - own**2) + after**2 - before**2
    return GramSignal(
        gram, stream.width, fluctuation, stream.mean_share * share + branch.mean_share * (1 - share),
        variance / after**2 if after > 0 else 1.0, source=variance, means=skip**2 * stream.means + scale**2 * branch.means,
    )


def _correlation(gram: Array) -> Array:
    size = np.sqrt(np.diag(gram))
    size = np.where(size > 0, size, 1.0)
    return np.asarray(np.clip(gram / np.outer(size, size), -1.0, 1.0))


def _read_by(component: LayerNorm | RMSNorm, x: GramSignal) -> Array:
    """What a norm divides by its size: a LayerNorm takes known means away first."""
    return x.about_means if isinstance(component, LayerNorm) else x.gram


def _sizes(component: LayerNorm | RMSNorm, gram: Array) -> Array:
    return np.asarray(np.diag(gram) + float(component.epsilon))


def _normalised(component: LayerNorm | RMSNorm, x: GramSignal, closure: Closure) -> GramSignal:
    _without_mean(component, x.centred)
    read = _read_by(component, x)
    rule, r, sizes = _norm_rule(type(component)), _correlation(read), _sizes(component, read)
    if not np.all(sizes > 0):
        raise RefusedError(
            component.describe(), "a token is zero, and without epsilon the norm divides by its size",
            "epsilon > 0, or an input of positive variance",
        )
    factor = closure.norm_factor(x, lambda fluctuation: rule.forward(r, fluctuation, x.width))
    gram = _pair_rule(component, x.width).value(read) * factor
    scale = float(component.gain2) / np.sqrt(np.outer(sizes, sizes))
    mean_share, means = (0.0, 0.0) if isinstance(component, LayerNorm) else (x.mean_share, x.means * scale)
    return replace(x, gram=gram, fluctuation=0.0, mean_share=mean_share, slope=x.slope * scale, means=means)


def _norm_backward(
    component: LayerNorm | RMSNorm, x: GramSignal, above: GramGradient, closure: Closure
) -> GramGradient:
    read = _read_by(component, x)
    sizes = _sizes(component, read)
    scale = float(component.gain2) / np.sqrt(np.outer(sizes, sizes))
    rule, r = _norm_rule(type(component)), _correlation(read)
    factor = closure.norm_factor(
        x, lambda fluctuation: rule.backward(r, fluctuation, x.width, above.along, above.along_mean, x.mean_share)
    )
    removed = 0.0 if isinstance(component, LayerNorm) else above.along_mean
    return GramGradient(above.gram * scale * factor, 0.0, removed)


def _added(known: GramGradient | None, part: GramGradient) -> GramGradient:
    if known is None:
        return part
    first, second = np.trace(known.gram), np.trace(part.gram)
    share = float(first / (first + second)) if first + second > 0 else 1.0
    return GramGradient(
        known.gram + part.gram, share * known.along + (1 - share) * part.along,
        share * known.along_mean + (1 - share) * part.along_mean,
    )


@dataclass(frozen=True)
class _NormRule:
    """The O(1/d) factors of a norm, compiled over matrices of correlations."""

    forward: Callable[..., Array]
    backward: Callable[..., Array]


@lru_cache(maxsize=8)
def _norm_rule(kind: type[LayerNorm] | type[RMSNorm]) -> _NormRule:
    names = sp.symbols("r phi d a m s", real=True)
    forward, backward = kind.correlation_factor(*names[:3]), kind.gradient_factor(*names)
    return _NormRule(sp.lambdify(names[:3], forward, modules=np), sp.lambdify(names, backward, modules=np))


@dataclass(frozen=True)
class _PairRule:
    """A component's pair rule and its derivative, compiled over a matrix."""

    width: float
    centred: bool
    homogeneous: bool
    _entry: Callable[..., Any] = field(repr=False)
    _diagonal: Callable[..., Any] = field(repr=False)
    _slope: Callable[..., Any] = field(repr=False)
    _own_slope: Callable[..., Any] = field(repr=False)

    def value(self, gram: Array) -> Array:
        """The Gram matrix after the component."""
        return self._over(gram, self._entry, self._diagonal)

    def slope(self, gram: Array) -> Array:
        """Derivative of every entry after the component in the same entry before it."""
        return self._over(gram, self._slope, self._own_slope)

    @staticmethod
    def _over(gram: Array, entry: Callable[..., Any], diagonal: Callable[..., Any]) -> Array:
        own = np.diag(gram)
        matrix = np.array(np.broadcast_to(entry(own[:, None], own[None, :], gram), gram.shape), dtype=float)
        matrix[np.diag_indices_from(matrix)] = diagonal(own, own, own)
        return matrix


@lru_cache(maxsize=256)
def _pair_rule(component: Component, width: float) -> _PairRule:
    left, right = sp.symbols("left right", positive=True)
    entry = sp.Symbol("entry", real=True)
    activation = getattr(component, "activation", None)
    phi: Any = activation.activation if isinstance(activation, CalledActivation) else activation
    changes = {} if phi is None else {"activation": CalledActivation(phi)}
    opaque = replace(component, **changes)
    size = sp.Float(width, 30)
    pair = opaque.pair(PairState(entry, None, size, left, right))
    own = opaque.pair(PairState(left, None, size, left, left, diagonal=True))
    own_read = opaque.pair(PairState(entry, None, size, left, left, diagonal=True))
    slope = sp.diff(pair.entry, entry)
    # Where the rule of one token does not read the entry, it is the limit of two tokens that coincide.
    own_slope = sp.diff(own_read.entry, entry) if own_read.entry.has(entry) else slope.subs({right: left, entry: left})
    if pair.entry.free_symbols - {left, right, entry}:
        raise InputError("component", component.describe(), "numbers for all its parameters")

    def kernel(order: Any, first: Any, second: Any, covariance: Any) -> Array:
        return PairKernel(phi, int(order)).of(first, second, covariance)

    def compiled(expression: sp.Expr) -> Callable[..., Any]:
        function: Callable[..., Any] = sp.lambdify(
            (left, right, entry), expression, modules=[{KernelCall.__name__: kernel}, np], cse=True, docstring_limit=0
        )
        return function

    return _PairRule(
        float(pair.width), pair.left_mean == pair.right_mean == 0, activation is None and not isinstance(component, Linear),
        compiled(pair.entry), compiled(own.entry), compiled(slope), compiled(own_slope),
    )
