"""Whole models: trees of components with the values that make them one architecture."""

from symprop.architectures.deepscalelm import ACTIVATIONS, LayerScales, Recipe, solve_recipe
from symprop.architectures.snippet import torch_snippet

__all__ = ["ACTIVATIONS", "LayerScales", "Recipe", "solve_recipe", "torch_snippet"]
