"""Running times of starts: of the package, and of generated modules once numpy is there, which they need anyhow."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from symprop.bench_depth import best_of, block
from symprop.codegen.render import render
from symprop.functions.activation import Relu

_POINT = "q_0=1.0, rho=0.5, L=3, sigma_w2=2.0, alpha_1=0.5"
STARTS = {
    "numpy evaluator, import": ("import block_numpy", 20),
    "compiled evaluator, second start": (f"import block_compiled; block_compiled.relu_block({_POINT})", 100),
}
"""What is run after the import of numpy, and the milliseconds that it should stay below; the kernel is kept already."""


def milliseconds(repeats: int) -> dict[str, float]:
    """The least processor time of the starts above, for modules of the ReLU block that are alone in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        for backend, sibling in (("numpy", ""), ("compiled", "block_numpy")):
            text = render([block(Relu())], backend, "A residual block.", sibling)
            (Path(folder) / f"block_{backend}.py").write_text(text, encoding="utf-8")
        environment = {**os.environ, "SYMPROP_CACHE": str(Path(folder) / "kernels")}

        def started(code: str) -> float:
            clock = f"import numpy, time; start = time.process_time(); {code}; print(1e3*(time.process_time() - start))"
            done = subprocess.run([sys.executable, "-c", clock], check=True, capture_output=True, cwd=folder, env=environment)
            return float(done.stdout)

        # The first start of each writes what the others find.
        return {name: min(started(code) for _ in range(repeats + 1)) for name, (code, _) in STARTS.items()}


def rows(repeats: int) -> Iterator[str]:
    """The rows as text."""
    sympy = _run("-c", "import sympy")
    tried = {"import symprop": _run("-c", "import symprop")}
    if importlib.util.find_spec("symprop.derivations.noci2022") is not None:
        tried["symprop derive noci2022"] = _run("-m", "symprop.cli", "derive", "noci2022")
    for name, subject in tried.items():
        reference, own = best_of([sympy, subject], repeats, time.perf_counter)
        yield f"{name:40}{1e3 * own:8.1f} ms{own / reference:8.2f} times import sympy"
    for name, spent in milliseconds(repeats).items():
        yield f"{name:40}{spent:8.1f} ms{STARTS[name][1]:8d} ms allowed beyond import numpy"


def _run(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
