"""Generated code of the moments of softmax weights: both backends against exact values, derivatives, standalone text."""

import ast

import numpy as np
import pytest
import sympy as sp

from symprop.codegen import FunctionSpec, evaluate, neglected_by_evaluate, parameters
from symprop.codegen.lowering import SoftmaxRow, program
from symprop.codegen.render import load, render
from symprop.core.symbols import gap, n, q
from symprop.functions.softmax_interpolation import interpolation
from symprop.functions.softmax_overlap import (
    JacobianOverlap,
    OverlapGap,
    Participation,
    RowGap,
    RowOverlap,
    SoftmaxSlope,
    WeightGap,
    WeightMoment,
    jacobian_square,
)

torch = pytest.importorskip("torch")

TENTH = sp.Rational(1, 10)
ROWS = {
    "participation": Participation(q, n),
    "jacobian": jacobian_square(q, n),
    "gap": WeightGap(q, n),
    "slope": SoftmaxSlope(q, n),
    "sphere": WeightMoment((3,), q, n, 30, TENTH, 1),
    "keys": WeightMoment(((1, 1), (1, 1)), q, n, 20),
    "mixture": Participation(q, n, -40),
}
PAIRS = {
    "overlap": RowOverlap(q, gap, n),
    "trace": JacobianOverlap(q, gap, n),
    "row": RowGap(q, gap, n),
    "pair": OverlapGap(q, gap, n),
    "cheap": interpolation(q, n).jacobian(gap),
}


def spec(outputs, *wanted):
    return FunctionSpec("moments", parameters(*wanted), tuple(outputs.items()), "Moments.")


def test_row_moments_of_both_backends():
    variance, tokens = np.array([0.0, 1e-12, 0.25, 4.0, 30.0])[:, None], np.array([1.0, 2, 16, 1e5])
    function, twin = (load(spec(ROWS, q, n), backend) for backend in ("numpy", "torch"))
    twins = twin(torch.tensor(variance), torch.tensor(tokens))
    for got, other, name in zip(function(variance, tokens), twins, ROWS, strict=True):
        assert got == pytest.approx(other.numpy(), rel=1e-11, abs=1e-300), name
    at = {q: sp.Rational(1, 4), n: 16}
    exact = [float(sp.N(ROWS[name].subs(at), 12)) for name in ("participation", "jacobian", "gap", "slope")]
    assert [float(item[2, 2]) for item in function(variance, tokens)[:4]] == pytest.approx(exact, rel=1e-10)
    alone = function(variance, tokens)
    assert np.all(alone.slope[:, 0] == 0) and np.all(alone.gap[:, 0] == 0) and np.all(alone.participation[0] == 1 / tokens)


def test_moments_of_one_row_share_one_evaluation():
    lowered = program(spec({key: ROWS[key] for key in ("participation", "jacobian", "slope")}, q, n))
    assert sum(item.expression.has(SoftmaxRow) for item in lowered.assignments) == 1


def test_two_rows_of_both_backends():
    function, twin = (load(spec(PAIRS, q, gap, n), backend) for backend in ("numpy", "torch"))
    point = (np.array([0.25, 2.0]), np.array([0.1, 3.0]), np.array([16.0, 5.0]))
    found = function(*point)
    for got, other, name in zip(found, twin(*map(torch.tensor, point)), PAIRS, strict=True):
        assert got == pytest.approx(other.numpy(), rel=1e-11), name
    at = {"q": sp.Rational(1, 4), "gap": TENTH, "n": 16}
    for name, value in evaluate(spec(PAIRS, q, gap, n), at).items():
        assert float(value) == pytest.approx(getattr(found, name)[0], rel=1e-10), name


@pytest.mark.parametrize("name", [*ROWS, *PAIRS])
def test_torch_derivatives_are_differences(name):
    outputs, wanted = ({name: ROWS[name]}, (q, n)) if name in ROWS else ({name: PAIRS[name]}, (q, gap, n))
    twin = load(spec(outputs, *wanted), "torch")
    point = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in ([0.8, 0.3][: len(wanted) - 1])]
    tokens = torch.tensor(6.0, dtype=torch.float64)
    slopes = torch.autograd.grad(twin(*point, tokens), point)
    for k, slope in enumerate(slopes):
        step = 1e-4
        moved = [[item.detach() + sign * step * (j == k) for j, item in enumerate(point)] for sign in (1, -1)]
        difference = (twin(*moved[0], tokens) - twin(*moved[1], tokens)) / (2 * step)
        assert float(slope) == pytest.approx(float(difference), rel=2e-6)


def test_second_derivatives_and_the_slope_at_uniform_weights_in_torch():
    twin = load(spec({"participation": Participation(q, n)}, q, n), "torch")
    start = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(twin(start, 8.0), start, create_graph=True)
    (second,) = torch.autograd.grad(slope, start)
    variance = sp.Symbol("a", positive=True)
    first = Participation(variance, 8).diff(variance)
    assert slope.item() == pytest.approx(float(first.subs(variance, 0)), rel=1e-11)
    assert second.item() == pytest.approx(float(first.diff(variance).subs(variance, 0)), rel=1e-11)
    single = torch.full((2,), 0.5, dtype=torch.float32, requires_grad=True)
    assert twin(single, 8.0).dtype == torch.float32


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_text_stands_alone(backend):
    text = render([spec(PAIRS | ROWS, q, gap, n)], backend, "Moments.")
    tree = ast.parse(text)
    imported = {node.names[0].name if isinstance(node, ast.Import) else node.module
                for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))}
    # Threads are imported where several workers are asked for.
    assert imported == {"typing", backend} | ({"concurrent.futures"} if backend == "numpy" else set())
    assert not any(argument.annotation for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
                   for argument in (*node.args.args, node.args.vararg) if argument)
    assert text == render([spec(PAIRS | ROWS, q, gap, n)], backend, "Moments.")


def test_evaluate_gives_the_digits_that_it_has():
    both = spec({"chi": Participation(q, n), "plain": q / n}, q, n)
    values = evaluate(both, {"q": 36, "n": 10**6})
    assert str(values["chi"]) == "0.2409637850" and str(values["plain"]) == "3.60000000000000e-5"
    assert neglected_by_evaluate(both).endswith("1e-10 in moments of softmax weights")
    assert neglected_by_evaluate(spec({"plain": q / n}, q, n)) == "exact"
