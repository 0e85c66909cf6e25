"""Code of the moments of softmax weights: the text of ``symprop.functions.softmax_numeric`` over numpy or torch.

Types, comments and doctests are left out. In torch, derivatives in the score variance and gap are moments again: a module
contains the rules of ``symprop.functions.softmax_operators``, and no sum over a grid is recorded for them.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from types import ModuleType

from symprop.functions import softmax_numeric, softmax_operators, softmax_tables

ENTRIES = r"_softmax_\w+"
"""A pattern of the functions that formulas call."""
TABLE_ENTRIES = r"_softmax_table_\w+"
"""Those of them that interpolate."""


class _Bare(ast.NodeTransformer):
    """Drops annotations and the examples of docstrings; module-level names get an underscore, numpy another name."""

    def __init__(self, names: set[str], library: str) -> None:
        self.names, self.library = names, library

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.name, node.returns = self._name(node.name), None
        for argument in (*node.args.args, node.args.vararg):
            if argument is not None:
                argument.annotation = None
        head = (ast.get_docstring(node) or "").splitlines()[0]
        node.body[0] = ast.Expr(ast.Constant(head.replace(":func:", "").replace("`", "")))
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        assert node.value is not None
        return ast.Assign([node.target], node.value, lineno=node.lineno)

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if self.library == "torch" and node.id in ("float", "int"):
            node.id = f"_plain_{node.id}"
        else:
            node.id = self.library if node.id == "np" else self._name(node.id)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "Fraction":
            return ast.BinOp(node.args[0], ast.Div(), node.args[1])
        return node

    def _name(self, name: str) -> str:
        return f"_{name}" if name in self.names and not name.startswith("_") else name


def _functions(module: ModuleType) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.FunctionDef)]


def bare_text(module: ModuleType, library: str, *used: ModuleType) -> str:
    """The functions of a module, without what generated code has no use for; ``used`` are modules that it calls."""
    body = _functions(module)
    bare = _Bare({node.name for each in (module, *used) for node in _functions(each)}, library)
    return "\n\n\n".join(ast.unparse(ast.fix_missing_locations(bare.visit(node))) for node in body if node.name != "by_parts")


_NUMPY = '''\
def _softmax_row(requests, a, n, D, w):
    """Moments of a row of softmax weights, one for each request."""
    return _averaged_moments(requests, a, n, D, w)


def _softmax_pair(requests, a, g, n, m):
    """Moments of two rows of softmax weights, one for each request."""
    return _overlap_moments(requests, a, g, n, m)


def _softmax_weight_gap(a, n):
    """The gap of the weights of a row."""
    return _weight_gap(a, n)


def _softmax_row_gap(a, g, n):
    """The gap of two rows."""
    return _row_gap(a, g, n)


def _softmax_overlap_gap(a, g, n):
    """The gap of the overlap of two rows."""
    return _overlap_gap(a, g, n)'''

_TORCH = '''\
def _plain_float(value):
    """A number that sizes a grid, without a derivative."""
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def _plain_int(value):
    """A whole number that sizes a grid, without a derivative."""
    return int(value.detach() if isinstance(value, torch.Tensor) else value)


class _RowMoments(torch.autograd.Function):
    """Moments of a row; their derivatives in the variance are moments."""

    @staticmethod
    def forward(ctx, requests, a, n, D):
        ctx.requests = requests
        ctx.save_for_backward(a, n, D)
        return _row_moments(requests, a, n, D)

    @staticmethod
    def backward(ctx, grad):
        a, n, D = ctx.saved_tensors
        mixed, normal = D < 0, torch.isinf(D)
        plans = {}
        for powers in ctx.requests:
            if any(p for _, p in powers):
                plans[powers] = [_stretch(powers)]
            elif bool(normal.all()):
                # No powers of the keys, whose own slopes are undefined at a = 0.
                plans[powers] = [_heat(powers)]
            else:
                plans[powers] = [_heat(powers), _heat(powers, True)]
        kinds = sorted({key for plan in plans.values() for terms in plan for key in terms} | {((2, 0),)})
        values = _RowMoments.apply([key for key in kinds if key], a, n, D)
        value = dict(zip([key for key in kinds if key], values))
        value[()] = torch.ones_like(a)
        finite = torch.where(normal, 2.0, D)
        total = torch.zeros_like(a)
        for k, powers in enumerate(ctx.requests):
            slopes = [sum((float(c) * value[key] for key, c in terms.items()), 0.0 * a) for terms in plans[powers]]
            if len(slopes) == 2:
                slope = torch.where(normal, slopes[0], finite/(finite - 1)*slopes[1])
                if bool(mixed.any()):
                    terms = _stretch(powers)
                    more = _RowMoments.apply(list(terms), a, n, D)
                    other = sum(float(c)*item for c, item in zip(terms.values(), more))
                    slope = torch.where(mixed, other/(2*torch.sqrt(a)), slope)
            elif any(p for _, p in powers):
                slope = slopes[0]*torch.where(normal | mixed, 1.0, torch.sqrt(torch.abs(finite)))/(2*torch.sqrt(a))
            else:
                slope = slopes[0]
            total = total + grad[k]*slope
        return None, total, None, _law_slope(ctx, grad)


def _law_slope(ctx, grad):
    """The gradient in the dimension of the keys, through the rule for their law; None where nobody wants it."""
    a, n, D = ctx.saved_tensors
    # Scores of infinitely wide keys are Gaussian, whatever their number.
    if not ctx.needs_input_grad[3] or bool(torch.isinf(D).all()):
        return None
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(_row_moments(ctx.requests, a, n, D), D, grad, create_graph=True)
    return torch.where(torch.isinf(D), torch.zeros_like(D), slope)


class _TwoRows(torch.autograd.Function):
    """Moments of two rows; their derivatives in the variance and in the gap are moments."""

    @staticmethod
    def forward(ctx, requests, a, g, n, m):
        ctx.requests = requests
        ctx.save_for_backward(a, g, n, m)
        return _two_rows(requests, a, g, n, m)

    @staticmethod
    def backward(ctx, grad):
        a, g, n, m = ctx.saved_tensors
        if ctx.needs_input_grad[1] and bool((m != 0).any()):
            raise ValueError("rows of unequal length have no derivative in the score variance")
        across = [_cross_heat(powers) for powers in ctx.requests]
        own = [_own_heat(powers) if ctx.needs_input_grad[1] else {} for powers in ctx.requests]
        kinds = sorted({key for terms in across + own for key in terms})
        values = _TwoRows.apply([key for key in kinds if key], a, g, n, m)
        value = dict(zip([key for key in kinds if key], values))
        value[()] = torch.ones_like(a)
        slopes = [
            torch.stack([sum((float(c) * value[key] for key, c in terms.items()), 0.0 * a) for terms in group])
            for group in (across, own)
        ]
        return None, (grad*(slopes[0] + slopes[1])).sum(0), -(grad*slopes[0]).sum(0), None, None


def _differentiable_row(requests, a, n, D):
    """Moments of a row in double precision, with derivatives."""
    return _RowMoments.apply(requests, a, n.detach(), D)


def _differentiable_pair(requests, a, g, n, m):
    """Moments of two rows in double precision, with derivatives."""
    return _TwoRows.apply(requests, a, g, n.detach(), m.detach())


def _in_double(function, *values):
    """Evaluate in double precision, and return the floating dtype that was given."""
    given = next(value for value in values if isinstance(value, torch.Tensor))
    double = [
        value if value is None else torch.as_tensor(value, dtype=torch.float64, device="cpu") for value in values
    ]
    try:
        float(sum(value.detach().sum() for value in double if value is not None))
    except RuntimeError as error:
        raise RuntimeError("moments of softmax weights choose their grids by the numbers in a tensor, which torch.func.vmap "
                           "hides: call the function itself with tensors of all points") from error
    return function(*double).to(dtype=given.dtype, device=given.device)


def _softmax_row(requests, a, n, D, w):
    """Moments of a row of softmax weights, one for each request."""
    return _in_double(lambda *x: _averaged_moments(requests, *x, _differentiable_row), a, n, D, w)


def _softmax_pair(requests, a, g, n, m):
    """Moments of two rows of softmax weights, one for each request."""
    return _in_double(lambda *x: _overlap_moments(requests, *x, _differentiable_pair), a, g, n, m)


def _softmax_weight_gap(a, n):
    """The gap of the weights of a row."""
    return _in_double(lambda *x: _weight_gap(*x, _differentiable_row), a, n)


def _softmax_row_gap(a, g, n):
    """The gap of two rows."""
    return _in_double(lambda *x: _row_gap(*x, _differentiable_pair), a, g, n)


def _softmax_overlap_gap(a, g, n):
    """The gap of the overlap of two rows."""
    return _in_double(lambda *x: _overlap_gap(*x, _differentiable_pair), a, g, n)'''


_TABLES = '''\
_SOFTMAX_TABLES = {}


def _softmax_table_weight_gap(a, n):
    """The gap of the weights of a row, interpolated."""
    return _tabulated(_table_weight_gap, a, n)


def _softmax_table_row_gap(a, g, n):
    """The gap of two rows, interpolated."""
    return _tabulated(_table_row_gap, a, g, n)'''

_TABULATED = {
    "np": '''\
def _tabulated(function, *values):
    """Evaluate with the tables of this module."""
    return function(*(np.asarray(value) for value in values), _SOFTMAX_TABLES)''',
    "torch": '''\
def _tabulated(function, *values):
    """Evaluate with the tables of this module, in double precision."""
    return _in_double(lambda *x: function(*x, _SOFTMAX_TABLES), *values)''',
}


def _tables(library: str) -> str:
    return "\n\n\n".join((bare_text(softmax_tables, library, softmax_numeric), _TABULATED[library], _TABLES))


@cache
def helpers(backend: str) -> dict[str, str]:
    """Helper texts by name for a backend."""
    if backend == "numpy":
        return {ENTRIES: "\n\n\n".join((bare_text(softmax_numeric, "np"), _NUMPY)), TABLE_ENTRIES: _tables("np")}
    moments = (bare_text(softmax_operators, "torch"), bare_text(softmax_numeric, "torch"), _TORCH)
    return {ENTRIES: "\n\n\n".join(moments), TABLE_ENTRIES: _tables("torch")}
