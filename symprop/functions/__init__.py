"""The field's special functions, as SymPy functions with the hooks that limits, series and code need."""

from symprop.functions.depth_nodes import ExpMinusOne, GeometricSum, GrowthMinusOne

__all__ = ["ExpMinusOne", "GeometricSum", "GrowthMinusOne"]
