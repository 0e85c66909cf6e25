"""Symbolic derivation of signal propagation in transformers at initialisation.

>>> from symprop import Linear, UniformAttention, residual, sequential, solve, stack
>>> from symprop.core.symbols import alpha_1, d, sigma_v2
>>> block = residual(UniformAttention(d, sigma_v2), alpha_1)
>>> solve(stack(block)).signal.gap
gap_X
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symprop.components import Attention, Linear, Sum, UniformAttention
    from symprop.depth import DepthSolution, solve
    from symprop.network import named, residual, sequential, stack, token_input, trace_of
    from symprop.notation import view

__version__ = "0.1.0"

__all__ = [
    "Attention",
    "DepthSolution",
    "Linear",
    "Sum",
    "UniformAttention",
    "named",
    "residual",
    "sequential",
    "solve",
    "stack",
    "token_input",
    "trace_of",
    "view",
]

_HOMES = {
    "symprop.components": ("Attention", "Linear", "Sum", "UniformAttention"),
    "symprop.depth": ("DepthSolution", "solve"),
    "symprop.network": ("named", "residual", "sequential", "stack", "token_input", "trace_of"),
    "symprop.notation": ("view",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line starts without SymPy."""
    for home, members in _HOMES.items():
        if name in members:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'symprop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
