"""Mutants of the formulas, and how many of them the tests kill: ``python tests/trust/mutate.py``.

A mutant changes one operator, constant, comparison or sign, or drops one term, in a function of ``functions``,
``components`` or ``depth``, and is written into a copy of the repository. Each file of tests first runs without a mutant, and
which lines of the three folders each of its tests reaches is noted, for at most QUICK seconds a test. Then the mutants that
are alive meet it, where it reaches their function: first the tests that reach their statement, the quickest first, then its
other tests, since a value may be remembered from an earlier one. Tests that take longer are met last. A mutant is killed by
a failure, or by a test that takes four times the processor time of its whole file; the test that kills has to pass alone
without the mutant. Annotations, texts, docstrings and what an exception says are left alone.
"""

import argparse
import ast
import copy
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401
import pytest
import scipy.special  # noqa: F401
import sympy  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("functions", "components", "depth")
NEAR = (*ROOMS, "contract")
FAR = ("core", "wick", "network", "simulate", "codegen", "claims", "architectures")
QUICK = 3.0
LONGEST = 1200
PASSED = (0, 5)
"""Exit codes of pytest: all passed, or no test was left."""
_SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
_COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}


@dataclass(frozen=True)
class Mutant:
    """A changed module: ``new`` stands for its bytes from ``begin`` to ``end``; ``change`` says what differs in ``line``.

    ``statement`` and ``function`` are the first and last lines of what it stands in, without the line of ``def``.
    """

    path: str
    line: int
    change: str
    begin: int
    end: int
    new: str
    statement: tuple[int, int]
    function: tuple[int, int]


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


def _inside(statement):
    """Statements and expressions below a statement, each with the statement that it belongs to.

    Annotations, decorators and defaults are no formulas, nor are texts and what is raised.
    """
    if isinstance(statement, ast.FunctionDef):
        children = statement.body
    elif isinstance(statement, ast.Raise):
        children = []
    else:
        children = list(ast.iter_child_nodes(statement))
    waiting = [(child, statement) for child in children]
    while waiting:
        node, owner = waiting.pop()
        if isinstance(node, ast.stmt):
            yield from _inside(node)
        elif not isinstance(node, ast.JoinedStr):
            yield node, owner
            waiting += [(child, owner) for child in ast.iter_child_nodes(node)]


def mutants(path):
    """All mutants of a module."""
    source = (ROOT / path).read_bytes()
    tree = ast.parse(source)
    starts = [0, *(place + 1 for place, byte in enumerate(source) if byte == 10)]
    seen = set()
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name in ("__repr__", "describe", "examples"):
            continue
        for node, statement in _inside(function):
            if id(node) in seen:
                continue
            seen.add(id(node))
            for new, change in _changes(node):
                begin = starts[node.lineno - 1] + node.col_offset
                end = starts[node.end_lineno - 1] + node.end_col_offset
                shown = " ".join(source[begin:end].decode().split())[:60]
                within, whole = (statement.lineno, node.end_lineno), (function.body[0].lineno, function.end_lineno)
                yield Mutant(path, node.lineno, f"{change} in {shown}", begin, end, f"({ast.unparse(new)})", within, whole)


class Reach:
    """A plugin of pytest that notes of each test its seconds, and the lines of the three folders that run in it."""

    def __init__(self, folder):
        self.begin = tuple(f"{folder}/symprop/{room}/" for room in ROOMS)
        self.cut = len(f"{folder}/")
        self.lines, self.tests, self.imported = set(), {}, []
        self.ours = {}

    def call(self, frame, event, arg):
        code = frame.f_code
        ours = self.ours.get(code)
        if ours is None:
            ours = self.ours[code] = code.co_filename.startswith(self.begin)
        return self.line if ours else None

    def line(self, frame, event, arg):
        self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self.line

    def _taken(self):
        taken = {}
        for name, line in sorted(self.lines):
            taken.setdefault(name[self.cut :], []).append(line)
        self.lines.clear()
        return taken

    def pytest_collection_finish(self):
        self.imported = self._taken()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        def stop(number, frame):
            pytest.skip("long")

        signal.signal(signal.SIGVTALRM, stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, QUICK)
        start = time.process_time()
        result = yield
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        self.tests[item.nodeid] = [time.process_time() - start, self._taken()]
        return result


class Chosen:
    """A plugin of pytest that runs chosen tests in their order, each with its limit of time, and notes which runs."""

    def __init__(self, limits, note):
        self.limits = limits
        self.place = {name: place for place, name in enumerate(limits)}
        self.note = note

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda item: self.place[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.note.write_text(item.nodeid)
        signal.setitimer(signal.ITIMER_VIRTUAL, self.limits[item.nodeid])
        return (yield)


class Copy:
    """A copy of the repository, and what its tests say with a mutant in it.

    ``known`` holds of each run of tests a hash of its sources, what it imports, and of each test its seconds and lines.
    """

    def __init__(self, folder, folders, known):
        self.folder = folder
        self.note = folder.parent / "running"
        self.known = known
        self.sound, self.unsound = set(), set()
        self.sources = [path for room in ROOMS for path in sorted((ROOT / "symprop" / room).glob("*.py"))]
        self.runs = {"doctests": [path for path in self.sources if ">>> " in path.read_text(encoding="utf-8")]}
        for path in (path for name in folders for path in sorted((ROOT / "tests" / name).glob("test_*.py"))):
            self.runs[str(path.relative_to(ROOT))] = [path]

    def _run(self, files, plugin, trace=None, extra=("-x",)):
        """Exit code of pytest in a process of its own, negative where a signal ended it."""
        child = os.fork()
        if child == 0:
            try:
                os.chdir(self.folder)
                sys.path[:0] = [str(self.folder)]
                os.environ["SYMPROP_CACHE"] = str(self.folder.parent / "cache")
                os.environ["PYTHONPATH"] = str(self.folder)
                sys.dont_write_bytecode = trace is None
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
                resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST + 1))
                sys.settrace(trace)
                code = pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", *extra, *files], [plugin])
                sys.settrace(None)
                if trace is not None:
                    self.note.write_text(json.dumps([plugin.imported, plugin.tests]))
                os._exit(int(code))
            finally:
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def measure(self, name):
        """Note in ``known`` what a run of tests finds without a mutant; whether it had to run."""
        files = [self.folder / path.relative_to(ROOT) for path in (*self.sources, *self.runs[name])]
        state = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        if self.known.get(name, [None])[0] == state:
            return False
        plugin = Reach(self.folder)
        self.note.unlink(missing_ok=True)
        code = self._run([str(path.relative_to(ROOT)) for path in self.runs[name]], plugin, plugin.call, ())
        if not self.note.exists():
            raise SystemExit(f"without a mutant, exit code {code}: pytest {name}")
        self.known[name] = [state, *json.loads(self.note.read_text())]
        return True

    def _chosen(self, mutant, name, quick):
        """Quick or long tests of a run that may see a mutant, in the order in which it meets them, with limits of time."""

        def reaches(lines, span):
            return any(span[0] <= line <= span[1] for line in lines.get(mutant.path, ()))

        _, imported, tests = self.known[name]
        whole = 4 * sum(seconds for seconds, _ in tests.values()) + 20 if quick else LONGEST
        # What a long test reaches after it was stopped is not known: it counts where its file reaches the module.
        touched = {
            test.partition("::")[0]
            for test, (_, lines) in tests.items()
            if (reaches(lines, mutant.function) if quick else mutant.path in lines)
        }
        order = {
            test: (not reaches(lines, mutant.statement), seconds)
            for test, (seconds, lines) in tests.items()
            if test not in self.unsound
            and (seconds < QUICK) == quick
            and (test.partition("::")[0] in touched or reaches(imported, mutant.function))
        }
        return dict.fromkeys(sorted(order, key=order.get), whole)

    def killer(self, mutant, name, quick):
        """The quick or long test of a run that kills a mutant, None where all pass."""
        target = self.folder / mutant.path
        original = target.read_bytes()
        while tests := self._chosen(mutant, name, quick):
            files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
            self.note.write_text("collection")
            target.write_bytes(original[: mutant.begin] + mutant.new.encode() + original[mutant.end :])
            try:
                code = self._run(files, Chosen(tests, self.note))
            finally:
                target.write_bytes(original)
            found = self.note.read_text()
            if code in PASSED:
                return None
            if found == "collection":
                return f"collection of {name}"
            if found in self.sound:
                return found
            if self._run([found.partition("::")[0]], Chosen({found: LONGEST}, self.note)) == 0:
                self.sound.add(found)
                return found
            print(f"{'':9} {found} fails without a mutant", flush=True)
            self.unsound.add(found)
        return None


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=40, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="no mutant is begun later")
    parser.add_argument("--only", default="", help="modules whose path contains this")
    parser.add_argument("--tests", nargs="+", default=[*NEAR, *FAR], help="folders of tests")
    parser.add_argument("--reach", type=Path, help="a file that keeps which lines the tests reach, for the next run")
    options = parser.parse_args(arguments)
    paths = [path for room in ROOMS for path in sorted((ROOT / "symprop" / room).glob("*.py"))]
    known = []
    for path in (str(path.relative_to(ROOT)) for path in paths if options.only in str(path)):
        known += mutants(path)
    chosen = random.Random(options.seed).sample(known, min(options.sample, len(known)))
    end = time.monotonic() + 60 * options.minutes
    alive, killed = list(chosen), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve() / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "out", "build", "dist"))
        kept = json.loads(options.reach.read_text()) if options.reach and options.reach.exists() else {}
        tried = Copy(folder, options.tests, kept)
        for quick, run in itertools.product((True, False), tried.runs):
            if tried.measure(run) and options.reach:
                options.reach.write_text(json.dumps(kept))
            print(f"{len(alive)} mutants alive before {'quick' if quick else 'long'} tests of {run}", flush=True)
            for mutant in tuple(alive):
                if time.monotonic() > end:
                    raise SystemExit(f"time is up: {killed} killed, {len(alive)} not yet, drawn from {len(known)}")
                if (killer := tried.killer(mutant, run, quick)) is not None:
                    alive.remove(mutant)
                    killed += 1
                    print(f"killed    {mutant.path}:{mutant.line}: {mutant.change}, by {killer}", flush=True)
    for mutant in alive:
        print(f"SURVIVED  {mutant.path}:{mutant.line}: {mutant.change}")
    print(f"{killed} of {len(chosen)} mutants killed ({killed / max(1, len(chosen)):.0%}), drawn from {len(known)}")
    return 0 if chosen and killed >= 0.9 * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
