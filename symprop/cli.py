"""The command line."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from symprop import __version__, bundled, completion
from symprop.core.errors import InputError, SympropError, UnknownNameError, one_line
from symprop.modes import refuse_ignored

if TYPE_CHECKING:
    from symprop.architectures.audit import Audit
    from symprop.architectures.description import Architecture
    from symprop.claims import PaperDerivation, Progress, Verdict
    from symprop.codegen.spec import FunctionSpec
    from symprop.report.appendix import Part
    from symprop.report.document import Document
    from symprop.simulate.measurement import Measurement
    from symprop.simulate.sweep import Sweep

Z_LIMIT = 4.0
"""A row of the verification table that is further off than this many standard errors counts as a disagreement."""

MANIFEST = "manifest.json"
COLUMNS = 80
SMALL_MATRICES = 256
"""Tokens up to which threads of a matrix product wait for each other longer than they work."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failed check, 2 for bad input."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        # argparse takes KEY=VALUE arguments only where they stand together.
        if not hasattr(options, "values") or any(item.startswith("-") or "=" not in item for item in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.values += rest
    try:
        refuse_ignored(options.parser, options)
        return int(options.run(options))
    except SympropError as error:
        print(f"symprop: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("symprop: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message, 200)} ({self.prog} --help says what is allowed)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="symprop", description="Signal propagation in transformers, derived.")
    parser.add_argument("--version", action="version", version=f"symprop {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run, parser=sub)
        sub.add_argument("-q", "--quiet", action="store_true", help="no progress bar on standard error")
        return sub

    def derivation_argument(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("derivation", metavar="NAME", help="a bundled derivation, e.g. noci2022")

    def sweep_arguments(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--workers", type=_count, default=1, metavar="N", help="processes for the simulation (default 1)")
        sub.add_argument("--resume", type=Path, metavar="FOLDER", help="keep finished simulations there and use those kept")
        sub.add_argument("--scheduler", metavar="ADDRESS", help="simulate on a dask cluster, e.g. tcp://host:8786")

    sub = command("list", _list, "components, derivations, claims and evaluators")
    sub.add_argument("--json", action="store_true", help="machine-readable output")

    sub = command("derive", _derive, "print a derivation: block, steps with reasons, results, assumptions")
    derivation_argument(sub)
    sub.add_argument("--claim", metavar="ID", help="one claim in full")
    sub.add_argument("--notation", metavar="VIEW", help="symprop, noci, kedia, cowsik or giorlandino")
    sub.add_argument("--format", metavar="FORMAT", default="unicode", help="unicode (default), latex, sympy or json")

    sub = command("eval", _eval, "one number of the theory to 15 digits")
    sub.add_argument("target", metavar="TARGET", help="an evaluator, e.g. noci2022:correlation")
    sub.add_argument("values", nargs="*", metavar="KEY=VALUE", help="parameters; expressions such as 1/sqrt(24) too")
    sub.add_argument("--assumptions", action="store_true", help="print what the number stands on")
    sub.add_argument("--json", action="store_true", help="machine-readable output")

    sub = command("verify", _verify, "verdicts of the claims, and theory against simulation")
    sub.add_argument("derivation", metavar="NAME", help="a bundled derivation, or architectures: models of transformers")
    sub.add_argument("--full", action="store_true", help="more draws: minutes instead of seconds")
    sub.add_argument(
        "--ablation", action="store_true", help="architectures: what each ingredient of the theory is worth"
    )
    sub.add_argument("--minutes", type=_count, metavar="N", help="architectures: begin no further model after so many minutes")
    sub.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the simulation (default 0)")
    sub.add_argument("--json", action="store_true", help="machine-readable output")
    sweep_arguments(sub)

    sub = command("appendix", _appendix, "derive, verify and write a LaTeX appendix, figures and evaluators, or a web page")
    sub.add_argument("derivations", nargs="+", metavar="NAME", help="bundled derivations; several share notation and numbers")
    sub.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="a new or empty folder")
    sub.add_argument("--style", metavar="STYLE", default="article", help="article (default) or input-only, for your document")
    sub.add_argument("--columns", type=_integer, choices=(1, 2), default=1, help="columns of the LaTeX text (default 1)")
    sub.add_argument("--html", type=Path, metavar="FILE", help="the same as one web page that needs no network")
    sub.add_argument("--notation", metavar="VIEW", help="notation of the formulas")
    sub.add_argument("--full", action="store_true", help="more draws: minutes instead of seconds")
    sub.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the simulation (default 0)")
    sub.add_argument("--no-pdf", action="store_true", help="leave the PDF to you")
    sweep_arguments(sub)

    sub = command("diagram", _diagram, "a phase diagram of a derivation, as a picture with its data beside it")
    derivation_argument(sub)
    sub.add_argument("values", nargs="*", metavar="KEY=VALUE", help="other parameters, e.g. sigma_v2=0.2")
    sub.add_argument("-x", metavar="AXIS", help="name:low:high:points, e.g. beta:0.2:5:200")
    sub.add_argument("-y", metavar="AXIS", help="name:low:high:points, e.g. alpha_sa:0.1:3:200")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a png, svg or pdf file")
    sub.add_argument("--layers", type=_count, metavar="L", help="number of blocks")
    sub.add_argument("--tokens", type=_count, metavar="N", help="number of tokens")
    sub.add_argument("--closure", "--activation", metavar="NAME",
                     help="what stands in for the softmax moments (rem, uniform, annealed, exact), or the activation")
    sub.add_argument("--simulate", type=_count, default=0, metavar="K", help="simulate at K points as well")
    sub.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the simulation (default 0)")
    sub.add_argument("--json", action="store_true", help="a machine-readable summary")
    sweep_arguments(sub)

    sub = command("init", _init, "the variances of an initialisation, as a table and as a torch snippet")
    sub.add_argument("recipe", metavar="RECIPE", help="deepscalelm")
    sub.add_argument(
        "values", nargs="*", metavar="KEY=VALUE",
        help="layers, width, vocab; optional dropout, tokens, heads, expansion, activation, segments, gradient_correlation",
    )  # fmt: skip
    sub.add_argument("--torch", action="store_true", help="the torch snippet alone")
    sub.add_argument("--json", action="store_true", help="machine-readable output")

    sub = command("audit", _audit, "what an architecture's initialisation does to tokens and gradients, layer by layer")
    sub.add_argument("target", metavar="MODEL", nargs="?",
                     help="a preset such as gpt2, a config.json or its folder, or a .toml file; a .safetensors file or a "
                          "folder with one compares trained weights with their initialisation")
    sub.add_argument("--forward", action="store_true", help="for a checkpoint: also run the model (transformers)")
    sub.add_argument("--keys", action="store_true", help="what a .toml file may contain")
    sub.add_argument("--depth", type=_integer, metavar="N", help="number of layers")
    sub.add_argument("--width", type=_integer, metavar="N", help="width of the residual stream, a multiple of a head's width")
    sub.add_argument("--seq-len", type=_integer, default=128, metavar="N", help="tokens of the sequence (default 128)")
    sub.add_argument("--words", default="distinct", metavar="KIND",
                     help="distinct (default), or drawn from the vocabulary: uniform, or zipf so that words repeat")
    sub.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of drawn words (default 0)")
    sub.add_argument("--padding", type=_integer, default=0, metavar="N", help="tokens at the end that nobody sees")
    sub.add_argument("--state", default="auto", metavar="NAME",
                     help="exchangeable (fast), gram (any tokens), or auto: the first where it suffices")
    sub.add_argument("--init", action="append", default=[], metavar="KEY=EXPR",
                     help="a variance or scale, e.g. output=0.02**2/(2*L) or branch_scale=1/sqrt(L); may be repeated")
    sub.add_argument("--growth", type=_float, default=10.0, metavar="X", help="allowed change of the gradient (default 10)")
    sub.add_argument("--cosine", type=_float, default=0.9, metavar="X", help="token cosine that a repair aims at (default 0.9)")
    sub.add_argument("--json", action="store_true", help="machine-readable output")
    sub.add_argument("--latex", action="store_true", help="the formulas of one layer of this model, in LaTeX")
    sub.add_argument("--plot", type=Path, metavar="FILE", help="also write a figure (.pdf, .png or .svg)")
    sub.add_argument("--html", type=Path, metavar="FILE", help="also write a report as one web page that needs no network")
    sub.add_argument("--appendix", type=Path, metavar="FOLDER", help="also write it as LaTeX, into a new or empty folder")
    sub.add_argument("--columns", type=_integer, choices=(1, 2), default=1, help="columns of the LaTeX text (default 1)")

    sub = command("generate", _generate, "write the files that the bundled derivations emit, or chosen evaluators")
    sub.add_argument("evaluators", nargs="*", metavar="NAME[:EVALUATOR]", help="only these, into the folder of --output")
    sub.add_argument("--backend", action="append", choices=bundled.BACKENDS, help="for chosen evaluators; may be repeated")
    sub.add_argument("--jacobian", action="store_true", help="chosen evaluators with their derivatives in all real parameters")
    sub.add_argument(
        "--check", action="store_true", help="derive anew, write nothing; exit 1 if any byte differs or a file is stale"
    )
    sub.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the package's generated folder")

    sub = command("completion", _completion, "a script that completes commands, options and names in a shell")
    sub.add_argument("shell", choices=completion.SHELLS, help="the shell that reads the script")
    return parser


def _completion(options: argparse.Namespace) -> int:
    from symprop.architectures.presets import PRESETS

    evaluators = [f"{name}:{item['name']}" for name, entry in bundled.index()["derivations"].items()
                  for item in entry["evaluators"]]  # fmt: skip
    names = {"derivation": bundled.names(), "target": evaluators, "evaluators": evaluators, "recipe": ("deepscalelm",)}
    print(completion.script(_parser(), options.shell, names, {"audit": tuple(PRESETS)}), end="")
    return 0


def _integer(text: str, within: tuple[int, int] | None = None) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,4000}", text) or (within and not within[0] <= int(text) <= within[1]):
        allowed = f"an integer in [{within[0]}, {within[1]}]" if within else "an integer"
        raise argparse.ArgumentTypeError(f"{text[:30]!r} is not allowed: expected {allowed}")
    return int(text)


_seed = partial(_integer, within=(0, 10**9 - 1))
_count = partial(_integer, within=(1, 10**6))


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:30]!r} is not allowed: expected a number") from None


def _list(options: argparse.Namespace) -> int:
    content = bundled.index()
    if options.json:
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return 0
    print("components")
    for item in content["components"]:
        _entry(f"  {item['name']:<23} ", _without_roles(item["summary"]))
    for name, entry in content["derivations"].items():
        print()
        _entry(f"{name}: ", entry["title"])
        print("  claims")
        for claim in entry["claims"]:
            _entry(f"    {claim['id']:<24} {claim['expected']:<9} ", f"{claim['where']}: {claim['title']}")
        print("  evaluators")
        for item in entry["evaluators"]:
            _entry(f"    {name}:{item['name']}  ", item["summary"].split(". ")[0].rstrip("."))
    return 0


def _entry(head: str, text: str) -> None:
    """Print a head and a text that hangs beside it, or below it where the head takes more than half a line."""
    indent = " " * min(len(head), COLUMNS // 2)
    print(textwrap.fill(text, COLUMNS, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False))


def _without_roles(text: str) -> str:
    """The summary of a docstring, its formulas in Unicode."""
    from symprop.report.unicode import unicode_of

    return re.sub(":math:`([^`]*)`", lambda found: unicode_of(found[1]), text)


def _derive(options: argparse.Namespace) -> int:
    from symprop.cache import remembered

    def derive() -> dict[str, str]:
        from symprop.notation import view
        from symprop.report.listing import listing

        derivation = bundled.derivation(options.derivation)
        chosen = view(options.notation) if options.notation else derivation.view
        return {"listing": listing(derivation, options.claim, chosen, options.format)}

    asked = (options.derivation, bundled.sources(options.derivation), options.claim, options.notation, options.format)
    with _progress(options) as progress:
        progress("deriving", 0, 1)
        print(remembered("derive", derive, *asked)["listing"])
    return 0


def _eval(options: argparse.Namespace) -> int:
    with _progress(options) as progress:
        progress("evaluating", 0, 1)
        spec, values, numbers = _evaluated(options)
    return _print_evaluation(options, spec, values, numbers)


def _evaluated(options: argparse.Namespace) -> tuple[FunctionSpec, dict[str, Any], dict[str, Any]]:
    from symprop.codegen import evaluate
    from symprop.core.parsing import parse_assignments
    from symprop.core.symbols import check_values, symbol

    name, _, wanted = options.target.partition(":")
    derivation = bundled.derivation(name)
    spec = derivation.evaluator(wanted)
    assigned = parse_assignments(options.values, {item.name: item.symbol for item in spec.parameters})
    parameters = {item.name for item in spec.parameters}
    for key in assigned:
        if key not in parameters:
            raise UnknownNameError("parameter", key, sorted(parameters))
    values = _closed(assigned)
    check_values({symbol(key): value for key, value in values.items()})
    return spec, values, evaluate(spec, values, 15)


def _print_evaluation(
    options: argparse.Namespace, spec: FunctionSpec, values: dict[str, Any], numbers: dict[str, Any]
) -> int:
    from symprop.codegen import neglected_by_evaluate

    if options.json:
        content = {
            "target": options.target,
            "values": {key: str(value) for key, value in values.items()},
            "result": {key: str(value) for key, value in numbers.items()},
            "assumptions": [str(item) for item in spec.assumptions],
            "neglected": neglected_by_evaluate(spec),
            "sources": [str(item) for item in spec.sources],
        }
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return 0
    for key, value in numbers.items():
        print(value if len(numbers) == 1 else f"{key} = {value}")
    if options.assumptions:
        print()
        _entry("", spec.summary)
        for item in spec.assumptions:
            _entry("  assumes ", str(item))
        neglected = neglected_by_evaluate(spec)
        _entry("  neglects ", "nothing" if neglected == "exact" else neglected)
        _entry("  from ", "; ".join(map(str, spec.sources)))
    return 0


def _closed(assigned: dict[str, Any]) -> dict[str, Any]:
    """Values given in terms of other parameters, resolved to numbers."""
    values = dict(assigned)
    for _ in range(len(values)):
        known = {symbol: value for key, value in values.items() for symbol in _symbols_named(values, key)}
        values = {key: value.subs(known) for key, value in values.items()}
    for key, value in values.items():
        if not value.is_number:
            missing = ", ".join(sorted(map(str, value.free_symbols)))
            raise InputError(key, assigned[key], f"a value for {missing} as well, given as a number")
    return values


def _symbols_named(values: dict[str, Any], name: str) -> set[Any]:
    return {symbol for value in values.values() for symbol in value.free_symbols if str(symbol) == name}


def _verify(options: argparse.Namespace) -> int:
    from symprop.report.content import verdict_rows
    from symprop.report.listing import accuracy_table, measurement_rows, measurement_table, plain, sensitivity, verdict_table

    if options.derivation == "architectures":
        return _verify_architectures(options)
    derivation = bundled.derivation(options.derivation)
    verdicts, rows = _checked(options.derivation, derivation, options)
    with _progress(options) as progress:
        measured = derivation.accuracy(options.seed, progress) if options.full and derivation.accuracy is not None else ()
    failed = _failures(verdicts, rows)
    failed += [f"error of {row.quantity}: beyond its limit ({at})" for row in measured for at in row.missed]
    if options.json:
        content = {"claims": verdict_rows(verdicts), "simulation": measurement_rows(rows), "failures": failed}
        content |= {"accuracy": [asdict(row) for row in measured]} if measured else {}
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        print(plain(verdict_table(verdicts)))
        print(plain(measurement_table(rows)))
        _entry("", sensitivity(rows, Z_LIMIT))
        if measured:
            print(plain(accuracy_table(measured)))
        print("\n".join(f"FAILED {item}" for item in failed) or "every claim and every row is as it should be")
    return 1 if failed else 0


def _audit(options: argparse.Namespace) -> int:
    from symprop.architectures.entries import checkpoint_files, read

    # What describes no model is refused before SymPy is imported.
    entries = None if options.target is None else read(options.target)
    if options.seq_len <= SMALL_MATRICES and "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from symprop.architectures.readers import architecture, keys_text

    if options.keys:
        print(keys_text(), end="")
        return 0
    _writable(options.html, "html")
    _writable(options.plot, "plot")
    picture = None if options.plot is None else _picture_format(options.plot, "plot")
    if options.target is None:
        raise InputError("MODEL", "missing", "a preset such as gpt2, a config.json or its folder, or a .toml file")
    described = architecture(options.target, entries)
    # Components take a second to import: after the sizes and variances have been checked.
    from symprop import auditing
    from symprop.architectures.audit import audit

    found_files = checkpoint_files(options.target)
    if found_files is not None:
        return _contrast(options, described, *found_files)
    model = auditing.overridden(described, depth=options.depth, width=options.width, init=options.init)
    if options.latex:
        print(auditing.formulas(model), end="")
    if options.latex and not (options.plot or options.html or options.appendix):
        return 0
    words = auditing.words_of(options.words, options.seq_len, model.vocabulary, options.seed)
    with _progress(options) as progress:
        progress("auditing", 0, 1)
        found = audit(model, tokens=options.seq_len, words=words, padding=options.padding, state=options.state,
                      growth=options.growth, cosine=options.cosine)  # fmt: skip
    if picture is not None:
        _write(options.plot, auditing.plot(found, picture), "plot")
    if options.html is not None or options.appendix is not None:
        _audit_report(options, found)
    if not options.latex:
        _printed(auditing.data(found) if options.json else auditing.text(found))
    return 0


def _audit_report(options: argparse.Namespace, found: Audit) -> None:
    """The report of an audit as a web page and as a folder of LaTeX, as asked for."""
    from symprop.audit_report import explored, report
    from symprop.report.page import html_page
    from symprop.report.tex import latex_files

    if options.appendix is not None:
        files = latex_files(report(found, columns=options.columns))
        _write_folder(options.appendix, _output_folder(options.appendix), files, pdf=True)
    if options.html is not None:
        with _progress(options) as progress:
            document = explored(found, progress)
        _write(options.html, html_page(document).encode(), "html")


def _contrast(options: argparse.Namespace, model: Architecture, folder: Path, files: tuple[Path, ...]) -> int:
    from symprop import auditing
    from symprop.architectures.checkpoint import contrast

    kind = "uniform" if options.words == "distinct" else options.words
    words = auditing.words_of(kind, options.seq_len, model.vocabulary, options.seed)
    if words is None:
        raise InputError("tokens", options.seq_len, "an integer that an audit takes")
    with _progress(options) as progress:
        progress("comparing", 0, 1)
        found = contrast(folder, files, words, forward=options.forward)
    _printed(auditing.contrast_data(found) if options.json else auditing.contrast_text(found))
    return 0


def _writable(path: Path | None, option: str) -> None:
    """Refuses, before anything is derived, a file that could not be written afterwards."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(option, path, "a file, not a folder")
    if not path.parent.is_dir():
        raise InputError(option, path, "a file in a folder that exists")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(option, path, "a file that can be written")


def _room_for(folder: Path, option: str) -> None:
    """Refuses, before anything is derived, a folder that is none, or that could not be made or written afterwards."""
    there = next((item for item in (folder, *folder.parents) if item.exists()), folder)
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(option, folder, "a folder that can be written")


def _picture_format(path: Path, option: str) -> str:
    """The format that the name of a picture asks for."""
    from symprop.codegen.files import refuse_null_characters
    from symprop.report.figures import FORMATS

    refuse_null_characters(option, path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS or path.is_dir():
        raise InputError(option, path, f"a file that ends in {', '.join(f'.{item}' for item in FORMATS)}")
    return kind


def _write(path: Path, content: bytes, option: str) -> None:
    """Write a file whole or not at all; ``option`` is what named it."""
    from symprop.codegen.files import write_files

    if not path.parent.is_dir():
        raise InputError(option, path, "a file that can be written (No such file or directory)")
    try:
        write_files({path.name: content}, path.parent)
    except InputError as error:
        raise InputError(option, path, f"a file that can be written, {error.allowed}") from None


def _printed(content: dict[str, Any] | str) -> None:
    """Text as it is, data as JSON."""
    print(content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False) + "\n", end="")


def _verify_architectures(options: argparse.Namespace) -> int:
    from symprop.architectures import verification

    with _progress(options) as progress:
        if options.ablation:
            worth = verification.ablate(first_seed=options.seed, progress=progress)
            if options.json:
                print(json.dumps([asdict(row) for row in worth], indent=1))
            else:
                print(verification.ablation_text(worth), end="")
            return 0
        rows: list[verification.Comparison] = []
        minutes = math.inf if options.minutes is None else options.minutes
        for found in verification.verify(first_seed=options.seed, full=options.full, minutes=minutes, progress=progress):
            rows += found
            if not options.json:
                print(verification.verification_text(found), end="", flush=True)
    if options.json:
        content = [asdict(row) | {"error": row.error, "agrees": row.agrees} for row in rows]
        print(json.dumps(content, indent=1))
    else:
        print(verification.verdict_text(rows), end="")
    return 0 if all(row.agrees for row in rows) else 1


def _checked(
    name: str, derivation: PaperDerivation, options: argparse.Namespace
) -> tuple[tuple[Verdict, ...], tuple[Measurement, ...]]:
    from symprop.claims import check
    from symprop.simulate.measurement import Measurement

    with _progress(options) as progress:
        verdicts = []
        for done, claim in enumerate(derivation.claims):
            verdicts.append(check(claim))
            progress("claims", done + 1, len(derivation.claims))
        tasks = bundled.study_tasks(name, options.seed, options.full)
        found = _sweep(name, options).results(tasks, lambda done: progress("simulation", done, len(tasks)))
        return tuple(verdicts), tuple(Measurement(**row) for rows in found for row in rows)


def _sweep(name: str, options: argparse.Namespace) -> Sweep:
    """How the simulations of the derivation of that name are run."""
    from symprop.simulate.sweep import Sweep

    return Sweep(options.workers, options.resume, options.scheduler, bundled.sources(name))


def _failures(verdicts: Sequence[Verdict], rows: Sequence[Measurement]) -> list[str]:
    wrong = [
        f"claim {item.claim.id}: {item.status.value}, expected {item.claim.expected.value} ({item.detail})"
        for item in verdicts
        if not item.as_expected
    ]
    off = [
        f"{row.quantity} at {row.setting}: z = {row.z:.1f}"
        for row in rows
        if row.expected_to_hold and abs(row.z) > Z_LIMIT
    ]
    return wrong + off


def _appendix(options: argparse.Namespace) -> int:
    from symprop.notation import view
    from symprop.report.appendix import Part, appendix, with_sweeps
    from symprop.report.page import html_page
    from symprop.report.sweep import sweeps
    from symprop.report.tex import STYLES

    derivations = {name: bundled.derivation(name) for name in options.derivations}
    chosen = view(options.notation) if options.notation else derivations[options.derivations[0]].view
    if options.output is None and options.html is None:
        raise InputError("output", "missing", "-o FOLDER, --html FILE, or both")
    if options.style not in STYLES:
        raise UnknownNameError("style", options.style, STYLES)
    _writable(options.html, "html")
    old = set() if options.output is None else _output_folder(options.output)
    parts = []
    for name, derivation in derivations.items():
        verdicts, rows = _checked(name, derivation, options)
        with _progress(options) as progress:
            parts.append(Part(derivation, verdicts, rows, derivation.figures(options.seed, options.full, progress)))
    document = appendix(parts, chosen)
    if options.html is not None:
        found = [sweep for derivation in derivations.values() for sweep in sweeps(derivation, chosen)]
        _write(options.html, html_page(with_sweeps(document, found)).encode(), "html")
        print(options.html)
    if options.output is not None:
        _write_appendix(options, old, document if options.columns == 1 else appendix(parts, chosen.in_columns()), parts)
    failed = [item for part in parts for item in _failures(part.verdicts, part.measurements)]
    for item in failed:
        print(f"FAILED {item}", file=sys.stderr)
    return 1 if failed else 0


def _write_appendix(options: argparse.Namespace, old: set[str], document: Document, parts: Sequence[Part]) -> None:
    """The folder of an appendix: LaTeX, PDF, evaluators and what was verified; files of an earlier run give way."""
    from symprop.report.content import verdict_rows
    from symprop.report.listing import measurement_rows
    from symprop.report.tex import latex_files

    files = latex_files(document, options.style)
    for part in parts:
        for name, text in bundled.evaluator_files(part.derivation, part.derivation.evaluators).items():
            files[f"evaluators/{name}"] = text
        content = {"claims": verdict_rows(part.verdicts), "simulation": measurement_rows(part.measurements),
                   "seed": options.seed}  # fmt: skip
        name = "verification.json" if len(parts) == 1 else f"verification-{part.derivation.key}.json"
        files[name] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for path in _write_folder(options.output, old, files, pdf=options.style == "article" and not options.no_pdf):
        print(path)


def _write_folder(folder: Path, old: set[str], files: dict[str, str | bytes], *, pdf: bool) -> list[Path]:
    """Write the files of a report, with their PDF and a manifest; those of an earlier run, ``old``, give way."""
    from symprop.codegen.files import write_files
    from symprop.report.pdf import compile_pdf

    missing_engine = ""
    if pdf:
        try:
            with tempfile.TemporaryDirectory() as temporary:
                write_files(files, Path(temporary))
                files["appendix.pdf"] = compile_pdf(Path(temporary))
        except SympropError as error:
            missing_engine = str(error)
    files[MANIFEST] = json.dumps({"symprop": __version__, "files": sorted(files)}, indent=1) + "\n"
    write_files(files, folder)
    for name in old - set(files):
        (folder / name).unlink(missing_ok=True)
    if missing_engine:
        print(f"symprop: no PDF: {missing_engine}", file=sys.stderr)
    return [folder / name for name in sorted(files)]


def _output_folder(folder: Path) -> set[str]:
    """Names of the files of an earlier run that may be replaced; refuses a folder that holds anything else."""
    from symprop.codegen.files import staged

    allowed = "a new folder, an empty one, or one that an earlier run of symprop appendix wrote"
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
        if not folder.is_dir():
            raise InputError("output", folder, allowed)
        present = {
            item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file() and not staged(item, folder)
        }
        if not os.access(folder, os.W_OK):
            raise InputError("output", folder, "a folder that can be written")
    except OSError as error:
        raise InputError("output", folder, f"a folder that can be written ({error.strerror})") from None
    if not present:
        return set()
    try:
        known = set(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]) | {MANIFEST}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    if present - known:
        raise InputError("output", f"{min(present - known)} in {folder}", allowed)
    return present


def _diagram(options: argparse.Namespace) -> int:
    import numpy as np

    from symprop.codegen.files import write_files
    from symprop.core.parsing import parse_assignments
    from symprop.core.symbols import L, n
    from symprop.report.diagram import compute, data_file, draw, parameter_symbols, parse_axis, read_symbols

    derivation = bundled.derivation(options.derivation)
    target, kind = options.output, _picture_format(options.output, "output")
    _room_for(target.parent, "output")
    diagram = derivation.diagram
    if diagram is None:
        raise InputError("derivation", derivation.key, "one that declares a diagram, such as giorlandino2025")
    axes = {
        key: parse_axis(text, diagram, default, key) if text is not None else default
        for key, text, default in (("x", options.x, diagram.x), ("y", options.y, diagram.y))
    }
    names = parameter_symbols(diagram)
    level = options.closure or next(iter(diagram.evaluators))
    given = {key: (names.get(key), value) for key, value in _closed(parse_assignments(options.values, names)).items()}
    given |= {key: (symbol, value) for key, symbol, value in (("layers", L, options.layers), ("tokens", n, options.tokens))
              if value is not None}
    values: dict[Any, float] = {}
    for key, (symbol, value) in given.items():
        if symbol is None:
            raise UnknownNameError("parameter", key, sorted(names))
        if symbol in (axes["x"].symbol, axes["y"].symbol):
            raise InputError(key, value, "no value for the parameter of an axis")
        if symbol in values:
            raise InputError(key, value, f"one value for {symbol}")
        values[symbol] = float(value)
    read = read_symbols(derivation, diagram, level, simulated=bool(options.simulate))
    for key, (symbol, value) in given.items():
        if symbol not in read:
            raise InputError(key, value, f"no value, as {symbol} changes nothing in {derivation.key} with {level}")
    with _progress(options) as progress:
        picture = compute(derivation, replace(diagram, x=axes["x"], y=axes["y"]), level, values, simulate=options.simulate,
                          seed=options.seed, progress=progress, sweep=_sweep(options.derivation, options))
        files = {target.name: draw(picture, kind), f"{target.stem}.npz": data_file(picture)}
    written = write_files(files, target.parent)
    valued = picture.output[~np.isnan(picture.output)]
    low, high, without = float(valued.min()), float(valued.max()), picture.output.size - valued.size
    simulated = picture.simulated
    if options.json:
        content = {
            "derivation": derivation.key, "closure": level, "files": [str(path) for path in written],
            "axes": {key: [axis.name, axis.low, axis.high, axis.points] for key, axis in axes.items()},
            "values": {str(symbol): value for symbol, value in picture.values.items()},
            "output": {"name": str(diagram.output), "least": low, "largest": high, "points_without_value": without},
            "simulated": [] if simulated is None else [
                dict(zip(vars(simulated), map(float, row), strict=True))
                for row in zip(*vars(simulated).values(), strict=True)
            ],
        }  # fmt: skip
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return 0
    print("\n".join(map(str, written)))
    missing = f"; no value in doubles at {without} of {picture.output.size} points" if without else ""
    print(f"{diagram.output} from {low:.6g} to {high:.6g}, {level}{missing}", file=sys.stderr)
    return 0


def _init(options: argparse.Namespace) -> int:
    from symprop.architectures import solve_recipe, torch_snippet

    if options.recipe != "deepscalelm":
        raise UnknownNameError("recipe", options.recipe, ("deepscalelm",))
    arguments = _recipe_arguments(options.values)
    with _progress(options) as progress:
        progress("solving", 0, 1)
        recipe = solve_recipe(**arguments)
    if options.json:
        print(json.dumps(asdict(recipe), indent=1))
        return 0
    if not options.torch:
        print(f"embeddings        variance {recipe.embedding_variance:.6g}, every table")
        print(f"queries and keys  variance {recipe.query_variance:.6g}")
        print(f"residual blocks   {recipe.skip_scale:.6g} x + {recipe.branch_scale:.6g} branch(norm(x))\n")
        print(f"{'layer':>5} {'value, output':>14} {'feed-forward':>14} {'correlation':>12} {'gradient':>9}")
        for item in recipe.layers:
            print(f"{item.layer:5d} {item.value_variance:14.6g} {item.ffn_variance:14.6g} {item.correlation:12.4f} "
                  f"{item.gradient:9.4f}")
        print(f"{'out':>5} {'':14} {'':14} {recipe.final_correlation:12.4f} {1:9.4f}\n")
    print(torch_snippet(recipe), end="")
    return 0


def _recipe_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """``layers=192 vocab=50257`` as the arguments of the recipe; unknown and missing ones are named."""
    from symprop.core.parsing import parse_assignments

    whole = {"layers": "layers", "width": "width", "vocab": "vocabulary", "tokens": "tokens", "heads": "heads",
             "expansion": "expansion"}
    real = ("dropout", "gradient_correlation")
    words = dict(item.split("=", 1) for item in texts if item.startswith("activation="))
    numbers = parse_assignments([item for item in texts if not item.startswith("activation=")], {})
    arguments: dict[str, Any] = dict(words)
    for key, value in numbers.items():
        if key in whole:
            if not value.is_Integer:
                raise InputError(key, value, "an integer")
            arguments[whole[key]] = int(value)
        elif key in real:
            arguments[key] = float(value)
        elif key == "segments":
            if value not in (0, 1):
                raise InputError(key, value, "0 or 1")
            arguments[key] = bool(value)
        else:
            raise UnknownNameError("parameter", key, sorted((*whole, *real, "segments", "activation")))
    for key in ("layers", "width", "vocab"):
        if whole[key] not in arguments:
            raise InputError(key, "missing", f"an integer, as in {key}=...")
    return arguments


def _generate(options: argparse.Namespace) -> int:
    from importlib import resources

    from symprop.cache import remembered
    from symprop.codegen.files import stale_or_different, write_files

    if options.evaluators and options.output is None:
        raise InputError("--output", "missing", "a folder for the chosen evaluators")
    folder = options.output or Path(str(resources.files("symprop.generated")))
    if not options.check:
        _room_for(folder, "output")
    with _progress(options) as progress:
        progress("deriving", 0, 1)
        files = (bundled.chosen_files(options.evaluators, options.backend or bundled.BACKENDS, options.jacobian)
                 if options.evaluators
                 else bundled.generated_files() if options.check else remembered("generate", bundled.generated_files))
        progress("deriving", 1, 1)
    if options.check:
        wrong = stale_or_different(files, folder)
        print("\n".join(wrong) or f"{len(files)} generated files are up to date")
        return 1 if wrong else 0
    for path in write_files(files, folder):
        print(path)
    return 0


@contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Progress]:
    """A progress bar on standard error where that is a terminal and ``--quiet`` was not asked for."""
    if options.quiet or not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield report


if __name__ == "__main__":
    sys.exit(main())
