"""Simulation of the gradient norms of one real attention layer, of a block, and of the norms in depth.

The layer is ``S = softmax(tau X W_Q W_K^T X^T / sqrt(d_k)) X W_V`` with random weights, and tokens that are fixed or
Gaussian. Its Jacobians are exact, by torch autograd or, without torch, by complex-step differentiation of the same
function in numpy. *At the uniform point* the logits M are replaced by M minus its own value held constant: the softmax
has value 1/n and the derivative of the true softmax there. Predictions are numbers put into the derivations of
:mod:`symprop.wick`. Every row of the study has its own draws, seeded by its name, so that z-scores are independent and
the order of the rows does not matter.
"""

from __future__ import annotations

import importlib.util
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy as sp

from symprop.core import symbols
from symprop.core.errors import InputError, MissingExtraError, UnknownNameError
from symprop.core.progress import Progress
from symprop.simulate.measurement import Measurement, measurement
from symprop.wick.attention import (
    AttentionLayer,
    block_gradient_norm,
    collapsed_gradient_norm,
    distance_to_uniform,
    gradient_norm,
    gradient_norm_second_moment,
    output_norm,
    output_norm_beyond_uniform,
)
from symprop.wick.differentials import evaluate
from symprop.wick.moments import FIRST, SECOND, moment_map
from symprop.wick.steps import Derivation
from symprop.wick.tokens import factorised_gradient_norm, mean_gradient_norm, token_average

Array = npt.NDArray[np.float64]
Matrices = Mapping[str, Array]

_COMPLEX_STEP = 1e-20
_CHUNK = 400_000


@dataclass(frozen=True)
class AttentionSetting:
    """Sizes, scales and laws of one simulated layer or block.

    With ``rho`` None the tokens are fixed, with entries of size sqrt(sigma_x2); else they are equicorrelated Gaussian
    and drawn anew each time. ``signs`` takes weights of random sign instead of Gaussian ones. With ``d_F`` not None
    there is a whole block, X' = Z + alpha_2 Z W_1 W_2, Z = X + alpha_1 S, whose d_o must be d.
    """

    n: int
    d: int
    d_k: int
    d_o: int
    tau: float = 1.0
    sigma_v2: float = 1.0
    sigma_q2: float = 1.0
    sigma_k2: float = 1.0
    sigma_x2: float = 1.0
    rho: float | None = None
    signs: bool = False
    d_F: int | None = None
    alpha_1: float = 1.0
    alpha_2: float = 1.0
    sigma_up2: float = 1.0
    sigma_down2: float = 1.0

    def __post_init__(self) -> None:
        if self.rho is not None and not symbols.info("rho").domain.contains(self.rho, {symbols.n: self.n}):
            raise InputError("rho", self.rho, f"a number in [-1/({self.n}-1), 1]")
        if self.d_F is not None and self.d_o != self.d:
            raise InputError("d_o", self.d_o, f"the width d = {self.d}, for the skip connection")

    @property
    def text(self) -> str:
        """The setting in one line."""
        parts = [f"n={self.n}", f"d={self.d}", f"d_k={self.d_k}", f"d_o={self.d_o}"]
        parts += [f"d_F={self.d_F}"] if self.d_F is not None else []
        parts += [f"tau={self.tau:g}"] if self.tau != 1 else []
        parts.append("fixed tokens" if self.rho is None else f"rho={self.rho:g}")
        parts += [f"sigma_x2={self.sigma_x2:g}"] if self.sigma_x2 != 1 else []
        return ", ".join(parts) + (", signs" if self.signs else "")

    @property
    def values(self) -> dict[sp.Symbol, float]:
        """Every registered symbol of the setting with its number."""
        names = ("n", "d", "d_k", "d_o", "d_F", "tau", "sigma_v2", "sigma_q2", "sigma_k2", "sigma_x2", "rho",
                 "alpha_1", "alpha_2", "sigma_up2", "sigma_down2")
        return {symbols.symbol(name): getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The shape of X and of every weight matrix."""
        shapes = {"X": (self.n, self.d), "W_Q": (self.d, self.d_k), "W_K": (self.d, self.d_k),
                  "W_V": (self.d, self.d_o)}
        if self.d_F is not None:
            shapes |= {"W_1": (self.d, self.d_F), "W_2": (self.d_F, self.d)}
        return shapes

    @property
    def fixed_tokens(self) -> Array:
        """The tokens of a setting with fixed tokens: they depend on the sizes alone."""
        rng = np.random.default_rng([self.n, self.d, 2022])
        return math.sqrt(self.sigma_x2) * rng.standard_normal((self.n, self.d))

    def draw(self, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Independent tokens (where they are random) and weights, each of shape (draws, rows, columns)."""
        variances = {"W_Q": self.sigma_q2, "W_K": self.sigma_k2, "W_V": self.sigma_v2, "W_1": self.sigma_up2,
                     "W_2": self.sigma_down2}
        drawn = {"X": self._tokens(rng, draws)}
        for name, shape in self.shapes.items():
            if name == "X":
                continue
            size = (draws, *shape)
            plain: Array = rng.standard_normal(size)
            if self.signs:
                plain = np.sign(plain)
            drawn[name] = math.sqrt(variances[name]) * plain
        return drawn

    def _tokens(self, rng: np.random.Generator, draws: int) -> Array:
        if self.rho is None:
            return np.broadcast_to(self.fixed_tokens, (draws, self.n, self.d))
        plain = rng.standard_normal((draws, self.n, self.d))
        mean = plain.mean(axis=1, keepdims=True)
        along, across = 1 + (self.n - 1) * self.rho, 1 - self.rho
        tokens = math.sqrt(max(across, 0.0)) * (plain - mean) + math.sqrt(max(along, 0.0)) * mean
        return np.asarray(math.sqrt(self.sigma_x2) * tokens)


def attention_layer(matrices: Mapping[str, Any], tau: float, softmax: Callable[[Any], Any]) -> Any:
    """The layer S, for numpy or torch arrays with leading batch axes; ``softmax`` acts on the last axis."""
    X, W_Q, W_K, W_V = (matrices[name] for name in ("X", "W_Q", "W_K", "W_V"))
    logits = (tau / math.sqrt(W_Q.shape[-1])) * ((X @ W_Q) @ (X @ W_K).swapaxes(-1, -2))
    return softmax(logits) @ (X @ W_V)


def attention_block(
    matrices: Mapping[str, Any], tau: float, softmax: Callable[[Any], Any], alpha_1: float, alpha_2: float
) -> Any:
    """The block X' = Z + alpha_2 Z W_1 W_2 with Z = X + alpha_1 S."""
    middle = matrices["X"] + alpha_1 * attention_layer(matrices, tau, softmax)
    return middle + alpha_2 * ((middle @ matrices["W_1"]) @ matrices["W_2"])


def available_engine(engine: str = "auto") -> str:
    """``torch`` or ``complex-step``; ``auto`` is torch where it is installed.

    Raises :class:`MissingExtraError` if torch is asked for and absent, :class:`UnknownNameError` for another name.
    """
    present = importlib.util.find_spec("torch") is not None
    if engine == "auto":
        return "torch" if present else "complex-step"
    if engine not in ("torch", "complex-step"):
        raise UnknownNameError("engine", engine, ("auto", "torch", "complex-step"))
    if engine == "torch" and not present:
        raise MissingExtraError("gradient simulations", "torch")
    return engine


def squared_jacobian_norms(
    parameter: str, matrices: Matrices, setting: AttentionSetting, *, uniform: bool = True, engine: str = "auto"
) -> Array:
    """||d output/d(parameter)||_F^2 of every draw; the output is the layer's S, or X' where the setting has a block.

    ``matrices`` come from :meth:`AttentionSetting.draw`. With ``uniform`` False the softmax is the true one.
    """
    if parameter not in setting.shapes:
        raise UnknownNameError("parameter", parameter, setting.shapes)
    engine = available_engine(engine)
    compute = _by_torch if engine == "torch" else _by_complex_step
    columns = math.prod(setting.shapes[parameter])
    rows = setting.n * setting.d_o
    chunk = max(1, _CHUNK // (rows * columns))
    draws = len(matrices["W_V"])
    pieces = (
        compute(parameter, {name: matrix[start : start + chunk] for name, matrix in matrices.items()}, setting, uniform)
        for start in range(0, draws, chunk)
    )
    return np.concatenate(list(pieces))


def _output(matrices: Mapping[str, Any], setting: AttentionSetting, softmax: Callable[[Any], Any]) -> Any:
    if setting.d_F is None:
        return attention_layer(matrices, setting.tau, softmax)
    return attention_block(matrices, setting.tau, softmax, setting.alpha_1, setting.alpha_2)


def _numpy_softmax(logits: Any) -> Any:
    weights = np.exp(logits - logits.real.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _numpy_uniform_softmax(logits: Any) -> Any:
    return _numpy_softmax(logits - logits.real)


def _by_complex_step(parameter: str, matrices: Matrices, setting: AttentionSetting, uniform: bool) -> Array:
    shape = setting.shapes[parameter]
    directions = np.eye(math.prod(shape)).reshape(-1, *shape)
    spread: dict[str, Any] = {name: matrix[:, None] for name, matrix in matrices.items()}
    spread[parameter] = spread[parameter] + 1j * _COMPLEX_STEP * directions
    output = _output(spread, setting, _numpy_uniform_softmax if uniform else _numpy_softmax)
    derivative = output.imag / _COMPLEX_STEP
    return np.asarray(np.einsum("kcij,kcij->k", derivative, derivative))


def _by_torch(parameter: str, matrices: Matrices, setting: AttentionSetting, uniform: bool) -> Array:
    import torch

    def softmax(logits: Any) -> Any:
        return torch.softmax(logits - logits.detach() if uniform else logits, dim=-1)

    tensors = {name: torch.tensor(np.ascontiguousarray(matrix)) for name, matrix in matrices.items()}
    argument = tensors[parameter].requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are small: threads cost ten times what they save
    try:
        output = _output(tensors, setting, softmax).flatten(1)
        norms = torch.zeros(len(output), dtype=output.dtype)
        for column in range(output.shape[1]):
            # The draws do not interact: the gradient of the sum over draws holds the gradient of every draw.
            (gradient,) = torch.autograd.grad(output[:, column].sum(), argument, retain_graph=True)
            norms += gradient.square().sum((1, 2))
    finally:
        torch.set_num_threads(threads)
    found: Array = norms.numpy()
    return found


@lru_cache(maxsize=64)
def _invariant_values(setting: AttentionSetting) -> dict[sp.Symbol, float]:
    layer = AttentionLayer()
    return {symbol: evaluate(definition, {layer.X: setting.fixed_tokens})
            for symbol, definition in layer.invariants.definitions.items()}


def prediction(derivation: Derivation, setting: AttentionSetting) -> float:
    """The number that a derivation gives for a setting; for fixed tokens their invariants are evaluated."""
    values: dict[sp.Symbol, float] = dict(setting.values)
    if setting.rho is None:
        values |= _invariant_values(setting)
    return _number(derivation.expression, values)


def _number(expression: sp.Expr, values: Mapping[sp.Symbol, float]) -> float:
    return float(expression.xreplace({symbol: sp.Float(value, 17) for symbol, value in values.items()}))


@dataclass(frozen=True)
class _Row:
    """One row of the study: how to predict it and how to draw it."""

    quantity: str
    setting: str
    draws: int
    predict: Callable[[], float]
    sample: Callable[[np.random.Generator, int], Array]
    holds: bool = True
    stream: str = ""
    """Names the draws: rows with the same stream start from the same seed. By default every row has its own."""
    shared: bool = False
    """Whether the samples are those of the other row with the same stream."""

    def samples(self, seed: int, factor: int) -> Array:
        key = zlib.crc32((self.stream or f"{self.quantity}; {self.setting}").encode())
        rng = np.random.default_rng(np.random.SeedSequence([seed, key]))
        return self.sample(rng, self.draws * factor)


_FIXED = (
    AttentionSetting(4, 6, 3, 5, 1.0, 1 / 6, 0.3, 0.5, 1.0),
    AttentionSetting(6, 5, 8, 4, 0.7, 0.2, 0.4, 0.15, 0.8),
    AttentionSetting(3, 7, 4, 6, 2.5, 0.15, 0.1, 0.3, 0.5),
    AttentionSetting(8, 4, 5, 3, 1.0, 0.3, 0.25, 0.6, 0.4),
    AttentionSetting(4, 5, 3, 6, 1.3, 0.25, 0.2, 0.35, 0.7, signs=True),
    AttentionSetting(2, 6, 5, 3, 1.0, 0.4, 0.3, 0.2, 1.2),
)
_GAUSSIAN = (
    AttentionSetting(3, 3, 2, 5, 1.0, 0.4, 0.3, 0.5, 0.8, rho=0.0),
    AttentionSetting(5, 4, 6, 3, 1.3, 0.25, 0.2, 0.3, 1.3, rho=0.4),
    AttentionSetting(4, 6, 3, 2, 1.5, 0.2, 0.25, 0.1, 0.6, rho=-0.2),
    AttentionSetting(6, 3, 5, 4, 1.0, 0.3, 0.4, 0.2, 1.0, rho=0.8),
    AttentionSetting(2, 4, 3, 6, 0.8, 0.5, 0.1, 0.4, 0.9, rho=0.5),
)
_EQUAL_WIDTHS = (
    AttentionSetting(3, 3, 3, 3, 1.0, 1 / 3, 1 / 3, 1 / 3, 1.0, rho=0.0),
    AttentionSetting(2, 3, 3, 3, 1.0, 1 / 3, 1 / 3, 1 / 3, 1.2, rho=-0.4),
)
_SECOND = (
    AttentionSetting(4, 5, 4, 6, 1.0, 0.2, 0.3, 0.25, 0.7),
    AttentionSetting(3, 6, 7, 5, 1.2, 0.15, 0.2, 0.3, 0.6),
    AttentionSetting(5, 3, 6, 4, 0.8, 0.3, 0.5, 0.35, 0.9),
)
_BLOCKS = (
    AttentionSetting(3, 4, 2, 4, 1.1, 0.25, 0.3, 0.4, 0.9, d_F=6, alpha_1=0.8, alpha_2=0.6, sigma_up2=0.3,
                     sigma_down2=0.2),
    AttentionSetting(4, 3, 5, 3, 0.9, 0.4, 0.2, 0.35, 0.6, d_F=5, alpha_1=1.2, alpha_2=0.5, sigma_up2=0.25,
                     sigma_down2=0.4),
)
_SMALL_LOGITS = (
    AttentionSetting(5, 6, 4, 3, 0.005, 0.2, 0.3, 0.25, 0.5),
    AttentionSetting(4, 7, 5, 6, 0.005, 0.15, 0.2, 0.3, 0.4),
    AttentionSetting(6, 4, 3, 5, 0.005, 0.25, 0.2, 0.3, 0.5, rho=0.3),
)
_COLLAPSED = AttentionSetting(4, 6, 3, 5, 1.0, 1 / 6, 0.3, 0.5, 1.0, rho=1.0)
_DEPTH = (
    (AttentionSetting(4, 12, 4, 12, sigma_v2=1 / 12, sigma_x2=1 / 12, d_F=12, alpha_1=0.7, alpha_2=0.6,
                      sigma_up2=1 / 12, sigma_down2=1 / 12), 2),
    (AttentionSetting(5, 10, 4, 10, sigma_v2=0.08, sigma_x2=0.1, d_F=20, alpha_1=0.5, alpha_2=0.4,
                      sigma_up2=0.1, sigma_down2=0.06), 4),
    (AttentionSetting(3, 16, 4, 16, sigma_v2=0.06, sigma_x2=0.06, d_F=8, alpha_1=0.7, alpha_2=0.6,
                      sigma_up2=0.05, sigma_down2=0.1), 3),
)


def _norm_row(
    quantity: str, parameter: str, setting: AttentionSetting, derive: Callable[[], Derivation], draws: int, engine: str,
    *, power: int = 1, uniform: bool = True, holds: bool = True, stream: str = "", shared: bool = False,
) -> _Row:
    def sample(rng: np.random.Generator, count: int) -> Array:
        norms = squared_jacobian_norms(parameter, setting.draw(rng, count), setting, uniform=uniform, engine=engine)
        return np.asarray(norms**power)

    return _Row(quantity, setting.text, draws, lambda: prediction(derive(), setting), sample, holds, stream, shared)


def _first_moments(engine: str) -> Iterator[_Row]:
    for setting in _FIXED:
        for parameter in ("W_V", "W_Q", "W_K", "X"):
            derive = _deferred(gradient_norm, parameter)
            stream = f"{parameter}; {setting.text}"
            name = f"E ||dS/d{parameter}||^2"
            yield _norm_row(name, parameter, setting, derive, 20 if parameter == "W_V" else 1200, engine, stream=stream)
    for setting in (_FIXED[0], replace(_FIXED[0], sigma_x2=0.01)):
        for parameter in ("W_Q", "X"):
            yield _norm_row(f"E ||dS/d{parameter}||^2, true softmax", parameter, setting,
                            _deferred(gradient_norm, parameter), 1200, engine, uniform=False, holds=False,
                            stream=f"{parameter}; {setting.text}")


def _collapsed(engine: str) -> Iterator[_Row]:
    """Equal tokens under the true softmax: the gradients of queries and keys are zero in every draw."""
    X = np.broadcast_to(_COLLAPSED.fixed_tokens[:1], (_COLLAPSED.n, _COLLAPSED.d))
    x = AttentionLayer().X
    vector = sp.MatrixSymbol("x", symbols.d, 1)
    for parameter in ("W_Q", "W_K", "W_V", "X"):
        def sample(rng: np.random.Generator, count: int, parameter: str = parameter) -> Array:
            matrices = _COLLAPSED.draw(rng, count) | {"X": np.broadcast_to(X, (count, *X.shape))}
            return squared_jacobian_norms(parameter, matrices, _COLLAPSED, uniform=False, engine=engine)

        def predict(parameter: str = parameter) -> float:
            derived = collapsed_gradient_norm(parameter).expression
            return float(evaluate(derived, {x: X, vector: X[:1].T, **_COLLAPSED.values}))

        yield _Row(f"||dS/d{parameter}||^2 at rank collapse, true softmax", _COLLAPSED.text, 300, predict, sample)


def _token_averages(engine: str) -> Iterator[_Row]:
    for setting in _GAUSSIAN:
        for parameter in ("W_V", "W_Q", "W_K", "X"):
            yield _norm_row(f"E ||dS/d{parameter}||^2 over tokens", parameter, setting,
                            _deferred(mean_gradient_norm, parameter), 2000, engine)
    for setting in _EQUAL_WIDTHS:
        stream = f"Eq. 18; {setting.text}"
        yield _norm_row("E ||dS/dW_Q||^2 over tokens, exact", "W_Q", setting, _deferred(mean_gradient_norm, "W_Q"),
                        5000, engine, stream=stream, shared=True)
        yield _norm_row("E ||dS/dW_Q||^2 over tokens, Eq. 18 as printed", "W_Q", setting,
                        _deferred(factorised_gradient_norm, "W_Q"), 5000, engine, holds=False, stream=stream,
                        shared=True)


def _second_moments(engine: str) -> Iterator[_Row]:
    for setting in _SECOND:
        for parameter in ("W_Q", "W_K"):
            yield _norm_row(f"E ||dS/d{parameter}||^4", parameter, setting,
                            _deferred(gradient_norm_second_moment, parameter), 3000, engine, power=2)


def _block_norms(engine: str) -> Iterator[_Row]:
    for setting in _BLOCKS:
        for parameter in setting.shapes:
            yield _norm_row(f"E ||dX'/d{parameter}||^2", parameter, setting, _deferred(block_gradient_norm, parameter),
                            1000, engine)


def _deferred(derive: Callable[[str], Derivation], parameter: str) -> Callable[[], Derivation]:
    return lambda: derive(parameter)


def distance_samples(matrices: Matrices, setting: AttentionSetting) -> Array:
    """||A - P||_F^2 of the true softmax, one value for each draw."""
    X, W_Q, W_K = (matrices[name] for name in ("X", "W_Q", "W_K"))
    logits = (setting.tau / math.sqrt(setting.d_k)) * ((X @ W_Q) @ (X @ W_K).swapaxes(-1, -2))
    return np.asarray(np.square(_numpy_softmax(logits) - 1 / setting.n).sum(axis=(1, 2)))


def growth_samples(matrices: Matrices, setting: AttentionSetting) -> Array:
    """||S||_F^2 of the true softmax minus its value under uniform attention, averaged over the two signs of W_Q.

    Both signs have the same law, so that the average has the same mean and the odd orders of the logits are gone.
    """
    uniform = np.square((matrices["X"] @ matrices["W_V"]).mean(axis=1)).sum(axis=1) * setting.n
    both = (np.square(attention_layer(matrices, tau, _numpy_softmax)).sum(axis=(1, 2))
            for tau in (setting.tau, -setting.tau))
    return np.asarray(sum(both) / 2 - uniform)


def neglected_order(
    samples: Callable[[Matrices, AttentionSetting], Array], matrices: Matrices, setting: AttentionSetting
) -> Array:
    """The part of every sample beyond the order tau^2, measured on the same draws at two temperatures (Richardson).

    If f = a tau^2 + b tau^4 + ..., then 4/3 (f(tau) - 4 f(tau/2)) = b tau^4 + O(tau^6).
    """
    return 4 / 3 * (samples(matrices, setting) - 4 * samples(matrices, replace(setting, tau=setting.tau / 2)))


def _small_logits() -> Iterator[_Row]:
    """Logits so small that the neglected order is far below the standard error (:func:`neglected_order`)."""
    def averaged(derivation: Derivation, setting: AttentionSetting) -> Derivation:
        return derivation if setting.rho is None else token_average(derivation)

    def growth() -> Derivation:
        beyond = output_norm_beyond_uniform()
        return replace(beyond, expression=sp.expand(beyond.expression - output_norm().expression))

    cases: tuple[tuple[str, Callable[[], Derivation], Callable[[Matrices, AttentionSetting], Array]], ...] = (
        ("E ||A - P||^2, true softmax", distance_to_uniform, distance_samples),
        ("E ||S||^2 beyond uniform attention, true softmax", growth, growth_samples),
    )
    for setting in _SMALL_LOGITS:
        for name, derive, samples in cases:
            def sample(
                rng: np.random.Generator, count: int, setting: AttentionSetting = setting,
                samples: Callable[[Matrices, AttentionSetting], Array] = samples,
            ) -> Array:
                return samples(setting.draw(rng, count), setting)

            def predict(
                setting: AttentionSetting = setting, derive: Callable[[], Derivation] = derive
            ) -> float:
                return prediction(averaged(derive(), setting), setting)

            yield _Row(name, setting.text, 3000, predict, sample)


def residual_norms(setting: AttentionSetting, depth: int, rng: np.random.Generator, draws: int) -> tuple[Array, Array]:
    """C and N after ``depth`` blocks with independent weights, uniform attention and linear feed-forward layers."""
    X = np.array(setting.draw(rng, draws)["X"])
    for _ in range(depth):
        W = setting.draw(rng, draws)
        X = attention_block(W | {"X": X}, 0.0, _numpy_softmax, setting.alpha_1, setting.alpha_2)
    return np.square(X.sum(axis=1)).sum(axis=1), np.square(X).sum(axis=(1, 2))


@lru_cache(maxsize=16)
def depth_moments(setting: AttentionSetting, depth: int) -> dict[str, float]:
    """E C, E N, E C^2, E N^2 after ``depth`` blocks and E C^2/(E C)^2, from the maps of :func:`moment_map`."""
    values = setting.values
    start = _invariant_values(setting)
    vectors = []
    for order, state in ((1, FIRST), (2, SECOND)):
        matrix = np.array([[_number(entry, values) for entry in row] for row in moment_map(order).matrix.tolist()])
        initial = np.array([_number(entry, start) for entry in state])
        vectors.append(np.linalg.matrix_power(matrix, depth) @ initial)
    (T, C), (T2, _, TC, _, C2) = vectors
    n = setting.n
    return {"C": C, "N": T + C / n, "C^2": C2, "N^2": T2 + 2 * TC / n + C2 / n**2, "tail": C2 / C**2}


def _depth_rows() -> Iterator[_Row]:
    names = {"C": "E C at depth", "N": "E N at depth", "C^2": "E C^2 at depth", "N^2": "E N^2 at depth"}
    for setting, depth in _DEPTH:
        for key, name in names.items():
            def sample(
                rng: np.random.Generator, count: int, key: str = key, setting: AttentionSetting = setting,
                depth: int = depth,
            ) -> Array:
                C, N = residual_norms(setting, depth, rng, count)
                return {"C": C, "N": N, "C^2": C**2, "N^2": N**2}[key]

            def predict(key: str = key, setting: AttentionSetting = setting, depth: int = depth) -> float:
                return depth_moments(setting, depth)[key]

            yield _Row(name, f"{setting.text}, L={depth}", 1500, predict, sample)


def gradient_study(
    seed: int = 0, full: bool = False, progress: Progress | None = None, engine: str = "auto"
) -> tuple[Measurement, ...]:
    """Theory beside simulation for every gradient norm, its second moments, token averages, and the norms in depth.

    ``full`` takes 20 times as many draws. ``progress`` is called with the quantity, the rows done and their number.
    Rows with ``expected_to_hold`` False show the printed Eq. 18 and, for the true softmax, where the uniform theory
    fails.
    """
    engine = available_engine(engine)
    rows = [*_first_moments(engine), *_collapsed(engine), *_token_averages(engine), *_second_moments(engine),
            *_block_norms(engine), *_small_logits(), *_depth_rows()]
    factor = 20 if full else 1
    results = []
    # numpy and torch release the interpreter: the draws run beside the derivation of the predictions.
    with ThreadPoolExecutor(max_workers=2) as pool:
        once: dict[str, Future[Array]] = {}
        pending = []
        for row in rows:
            if not (row.shared and row.stream in once):
                once[row.stream] = pool.submit(row.samples, seed, factor)
            pending.append(once[row.stream])
        try:
            for done, (row, samples) in enumerate(zip(rows, pending, strict=True)):
                if progress is not None:
                    progress(row.quantity, done, len(rows))
                predicted = row.predict()
                results.append(measurement(row.quantity, row.setting, predicted, samples.result(),
                                           expected_to_hold=row.holds))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if progress is not None:
        progress("done", len(rows), len(rows))
    return tuple(results)
