"""Code of the nodes and weights of the rule that integrates any activation."""

from __future__ import annotations

from symprop.functions.quadrature_activation import HALF, REACH

_CENTRE = '''\
def _quadrature_centre(mean, variance):
    """Where the activation sits, in standard deviations from the mean, and the ends of the rule about it."""
    mean, variance = mean + 0.0*variance, variance + 0.0*mean
    centre = -mean*{sqrt}(variance)/(variance + 1e-290)
    centre = centre*(1 + (centre**2/144)**8)**-0.0625
    scale = 1/{sqrt}(1 + variance)
    low, high = {asinh}((-{reach} - centre)/scale), {asinh}(({reach} - centre)/scale)
    return centre, scale, (high + low)/2, (high - low)/2'''

_NODE = '''\
def _quadrature_node(t, mean, variance):
    """The standard normal variable at t in [-1, 1]; nodes crowd where the variable is of order one."""
    centre, scale, middle, width = _quadrature_centre(mean, variance)
    return centre + scale*{sinh}(middle + width*t)'''

_WEIGHT = '''\
def _quadrature_weight(t, mean, variance):
    """The weight of that node."""
    centre, scale, middle, width = _quadrature_centre(mean, variance)
    z = centre + scale*{sinh}(middle + width*t)
    return width*scale*{cosh}(middle + width*t)*{exp}(-0.5*z*z)/({half}*(2*{pi})**0.5)'''


def helpers(backend: str) -> dict[str, str]:
    """Helper texts by name for a backend."""
    prefix = {"numpy": "np", "torch": "torch"}[backend]
    names = {name: f"{prefix}.{name}" for name in ("sqrt", "sinh", "cosh", "exp", "pi")}
    names |= {"asinh": f"{prefix}.arcsinh", "half": str(HALF), "reach": str(REACH)}
    rule = _CENTRE.format(**names)
    return {
        "_quadrature_node": f"{rule}\n\n\n{_NODE.format(**names)}",
        "_quadrature_weight": _WEIGHT.format(**names),
    }
