"""Names for repeated parts: they say the same, and only where a formula is long."""

import os
import subprocess
import sys
from pathlib import Path

import sympy as sp

from symprop.report.abbreviation import LINES, MOST, abbreviated
from symprop.report.printer import latex
from symprop.report.width import width

X, Y, N = sp.symbols("x y n", positive=True)
INNER = X**2 + Y * (1 - X) + 1
LONG = [
    sp.sqrt(INNER) * sp.log(1 + sp.sqrt(INNER)) / (1 + Y * sp.sqrt(INNER)) + sp.atan(Y / (1 + sp.sqrt(INNER))) * INNER**2,
    (1 + sp.sqrt(INNER)) ** N / (INNER + Y),
]


def measured(expression):
    return width(latex(expression))


def test_names_put_back_give_the_formulas():
    line = 8.0
    assert measured(LONG[0]) > LINES * line
    found = abbreviated(LONG, measured, line)
    assert 0 < len(found.names) <= MOST
    formulas = found.formulas
    for name, part in reversed(found.names):
        formulas = tuple(item.xreplace({name: part}) for item in formulas)
    assert formulas == tuple(LONG)
    known = set()
    for name, part in found.names:
        assert {item for item in part.free_symbols if item.name.startswith("u_")} <= known
        known.add(name)
    assert sum(map(measured, (*found.formulas, *(part for _, part in found.names)))) < sum(map(measured, LONG))


def test_short_formulas_and_products_of_matrices_stay():
    assert abbreviated(LONG, measured, 40.0).names == ()
    matrix = sp.MatrixSymbol("W", 3, 3)
    trace = sp.Trace(matrix * matrix.T * matrix * matrix.T)
    assert abbreviated([trace * INNER + trace**2 * INNER], measured, 1.0).names == ()


def test_the_same_names_under_another_hash_seed():
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import test_abbreviation as t\n"
            "print(t.abbreviated(t.LONG, t.measured, 8.0))")
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], env=os.environ | {"PYTHONHASHSEED": "7"},
                          capture_output=True, text=True, check=True)
    assert done.stdout == f"{abbreviated(LONG, measured, 8.0)}\n"
