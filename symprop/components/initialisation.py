"""Initialisation rules: the variance of a weight from the widths of its layer."""

from __future__ import annotations

from typing import Any

import sympy as sp


def fan_in(d_in: Any, gain: Any = sp.S.One) -> sp.Expr:
    """gain/d_in, which keeps the second moment of a signal at gain 1 (LeCun et al. 1998).

    >>> from symprop.core.symbols import d
    >>> fan_in(d)
    1/d
    """
    return sp.sympify(gain) / sp.sympify(d_in)


def fan_out(d_out: Any, gain: Any = sp.S.One) -> sp.Expr:
    """gain/d_out, which keeps the second moment of a gradient at gain 1.

    >>> from symprop.core.symbols import d_F
    >>> fan_out(d_F)
    1/d_F
    """
    return sp.sympify(gain) / sp.sympify(d_out)


def xavier(d_in: Any, d_out: Any, gain: Any = sp.S.One) -> sp.Expr:
    """2 gain/(d_in + d_out), between the two (Glorot & Bengio 2010, Eq. 12).

    >>> from symprop.core.symbols import d
    >>> xavier(d, 4*d)
    2/(5*d)
    """
    return 2 * sp.sympify(gain) / (sp.sympify(d_in) + sp.sympify(d_out))


def he(d_in: Any, negative_slope: Any = sp.S.Zero) -> sp.Expr:
    """2/((1 + a^2) d_in): keeps the second moment through a (leaky) ReLU of slope a (He et al. 2015, Eqs. 10, 15).

    >>> from symprop.core.symbols import d
    >>> he(d), he(d, -1)
    (2/d, 1/d)
    """
    return 2 / ((1 + sp.sympify(negative_slope) ** 2) * sp.sympify(d_in))
