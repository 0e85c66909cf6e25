"""Whole models: trees of components with the values that make them one architecture."""

from symprop.architectures.deepscalelm import ACTIVATIONS, LayerScales, Recipe, solve_recipe

__all__ = ["ACTIVATIONS", "LayerScales", "Recipe", "solve_recipe"]
