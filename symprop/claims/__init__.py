"""Papers, what they claim, what the toolkit derives, and the verdict."""

from symprop.claims.chain import LatexName, names_of, step_equations, trace_chain
from symprop.claims.claim import Claim, Result, Status, Verdict, check
from symprop.claims.paper import Curve, Figure, Paper, PaperDerivation, Points, Progress, Slip

__all__ = [
    "Claim",
    "Curve",
    "Figure",
    "LatexName",
    "Paper",
    "PaperDerivation",
    "Points",
    "Progress",
    "Result",
    "Slip",
    "Status",
    "Verdict",
    "check",
    "names_of",
    "step_equations",
    "trace_chain",
]
