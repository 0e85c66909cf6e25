"""Papers, what they claim, what the toolkit derives, and the verdict."""

from symprop.claims.chain import LatexName, names_of, step_equations, trace_chain
from symprop.claims.claim import Claim, Result, Status, Verdict, check
from symprop.claims.paper import (
    Axis,
    Boundary,
    Curve,
    Diagram,
    EvaluatorBuilder,
    Figure,
    Paper,
    PaperDerivation,
    Points,
    Region,
    Slip,
    StudyPoint,
)
from symprop.claims.results import (
    backward_result,
    component_result,
    depth_result,
    forward_result,
    gram_result,
    limit_result,
    pair_result,
    signal_result,
    wick_result,
)
from symprop.core.progress import Progress

__all__ = [
    "Axis",
    "Boundary",
    "Claim",
    "Curve",
    "Diagram",
    "EvaluatorBuilder",
    "Figure",
    "LatexName",
    "Paper",
    "PaperDerivation",
    "Points",
    "Progress",
    "Region",
    "Result",
    "Slip",
    "Status",
    "StudyPoint",
    "Verdict",
    "backward_result",
    "check",
    "component_result",
    "depth_result",
    "forward_result",
    "gram_result",
    "limit_result",
    "names_of",
    "pair_result",
    "signal_result",
    "step_equations",
    "trace_chain",
    "wick_result",
]
