"""Monte Carlo of one attention layer by torch autograd: everything is drawn anew for every sample.

Nothing here knows a formula of the toolkit except the means of the control variates: E |x|^2, E |W_V g|^2 and E |sum_i g_i|^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Cell:
    """One setting. ``std`` is that of a raw score, ``law`` one of gaussian, angle, stream, rms and layernorm.

    Tokens have q = 1 and correlation ``r`` before any norm; for rms and layernorm the gradient of the un-normalised stream is
    measured as well. Weights have variance 1/d (values) and ``std``/d (queries and keys); ``groups`` query heads share keys and
    values; variances of the query, key and value biases are absolute, ``offset`` is the length of a mean vector per coordinate,
    in place of the shared random part. ``qk_norm`` (rms or layernorm) normalises queries and keys to the mean square ``gain2``.
    """

    n: int
    d: int
    d_k: int
    r: float
    std: float
    r_g: float = 0.0
    law: str = "gaussian"
    dropout: float = 0.0
    heads: int = 1
    shared: int = 1
    bias_q: float = 0.0
    bias_k: float = 0.0
    bias_v: float = 0.0
    mean: bool = False
    project: bool = False
    causal: bool = False
    qk_norm: str = ""
    gain2: float = 1.0


def tokens(cell: Cell, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Tokens of shape (draws, n, d) as the attention or its norm receives them."""
    n, d, r = cell.n, cell.d, cell.r
    noise = torch.randn(draws, n, d, generator=generator, dtype=torch.float64)
    common = torch.randn(draws, 1, d, generator=generator, dtype=torch.float64)
    if cell.mean:
        common = torch.ones(draws, 1, d, dtype=torch.float64)
    if cell.law == "angle":
        common = common / common.norm(dim=-1, keepdim=True)
        if r:
            noise = noise - (noise * common).sum(-1, keepdim=True) * common
        noise = noise / noise.norm(dim=-1, keepdim=True)
        return math.sqrt(d) * (math.sqrt(r) * common + math.sqrt(1 - r) * noise)
    if cell.law == "stream":
        common = common / common.norm(dim=-1, keepdim=True) * math.sqrt(d)
    return math.sqrt(r) * common + math.sqrt(1 - r) * noise


def normalised(cell: Cell, x: torch.Tensor) -> torch.Tensor:
    """What the attention sees."""
    return scaled(x, cell.law == "layernorm") if cell.law in ("stream", "rms", "layernorm") else x


def scaled(x: torch.Tensor, centre: bool) -> torch.Tensor:
    """Every vector with mean square 1, less its mean before."""
    x = x - x.mean(-1, keepdim=True) if centre else x
    return x / x.square().mean(-1, keepdim=True).sqrt()


def simulate(cell: Cell, draws: int, seed: int, batch: int = 64) -> dict[str, tuple[float, float]]:
    """Means and standard errors of q, p (of the output), var and cov (of the input gradient), stream_var and stream_cov (of the
    gradient before a norm), and of |dW|^2 as v, k, q_weight, o; all per coordinate except the last four."""
    generator = torch.Generator().manual_seed(seed)
    samples: dict[str, list[np.ndarray]] = {}
    controls: list[np.ndarray] = []
    n, d, d_k, heads = cell.n, cell.d, cell.d_k, cell.heads
    kv = heads // cell.shared
    left = draws
    while left > 0:
        size = min(batch, left)
        left -= size

        def normal(*shape: int, variance: float = 1.0) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64) * math.sqrt(variance)

        stream = tokens(cell, size, generator).requires_grad_()
        x = normalised(cell, stream)
        x.retain_grad()
        query = normal(size, heads, d, d_k, variance=cell.std / d).requires_grad_()
        key = normal(size, kv, d, d_k, variance=cell.std / d).requires_grad_()
        value = normal(size, kv, d, d_k, variance=1 / d).requires_grad_()
        queries = torch.einsum("bnd,bhdk->bhnk", x, query) + normal(size, heads, 1, d_k, variance=cell.bias_q)
        keys = torch.einsum("bnd,bhdk->bhnk", x, key) + normal(size, kv, 1, d_k, variance=cell.bias_k)
        if cell.qk_norm:
            queries, keys = (math.sqrt(cell.gain2) * scaled(item, cell.qk_norm == "layernorm") for item in (queries, keys))
        values = torch.einsum("bnd,bhdk->bhnk", x, value) + normal(size, kv, 1, d_k, variance=cell.bias_v)
        spread = [item.repeat_interleave(cell.shared, dim=1) for item in (keys, values)]
        scores = queries @ spread[0].transpose(-1, -2) / math.sqrt(d_k)
        if cell.causal:
            scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
        weights = torch.softmax(scores, -1)
        if cell.dropout:
            keep = 1 - cell.dropout
            weights = weights * (torch.rand(weights.shape, generator=generator) < keep) / keep
        heads_out = (weights @ spread[1]).transpose(1, 2).reshape(size, n, heads * d_k)
        if cell.project:
            projection = normal(size, heads * d_k, d, variance=1 / (heads * d_k)).requires_grad_()
            output = heads_out @ projection
        else:
            output = heads_out
        width = output.shape[-1]
        g = math.sqrt(cell.r_g) * normal(size, 1, width) + math.sqrt(1 - cell.r_g) * normal(size, n, width)
        (output * g).sum().backward()

        def moments(item: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
            item = item.detach()
            second = item.square().mean((1, 2))
            total = item.sum(1).square().mean(-1)
            return second.numpy(), ((total - n * second) / (n * (n - 1))).numpy()

        with torch.no_grad():
            back = g if not cell.project else g @ projection.transpose(-1, -2)
            parts = back.reshape(size, n, heads, d_k).transpose(1, 2)
            pulled = parts @ value.repeat_interleave(cell.shared, dim=1).transpose(-1, -2)
            pulled_q, pulled_p = moments(pulled.transpose(1, 2).reshape(size, n, heads * d))
            gq, gp = moments(g)
            xq, xp = moments(stream)
            u = torch.einsum("bhnk,bhdk->bhnd", torch.einsum("bnd,bhdk->bhnk", x, query),
                             key.repeat_interleave(cell.shared, dim=1))
            alignment = u.square().mean((1, 2, 3)).numpy() / (cell.std**2 * d_k / d)
        eta = 1 / heads if cell.project else d_k / d
        known = [gq - 1, gp - cell.r_g, pulled_q - eta, pulled_p - eta * cell.r_g, alignment - 1]
        if cell.law in ("gaussian", "rms", "layernorm") and not cell.mean:
            known += [xq - 1, xp - cell.r]
        rows = dict(zip(("q", "p"), moments(output), strict=True))
        rows |= dict(zip(("var", "cov"), moments(x.grad), strict=True))
        if cell.law in ("rms", "stream", "layernorm"):
            rows |= dict(zip(("stream_var", "stream_cov"), moments(stream.grad), strict=True))
        for name, weight in (("v", value), ("q_weight", query), ("k", key)):
            rows[name] = weight.grad.square().sum((1, 2, 3)).numpy()
        if cell.project:
            rows["o"] = projection.grad.square().sum((1, 2)).numpy()
        for name, row in rows.items():
            samples.setdefault(name, []).append(row)
        controls.append(np.stack(known, axis=1))
    control = np.concatenate(controls)
    control = control[:, control.std(0) > 1e-12]
    design = np.column_stack([np.ones(len(control)), control])
    found = {}
    for name, parts in samples.items():
        values = np.concatenate(parts)
        coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
        rest = values - design @ coefficients
        found[name] = float(coefficients[0]), float(rest.std(ddof=design.shape[1]) / math.sqrt(len(rest)))
    return found
