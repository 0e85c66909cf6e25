"""The audit of an architecture: what its initialisation does to tokens and gradients, in numbers and in sentences."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import sympy as sp

from symprop.architectures.description import Architecture
from symprop.architectures.entries import MAX_TOKENS
from symprop.architectures.exchangeable import ExchangeableModel, Moments, mean_moments, normalised_stream, obstacle
from symprop.architectures.layer import norm_of
from symprop.architectures.readout import SHARPEST, logit_covariance
from symprop.architectures.signal import ModelPass, Words, logit_deviations, rotary_of, run
from symprop.core.display import counted, html_table
from symprop.core.errors import InputError, RefusedError, UnknownNameError
from symprop.core.signal import Signal
from symprop.network.gram import GramGradient
from symprop.network.gram_attention import AttentionPattern, pattern

STATES = ("auto", "exchangeable", "gram")
"""The state of the tokens: (q, gap) or the whole Gram matrix; ``auto`` takes the first where it suffices."""
APART, COLLAPSED = 0.5, 0.99
"""Token cosines up to which tokens count as apart, and from which as collapsed."""
UNRELIABLE = 0.25
"""Error of a moment from which a state that was asked for earns a warning, and no repairs."""
FIRST_SHARE = 1 / 3
"""Share of the gradient's growth, in the logarithm, from which the first layer is named as its place."""
EMBEDDINGS = ("token", "position", "segment", "class_token")
VALID_LOGITS, USABLE_LOGITS = 0.5, 1.6
"""Logit deviations up to which attention is described at first order and beyond which a repair is offered, and up to which
its forward moments still are."""
COMPARED_TOKENS = 32
"""Tokens on which the two states are compared where (q, gap) was asked for and does not suffice."""
RANGE = 1e8
"""A repair is sought between 1/RANGE and RANGE times the present scale."""
ROUNDING = 1e-9
"""A negative square is zero if it is so small beside the others of its layer."""
UNRESOLVED = 1e-12
"""1 - cosine below which the Gram matrix holds rounding errors alone."""
REPAIR_ENTRIES, REPAIR_TOKENS = 10**6, 16
"""Entries of the Gram matrices of all layers on which a repair is solved, those of the first tokens where there are more, but
at least of so many tokens."""
TURNED = 16
"""Rotary positions take the time of so many layers without."""
REACHED, ATTEMPTS, STEPS = 0.01, 8, 60
"""A repair is solved until a new audit is this close to what it promises, in the logarithm, or given up after so many of
them; STEPS bounds the search between two."""
FAR = 1e6
"""The distance, in the logarithm, of what is no number."""


@dataclass(frozen=True)
class LayerRow:
    """The stream that enters a layer, its attention, and the gradients there; the last row is the output of the model.

    ``q`` is the second moment of a coordinate, ``mean`` the root mean square of a token's coordinate mean, ``cosine`` that of
    two tokens, and ``gap`` = (1 - cosine) q, which keeps its digits near collapse. ``logit_deviation`` is the deviation
    of a logit about its row, ``participation`` the number of keys that a query attends to, 1/E sum_j A_ij^2. ``gradient`` is
    the second moment of dLoss/dx, ``gradient_cosine`` that of two tokens, and ``weights`` the root mean square norm of
    dLoss/dW by matrix. Gradients are nan where the theory is outside its range and gives a square below zero.
    """

    layer: int
    q: float
    mean: float
    cosine: float
    gap: float
    logit_deviation: float | None
    participation: float | None
    gradient: float
    gradient_cosine: float
    weights: dict[str, float]


@dataclass(frozen=True)
class Repair:
    """A change that brings a quantity to a wanted value; ``factor`` multiplies ``target``, None where none does.

    ``before`` and ``after`` are the quantity in an audit of the model and in one of the repaired model, on the first
    ``tokens`` tokens.
    """

    problem: str
    target: str
    factor: float | None
    before: float
    after: float | None
    sentence: str
    tokens: int


@dataclass(frozen=True)
class Audit:
    """Everything the audit of one architecture found; ``tokens`` counts the padded ones as well."""

    architecture: Architecture
    tokens: int
    padding: int
    state: str
    reason: str
    cotangent: str
    rows: tuple[LayerRow, ...]
    verdict: tuple[str, ...]
    repairs: tuple[Repair, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """The verdict, and a sentence for every repair that says of what."""
        return (*self.verdict, *(f"Repair of {item.problem}: {item.sentence}" for item in self.repairs))

    def _repr_html_(self) -> str:
        headings = ("layer", "E x^2", "cosine", "logit deviation", "E g^2", "g cosine")
        rows = [(row.layer, row.q, row.cosine, row.logit_deviation, row.gradient, row.gradient_cosine) for row in self.rows]
        said = [*self.verdict, *(repair.sentence for repair in self.repairs)]
        return html_table(self.architecture.name, headings, rows) + "".join(f"<p>{html.escape(line)}</p>" for line in said)


def audit(
    architecture: Architecture, *, tokens: int = 128, words: Words | None = None, padding: int = 0, state: str = "auto",
    growth: float = 10.0, cosine: float = 0.9,
) -> Audit:
    """Audit an architecture on one sequence of ``tokens`` tokens, all different unless ``words`` are given.

    The last ``padding`` tokens are seen by nobody and left out of every average. ``state`` is one of :data:`STATES`.
    Gradients are those of the cross-entropy where the readout is linear, of independent unit cotangents at the last layer
    otherwise. Labels are drawn independently and uniformly from the vocabulary; where a class token carries the readout, it
    alone has one. ``growth`` is the factor by which the gradient's second moment may change over
    depth and ``cosine`` the token cosine wanted at the output; repairs are solved for these. No weight is ever drawn.

    >>> from symprop.architectures.presets import preset
    >>> small = preset("gpt2").replace(layers=2, width=64, heads=4, key_width=0, hidden=256)
    >>> found = audit(small, tokens=8)
    >>> len(found.rows), found.rows[0].cosine, found.state, found.repairs
    (3, 0.0, 'gram', ())
    """
    if not growth > 1:
        raise InputError("growth", growth, "a number > 1")
    if not 0 < cosine < 1:
        raise InputError("cosine", cosine, "a number in (0, 1)")
    if state not in STATES:
        raise UnknownNameError("state", state, STATES)
    count = tokens if words is None else len(words)
    if not 1 <= count <= MAX_TOKENS or tokens < 1:
        raise InputError("tokens", tokens, f"an integer in [1, {MAX_TOKENS}]")
    words = np.arange(count) if words is None else words
    if not 0 <= padding < len(words):
        raise InputError("padding", padding, f"an integer in [0, {len(words) - 1}]")
    subject = _Subject(architecture, words, padding)
    found = _chosen(subject, state)
    verdict, repairs = _verdict(subject, found.rows, found.state, growth), []
    if found.error < UNRELIABLE:
        repairs = _repairs(subject, found, growth, cosine)
    else:
        verdict.insert(0, f"Do not rely on these numbers: {found.reason.partition('; ')[2]}. No repair is solved for in this"
                          " state; the gram state has them.")  # fmt: skip
    return Audit(
        architecture, len(words), padding, found.state, found.reason, _cotangent(architecture), found.rows, tuple(verdict),
        tuple(repairs),
    )


def _cotangent(architecture: Architecture) -> str:
    """What the gradients are those of."""
    if architecture.head is None:
        return "a random linear function of the output"
    if architecture.has_class_token:
        return "cross-entropy at the class token, its label drawn uniformly"
    return "cross-entropy of labels drawn uniformly"


@dataclass(frozen=True, eq=False)
class _Subject:
    """An architecture with the tokens that it reads."""

    architecture: Architecture
    words: Words
    padding: int
    whole: bool = True

    @property
    def count(self) -> int:
        """Tokens that are not padding."""
        return len(self.words) - self.padding

    @cached_property
    def fast(self) -> ExchangeableModel:
        """The same model on exchangeable tokens, without what reads an encoder."""
        return ExchangeableModel(self.architecture.replace(cross=False), self.count)

    def first(self, count: int) -> _Subject:
        """The same architecture on the first tokens."""
        return self if count >= self.count else _Subject(self.architecture, self.words[:count], 0, whole=False)

    def part(self, state: str) -> _Subject:
        """As many of its tokens as repairs are solved on; all of them where they cost nothing."""
        if state == "exchangeable":
            return self
        layers = self.architecture.layers * (TURNED if self.architecture.positions == "rotary" else 1)
        return self.first(max(REPAIR_TOKENS, math.isqrt(REPAIR_ENTRIES // layers)))

    def quick(self, branch_factor: float = 1.0, embedding_factor: float = 1.0) -> tuple[LayerRow, ...]:
        """The layers on (q, gap), with logits as small as its theory allows: gradients then depend on the factors like those
        of a real softmax."""
        return _exchangeable_rows(self.fast, branch_factor, embedding_factor, self._tame)

    @cached_property
    def _tame(self) -> float:
        deviation = max(self.fast.run().score_variance) ** 0.5
        return min(VALID_LOGITS / deviation, 1.0) if deviation > 0 else 1.0

    def rows(self, state: str, branch_factor: float = 1.0, embedding_factor: float = 1.0) -> tuple[LayerRow, ...]:
        """The layers in a state, with scaled residual branches and embeddings."""
        if state == "exchangeable":
            return _exchangeable_rows(self.fast, branch_factor, embedding_factor)
        scaled = self.architecture
        if branch_factor != 1:
            scaled = scaled.replace(branch_scale=scaled.branch_scale * sp.Float(branch_factor, 17))
        if embedding_factor != 1:
            size = sp.Float(embedding_factor, 17) ** 2
            scaled = scaled.replace(**{name: size * getattr(scaled, name) for name in EMBEDDINGS})
        return _gram_rows(scaled, self.words, self.visible, self.padding)

    def logits(self, state: str, factor: float) -> float:
        """The largest deviation of logits, query and key std multiplied by a factor."""
        if state == "exchangeable":
            return _logits(_exchangeable_rows(self.fast, logit_factor=factor**2))
        changed = self.colder(factor)
        return max(logit_deviations(changed.architecture, self.words, self.visible, self.padding))

    def colder(self, factor: float) -> _Subject:
        """The same tokens, query and key std multiplied by a factor."""
        model, square = self.architecture, sp.Float(factor, 17) ** 2
        return replace(self, architecture=model.replace(query=model.query * square, key=model.key * square))

    @cached_property
    def visible(self) -> AttentionPattern | None:
        """Who sees whom; a mask that hides nothing is left to the model itself, which knows faster ways."""
        if not self.padding:
            return None
        rotary = rotary_of(self.architecture)
        return pattern(len(self.words), causal=self.architecture.causal, padding=self.padding, rotary=rotary)


@dataclass(frozen=True)
class _Found:
    """The layers, the state that they were found in, why, and how far it errs where it was asked for against a reason."""

    rows: tuple[LayerRow, ...]
    state: str
    reason: str
    error: float = 0.0


def _chosen(subject: _Subject, state: str) -> _Found:
    against = "a part of the tokens is padding" if subject.padding else obstacle(subject.architecture, subject.words)
    if state == "gram":
        return _Found(subject.rows("gram"), "gram", "as asked for")
    if state == "exchangeable" and (subject.architecture.cross or not subject.architecture.has_input):
        raise RefusedError(
            subject.architecture.name, f"(q, gap) of one sequence is not enough: {against}", "audit it in the gram state"
        )
    if state == "exchangeable":
        rows = subject.rows("exchangeable")
        if not against:
            return _Found(rows, "exchangeable", "as asked for")
        said, error = _cost(subject)
        return _Found(rows, "exchangeable", f"as asked for, although {against}; {said}", error)
    if against:
        return _Found(subject.rows("gram"), "gram", against)
    rows = subject.rows("exchangeable")
    if _logits(rows) <= VALID_LOGITS:
        return _Found(rows, "exchangeable", "tokens are exchangeable and logits small")
    return _Found(subject.rows("gram"), "gram", f"logits deviate by {_logits(rows):.3g}")


def _cost(subject: _Subject) -> tuple[str, float]:
    """What (q, gap) misses of the Gram matrix, measured on fewer tokens, and the largest error of a moment."""
    part = subject.first(COMPARED_TOKENS)
    pairs = list(zip(part.rows("exchangeable"), part.rows("gram"), strict=True))

    def furthest(of: Callable[[LayerRow], float]) -> float:
        return max(abs(of(fast) / of(full) - 1) for fast, full in pairs if of(full) > 0)

    weights = max(
        abs(fast.weights[name] / full.weights[name] - 1)
        for fast, full in pairs for name in full.weights if full.weights[name] > 0
    )  # fmt: skip
    apart = max(abs(fast.cosine - full.cosine) for fast, full in pairs)
    size, gradient = furthest(lambda row: row.q), furthest(lambda row: row.gradient)
    said = (
        f"on {counted(part.count, 'token')} the Gram matrix differs by up to {size:.2g} in E x^2 (relative),"
        f" {apart:.2g} in the cosine, {gradient:.2g} in E g^2 and {weights:.2g} in a weight gradient"
    )
    return said, max(size, apart, gradient)


def _gram_rows(
    architecture: Architecture, words: Words, visible: AttentionPattern | None, padding: int
) -> tuple[LayerRow, ...]:
    count = len(words)
    model = run(architecture, words, visible=visible)
    real = np.arange(count) < count - padding
    gradient = GramGradient(np.diag(real.astype(float))) if architecture.head is None else model.loss_gradient(real)
    return layer_rows(model, gradient, padding)


def layer_rows(model: ModelPass, gradient: GramGradient, padding: int = 0) -> tuple[LayerRow, ...]:
    """The layers of a pass on the Gram matrix, given the gradient at its output; the last ``padding`` tokens do not count."""
    real = slice(0, model.pattern.tokens - padding)

    def row(layer: int, above: GramGradient, deviation: float | None, participation: float | None,
            weights: Mapping[str, float]) -> LayerRow:  # fmt: skip
        stream = model.streams[layer]
        found = mean_moments(stream.gram[real, real])
        known = np.diag(stream.gram - stream.about_means)[real].mean()
        mean = math.sqrt(found.q * stream.mean_share / stream.width + float(known))
        return _row(layer, found, mean, deviation, participation, mean_moments(above.gram[real, real]), weights)

    rows = [row(len(model.passes), gradient, None, None, {})]
    for item in model.pulled(gradient):
        participation = 1 / float(item.attention.participation()[real].mean())
        rows.append(row(item.layer, item.gradient, item.attention.logit_deviation(real), participation, item.weights))
    return _in_range(reversed(rows))


def _in_range(rows: Iterable[LayerRow]) -> tuple[LayerRow, ...]:
    """The layers, without the gradients that follow one whose second moment is no number on the way back."""
    kept = list(rows)
    last = max((row.layer for row in kept if math.isnan(row.gradient)), default=-1)
    return tuple(
        replace(row, gradient=math.nan, gradient_cosine=math.nan, weights=dict.fromkeys(row.weights, math.nan))
        if row.layer <= last else row for row in kept
    )  # fmt: skip


def _exchangeable_rows(
    model: ExchangeableModel, branch_factor: float = 1.0, embedding_factor: float = 1.0, logit_factor: float = 1.0
) -> tuple[LayerRow, ...]:
    found, architecture = model.run(branch_factor, embedding_factor, logit_factor), model.architecture
    share = 0.0 if normalised_stream(architecture) else 1.0
    rows = []
    for layer, (stream, above) in enumerate(zip(found.streams, found.gradients, strict=True)):
        inside = layer < architecture.layers
        deviation = participation = None
        if inside:
            # A row of n logits shares 1/n of what its keys do not.
            variance = found.score_variance[layer] * (1 - 1 / found.tokens)
            deviation, participation = math.sqrt(variance), found.tokens / (1 + variance)
        rows.append(_row(layer, stream, math.sqrt(stream.q * share / architecture.width), deviation, participation, above,
                         found.weights[layer] if inside else {}))  # fmt: skip
    return _in_range(rows)


def _row(
    layer: int, stream: Moments, mean: float, deviation: float | None, participation: float | None, above: Moments,
    weights: Mapping[str, float],
) -> LayerRow:
    # Differences of nearly equal numbers, as near collapse, are zero up to rounding.
    least = -ROUNDING * max((abs(value) for value in weights.values()), default=0.0)
    norms = {name: math.sqrt(max(value, 0.0)) if value >= least else math.nan for name, value in weights.items()}
    gradient, cosine = (above.q, above.cosine) if above.q >= 0 else (math.nan, math.nan)
    return LayerRow(
        layer, stream.q, mean, stream.cosine, stream.gap, deviation, participation, gradient, cosine, norms
    )


def _logits(rows: tuple[LayerRow, ...]) -> float:
    return max(row.logit_deviation or 0.0 for row in rows)


def gradient_growth(rows: tuple[LayerRow, ...]) -> float:
    """Second moment of dLoss/dx at the input over that at the output of the layers; nan where one of them is no number."""
    return rows[0].gradient / rows[-1].gradient if rows[-1].gradient > 0 else math.nan


def _verdict(subject: _Subject, rows: tuple[LayerRow, ...], state: str, growth: float) -> list[str]:
    depth, tokens = len(rows) - 1, subject.count
    first, last = rows[0], rows[-1]
    sentences = [*_silent_branches(subject.architecture), _size_verdict(first.q, last.q, depth)]
    collapsed = next((row.layer for row in rows if row.cosine >= COLLAPSED), None)
    if tokens > 1:
        resolved = state == "exchangeable" or last.gap > UNRESOLVED * last.q
        left = f"{last.gap / last.q:.3g}" if resolved else f"below {UNRESOLVED:g}"
        path = f"their cosine goes from {first.cosine:.3g} to {last.cosine:.3g}"
        if collapsed is not None:
            passes = f"their cosine passes {COLLAPSED} by layer {collapsed}"
            sentences.append(f"Tokens collapse: {passes}, and 1 - cosine is {left} at the output.")
        elif last.cosine > APART:
            sentences.append(f"Tokens draw together: {path}, short of the {COLLAPSED} from which they count as collapsed.")
        else:
            sentences.append(f"Tokens stay apart: {path}.")
    sentences += [*_gradient_verdict(rows, growth), *_weight_verdict(rows), *_readout_verdict(subject.architecture, last)]
    logits = [(row.logit_deviation, row.layer, row.participation) for row in rows if row.logit_deviation is not None]
    deviation, layer, participation = max(logits, key=lambda item: item[0] or 0.0)
    assert deviation is not None and participation is not None
    if deviation > VALID_LOGITS and state == "gram" and subject.architecture.positions != "rotary":
        sentences.append(
            f"Attention concentrates: logits deviate by {deviation:.3g} in layer {layer}, where a query attends to"
            f" {participation:.3g} of {tokens} keys. Layers above {VALID_LOGITS} are averaged over drawn heads, with the"
            " softmax as it is."
        )
    elif deviation > VALID_LOGITS:
        sentences.append(
            f"Attention leaves the uniform pattern: logits deviate by {deviation:.3g} in layer {layer}, more than the"
            f" {VALID_LOGITS} up to which its first order holds. "
            + (
                "Moments of tokens and gradients are good to some 10% there, gradients of attention's weights are not."
                if deviation <= USABLE_LOGITS
                else "The numbers above and the repairs are then those of a theory outside its range."
            )
        )
    elif tokens > 1 and deviation == 0:
        sentences.append("Attention is uniform: all logits of a row are the same.")
    elif tokens > 1:
        sentences.append(
            f"Attention stays close to uniform: logits deviate by at most {deviation:.3g} (layer {layer}), where a query"
            f" attends to {participation:.3g} keys{_uniform_keys(subject, state)}."
        )
    return sentences


def _weight_verdict(rows: tuple[LayerRow, ...]) -> list[str]:
    """Matrices whose gradients the theory does not give although it gives those of tokens."""
    found = {name: row.layer for row in rows for name, value in row.weights.items()
             if math.isnan(value) and not math.isnan(row.gradient)}  # fmt: skip
    return [
        f"The gradient of {name} weights is out of range, last in layer {layer}: the theory gives a negative square."
        for name, layer in found.items()
    ]


def _readout_verdict(model: Architecture, last: LayerRow) -> list[str]:
    if model.head is None:
        return []
    size = last.q
    if model.final_norm and size > 0:
        alone = Signal(q=sp.Float(size, 17), gap=sp.S.Zero, tokens=sp.S.One, width=sp.Integer(model.width))
        size = float(norm_of(model).forward(alone).q)
    deviation = math.sqrt(logit_covariance(model, np.array(size)))
    if deviation <= SHARPEST:
        return []
    return [
        f"The readout's logits deviate by {deviation:.3g}, out of the range of its softmax: what two tokens' predictions share"
        f" is taken from logits that deviate by {SHARPEST:g}."
    ]


def _silent_branches(model: Architecture) -> list[str]:
    """Branches that add nothing to the stream, and why."""
    if model.number("branch_scale") == 0:
        return ["Branches add nothing to the stream at initialisation: their scale is zero."]
    # A hidden layer of zeros is no zero after every activation.
    hidden = ("up",) if model.phi().apply(np.zeros(1))[0] == 0 else ()
    found = []
    for branch, names in (("attention", ("value", "output")), ("feed-forward", (*hidden, "down"))):
        zero = [name for name in names if model.number(name) == 0]
        if zero:
            found.append(f"The {branch} branch adds nothing to the stream: the variance of {' and '.join(zero)} is zero.")
    return found


def _size_verdict(first: float, last: float, depth: int) -> str:
    if first == 0:
        return "The model's input has zero variance."
    layers = counted(depth, "layer")
    if abs(last / first - 1) < REACHED:
        return f"The second moment of a coordinate is {last:.3g} after {layers}, as at the input."
    factor = last / first
    return f"The second moment of a coordinate goes from {first:.3g} to {last:.3g} over {layers} (a factor {factor:.3g})."


def _uniform_keys(subject: _Subject, state: str) -> str:
    """To how many keys a query of uniform attention attends, as a row of the audit counts them; a decoder has two counts."""
    if subject.architecture.cross:
        return ""
    causal = subject.architecture.causal and state == "gram"
    count = subject.count / sum(1 / seen for seen in range(1, subject.count + 1)) if causal else subject.count
    return f" instead of {count:.3g}"


def _first_share(rows: tuple[LayerRow, ...]) -> float:
    """The share of the first layer in the growth of gradients, in the logarithm, where its stream is what grows."""
    total = gradient_growth(rows)
    if not (total > 1 and rows[1].gradient > 0 and rows[0].q < rows[1].q):
        return 0.0
    return math.log(rows[0].gradient / rows[1].gradient) / math.log(total)


def _out_of_range(rows: tuple[LayerRow, ...]) -> str | None:
    """Which gradients the theory does not give."""
    lost = [row.layer for row in rows if math.isnan(row.gradient)]
    if lost:
        return (
            f"Gradients are out of range from layer {max(lost)} down: the theory gives a negative second moment there, at"
            f" logits that deviate by {_logits(rows):.3g}."
        )
    return None


def _gradient_verdict(rows: tuple[LayerRow, ...], growth: float) -> list[str]:
    if beyond := _out_of_range(rows):
        return [beyond]
    ratio = gradient_growth(rows)
    if math.isnan(ratio):
        return ["No gradient reaches the layers."]
    size = max(ratio, 1 / ratio) if ratio > 0 else math.inf
    allowed = f"{'within' if size <= growth else 'beyond'} the allowed {growth:g}"
    if size < 1 + REACHED:
        sentences = ["Gradients have the same second moment at the input as at the output."]
    else:
        direction = "grow" if ratio > 1 else "shrink"
        sentences = [f"Gradients {direction} by {size:.3g} in second moment from the output to the input, {allowed}."]
    if (share := _first_share(rows)) > FIRST_SHARE and size > growth:
        sentences.append(
            f"A factor {rows[0].gradient / rows[1].gradient:.3g} of it ({share:.0%} in the logarithm) arises in layer 0, whose"
            f" input of E x^2 = {rows[0].q:.3g} is small beside what the layer adds to it."
        )
    least, most = min(rows, key=lambda row: row.gradient), max(rows, key=lambda row: row.gradient)
    if least.gradient > 0 and most.gradient / least.gradient > growth >= size:
        sentences.append(
            f"In between they range over a factor {most.gradient / least.gradient:.3g}: least before layer {least.layer}, most"
            f" {f'before layer {most.layer}' if most.layer < len(rows) - 1 else 'at the output'}."
        )
    return sentences


@dataclass(frozen=True)
class _Problem:
    """A quantity that should be brought to ``wanted``; ``logarithm`` is what is solved for."""

    name: str
    quantity: str
    wanted: float
    of: Callable[[tuple[LayerRow, ...]], float]
    logarithm: Callable[[float], float] = math.log

    def distance(self, rows: tuple[LayerRow, ...]) -> float:
        """How far above the wanted value, in the logarithm; large where the numbers leave the range of floats."""
        value = self.of(rows)
        if not math.isfinite(value):
            return -FAR if value == -math.inf else FAR
        try:
            return self.logarithm(value) - self.logarithm(self.wanted)
        except ValueError:
            return FAR


def _alignment(cosine: float) -> float:
    return -math.log(1 - cosine)


def _repairs(subject: _Subject, found: _Found, growth: float, cosine: float) -> list[Repair]:
    if not subject.architecture.has_input:
        return []
    part = subject.part(found.state)
    rows = found.rows if part is subject else part.rows(found.state)
    repairs: list[Repair] = []
    failed: list[_Problem] = []

    def scaled(problem: _Problem) -> None:
        repairs.append(_branch_repair(part, problem, rows, found.state))
        if repairs[-1].factor is None:
            failed.append(problem)

    ratio = gradient_growth(found.rows)
    if not (math.isnan(ratio) or 1 / growth <= ratio <= growth):
        # Just inside the allowed range, so that a new audit finds it there.
        wanted = growth * math.exp(-REACHED)
        problem = _Problem(
            "gradient growth", "the gradient's growth", wanted if ratio > 1 else 1 / wanted, gradient_growth
        )
        scaled(problem)
        if _first_share(found.rows) > FIRST_SHARE and _embedding_scales(subject.architecture):
            repair = _embedding_repair(part, replace(problem, name="gradient growth in layer 0"), rows, found.state)
            repairs += [repair] if repair.factor is not None else []
    if subject.count > 1 and found.rows[-1].cosine >= COLLAPSED:
        problem = _Problem(
            "rank collapse", "the token cosine at the output", cosine, lambda rows: rows[-1].cosine, _alignment
        )
        scaled(problem)
    if _logits(found.rows) > VALID_LOGITS:
        repairs.append(_logit_repair(part, rows, found.state, failed))
    return repairs


def _embedding_scales(architecture: Architecture) -> bool:
    """Whether the variances of embeddings scale what enters the first layer."""
    return not architecture.embedding_norm and architecture.positions != "sinusoidal" and architecture.order != "post"


def _branch_repair(subject: _Subject, problem: _Problem, rows: tuple[LayerRow, ...], state: str) -> Repair:
    """The factor of the residual branches at which the problem is gone."""
    return _scale_repair(
        subject, problem, rows, "branch scale", "residual branches", lambda factor: _scaling(subject.architecture, factor),
        subject.quick, lambda factor: subject.rows(state, factor), towards=-1.0,
    )


def _embedding_repair(subject: _Subject, problem: _Problem, rows: tuple[LayerRow, ...], state: str) -> Repair:
    """The factor of the embeddings at which the problem is gone."""

    def scaling(factor: float) -> str:
        stds = {name: math.sqrt(subject.architecture.number(name)) * factor for name in EMBEDDINGS}
        given = ", ".join(f"{name} {std:.4g}" for name, std in stds.items() if std > 0)
        return f"Multiply the embeddings by {factor:.4g} instead (std of a coordinate: {given})."

    return _scale_repair(
        subject, problem, rows, "embedding std", "embeddings", scaling,
        lambda factor: subject.quick(embedding_factor=factor),
        lambda factor: subject.rows(state, embedding_factor=factor), towards=1.0,
    )


_Run = Callable[[float], tuple[LayerRow, ...]]


def _scale_repair(
    subject: _Subject, problem: _Problem, rows: tuple[LayerRow, ...], target: str, scaled: str,
    advice: Callable[[float], str], quick: _Run, complete: _Run, towards: float,
) -> Repair:
    """The factor of what is ``scaled`` at which the problem is gone, checked in the state of the audit.

    The ``quick`` state knows how the quantity depends on the factor up to a ratio of logarithms, which ``complete`` runs
    correct. Smaller or larger factors are tried first, as ``towards`` is -1 or 1.
    """
    before, wanted = problem.of(rows), problem.logarithm(problem.wanted)
    known: dict[float, float] = {}

    def fast(log_factor: float) -> float:
        if log_factor not in known:
            known[log_factor] = wanted + problem.distance(quick(math.exp(log_factor)))
        return known[log_factor]

    checked = [_Checked(0.0, fast(0.0), wanted + problem.distance(rows))]
    for _ in range(ATTEMPTS):
        guess = _root(_corrected(fast, checked, wanted), checked[-1].place, sorted(known), towards)
        place = _safe(checked, wanted, guess)
        if place is None or abs(place) > math.log(RANGE):
            break
        try:
            full = complete(math.exp(place))
        except (InputError, RefusedError):
            # Its logits or numbers leave the range of the theory, or its scales that of a description.
            break
        if abs(problem.distance(full)) <= REACHED:
            factor, after = math.exp(place), problem.of(full)
            return Repair(problem.name, target, factor, before, after,
                          f"{advice(factor)} {_reached(subject, problem.quantity, before, after)}", subject.count)  # fmt: skip
        checked.append(_Checked(place, fast(place), wanted + problem.distance(full)))
    return Repair(problem.name, target, None, before, None,
                  f"No scale of the {scaled} brings {problem.quantity} from {before:.4g} to {problem.wanted:.4g}.",
                  subject.count)  # fmt: skip


class _Checked(NamedTuple):
    """The logarithm of a quantity at a place, by the fast state and by a complete run."""

    place: float
    fast: float
    exact: float


def _corrected(fast: Callable[[float], float], checked: list[_Checked], wanted: float) -> Callable[[float], float]:
    """How far above ``wanted`` the fast logarithm is, as complete runs correct it.

    Without branches nothing grows in either, so that they keep a ratio, which moves from run to run; those of different
    signs keep a difference.
    """
    last = checked[-1]
    if last.exact * last.fast <= 0:
        return lambda x: fast(x) + last.exact - last.fast - wanted
    moved = 0.0
    if len(checked) > 1 and (before := checked[-2]).fast * before.exact > 0:
        moved = math.log(last.exact / last.fast * before.fast / before.exact) / (last.place - before.place)
    return lambda x: fast(x) * last.exact / last.fast * math.exp(max(-1.0, min(moved * (x - last.place), 1.0))) - wanted


def _safe(checked: list[_Checked], wanted: float, place: float | None) -> float | None:
    """A place between complete runs on both sides of what is wanted, or further out where the last two led nowhere."""
    if len(checked) == 1:
        return place
    last, before = checked[-1], checked[-2]
    slow = abs(last.exact - wanted) > abs(before.exact - wanted) / 2
    across = [item for item in checked if (item.exact - wanted) * (last.exact - wanted) < 0]
    if not across:
        return last.place + 2 * (last.place - before.place) if slow else place
    other = min(across, key=lambda item: abs(item.place - last.place))
    low, high = sorted((last.place, other.place))
    if slow or place is None or not low < place < high:
        return last.place + (wanted - last.exact) * (other.place - last.place) / (other.exact - last.exact)
    return place


def _root(function: Callable[[float], float], start: float, known: list[float], towards: float) -> float | None:
    """A zero near ``start``, by a bracket that grows ``towards`` one side, then the other, and the Illinois method in it; None
    within RANGE.

    Places at which the function is ``known`` bracket it at no cost.
    """
    now = function(start)
    if now == 0:
        return start
    for direction in (towards, -towards):
        edge = start, now
        for other in _outwards(start, direction, known):
            beyond = other, function(other)
            if beyond[1] * now <= 0:
                return _illinois(function, edge, beyond)
            edge = beyond
    return None


def _outwards(start: float, direction: float, known: list[float]) -> Iterator[float]:
    """Places on one side of ``start``, within RANGE: the known ones, then ever wider steps."""
    place = start
    for place in sorted((other for other in known if (other - start) * direction > 0), reverse=direction < 0):
        yield place
    step = max(0.25, abs(place - start))
    while abs(place + direction * step) < math.log(RANGE):
        place += direction * step
        yield place
        step *= 2


def _illinois(function: Callable[[float], float], kept: tuple[float, float], newest: tuple[float, float]) -> float:
    """The zero between two points (x, function(x)) of different signs: secants, with the value of an end that stays halved."""
    for _ in range(STEPS):
        if newest[1] == 0 or abs(newest[0] - kept[0]) < 1e-9:
            break
        x = newest[0] - newest[1] * (newest[0] - kept[0]) / (newest[1] - kept[1])
        found = x, function(x)
        kept = newest if found[1] * newest[1] < 0 else (kept[0], kept[1] / 2)
        newest = found
        if abs(newest[1]) < REACHED / 10:
            break
    return newest[0]


def _scaling(architecture: Architecture, factor: float) -> str:
    scaled = f"Multiply the residual branches by {factor:.4g}"
    if architecture.order != "peri":
        stds = [math.sqrt(architecture.number(name)) * factor for name in ("output", "down")]
        scaled += f" (or initialise output with std {stds[0]:.4g} and down with std {stds[1]:.4g})"
    return scaled + "."


def _reached(subject: _Subject, quantity: str, before: float, after: float) -> str:
    where = "" if subject.whole else f" on the first {counted(subject.count, 'token')}"
    return f"Audited again{where}, {quantity} is {after:.4g} instead of {before:.4g}."


def _logit_repair(subject: _Subject, rows: tuple[LayerRow, ...], state: str, failed: list[_Problem]) -> Repair:
    """The factor of query and key std at which the largest logits deviate just so little that no warning is given.

    What it does to the problems that other repairs have ``failed`` to solve is said besides.
    """
    wanted, quantity = VALID_LOGITS * math.exp(-REACHED), "the largest logit deviation"
    before, target = _logits(rows), "query and key std"
    factor, after = 1.0, before
    for _ in range(ATTEMPTS):
        # A logit is linear in both; the tokens that enter a layer depend on them a little.
        factor *= math.sqrt(wanted / after)
        after = subject.logits(state, factor)
        if abs(math.log(after / wanted)) <= REACHED:
            said = f"Multiply the std of query and key weights by {factor:.4g}. {_reached(subject, quantity, before, after)}"
            changed = subject.colder(factor).rows(state) if failed else ()
            said += "".join(f" {item.quantity.capitalize()} is {item.of(changed):.4g} then." for item in failed)
            return Repair("large logits", target, factor, before, after, said, subject.count)
    return Repair("large logits", target, None, before, None,
                  f"No scale of query and key weights brings {quantity} from {before:.4g} to {wanted:.4g}.", subject.count)
