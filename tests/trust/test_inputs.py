"""Hostile text: one line and exit code 2, or a finite number; nothing is run, and no file leaves the sandbox."""

import random
import sys
import time

import pytest
import sympy as sp

from symprop.core.errors import InputError
from symprop.core.parsing import parse_expression
from symprop.core.symbols import L, n

NAMES = {"L": L, "n": n}
SECONDS = 1.0


@pytest.fixture
def watched():
    """Events of running code while a test reads text; a hook cannot be removed, so it is switched off."""
    seen, on = [], [True]

    def hook(event, arguments):
        if on[0] and event in ("os.system", "subprocess.Popen", "os.posix_spawn", "socket.connect", "os.exec"):
            seen.append(event)

    sys.addaudithook(hook)
    yield seen
    on[0] = False


def read(text):
    """The expression, or None where it is refused; every other end is the test's failure."""
    started = time.process_time()
    try:
        found = parse_expression(text, NAMES)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        found = None
    assert time.process_time() - started < SECONDS, text[:100]
    if found is not None:
        assert isinstance(found, sp.Expr) and found.free_symbols <= set(NAMES.values())
        assert not found.has(sp.nan, sp.oo, -sp.oo, sp.zoo)
    return found


def test_known_escapes(fuzz, watched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in fuzz.ESCAPES:
        read(text)
    assert not watched and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["__import__('os')", "L.__class__", "lambda: 1", "f'{1}'", "(x:=1)", "1_000", "0x10", "1j",
                                  "\u0661", "\uff11", "1e99999", "9**9**9", "1/0", "nan", "oo", "[1]", "sqrt(x=1)",
                                  "999**(-1e-300)", "exp(-1e-300*log(12))", "(12*L)**1e-99"])  # fmt: skip
def test_what_is_no_number_is_refused(text):
    assert read(text) is None


def test_random_expressions():
    draw = random.Random(0)
    read_ones = sum(read(_expression(draw)) is not None for _ in range(200))
    assert read_ones > 20


def _expression(draw, depth=4):
    if depth == 0 or draw.random() < 0.2:
        return draw.choice(("L", "n", "1", "2", "0.5", "1/3", "pi", "e", "7e9", "1e-300", "x", "999"))
    left = _expression(draw, depth - 1)
    if draw.random() < 0.3:
        return f"{draw.choice(('sqrt', 'exp', 'log', '-'))}({left})"
    return f"({left}){draw.choice(('+', '-', '*', '/', '**'))}({_expression(draw, depth - 1)})"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_hostile_runs(fuzz, seed, tmp_path):
    sandbox = fuzz.prepare(tmp_path)
    for number in range(200):
        item = fuzz.case(random.Random(10**6 * (seed + 1) + number))
        outcome = fuzz.run(item, sandbox)
        assert not outcome.fault, (item, outcome)


@pytest.mark.parametrize("seed", range(4))
def test_hostile_files(fuzz, seed):
    """Every reader of files on drawn files, in this process: a few of each in the default run."""
    from symprop.architectures.readers import from_config, from_toml
    from symprop.core.errors import SympropError

    draw = random.Random(seed)
    for _ in range(12):
        for make, reader in ((fuzz.config, from_config), (fuzz.toml, from_toml)):
            text = make(draw).decode("utf-8", "replace")
            try:
                reader(text)
            except SympropError as error:
                assert "\n" not in str(error), text[:200]


@pytest.mark.parametrize("seed", range(3))
def test_hostile_tensor_files(fuzz, seed, tmp_path):
    from symprop.architectures.tensor_file import read_header
    from symprop.core.errors import SympropError

    draw, path, refused = random.Random(seed), tmp_path / "model.safetensors", 0
    for _ in range(40):
        path.write_bytes(fuzz.tensors(draw))
        try:
            read_header(path)
        except SympropError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20
