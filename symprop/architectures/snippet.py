"""A recipe as a torch module that stands alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from symprop.architectures.deepscalelm import Recipe


def torch_snippet(recipe: Recipe) -> str:
    """Python text with the recipe's numbers and a function that initialises one layer's linear modules.

    The text imports torch and nothing else; standard deviations are per weight. The same recipe gives the same text.
    """
    values = _lines(layer.value_variance**0.5 for layer in recipe.layers)
    ffn = _lines(layer.ffn_variance**0.5 for layer in recipe.layers)
    return f'''\
import torch

# x = SKIP*x + BRANCH*dropout(branch(norm(x))) for every attention and
# feed-forward branch; no bias, unit gains.
SKIP, BRANCH = {recipe.skip_scale:.12g}, {recipe.branch_scale:.12g}
EMBEDDING_STD = {recipe.embedding_variance**0.5:.9g}  # every embedding table
QUERY_KEY_STD = {recipe.query_variance**0.5:.9g}
VALUE_OUTPUT_STD = [
{values}
]
FEED_FORWARD_STD = [
{ffn}
]


@torch.no_grad()
def initialise_layer(index, query, key, value, output, up, down):
    """Initialise the torch.nn.Linear modules of layer ``index`` in place."""
    for modules, std in (
        ((query, key), QUERY_KEY_STD),
        ((value, output), VALUE_OUTPUT_STD[index]),
        ((up, down), FEED_FORWARD_STD[index]),
    ):
        for module in modules:
            torch.nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


@torch.no_grad()
def initialise_embeddings(*tables):
    """Initialise torch.nn.Embedding tables in place."""
    for table in tables:
        torch.nn.init.normal_(table.weight, std=EMBEDDING_STD)
'''


def _lines(numbers: Iterable[float]) -> str:
    return textwrap.fill(", ".join(f"{number:.9g}" for number in numbers), 80, initial_indent="    ", subsequent_indent="    ")
