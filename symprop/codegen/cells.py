r"""Sums over tables as piecewise polynomials: the helper that fits them on first use and evaluates them.

A :class:`SmoothSum` over its factor is analytic in the logarithms u = log(1 + x/s) of its lengths x (gap and 2v - gap, or
2v), with singularities at a distance of at least pi from real u. On cells of side ``STEP`` a polynomial of total degree
``DEGREE`` is therefore right to about (STEP/(4 pi))^(DEGREE + 1) relative to the change over the distance pi: below
3e-9 of every moment, and mostly below 1e-10.
"""

from __future__ import annotations

from functools import cache

STEP, DEGREE = 0.25, 6
"""Side of a cell, and total degree of its polynomial."""
LIMIT = 80
"""Cells in each direction; beyond, where x > s e^(STEP LIMIT), the sum is evaluated itself."""


def operations(arguments: int) -> int:
    """Operations a point, for a function of the variance or of variance and gap."""
    coefficients = DEGREE + 1 if arguments == 1 else (DEGREE + 1) * (DEGREE + 2) // 2
    return 2 * coefficients + 8 * arguments


_TEXT = '''\
_CELLS = {{}}


def _cells(total, factor, scale, counts{like_argument}):
    """Coefficients of total/factor, given the counts of cells in each direction, of shape (coefficients, cells)."""
    key, directions = (total, counts{like_key}), len(counts)
    if key in _CELLS:
        return _CELLS[key]
    # One node more in the second direction: no node then has equal lengths, where a covariance vanishes.
    nodes = [np.cos(np.pi*(np.arange({degree} + 1 + k{options}) + 0.5)/({degree} + 1 + k))/2 for k in range(directions)]
    nodes = {meshgrid}
    nodes = [item.reshape(-1) for item in nodes]
    cells = {cell_mesh}
    powers = [(0, k) for k in range({degree}, -1, -1)] if directions == 1 else [
        (j, k) for j in range({degree}, -1, -1) for k in range({degree} - j, -1, -1)
    ]
    design = np.stack([nodes[0]**j*nodes[-1]**k for j, k in powers], {axis}=1)
    lengths = [
        scale*np.expm1({step}*(cell.reshape(1, -1) + 0.5 + node.reshape(-1, 1)))
        for cell, node in zip(cells, nodes)
    ]
    at = (lengths[0]/2,) if directions == 1 else ((lengths[0] + lengths[1])/2, lengths[0])
    {store}
    return _CELLS[key]


def _on_cells(total, factor, scale, *arguments):
    """total(*arguments), a function of v or of v and gap, by polynomials in the logarithms of the lengths."""
    lengths = (2*arguments[0],) if len(arguments) == 1 else (arguments[1], 2*arguments[0] - arguments[1])
    places = [np.log(1 + length*(1/scale))*(1/{step}) for length in lengths]
{tops}    if max(tops) >= {limit}:
        return _beyond_cells(total, factor, scale, places, arguments)
    counts = tuple([int(top)//16*16 + 16 for top in tops])
    return factor(*arguments)*_interpolated(places, _cells(total, factor, scale, counts{like_value}), counts)


def _interpolated(places, table, counts):
    """The polynomials of a table at places, in units of a cell."""
    corners = [np.floor(place) for place in places]
    x, y = places[0] - corners[0] - 0.5, places[-1] - corners[-1] - 0.5
    index = {index}
{inside}    table = iter(table)
    value = 0.0
    for power in [{degree}] if len(counts) == 1 else range({degree} + 1):
        inner = {take}
        for _ in range(power):
{inner}
        value = value*x + inner
    return value
{everywhere}

def _beyond_cells(total, factor, scale, places, arguments):
    """The same where some lengths have no cells: there by the sum itself."""
    arguments = np.{broadcast}(*arguments)
    far = {far}
    if np.all(far):
        return total(*arguments)
{scatter}'''

_EVERYWHERE = '''

def _everywhere(total, factor, scale, places, arguments):
    """The same at every point by the cells of all lengths that have some, and by the sum itself, which is for the rest."""
    counts = ({limit},)*len(places)
    arguments = torch.broadcast_tensors(*arguments)
    far = {far}
    inside = [torch.where(far, torch.zeros_like(far, dtype=place.dtype), place) for place in places]
    near = factor(*arguments)*_interpolated(inside, _cells(total, factor, scale, counts, places[0]), counts)
    return torch.where(far, total(*(torch.where(far, item, torch.ones_like(item)) for item in arguments)), near)
'''

_FIELDS = {
    "numpy": {
        "like_argument": "", "like_key": "", "like_value": "", "options": "", "axis": "axis",
        "meshgrid": 'np.meshgrid(*nodes, indexing="ij")',
        "cell_mesh": 'np.meshgrid(*[np.arange(float(count)) for count in counts], indexing="ij")',
        "store": "_CELLS[key] = np.linalg.pinv(design) @ (total(*at)/factor(*at))",
        "index": "(corners[0] if len(counts) == 1 else corners[0]*counts[1] + corners[1]).astype(np.intp)",
        "tops": "    tops = [np.fmax.reduce(place, axis=None) for place in places]\n",
        "inside": "", "everywhere": "",
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
        "like_argument": ", like", "like_key": ", like.dtype, like.device", "like_value": ", places[0]",
        "options": ", dtype=torch.float64, device=like.device", "axis": "dim",
        "meshgrid": 'torch.meshgrid(*nodes, indexing="ij")',
        "cell_mesh": 'torch.meshgrid(*[torch.arange(count, dtype=torch.float64, device=like.device) '
                     'for count in counts], indexing="ij")',
        "store": "with torch.no_grad():\n"
                 "        _CELLS[key] = (torch.linalg.pinv(design) @ (total(*at)/factor(*at))).to(like.dtype)",
        "index": "(corners[0] if len(counts) == 1 else corners[0]*counts[1] + corners[1]).detach().long()",
        "tops": "    try:\n"
                "        tops = [float(torch.nan_to_num(place.detach()).max()) for place in places]\n"
                "    except RuntimeError:\n"
                "        # Inside torch.func.vmap no number can be read.\n"
                "        return _everywhere(total, factor, scale, places, arguments)\n",
        "everywhere": _EVERYWHERE,
        "inside": "    shape, index = index.shape, torch.clamp(index, 0, table.shape[1] - 1).reshape(-1)\n",
        "take": "next(table).index_select(0, index).reshape(shape)",
        "inner": "            inner = inner*y + next(table).index_select(0, index).reshape(shape)",
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
    for name in ("far", "everywhere"):
        fields[name] = fields[name].format(limit=LIMIT, far=fields["far"])
    text = _TEXT.format(step=repr(STEP), degree=DEGREE, limit=LIMIT, **fields)
    return {"_on_cells": text if backend == "numpy" else text.replace("np.", "torch.")}
