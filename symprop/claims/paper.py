"""A paper and everything a derivation file says about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import sympy as sp

from symprop.claims.claim import Claim, Result
from symprop.core.errors import UnknownNameError
from symprop.core.progress import Progress
from symprop.core.provenance import Assumption, Derived, merge_unique
from symprop.depth.solution import DepthSolution
from symprop.network.trace import Trace
from symprop.notation.view import View

if TYPE_CHECKING:
    from symprop.codegen.spec import FunctionSpec
    from symprop.simulate.measurement import Accuracy, Measurement

StudyPoint: TypeAlias = "Callable[[], Sequence[Measurement]]"
"""One simulation of a study, seeded by itself: points can run in any order and in different processes."""


@dataclass(frozen=True)
class Paper:
    """Bibliographic facts."""

    key: str
    authors: str
    title: str
    venue: str
    year: int
    url: str = ""


@dataclass(frozen=True)
class Slip:
    """A misprint that is not a formula to refute: what the page prints and what it should."""

    where: str
    printed: str
    correct: str


@dataclass(frozen=True)
class Curve:
    """A line of a figure: theory."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Points:
    """Markers with error bars: simulation; ``yerr`` is one standard error."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    yerr: Sequence[float]


@dataclass(frozen=True)
class Figure:
    """Data of one figure: theory as lines, simulation as points of the same colour group (same label prefix)."""

    name: str
    caption: str
    xlabel: str
    ylabel: str
    curves: tuple[Curve, ...]
    points: tuple[Points, ...]
    logy: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis of a diagram: the parameter, its name on the command line, and the default range."""

    symbol: sp.Symbol
    name: str
    low: float
    high: float
    points: int


@dataclass(frozen=True)
class Boundary:
    """A line of a diagram, where ``field()`` (in parameters and the diagram's output) is zero; none where it never is."""

    label: str
    field: Callable[[], sp.Expr]
    style: str = "solid"


@dataclass(frozen=True)
class Region:
    """A region of a diagram, named where the condition on parameters and output holds."""

    label: str
    where: sp.Basic


@dataclass(frozen=True)
class Diagram:
    """An evaluator over two of its parameters.

    ``evaluators`` names one for each level of approximation or activation, the default first; ``output`` is a symbol named
    like the output that gives the colour, ``label`` its words, ``title`` may use {L}. ``values`` are defaults of the other
    parameters, ``names`` further names of parameters on the command line. ``simulate(values, draws, seed)`` returns the
    simulated output and its standard error at one point. Colours span ``limits``, without them the values; where these have
    both signs, zero is white. Boundaries and regions may use any output of the evaluator, by a symbol of its name.
    """

    x: Axis
    y: Axis
    evaluators: Mapping[str, str]
    output: sp.Symbol
    title: str
    label: str
    values: Mapping[sp.Symbol, float]
    boundaries: tuple[Boundary, ...] = ()
    regions: tuple[Region, ...] = ()
    names: Mapping[str, sp.Symbol] = field(default_factory=dict)
    simulate: Callable[[Mapping[sp.Symbol, float], int, int], tuple[float, float]] | None = None
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class EvaluatorBuilder:
    """A group of one evaluator, whose name is known before it is derived; ``build`` has the name."""

    name: str
    build: Callable[[str], FunctionSpec]

    def __call__(self) -> tuple[FunctionSpec, ...]:
        return (self.build(self.name),)


@dataclass(frozen=True)
class PaperDerivation:
    """What a file in ``derivations`` declares.

    ``build_trace`` gives the block as it prints, ``build_solution`` solves it over depth where that has a closed form.
    ``values`` are the paper's own values of symbols (sigma_v2 = 1/d). ``claims``, ``evaluators`` and the rest are
    built when first asked for, evaluators in groups so that one is found without deriving all: a function of several, or an
    :class:`EvaluatorBuilder` of one that takes long.
    ``build_dynamics`` lists what the map of a block does over depth where it is not affine: exponents and boundaries.
    ``study_points(seed, full)`` are the simulations that the theory is measured against, in their order;
    ``figures(seed, full, progress)`` gathers the data of the appendix's figures, ``diagram`` says what a diagram over two
    parameters shows. ``accuracy(seed, progress)`` takes minutes: percentiles of the error over many settings.
    """

    paper: Paper
    view: View
    values: Mapping[sp.Symbol, sp.Expr]
    build_trace: Callable[[], Trace]
    build_claims: Callable[[], tuple[Claim, ...]]
    build_evaluators: tuple[Callable[[], tuple[FunctionSpec, ...]], ...]
    study_points: Callable[[int, bool], Sequence[StudyPoint]]
    figures: Callable[[int, bool, Progress | None], tuple[Figure, ...]]
    slips: tuple[Slip, ...] = ()
    references: tuple[Paper, ...] = field(default=())
    build_solution: Callable[[], DepthSolution] | None = None
    build_dynamics: Callable[[], tuple[Result, ...]] | None = None
    diagram: Diagram | None = None
    accuracy: Callable[[int, Progress | None], tuple[Accuracy, ...]] | None = None

    @property
    def key(self) -> str:
        """Name on the command line and in citations."""
        return self.paper.key

    @cached_property
    def trace(self) -> Trace:
        """The block, step by step."""
        return self.build_trace()

    @cached_property
    def solution(self) -> DepthSolution | None:
        """The block, solved over depth; None where the map of a block is not affine."""
        return None if self.build_solution is None else self.build_solution()

    @cached_property
    def dynamics(self) -> tuple[Result, ...]:
        """Exponents and boundaries over depth; empty where the block is solved."""
        return () if self.build_dynamics is None else self.build_dynamics()

    @property
    def provenance(self) -> Derived:
        """What the block, and its solution where there is one, stands on."""
        if self.solution is not None:
            return self.solution.provenance
        return Derived(sp.S.Zero, self.trace.assumptions, self.trace.neglected, self.trace.sources)

    def study(self, seed: int, full: bool, progress: Progress | None) -> tuple[Measurement, ...]:
        """Theory beside simulation, all points in this process; ``full`` takes more draws."""
        points = self.study_points(seed, full)
        rows: list[Measurement] = []
        for index, point in enumerate(points):
            rows += point()
            if progress is not None:
                progress("simulation", index + 1, len(points))
        return tuple(rows)

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The paper's claims, in its order."""
        return self.build_claims()

    @cached_property
    def evaluators(self) -> tuple[FunctionSpec, ...]:
        """What is generated as code."""
        return tuple(spec for group in self.build_evaluators for spec in group())

    def evaluator(self, name: str) -> FunctionSpec:
        """The evaluator of that name, building no further group than needed; :class:`UnknownNameError` otherwise."""
        return self.chosen((name,))[0]

    def chosen(self, names: Collection[str]) -> tuple[FunctionSpec, ...]:
        """The evaluators of those names, in the order of the derivation; otherwise as :meth:`evaluator`."""
        known: list[str] = []
        found: list[FunctionSpec] = []
        for group in self.build_evaluators:
            if len(found) == len(set(names)):
                break
            if isinstance(group, EvaluatorBuilder) and group.name not in names:
                known.append(group.name)
                continue
            specs = group()
            known += [spec.name for spec in specs]
            found += [spec for spec in specs if spec.name in names]
        for name in names:
            if name not in known:
                asked = f"{self.key}:{name}" if name else self.key
                raise UnknownNameError("evaluator", asked, [f"{self.key}:{item}" for item in known])
        return tuple(found)

    def claim(self, name: str) -> Claim:
        """The claim of that id; :class:`UnknownNameError` with the nearest one otherwise."""
        for item in self.claims:
            if item.id == name:
                return item
        raise UnknownNameError("claim", name, (item.id for item in self.claims))

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """Every assumption of the block and of the claims."""
        return merge_unique(self.provenance.assumptions, *(item.derived().assumptions for item in self.claims))
