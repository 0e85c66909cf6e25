"""Whole models: trees of components with the values that make them one architecture."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symprop.architectures.activations import ACTIVATIONS
    from symprop.architectures.deepscalelm import LayerScales, Recipe, solve_recipe
    from symprop.architectures.snippet import torch_snippet

__all__ = ["ACTIVATIONS", "LayerScales", "Recipe", "solve_recipe", "torch_snippet"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that files are refused without SymPy."""
    if name not in __all__:
        raise AttributeError(f"module 'symprop.architectures' has no attribute {name!r}")
    home = {"torch_snippet": "snippet", "ACTIVATIONS": "activations"}.get(name, "deepscalelm")
    return getattr(import_module(f"symprop.architectures.{home}"), name)
