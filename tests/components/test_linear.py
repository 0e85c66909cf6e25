"""The gradient of a linear layer's weights, over tokens that share part of it."""

import numpy as np
import pytest
import sympy as sp

from symprop.components import Linear
from symprop.core.signal import Gradient, Signal


@pytest.mark.parametrize(("mean", "tokens"), [(0.0, 5), (0.7, 5), (0.7, 1)])
def test_weight_gradient_is_that_of_torch(mean, tokens):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(4)

    def correlated(common, gap, width):
        shared, own = (torch.randn(20_000, size, width, generator=generator, dtype=torch.float64) for size in (1, tokens))
        return common**0.5 * shared + gap**0.5 * own

    x, g = mean + correlated(0.5, 0.8, 3), correlated(0.4, 0.6, 2)
    weights = torch.zeros(20_000, 3, 2, dtype=torch.float64, requires_grad=True)
    (g * (x @ weights)).sum().backward()
    samples = (weights.grad**2).mean(dim=(1, 2)).numpy()
    several = int(tokens > 1)
    signal = Signal(
        q=sp.Float(1.3 + mean**2), gap=several * sp.Float(0.8), tokens=sp.Integer(tokens), width=sp.Integer(3),
        mean=sp.Float(mean),
    )
    incoming = Gradient(sp.Float(1), several * sp.Float(0.6))
    predicted = float(Linear(2, sp.Rational(1, 3)).weight_gradient(incoming, signal))
    assert abs(samples.mean() - predicted) < 4 * samples.std() / np.sqrt(len(samples))
