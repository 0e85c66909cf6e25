"""Errors that a user can act on: one line, naming the argument or node, its value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 8
"""How many known names an error lists."""


class SympropError(Exception):
    """Base of every error that symprop raises on purpose; its text is one line."""


class InputError(SympropError):
    """A value outside its domain.

    >>> raise InputError("rho", 1.5, "a number in [-1/(n-1), 1]")
    Traceback (most recent call last):
    ...
    symprop.core.errors.InputError: rho = 1.5 is not allowed: expected a number in [-1/(n-1), 1]
    """

    def __init__(self, argument: str, value: object, allowed: str) -> None:
        self.argument, self.value, self.allowed = argument, value, allowed
        super().__init__(f"{argument} = {one_line(value)} is not allowed: expected {allowed}")


class UnknownNameError(SympropError):
    """A name that is not in a list, with the nearest one that is.

    >>> raise UnknownNameError("derivation", "noci202", ["noci2022"])
    Traceback (most recent call last):
    ...
    symprop.core.errors.UnknownNameError: unknown derivation 'noci202': did you mean 'noci2022'? (known: noci2022)
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        near = difflib.get_close_matches(name, self.known, n=1, cutoff=0.4)
        hint = f": did you mean '{near[0]}'?" if near else ""
        shown = ", ".join(self.known[:SHOWN]) or "none"
        more = f" and {len(self.known) - SHOWN} more" if len(self.known) > SHOWN else ""
        super().__init__(f"unknown {kind} '{one_line(name)}'{hint} (known: {shown}{more})")


class RefusedError(SympropError):
    """A derivation that cannot be done: the node, the reason and the remedy.

    >>> raise RefusedError("Sum(Z)", "its branch is not fresh", "end the branch in a Linear layer")
    Traceback (most recent call last):
    ...
    symprop.core.errors.RefusedError: Sum(Z): its branch is not fresh; remedy: end the branch in a Linear layer
    """

    def __init__(self, node: str, reason: str, remedy: str) -> None:
        self.node, self.reason, self.remedy = node, reason, remedy
        super().__init__(f"{node}: {reason}; remedy: {remedy}")


class MissingExtraError(SympropError):
    """An optional package is needed and absent.

    >>> raise MissingExtraError("figures", "plot")
    Traceback (most recent call last):
    ...
    symprop.core.errors.MissingExtraError: figures need an optional package: pip install 'symprop[plot]'
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} need an optional package: pip install 'symprop[{extra}]'")


def one_line(value: object, limit: int = 60) -> str:
    """A value as it is shown within an error: on one line, and cut at ``limit`` characters.

    >>> one_line("a\\n  b")
    'a b'
    """
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
