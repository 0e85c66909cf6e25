r"""Sums over tables as piecewise polynomials: the helper that fits and evaluates them.

A :class:`SmoothSum` over its factor is analytic in the logarithms u = log(1 + x/s) of its lengths x (gap and 2v - gap, or
2v), with singularities at a distance of at least pi from real u. On cells of side ``STEP`` a polynomial of total degree
``DEGREE`` is therefore right to about (STEP/(4 pi))^(DEGREE + 1) relative to the change over the distance pi: below
3e-9 of every moment, and mostly below 1e-12. A cell is fitted when a point first falls into it.
"""

from __future__ import annotations

from functools import cache

STEP, DEGREE = 0.125, 6
"""Side of a cell, and total degree of its polynomial."""
LIMIT = 160
"""Cells in each direction; beyond, where x > s e^(STEP LIMIT), the sum is evaluated itself."""


def operations(arguments: int) -> int:
    """Operations a point, for a function of the variance or of variance and gap."""
    coefficients = DEGREE + 1 if arguments == 1 else (DEGREE + 1) * (DEGREE + 2) // 2
    return 2 * coefficients + 8 * arguments


_TEXT = '''\
_CELLS = {{}}


def _cells(total, factor, scale, directions, index{like_argument}):
    """Coefficients of total/factor by cell, of shape (coefficients, cells); those of the cells in `index` have been made."""
    powers = [(0, k) for k in range({degree}, -1, -1)] if directions == 1 else [
        (j, k) for j in range({degree}, -1, -1) for k in range({degree} - j, -1, -1)
    ]
    key, count = (total{like_key}), {limit}**directions
    if key not in _CELLS:
        _CELLS[key] = np.empty((len(powers), count){kept}), np.zeros(count, dtype={flag}{device})
    table, made = _CELLS[key]
    if np.all(made[index]):
        return table
{missing}
    # One node more in the second direction: no node then has equal lengths, where a covariance vanishes.
    nodes = [np.cos(np.pi*(np.arange({degree} + 1 + k{options}) + 0.5)/({degree} + 1 + k))/2 for k in range(directions)]
    nodes = [item.reshape(-1, 1) for item in {meshgrid}]
    design = np.concatenate([nodes[0]**j*nodes[-1]**k for j, k in powers], {axis}=1)
    corners = (cells,) if directions == 1 else (cells//{limit}, cells % {limit})
    lengths = [scale*np.expm1({step}*(corner + 0.5 + node)) for corner, node in zip(corners, nodes)]
    at = (lengths[0]/2,) if directions == 1 else ((lengths[0] + lengths[1])/2, lengths[0])
{store}
    return _CELLS[key][0]


def _on_cells(total, factor, scale, *arguments):
    """total(*arguments), a function of v or of v and gap, by polynomials in the logarithms of the lengths."""
    lengths = (2*arguments[0],) if len(arguments) == 1 else (arguments[1], 2*arguments[0] - arguments[1])
    places = [np.log(1 + length*(1/scale))*(1/{step}) for length in lengths]
{beyond}
        return _beyond_cells(total, factor, scale, places, arguments)
    corners = [np.trunc(place) for place in places]
    x, y = places[0] - corners[0] - 0.5, places[-1] - corners[-1] - 0.5
    index = {index}
    table = iter(_cells(total, factor, scale, len(places), index{like_value}))
    value = 0.0
    for power in [{degree}] if len(places) == 1 else range({degree} + 1):
        inner = {take}
        for _ in range(power):
{inner}
        value = value*x + inner
    return factor(*arguments)*value


def _beyond_cells(total, factor, scale, places, arguments):
    """The same where some lengths have no cells: there by the sum itself."""
    arguments = np.{broadcast}(*arguments)
    far = {far}
    if np.all(far):
        return total(*arguments)
{scatter}'''

_FIELDS = {
    "numpy": {
        "like_argument": "", "like_key": "", "like_value": "", "options": "", "kept": "", "flag": "bool", "device": "",
        "axis": "axis",
        "missing": '''\
    cells = np.unique(index)
    cells = cells[~made[cells]]''',
        "meshgrid": 'np.meshgrid(*nodes, indexing="ij")',
        "store": '''\
    table[:, cells] = np.linalg.pinv(design) @ (total(*at)/factor(*at))
    made[cells] = True''',
        "index": "corners[0] if len(places) == 1 else corners[0]*{limit} + corners[1]\n"
                 "    index = np.fmin(np.fmax(index, 0), {limit}**len(places) - 1).astype(np.intp)",
        "beyond": "    if max([np.fmax.reduce(place, axis=None) for place in places]) >= {limit}:",
        "take": 'np.take(next(table), index, mode="clip")',
        "inner": '            inner *= y\n            inner += np.take(next(table), index, mode="clip")',
        "broadcast": "broadcast_arrays",
        "far": "np.fmax.reduce(np.broadcast_arrays(*places), axis=0) >= {limit}",
        "scatter": '''\
    result = np.empty(far.shape)
    result[far] = total(*(item[far] for item in arguments))
    result[~far] = _on_cells(total, factor, scale, *(item[~far] for item in arguments))
    return result[()]''',
    },
    "torch": {
        "like_argument": ", like", "like_key": ", like.dtype, like.device", "like_value": ", y",
        "options": ", dtype=torch.float64, device=like.device", "kept": ", dtype=like.dtype, device=like.device",
        "flag": "torch.bool", "device": ", device=like.device", "axis": "dim",
        "missing": '''\
    cells = torch.tensor([int(cell) for cell in torch.unique(index)], device=like.device)
    cells = cells[~made[cells]]''',
        "meshgrid": 'torch.meshgrid(*nodes, indexing="ij")',
        "store": '''\
    # Not in place, which torch.func.grad would refuse.
    with torch.no_grad():
        fitted = torch.linalg.pinv(design) @ (total(*at)/factor(*at))
        _CELLS[key] = table.index_copy(1, cells, fitted.to(like.dtype)), made.index_fill(0, cells, True)''',
        "index": "corners[0] if len(places) == 1 else corners[0]*{limit} + corners[1]\n"
                 "    index = torch.clamp(index.detach().long(), 0, {limit}**len(places) - 1)",
        "beyond": '''\
    try:
        beyond = max([float(torch.nan_to_num(place.detach()).max()) for place in places]) >= {limit}
    except RuntimeError:
        # Inside torch.func.vmap no number can be read.
        return total(*arguments)
    if beyond:''',
        "take": "next(table)[index]",
        "inner": "            inner = inner*y + next(table)[index]",
        "broadcast": "broadcast_tensors",
        "far": "torch.stack(torch.broadcast_tensors(*places)).amax(dim=0) >= {limit}",
        "scatter": '''\
    near = _on_cells(total, factor, scale, *(item[~far] for item in arguments))
    result = total(*(torch.where(far, item, torch.ones_like(item)) for item in arguments))
    return result.masked_scatter(~far, near)''',
    },
}


@cache
def helpers(backend: str) -> dict[str, str]:
    """Helper texts by name for a backend."""
    fields = dict(_FIELDS[backend])
    fields |= {name: fields[name].format(limit=LIMIT) for name in ("far", "index", "beyond")}
    text = _TEXT.format(step=repr(STEP), degree=DEGREE, limit=LIMIT, **fields)
    return {"_on_cells": text if backend == "numpy" else text.replace("np.", "torch.")}
