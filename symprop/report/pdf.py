"""From LaTeX to PDF with whatever engine is installed, and what its log complains about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from symprop.core.errors import SympropError

PACKAGES = (
    "texlive-latex-recommended", "texlive-latex-extra", "texlive-fonts-recommended", "texlive-science", "latexmk",
)  # fmt: skip
_DOCUMENT = "appendix"
_WARNINGS = (
    re.compile(r"^(?:LaTeX|Package \w+) Warning: .*(?:undefined|multiply|[Cc]itation|Rerun).*$", re.MULTILINE),
    re.compile(r"^Overfull \\[hv]box .*$", re.MULTILINE),
    re.compile(r"^(?:Warning--.*|I couldn't open .*|warning: .*(?:undefined|[Oo]verfull).*)$", re.MULTILINE),
)


def engine() -> str | None:
    """The LaTeX engine that is on the path: latexmk, pdflatex or tectonic."""
    if shutil.which("latexmk") and shutil.which("pdflatex"):
        return "latexmk"
    return next((name for name in ("pdflatex", "tectonic") if shutil.which(name)), None)


def compile_pdf(folder: Path) -> bytes:
    """The PDF of ``appendix.tex`` in a folder, which is left as it is.

    Raises :class:`SympropError` where no engine is installed, naming the Debian packages that give one, and where the
    document does not compile, naming the first error.
    """
    return compile_document(folder)[0]


def compile_document(folder: Path) -> tuple[bytes, str]:
    """The PDF of ``appendix.tex`` and the log of the last run."""
    name = engine()
    if name is None:
        raise SympropError(f"no LaTeX engine found; on Debian: apt-get install {' '.join(PACKAGES)}")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "document"
        shutil.copytree(folder, work)
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "TZ": "UTC",
                       "max_print_line": "1000"}  # fmt: skip
        latex = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", f"{_DOCUMENT}.tex"]
        runs: dict[str, list[list[str]]] = {
            "latexmk": [["latexmk", "-norc", "-pdf", "-interaction=nonstopmode", "-halt-on-error",
                         "-pdflatex=pdflatex -no-shell-escape %O %S", f"{_DOCUMENT}.tex"]],
            "pdflatex": [latex, ["bibtex", _DOCUMENT], latex, latex, latex],
            "tectonic": [["tectonic", "--keep-logs", "--untrusted", f"{_DOCUMENT}.tex"]],
        }  # fmt: skip
        output = ""
        for command in runs[name]:
            if shutil.which(command[0]) is None:
                continue
            try:
                done = subprocess.run(command, cwd=work, env=environment, capture_output=True, timeout=300, check=False)
            except subprocess.TimeoutExpired as late:
                raise SympropError(f"{name} did not finish the appendix in 300 s") from late
            output = (done.stdout + done.stderr).decode("utf-8", "replace")
            if done.returncode != 0 and command[0] != "bibtex":
                raise SympropError(f"{name} could not compile the appendix: {_first_error(output)}")
        log = work / f"{_DOCUMENT}.log"
        bibliography = work / f"{_DOCUMENT}.blg"
        parts = [path.read_text("utf-8", "replace") for path in (log, bibliography) if path.exists()]
        return (work / f"{_DOCUMENT}.pdf").read_bytes(), "\n".join(parts) or output


def log_warnings(log: str) -> list[str]:
    """What a LaTeX or BibTeX log says about references, citations, labels and boxes that stick out.

    >>> log_warnings("Overfull \\\\hbox (9.1pt too wide) in paragraph at lines 3--4\\nUnderfull \\\\hbox")
    ['Overfull \\\\hbox (9.1pt too wide) in paragraph at lines 3--4']
    """
    return list(dict.fromkeys(found for pattern in _WARNINGS for found in pattern.findall(log)))


def _first_error(output: str) -> str:
    lines = output.splitlines()
    for index, line in enumerate(lines):
        if line.startswith("!"):
            after = next((item for item in lines[index + 1 : index + 12] if item.startswith("l.")), "")
            return f"{line[1:].strip()} {after}".strip()
    return lines[-1].strip() if lines else "no output"
