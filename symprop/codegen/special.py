"""Code of the special functions: helper texts whose coefficients are computed here, not typed."""

from __future__ import annotations

from functools import cache

import mpmath

from symprop.functions.arc_cosine import arc_cosine

DEGREE = 17
"""Degree of the polynomials of the arc-cosine family: their error is below the rounding of a double."""


@cache
def arc_cosine_coefficients(k: int) -> tuple[float, ...]:
    """P with A_k(y) = y^(k + 1/2) P(y) on [0, 1], highest power first."""
    with mpmath.workdps(40):

        def smooth(y: mpmath.mpf) -> mpmath.mpf:
            y = max(y, mpmath.mpf(10) ** -30)
            return arc_cosine(k, y, mpmath.mpf(1)) / y ** (k + mpmath.mpf(1) / 2)

        return tuple(float(item) for item in mpmath.chebyfit(smooth, [0, 1], DEGREE + 1))


def _horner(k: int) -> str:
    first, *rest = arc_cosine_coefficients(k)
    lines = [f"    p = {first!r}*y + {rest[0]!r}"] + [f"    p = p*y + {item!r}" for item in rest[1:]]
    return "\n".join(lines)


_TITLES = {
    0: "The angle of two tokens of variance v and covariance v - gap",
    1: "sin - angle*cos of that angle, times v",
    2: "The integral of the function before over the gap",
}


def _numpy_text(k: int) -> str:
    head = f'def _arc_cosine_{k}(gap, v):\n    """{_TITLES[k]}; zero at v = 0."""\n    t = gap/np.where(v > 0, v, 1.0)\n'
    if k == 0:
        return head + "    return 2*np.arcsin(np.sqrt(0.5*np.minimum(t, 2.0)))"
    tail = {
        1: "    a = y*np.sqrt(y)*p\n    return v*np.where(t > 1, np.pi*(t - 1) + a, a)",
        2: "    a = y*y*np.sqrt(y)*p\n    return v*v*np.where(t > 1, np.pi*(0.25 + 0.5*(t - 1)**2) - a, a)",
    }[k]
    return f"{head}    y = np.maximum(np.minimum(t, 2 - t), 0.0)\n{_horner(k)}\n{tail}"


def _torch_text(k: int) -> str:
    head = (
        f'def _arc_cosine_{k}(gap, v):\n    """{_TITLES[k]}; zero at v = 0."""\n'
        "    t = gap/torch.where(v > 0, v, torch.ones_like(v))\n"
    )
    if k == 0:
        return head + "    return 2*torch.arcsin(torch.sqrt(0.5*torch.clamp(t, max=2.0)))"
    tail = {
        1: "    a = y**1.5*p\n    return v*torch.where(t > 1, torch.pi*(t - 1) + a, a)",
        2: "    a = y**2.5*p\n    return v*v*torch.where(t > 1, torch.pi*(0.25 + 0.5*(t - 1)**2) - a, a)",
    }[k]
    return f"{head}    y = torch.clamp(torch.minimum(t, 2 - t), min=0.0)\n{_horner(k)}\n{tail}"


_RISING = '''\
def _stirling_tail(x):
    """log(gamma(x)) beyond Stirling's leading terms, for x >= 12."""
    y = 1/(x*x)
    return (1/12 - y*(1/360 - y*(1/1260 - y*(1/1680 - y*(1/1188 - y*691/360360)))))/x


def _log_gamma_step(x, step):
    """log(gamma(x + step)/gamma(x)) for x, x + step > 0; no digit is lost to the size of x."""
    shifted = {zero}
    for k in range(12):
        shifted = shifted - {log1p}(step/(x + k))
    x = x + 12.0
    return (shifted + (x - 0.5)*{log1p}(step/x) + step*{log}(x + step) - step
            + _stirling_tail(x + step) - _stirling_tail(x))


def _rising_ratio(step, v, N):
    """The product of (v + step + l)/(v + l) over l < N."""
    return {exp}(_log_gamma_step(N + v, step) - _log_gamma_step(v, step))'''


@cache
def helpers(backend: str) -> dict[str, str]:
    """Helper texts by name for a backend."""
    write = {"numpy": _numpy_text, "torch": _torch_text}[backend]
    names = {name: f"{'np' if backend == 'numpy' else 'torch'}.{name}" for name in ("exp", "log", "log1p")}
    return {f"_arc_cosine_{k}": write(k) for k in range(3)} | {"_rising_ratio": _RISING.format(zero="0.0", **names)}
