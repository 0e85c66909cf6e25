"""Code of averages of softmax moments over rows, pairs of rows and lags: the moments as functions, and what averages them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import sympy as sp
from sympy.core.symbol import Str

from symprop.codegen.lowering import MEANS, Entry, Means, SoftmaxCall
from symprop.codegen.special_layer import list_function
from symprop.codegen.special_softmax import bare_text
from symprop.functions import causal_numeric, causal_tables, rotary_numeric, softmax_numeric
from symprop.functions.rotary_means import RotaryMean
from symprop.functions.softmax_overlap import JacobianOverlap, RowOverlap
from symprop.functions.token_means import OverlapGrowth, PairMean, RowMean, SphereOverlap, SphereSlope

ENTRIES = r"_softmax_(?:causal|rotary)_\w+"
"""A pattern of the functions that formulas call."""

_AVERAGES: dict[Any, str] = {RowMean: "rows", PairMean: "pairs", RotaryMean: "lags"}
_TITLES: dict[Any, str] = {
    RowMean: "rows of a causal mask", PairMean: "pairs of rows of a causal mask", RotaryMean: "lags of rotary positions",
}

_ENTRY = {
    "numpy": '''\
def {name}({arguments}):
    """{title}"""
    return {call}''',
    "torch": '''\
def {name}({arguments}):
    """{title}"""
    return _in_double(lambda {inner}: {call}, {inner})''',
}
_TABULATED = {
    "numpy": '''\
_CAUSAL_ROWS = {}
_CAUSAL_PAIRS = {}


def _causal_rows(requests, *at):
    """Moments of rows under a mask."""
    return _tabulated_rows(requests, *at, _CAUSAL_ROWS)


def _causal_ends(*at):
    """What the overlaps of pairs of rows are interpolated from."""
    return _tabulated_ends(*at, _CAUSAL_PAIRS)


def _softmax_causal_row(requests, a, n, D, w):
    """Moments of a row of softmax weights, one for each request."""
    return _averaged_moments(requests, a, n, D, w, _causal_rows)''',
    "torch": '''\
_CAUSAL_ROWS = {}
_CAUSAL_PAIRS = {}


def _varied(D):
    """Whether a derivative in the dimension of the keys is wanted, which a table has not."""
    return isinstance(D, torch.Tensor) and D.requires_grad


def _causal_rows(D):
    """A function of moments of rows under a mask."""
    return _differentiable_row if _varied(D) else lambda *at: _tabulated_rows(*at, _CAUSAL_ROWS)


def _causal_ends(D):
    """A function of what the overlaps of pairs of rows are interpolated from."""
    return _pair_ends if _varied(D) else lambda *at: _tabulated_ends(*at, _CAUSAL_PAIRS)


def _softmax_causal_row(requests, a, n, D, w):
    """Moments of a row of softmax weights, one for each request."""
    return _in_double(lambda *x: _averaged_moments(requests, *x, _causal_rows(D)), a, n, D, w)''',
}


def means_texts(used: str, backend: str) -> Iterable[str]:
    """The functions of averaged moments that a text calls, in order of name."""
    for name in sorted(MEANS):
        if re.search(rf"(?<![.\w]){name}\(", used):
            yield from _texts(name, MEANS[name], backend)


def _in_calls(moment: sp.Expr) -> sp.Expr:
    """Overlaps of two rows as calls of what interpolates them, which is shared."""
    def call(name: str, place: int | None) -> Any:
        def made(*arguments: sp.Expr) -> sp.Expr:
            given = (*arguments, *(sp.S.Zero, Str("None"))[len(arguments) - 3 :])
            called = SoftmaxCall(Str(f"_softmax_causal_{name}"), *given)
            return called if place is None else Entry(called, sp.Integer(place))

        return made

    for kind, name, place in ((RowOverlap, "pair", 0), (JacobianOverlap, "pair", 1), (SphereOverlap, "pair", 0),
                              (SphereSlope, "pair", 1), (OverlapGrowth, "growth", None)):
        moment = moment.replace(kind, call(name, place))
    return moment


def _texts(name: str, means: Means, backend: str) -> Iterable[str]:
    title = f"Averages over {_TITLES[means.kind]}."
    # The bound symbols get names that no parameter has.
    bound = {symbol: sp.Symbol(f"at_{k}", **symbol.assumptions0) for k, symbol in enumerate(means.bound)}
    moments = [(_in_calls(item) if means.kind is PairMean else item).xreplace(bound) for item in means.moments]
    text = list_function(f"{name}_moment", "The moments at one place.", (*bound.values(), *means.free), moments, backend)
    yield text if means.kind is RotaryMean else text.replace("_softmax_row(", "_softmax_causal_row(")
    numbers = [f"number_{k}" for k in range(means.numbers)]
    first = [numbers[0], f"[{', '.join(numbers[1:])}]"] if means.kind is PairMean else numbers
    listed = ", ".join((*numbers, *map(str, means.free)))
    call = f"_softmax_{'rotary' if means.kind is RotaryMean else 'causal'}_{_AVERAGES[means.kind]}"
    inner = ", ".join((f"{name}_moment", str(len(moments)), *first, *map(str, means.free)))
    yield _ENTRY[backend].format(name=name, title=title, arguments=listed, inner=listed, call=f"{call}({inner})")


@cache
def helpers(backend: str) -> dict[str, str]:
    """The text of the averages, behind one pattern."""
    library = "np" if backend == "numpy" else "torch"
    modules = (causal_numeric, causal_tables, rotary_numeric)
    texts = [*(bare_text(module, library, softmax_numeric, causal_numeric) for module in modules), _TABULATED[backend]]
    ends = "_causal_ends" if backend == "numpy" else "_causal_ends(D)"
    entries = (
        ("_softmax_causal_rows", "*at", "Averages over rows.", "_row_means(*at)", False),
        ("_softmax_causal_pairs", "*at", "Averages over pairs of rows.", "_pair_means(*at)", False),
        ("_softmax_rotary_lags", "*at", "Averages over lags.", "_lag_means(*at)", False),
        ("_softmax_rotary_averages", "n, d_k, rotated, base", "Numbers that positions determine.",
         "_lag_averages(n, d_k, rotated, base)", True),
        ("_softmax_causal_pair", "a, g, t, m, D", "Overlap of two rows, and of their Jacobians.",
         f"_overlap_and_slope(a, g, t, m, D, {ends})", True),
        ("_softmax_causal_growth", "a, g, t, m, D", "How the overlap of two rows grows with the scale of the scores.",
         f"_overlap_growth(a, g, t, m, D, {ends})", True),
    )
    texts += [
        _ENTRY[backend if wrapped else "numpy"].format(name=name, arguments=given, inner=given, title=title, call=call)
        for name, given, title, call, wrapped in entries
    ]
    return {ENTRIES: "\n\n\n".join(texts)}
