"""Numpy code on torch tensors: an array whose numpy functions are torch's, so that autograd follows a numpy sampler."""

import contextlib

import numpy as np
import torch

UFUNCS = {
    "add": torch.add, "subtract": torch.subtract, "multiply": torch.multiply, "divide": torch.divide,
    "negative": torch.negative, "positive": torch.positive, "power": torch.pow, "square": torch.square,
    "sqrt": torch.sqrt, "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p,
    "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh, "cosh": torch.cosh, "sinh": torch.sinh,
    "absolute": torch.abs, "maximum": torch.maximum, "minimum": torch.minimum, "matmul": torch.matmul,
    "greater": torch.gt, "less": torch.lt, "greater_equal": torch.ge, "less_equal": torch.le, "sign": torch.sign,
    "ndtr": torch.special.ndtr, "expit": torch.sigmoid, "erf": torch.erf, "logical_and": torch.logical_and,
    "heaviside": torch.heaviside, "reciprocal": torch.reciprocal, "equal": torch.eq,
}  # fmt: skip


class Traced(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of a traced computation; arithmetic with numpy arrays stays traced."""

    __array_priority__ = 1000

    def __init__(self, tensor):
        self.tensor = tensor

    def __array_ufunc__(self, ufunc, method, *inputs, **more):
        assert method == "__call__", f"{ufunc.__name__}.{method}"
        more.pop("out", None)  # the operators assign the result to the name anyway
        assert not more, more
        return Traced(UFUNCS[ufunc.__name__](*map(tensor_of, inputs)))

    def __array_function__(self, function, types, arguments, more):
        return FUNCTIONS[function](*arguments, **more)

    @property
    def shape(self):
        return tuple(self.tensor.shape)

    @property
    def ndim(self):
        return self.tensor.ndim

    def __getitem__(self, key):
        return Traced(self.tensor[key])

    def swapaxes(self, one, two):
        return Traced(self.tensor.swapaxes(one, two))

    def reshape(self, *shape):
        return Traced(self.tensor.reshape(*shape))

    def repeat(self, times, axis):
        return Traced(self.tensor.repeat_interleave(times, dim=axis))

    def sum(self, axis=None, keepdims=False):
        return Traced(self.tensor.sum(dim=axis, keepdim=keepdims))

    def mean(self, axis=None, keepdims=False):
        return Traced(self.tensor.mean(dim=axis, keepdim=keepdims))

    def max(self, axis=None, keepdims=False):
        return Traced(self.tensor.amax(dim=axis, keepdim=keepdims))


def tensor_of(value):
    return value.tensor if isinstance(value, Traced) else torch.as_tensor(np.asarray(value))


def _split(array, sections, axis=0):
    cut = np.split(np.arange(array.shape[axis]), sections)
    return [Traced(array.tensor.index_select(axis, torch.as_tensor(part))) for part in cut]


FUNCTIONS = {
    np.where: lambda condition, one, two: Traced(torch.where(*map(tensor_of, (condition, one, two)))),
    np.split: _split,
    np.concatenate: lambda arrays, axis=0: Traced(torch.cat([tensor_of(item) for item in arrays], dim=axis)),
    np.stack: lambda arrays, axis=0: Traced(torch.stack([tensor_of(item) for item in arrays], dim=axis)),
    np.zeros_like: lambda array: Traced(torch.zeros_like(array.tensor)),
    np.ones_like: lambda array: Traced(torch.ones_like(array.tensor)),
    np.moveaxis: lambda array, one, two: Traced(torch.moveaxis(array.tensor, one, two)),
    np.swapaxes: lambda array, one, two: Traced(array.tensor.swapaxes(one, two)),
    np.sum: lambda array, axis=None, keepdims=False: array.sum(axis, keepdims),
    np.mean: lambda array, axis=None, keepdims=False: array.mean(axis, keepdims),
    np.cumsum: lambda array, axis: Traced(torch.cumsum(array.tensor, axis)),
    np.broadcast_to: lambda array, shape: Traced(torch.broadcast_to(array.tensor, shape)),
}


@contextlib.contextmanager
def tracing(monkeypatch):
    """While it lasts, ``np.asarray`` leaves a traced array alone."""
    plain = np.asarray
    with monkeypatch.context() as patch:
        patch.setattr(np, "asarray", lambda value, *rest, **more: value if isinstance(value, Traced)
                      else plain(value, *rest, **more))
        yield


def gradients(sample, inputs, g, monkeypatch):
    """dLoss/d(input) of ``sample(*inputs)`` by torch autograd, for the loss sum(g * output)."""
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    with tracing(monkeypatch):
        output, _ = sample(*map(Traced, leaves))
    (tensor_of(output) * torch.as_tensor(g)).sum().backward()
    return [leaf.grad.numpy() for leaf in leaves]
