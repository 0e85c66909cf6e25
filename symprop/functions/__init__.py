"""The field's special functions, as SymPy functions with the hooks that limits, series and code need."""

from symprop.functions.depth_nodes import DepthPower, ExpMinusOne, GeometricSum, GrowthMinusOne, Saturated

__all__ = ["DepthPower", "ExpMinusOne", "GeometricSum", "GrowthMinusOne", "Saturated"]
