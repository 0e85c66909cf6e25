"""Pages that nobody types: component theory, errata, failures and the API tree, derived from the package itself.

As a Sphinx extension it writes them into ``docs/derived`` before the sources are read; a page whose text is the same as
before is left alone, so that Sphinx does not read it again. Run as a script it measures what those pages quote from long
computations and stores it in ``measured.json``: for the derivations named, or all of them.
"""

from __future__ import annotations

import json
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sympy as sp

import symprop
from symprop import bundled
from symprop.claims import LatexName, PaperDerivation, Status, check
from symprop.codegen.files import write_files
from symprop.components import COMPONENTS, Component
from symprop.core import symbols
from symprop.core.provenance import EXACT, merge_unique, neglected_order
from symprop.core.signal import Gradient, Signal
from symprop.network import token_input
from symprop.report.listing import measurement_rows
from symprop.report.printer import latex

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "derived"
MEASURED = Path(__file__).with_name("measured.json")
READABLE = 400
"""Characters of LaTeX up to which a formula is shown; a longer one is counted instead."""
_MATH = re.compile(r"\$([^$]+)\$")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages when Sphinx starts."""
    app.connect("builder-inited", lambda app: _write(Path(app.srcdir)))
    return {"parallel_read_safe": True}


def _write(source: Path) -> None:
    folder = source / FOLDER
    files = pages()
    for path in folder.rglob("*.rst"):
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()
    write_files({name: text for name, text in files.items() if _differs(folder / name, text)}, folder)


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != text


def pages() -> dict[str, str]:
    """All derived pages as reStructuredText, by path below ``docs/derived``."""
    theory = {f"theory/{kind.__name__}": component_page(kind) for kind in COMPONENTS}
    api = {f"api/{name}": _module_page(name) for name in _modules()}
    derivations = [bundled.derivation(name) for name in bundled.names()]
    texts = {
        **theory,
        **api,
        "theory/index": _index("Components", "What each component does to the moments of tokens and gradients.", theory),
        "api/index": _index("API reference", "Every public module, class and function.", api),
        "errata": errata_page(derivations),
        "failures": failures_page(derivations),
    }
    return {f"{name}.rst": text for name, text in texts.items()}


def component_page(kind: type[Component]) -> str:
    """A component's docstring, the formulas of its examples in both directions, and what they stand on."""
    lines = [*_heading(kind.__name__), f".. autoclass:: {kind.__module__}.{kind.__name__}", "   :no-index:"]
    lines += ["   :no-members:", ""]
    examples = kind.examples()
    lines += _heading("Moments of its examples", "-")
    lines += ["Tokens are Gaussian; :math:`q` is the second moment of a coordinate, :math:`\\Delta` the gap of two tokens,"
              " :math:`g` stands for the gradient.", ""]  # fmt: skip
    for example in examples:
        lines += [f"``{example.describe()}``", "", *_formulas(example)]
    lines += _heading("What it stands on", "-")
    lines += [f"- in a proof: {_prose(item)}" for item in dict.fromkeys(example.reason for example in examples)]
    lines += [f"- {_prose(str(item))}" for item in merge_unique(*(example.assumptions for example in examples))]
    neglected = neglected_order(*(example.neglected for example in examples))
    lines += [f"- neglected: {'nothing' if neglected == EXACT else _prose(neglected)}"]
    lines += [f"- from {source}" for source in merge_unique(*(example.sources for example in examples))]
    return "\n".join(lines) + "\n"


def _formulas(component: Component) -> Iterator[str]:
    inputs = [_input(position) for position in range(component.inputs)]
    names = {
        _moment(f"{moment}_{label}"): LatexName("", f"{sign}_{{{label}}}")
        for moment, sign in (("q", "q"), ("gap", r"\Delta"))
        for label in ("g", *(signal.label for signal in inputs))
    }
    output = component.forward(*inputs)
    if len(latex(output.q, names)) > READABLE:
        yield from (f"Its formulas ({output.q.count_ops()} operations for :math:`q'`) are left to generated code.", "")
        return
    moments = {"q'": output.q, r"\Delta'": output.gap, r"\mu'": output.mean}
    gradients = component.backward(Gradient(_moment("q_g"), _moment("gap_g")), *inputs)
    for signal, gradient in zip(inputs, gradients, strict=True):
        of = "'" if len(inputs) == 1 else f"^{{({signal.label})}}"
        moments |= {rf"q_g{of}": gradient.q, rf"\Delta_g{of}": gradient.gap}
    for name, value in moments.items():
        if value == 0:
            continue
        body = latex(value, names)
        if len(body) <= READABLE:
            yield from (f".. math:: {name} = {body}", "")
        else:
            yield from (f":math:`{name}` takes {value.count_ops()} operations and is left to generated code.", "")


def _input(position: int) -> Signal:
    """Tokens to feed a component: the first input is the stream, a second one a branch that is new to it."""
    signal = token_input(symbols.n, symbols.d, gaussian=True)
    if position == 0:
        return signal
    label = "XYZ"[position]
    return signal.replace(label=label, q=_moment(f"q_{label}"), gap=_moment(f"gap_{label}"), fresh=True)


def _moment(name: str) -> sp.Symbol:
    return sp.Symbol(name, nonnegative=True)


def measure(name: str) -> dict[str, Any]:
    """What only a long computation knows about a derivation: where refuted claims fail, and rows outside the assumptions."""
    derivation = bundled.derivation(name)
    refuted = [claim for claim in derivation.claims if claim.expected is Status.REFUTED]
    rows = [row for row in derivation.study(0, False, None) if not row.expected_to_hold]
    return {"witnesses": {claim.id: check(claim).detail for claim in refuted}, "failures": measurement_rows(rows)}


def measured() -> dict[str, Any]:
    """The stored results of :func:`measure`, by derivation."""
    return dict(json.loads(MEASURED.read_text(encoding="utf-8")))


def errata_page(derivations: Iterable[PaperDerivation]) -> str:
    """Claims that the derivation refutes, with the point at which they fail, and misprints."""
    stored = measured()
    lines = [*_heading("Errata of the papers"), "Claims that do not hold as printed, each with a point at which it",
             "was seen to fail, and misprints.", ""]  # fmt: skip
    for derivation in derivations:
        refuted = [claim for claim in derivation.claims if claim.expected is Status.REFUTED]
        if not refuted and not derivation.slips:
            continue
        lines += _heading(f"{derivation.key}: {derivation.paper.title}", "-")
        for claim in refuted:
            lines += [f"**{_prose(claim.where)}** (``{claim.id}``): {_prose(claim.title)}.", ""]
            lines += [f"   {_prose(claim.note.rstrip('.'))}.", ""] if claim.note else []
            lines += [f"   It fails: ``{stored[derivation.key]['witnesses'][claim.id]}``.", ""]
            lines += [f"   ``{claim.corrected_by}`` replaces it.", ""] if claim.corrected_by else []
        for slip in derivation.slips:
            lines += [f"**{_prose(slip.where)}** prints {_prose(slip.printed)}; it should be {_prose(slip.correct)}.", ""]
    return "\n".join(lines) + "\n"


def failures_page(derivations: Iterable[PaperDerivation]) -> str:
    """Settings in which an assumption fails, measured: what the theory says there, and what a simulation finds."""
    stored = measured()
    lines = [*_heading("Known failures, with numbers"),
             "Settings outside the assumptions of a theory, simulated on purpose with seed 0: the rows that",
             "``symprop verify`` prints without a z-score.", ""]  # fmt: skip
    for derivation in derivations:
        rows = stored[derivation.key]["failures"]
        if not rows:
            continue
        lines += _heading(f"{derivation.key}: {derivation.paper.title}", "-")
        lines += [".. list-table::", "   :header-rows: 1", ""]
        table = [("quantity", "setting", "theory", "measured", "standard error")]
        table += [
            (_prose(row["quantity"]), _prose(row["setting"]), f"{row['predicted']:.6g}", f"{row['measured']:.6g}",
             f"{row['stderr']:.1e}")
            for row in rows
        ]  # fmt: skip
        for cells in table:
            lines += [f"   {'  -' if index else '* -'} {cell}" for index, cell in enumerate(cells)]
        lines.append("")
    return "\n".join(lines) + "\n"


def _modules() -> tuple[str, ...]:
    found = pkgutil.walk_packages(symprop.__path__, "symprop.")
    inside = ("symprop.derivations", "symprop.generated")
    return tuple(item.name for item in found if not item.name.startswith(inside))


def _module_page(name: str) -> str:
    # A package may hold a function called like one of its modules.
    option = ["   :no-index:"] if (Path(symprop.__path__[0]).parent / name.replace(".", "/")).is_dir() else []
    return "\n".join([*_heading(name), f".. automodule:: {name}", *option, ""])


def _index(title: str, text: str, members: Iterable[str]) -> str:
    entries = [f"   {name.split('/', 1)[1]}" for name in members]
    return "\n".join([*_heading(title), text, "", ".. toctree::", "   :maxdepth: 1", "", *entries, ""])


def _heading(title: str, underline: str = "=") -> list[str]:
    return [title, underline * len(title), ""]


def _prose(text: str) -> str:
    r"""A sentence with ``$formulas$`` as reStructuredText.

    >>> _prose("a bound $x_1$ of q*")
    'a bound :math:`x_1` of q\\*'
    """
    parts = _MATH.split(text)
    return "".join(f":math:`{part}`" if index % 2 else re.sub(r"([*`|_\\])", r"\\\1", part) for index, part in enumerate(parts))


def _store(names: Iterable[str]) -> None:
    """Measure the derivations of these names and store what was found."""
    found = measured() if MEASURED.exists() else {}
    for name in names:
        found[name] = measure(name)
        MEASURED.write_text(json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _store(sys.argv[1:] or bundled.names())
