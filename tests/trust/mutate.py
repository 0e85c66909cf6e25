"""Mutants of the formulas, and how many of them the tests of their file kill: ``python tests/trust/mutate.py``.

A mutant changes one operator, constant, comparison or sign, or drops one term, in a function of ``functions``,
``components`` or ``depth``. It is written into a copy of the repository, and the tests of its folder that name its module,
and the contract tests for components, run there until the first failure; where they pass, the tests of other folders that
name it do. They have to pass without a mutant first. A mutant is killed by a failure, or by tests that take four times the
processor time they take without it. Annotations, texts and docstrings are left alone.
"""

import argparse
import ast
import copy
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("functions", "components", "depth")
UNRELATED = ("trust", "docs", "release", "layout", "report", "cli")
LONGEST = 1200
PASSED = (0, 5)
"""Exit codes of pytest: all passed, or no test was found."""
_SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
_COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}


@dataclass(frozen=True)
class Mutant:
    """A changed module: ``new`` stands for its bytes from ``begin`` to ``end``; ``change`` says what differs in ``line``."""

    path: str
    line: int
    change: str
    begin: int
    end: int
    new: str


def _changes(node):
    """The nodes that may stand for this one, each with what it is called."""
    if isinstance(node, ast.BinOp) and type(node.op) in _SWAPS:
        swapped = copy.copy(node)
        swapped.op = _SWAPS[type(node.op)]()
        yield swapped, f"{type(node.op).__name__} -> {type(swapped.op).__name__}"
        if isinstance(node.op, ast.Add | ast.Sub):
            yield node.left, "right term dropped"
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value + 1), f"{node.value} -> {node.value + 1}"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand, "minus dropped"
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        swapped = copy.copy(node)
        swapped.ops = [_COMPARISONS[type(node.ops[0])]()]
        yield swapped, f"{type(node.ops[0]).__name__} -> {type(swapped.ops[0]).__name__}"


def _inside(node):
    """Nodes of a function's statements; annotations, decorators and defaults are no formulas."""
    for statement in node.body:
        for item in ast.walk(statement):
            if not isinstance(item, ast.FunctionDef):
                yield item


def mutants(path):
    """All mutants of a module."""
    source = (ROOT / path).read_bytes()
    tree = ast.parse(source)
    starts = [0, *(place + 1 for place, byte in enumerate(source) if byte == 10)]
    seen = set()
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name in ("__repr__", "describe", "examples"):
            continue
        for node in _inside(function):
            if id(node) in seen:
                continue
            seen.add(id(node))
            for new, change in _changes(node):
                begin = starts[node.lineno - 1] + node.col_offset
                end = starts[node.end_lineno - 1] + node.end_col_offset
                shown = " ".join(source[begin:end].decode().split())[:60]
                yield Mutant(path, node.lineno, f"{change} in {shown}", begin, end, f"({ast.unparse(new)})")


def tests_of(path):
    """Test files that name a module, or a class or function that it defines: those near it, and those of other folders."""
    module = Path(path).stem
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"]
    word = re.compile(rf"\b({'|'.join([module, *names])})\b")
    room = Path(path).parts[1]
    files = [file for file in sorted((ROOT / "tests").glob("*/test_*.py")) if file.parent.name not in UNRELATED]
    files = [file for file in files if word.search(file.read_text(encoding="utf-8"))]
    near = [path, *(str(file.relative_to(ROOT)) for file in files if file.parent.name == room)]
    far = [str(file.relative_to(ROOT)) for file in files if file.parent.name != room]
    contract = "tests/contract/test_components.py"
    if room == "components":
        near, far = [*near, contract], [file for file in far if file != contract]
    return near, far


class Copy:
    """A copy of the repository, and what its tests say with a mutant in it."""

    def __init__(self, folder):
        self.folder = folder
        self.limits = {}

    def _run(self, tests, seconds):
        """Exit code of the tests, negative where their processor time ran out, and the time they took."""

        def limit():
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))

        environment = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
        child = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, preexec_fn=limit)  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        return child.returncode, usage.ru_utime + usage.ru_stime

    def _limit(self, tests):
        """Seconds of processor time that the tests have; they pass without a mutant."""
        key = tuple(tests)
        if key not in self.limits:
            code, seconds = self._run(tests, LONGEST)
            if code not in PASSED:
                raise SystemExit(f"without a mutant, exit code {code}: pytest {' '.join(tests)}")
            self.limits[key] = int(4 * seconds) + 10
        return self.limits[key]

    def survives(self, mutant):
        """Whether all tests of a mutant's module pass."""
        tiers = tests_of(mutant.path)
        target = self.folder / mutant.path
        original = target.read_bytes()
        for tests in filter(None, tiers):
            limit = self._limit(tests)
            target.write_bytes(original[: mutant.begin] + mutant.new.encode() + original[mutant.end :])
            try:
                if self._run(tests, limit)[0] not in PASSED:
                    return False
            finally:
                target.write_bytes(original)
        return True


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=40, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="no mutant is begun later")
    parser.add_argument("--only", default="", help="modules whose path contains this")
    options = parser.parse_args(arguments)
    paths = [path for room in ROOMS for path in sorted((ROOT / "symprop" / room).glob("*.py"))]
    known = []
    for path in (str(path.relative_to(ROOT)) for path in paths if options.only in str(path)):
        known += mutants(path)
    chosen = random.Random(options.seed).sample(known, min(options.sample, len(known)))
    end = time.monotonic() + 60 * options.minutes
    killed = judged = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "out", "build", "dist"))
        tried = Copy(folder)
        for mutant in chosen:
            if time.monotonic() > end:
                break
            survived = tried.survives(mutant)
            killed, judged = killed + (not survived), judged + 1
            print(f"{'SURVIVED' if survived else 'killed':9} {mutant.path}:{mutant.line}: {mutant.change}", flush=True)
    print(f"{killed} of {judged} mutants killed ({killed / max(1, judged):.0%}), drawn from {len(known)}")
    return 0 if judged and killed >= 0.9 * judged else 1


if __name__ == "__main__":
    sys.exit(main())
