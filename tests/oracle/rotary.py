"""Monte Carlo of a layer with rotary positions, a causal mask or both: by torch autograd, everything drawn anew.

Averages over positions and pairs, and the moments of every position. The means of the control variates are all it knows.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from tests.oracle.attention import Cell, normalised, tokens


def rotate(x: torch.Tensor, rotated: int, base: float) -> torch.Tensor:
    """Rotary positions on the first ``rotated`` coordinates, in pairs (f, f + rotated/2)."""
    half = rotated // 2
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * base ** (-torch.arange(half, dtype=x.dtype) / max(half, 1))
    one, two, rest = x[..., :half], x[..., half:rotated], x[..., rotated:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([one * cos - two * sin, one * sin + two * cos, rest], dim=-1)


def pair_moments(item: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Second moment of one token and of two, averaged over tokens, pairs and coordinates."""
    count = item.shape[1]
    second = item.square().mean((1, 2))
    total = item.sum(1).square().mean(-1)
    return second.numpy(), ((total - count * second) / (count * (count - 1))).numpy()


def simulate_positions(
    cell: Cell, draws: int, seed: int, rotated: int = 0, base: float = 1e4, batch: int = 64
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Means and standard errors of what :func:`tests.oracle.attention.simulate` gives, and of ``own`` (Y), ``overlap`` (V2);
    arrays over positions: ``q_t``, ``var_t``, and ``p_1t``, the product of outputs 1 and t."""
    generator = torch.Generator().manual_seed(seed)
    n, d, d_k = cell.n, cell.d, cell.d_k
    samples: dict[str, list[np.ndarray]] = {}
    controls: list[np.ndarray] = []
    for begin in range(0, draws, batch):
        size = min(batch, draws - begin)

        def normal(*shape: int, variance: float = 1.0) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64) * math.sqrt(variance)

        x = normalised(cell, tokens(cell, size, generator)).requires_grad_()
        query, key = (normal(size, d, d_k, variance=cell.std / d).requires_grad_() for _ in range(2))
        value = normal(size, d, d_k, variance=1 / d).requires_grad_()
        scores = rotate(x @ query, rotated, base) @ rotate(x @ key, rotated, base).transpose(1, 2) / math.sqrt(d_k)
        if cell.causal:
            scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
        weights = torch.softmax(scores, -1)
        output = weights @ (x @ value)
        g = math.sqrt(cell.r_g) * normal(size, 1, d_k) + math.sqrt(1 - cell.r_g) * normal(size, n, d_k)
        (output * g).sum().backward()
        with torch.no_grad():
            out, grad = output.detach(), x.grad
            rows = dict(zip(("q", "p"), pair_moments(out), strict=True))
            rows |= dict(zip(("var", "cov"), pair_moments(grad), strict=True))
            for name, weight in (("v", value), ("q_weight", query), ("k", key)):
                rows[name] = weight.grad.square().sum((1, 2)).numpy()
            own = weights.square().sum((1, 2)).numpy() / n
            rows["own"] = own
            rows["overlap"] = (weights.sum(1).square().sum(-1).numpy() / n - own) / (n - 1)
            rows |= {"q_t": out.square().mean(-1).numpy(), "var_t": grad.square().mean(-1).numpy()}
            rows["p_1t"] = (out * out[:, :1]).mean(-1).numpy()
            known = [np.asarray(part) - mean for item, means in (
                (g, (1.0, cell.r_g)), (g @ value.detach().transpose(1, 2), (d_k / d, d_k / d * cell.r_g)),
            ) for part, mean in zip(pair_moments(item), means, strict=True)]
            if cell.law == "gaussian":
                known += [part - mean for part, mean in zip(pair_moments(x.detach()), (1.0, cell.r), strict=True)]
            u = x @ query @ key.transpose(1, 2)
            known.append(u.square().mean((1, 2)).numpy() / (cell.std**2 * d_k / d) - 1)
        for name, row in rows.items():
            samples.setdefault(name, []).append(row)
        controls.append(np.stack(known, axis=1))
    control = np.concatenate(controls)
    design = np.column_stack([np.ones(len(control)), control[:, control.std(0) > 1e-12]])
    found = {}
    for name, parts in samples.items():
        values = np.concatenate(parts)
        coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
        rest = values - design @ coefficients
        found[name] = coefficients[0], rest.std(axis=0, ddof=design.shape[1]) / math.sqrt(len(rest))
    return found
