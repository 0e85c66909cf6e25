"""Ways to use a command in which only some of its options mean something; one that would be ignored is refused."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NamedTuple

from symprop.core.errors import InputError


class Mode(NamedTuple):
    """A way to use a command. ``name`` ends the sentence "no such option ...", ``holds`` says whether it is meant.

    ``takes`` names all options that it has, or ``refuses`` those that it has not.
    """

    name: str
    holds: Callable[[argparse.Namespace], bool]
    takes: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()


def _architectures(options: argparse.Namespace) -> bool:
    return bool(options.derivation == "architectures")


def _checkpoint(options: argparse.Namespace) -> bool:
    # Readers of models take a share of the time in which any other command starts.
    from symprop.architectures.entries import checkpoint_files

    return options.target is not None and checkpoint_files(options.target) is not None


_CLUSTER = Mode("with --scheduler, whose workers are the cluster's", lambda given: given.scheduler is not None,
                refuses=("workers",))  # fmt: skip
MODES: Mapping[str, tuple[Mode, ...]] = {
    "verify": (
        Mode("for architectures, whose simulation is one task", _architectures, refuses=("workers", "resume", "scheduler")),
        Mode("with --ablation, which has one size", lambda given: _architectures(given) and given.ablation,
             refuses=("full", "minutes")),
        Mode("for a derivation, only for architectures", lambda given: not _architectures(given),
             refuses=("ablation", "minutes")),
        _CLUSTER,
    ),
    "appendix": (
        Mode("without --output", lambda given: given.output is None, refuses=("style", "columns", "no_pdf")),
        _CLUSTER,
    ),
    "diagram": (
        Mode("without --simulate", lambda given: not given.simulate, refuses=("seed", "workers", "resume", "scheduler")),
        _CLUSTER,
    ),
    "init": (Mode("with --torch", lambda given: given.torch, refuses=("json",)),),
    "audit": (
        Mode("with --keys, which needs no model", lambda given: given.keys, takes=("keys",)),
        Mode("for a checkpoint, which is compared as it is", _checkpoint,
             takes=("target", "forward", "seq_len", "words", "seed", "json")),
        Mode("for a model without trained weights", lambda given: not _checkpoint(given), refuses=("forward",)),
        Mode("with --latex, whose formulas hold for one layer of any size",
             lambda given: given.latex and not (given.plot or given.html or given.appendix), takes=("target", "init", "latex")),
        Mode("with --latex", lambda given: given.latex, refuses=("json",)),
        Mode("with --latex and without --html or --appendix, where no repair is shown",
             lambda given: given.latex and not (given.html or given.appendix), refuses=("growth", "cosine")),
        Mode("with --words distinct, where none is drawn", lambda given: given.words == "distinct" and not _checkpoint(given),
             refuses=("seed",)),
        Mode("without --appendix", lambda given: given.appendix is None, refuses=("columns",)),
    ),
    "generate": (Mode("without chosen evaluators, such as noci2022:norm", lambda given: not given.evaluators,
                      refuses=("backend", "jacobian")),),
}  # fmt: skip
"""By the name of the command; one that is not here has every option in every mode."""


def refuse_ignored(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Raises :class:`InputError` for an option that was given to the command and that it would ignore.

    >>> parser = argparse.ArgumentParser(prog="symprop init")
    >>> _ = parser.add_argument("--torch", action="store_true"), parser.add_argument("--json", action="store_true")
    >>> options = parser.parse_args(["--torch", "--json"], argparse.Namespace(command="init"))
    >>> refuse_ignored(parser, options)
    Traceback (most recent call last):
    ...
    symprop.core.errors.InputError: json = given is not allowed: expected no such option with --torch
    """
    for mode in MODES.get(options.command, ()):
        if not mode.holds(options):
            continue
        for action in parser._actions:
            dest = action.dest
            unused = dest not in (*mode.takes, "quiet", "help") if mode.takes else dest in mode.refuses
            if unused and (value := getattr(options, dest)) != action.default:
                name = action.option_strings[-1].lstrip("-") if action.option_strings else str(action.metavar)
                shown = "given" if value is True else " ".join(map(str, value)) if isinstance(value, list) else value
                raise InputError(name, shown, f"no such option {mode.name}")
