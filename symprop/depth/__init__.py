"""Depth, solved: recursions over layers, their closed forms and their limits."""

from symprop.depth.closed_form import solve_affine
from symprop.depth.modes import Mode
from symprop.depth.solution import DepthLimit, DepthSolution, solve

__all__ = ["DepthLimit", "DepthSolution", "Mode", "solve", "solve_affine"]
