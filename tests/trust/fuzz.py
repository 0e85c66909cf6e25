"""Hostile command lines and files, drawn without end, and what each run must respect: ``python tests/trust/fuzz.py``.

Every case runs ``symprop.cli.main`` in a forked process with the sandbox as its working folder. A case fails where it ends
otherwise than by exit code 0, 1 or 2, prints a traceback, takes more than SECONDS of processor time to refuse its input or
LONGEST to answer it (a valid file may describe a large model), grows beyond MEMORY, starts a process, opens a connection
or touches a file outside the sandbox.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shlex
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

SECONDS, LONGEST = 5, 30
MEMORY = 10**9
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "ctypes.dlopen")
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")

ESCAPES = (
    "__import__('os').system('touch canary')", "().__class__.__base__.__subclasses__()", "eval('1')", "exec('1')",
    "open('canary','w')", "lambda: 1", "[x for x in (1,)]", "(x:=1)", "f'{1}'", "'%s' % 1", "L.__class__", "L.func", "L[0]",
    "sqrt.__globals__", "sqrt(L).subs(L, 1)", "Symbol('x')", "sympify('1')", "S('1')", "Integral(1, L)", "L if L else 1",
    "1 < 2", "not 1", "1 and 2", "1 or 2", "*L", "**L", "L, 1", "{1: 2}", "{1}", "...", "None", "True", "1j", "0x10", "0b1",
    "1_000", "1//2", "5 % 2", "1 << 99999", "1 ^ 2", "~1", "1 @ 2", "await L", "yield", "b'1'", "sqrt()", "sqrt(1, 2)",
    "sqrt(x=1)", "sqrt(*L)", "log(0)", "1/0", "0/0", "0**-1", "exp(exp(exp(9)))", "exp(1e3)", "exp(-1e3)", "exp(1001)",
    "9**9**9", "9**9**9**9", "(9**999)**999", "2**-1000", "((2**1000)**1000)**1000", "(1+2**999)**(1/999)", "2**0.123456789",
    "(-1)**0.5", "sqrt(-1)", "log(-1)", "(-8)**(1/3)", "1e999", "1e-999", "1e9999", "1e99999", "-1e999", "nan", "NaN", "inf",
    "-inf", "Infinity", "oo", "zoo", "I", "e**e**e**e", "pi**pi**pi**pi", "log(log(log(2)))", "sqrt(" * 60 + "2" + ")" * 60,
    "(" * 190, "-" * 199 + "1", "1" + "+1" * 99, "1" + "**1" * 60, "2" + "**2" * 60, "exp(" * 40 + "1" + ")" * 40,
    "1" * 199, "0." + "1" * 190, "1" * 10**6, "1e-1" + "0" * 100, "\u0661", "\uff11", "\u00b2", "\u2460", "\u2167", "1\u0660",
    "\u03c1", "\uff4c", "L\u0301", "\ud800", "\x00", "1\x00", "1\n+1", "1;2", "1#2", "\\", "'", '"', "`", "$(true)", "%n%s", "",
    " ", "\t1", "\x1b[31m1", "\u202e1", "1e", ".", "e", "-", "+1", "--1", "1.", ".5", "1.e5", "0001", "1e+5", "exp(1e-999)",
    "log(1e999)", "sqrt(2)**999", "(sqrt(2)+sqrt(3))**999", "(1+pi)**1000", "(pi+e+sqrt(2))**1000", "exp(pi)**1000",
    "((1+sqrt(2))**1000)**1000", "10**1000", "1/10**1000", "1-1e-999", "sqrt(10**999+1)", "log(10**999)", "exp(log(7))",
    "9999999999**999", "sqrt(9999999999999999999999999999)", "sqrt(" + "7" * 150 + ")", "(" + "7" * 150 + ")**(1/7)",
    "2**(1/" + "7" * 150 + ")", "log(" + "7" * 150 + ")", "exp(" + "1" * 150 + "e-150)", "exp(pi*sqrt(163))-262537412640768744",
    "log(exp(1e-99)-1)", "sqrt(2)**2-2", "1/(sqrt(2)**2-2)", "1/(exp(log(2))-2)", "1/((sqrt(2)+1)*(sqrt(2)-1)-1)",
)  # fmt: skip
"""Texts that SymPy's or Python's own readers would run, expand or choke on, and numbers that are none."""

_WORDS = ("L", "d", "H", "n", "rho", "q", "gap", "pi", "e", "x", "alpha_1", "sqrt", "exp", "log", "sin", "0", "1", "2", "1/3")
_OPERATORS = ("+", "-", "*", "/", "**", "//", "%", " ", ",", "(", ")", "==", "@", ".")
_NUMBERS = ("0", "-0", "1", "-1", "2", "1e-300", "1e300", "1e308", "1e999", "nan", "inf", "-inf", "1" * 18, "1" * 400,
            "1" * 10**5, "\u0663", "\uff12", "0x1", "1_0", "1.5", " 1", "", "2147483648", "-9223372036854775809")  # fmt: skip
_NAMES = ("noci2022", "kedia2024", "giorlandino2025", "cowsik2024", "softmax_attention", "architectures", "gpt2", "bert",
          "llama", "", ".", "..", "../../etc/passwd", "/etc/passwd", "/dev/zero", "os", "__init__", "noci2022_gradients",
          "symprop", "\x00", "a" * 5000, "\ud800", "\u0430", "noci2022:", ":", "noci2022:norm:norm", "noci2022:../norm", "-",
          "--", "own.toml", "config.json", "model.safetensors", "model", "loop")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command line and the files that it may read, by name inside the sandbox."""

    arguments: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a case ended: ``fault`` is empty where it respected every limit."""

    code: int
    seconds: float
    memory: int
    errors: str
    fault: str


def expression(draw, depth=4):
    """A random expression, most of them nearly right."""
    if depth == 0 or draw.random() < 0.25:
        return draw.choice((*_WORDS, *_NUMBERS)) if draw.random() < 0.9 else draw.choice(ESCAPES)
    kind = draw.randrange(4)
    left = expression(draw, depth - 1)
    if kind == 0:
        return f"{draw.choice(('sqrt', 'exp', 'log', 'sin', 'L', ''))}({left})"
    if kind == 1:
        return f"-{left}"
    return f"({left}){draw.choice(_OPERATORS)}{expression(draw, depth - 1)}"


def value(draw):
    """A text where a number or an expression is expected."""
    return draw.choice((lambda: draw.choice(ESCAPES), lambda: draw.choice(_NUMBERS), lambda: expression(draw)))()


def mutated(draw, content):
    """Bytes with a few of them changed, doubled, cut or followed by noise."""
    content = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(content) + 1)
        kind = draw.randrange(5)
        if kind == 0 and place < len(content):
            content[place] = draw.randrange(256)
        elif kind == 1:
            content[place:place] = draw.randbytes(draw.randrange(1, 9))
        elif kind == 2:
            del content[place : place + draw.randrange(1, 20)]
        elif kind == 3:
            content[place:place] = content[:place][-draw.randrange(1, 40) :]
        else:
            noise = (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\\u0000", b"1e999", b"[" * 5000, b"NaN")
            content[place:place] = draw.choice(noise)
    return bytes(content)


def _json_value(draw):
    plain = (0, -1, 1, 2, 64, 10**9, 10**400, 1e308, -0.0, True, None, "", "1", [], {}, [1], {"a": 1}, "\ud800", 0.5)
    return draw.choice((lambda: draw.choice(plain), lambda: draw.choice(ESCAPES)))()


def config(draw):
    """A ``config.json``: small sizes, hostile entries."""
    kinds = ("gpt2", "bert", "roberta", "vit", "llama", "mistral", "qwen2", "gpt_neox", "gptj", "t5", "mamba")
    keys = ("n_embd", "n_layer", "n_head", "n_inner", "vocab_size", "initializer_range", "activation_function", "hidden_size",
            "layer_norm_epsilon", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
            "rope_theta", "rope_parameters", "rope_scaling", "sliding_window", "head_dim", "hidden_act", "is_decoder",
            "patch_size", "num_channels", "model_type", "rms_norm_eps", "rotary_pct", "d_model", "num_layers")  # fmt: skip
    content = {"model_type": draw.choice(kinds), "n_layer": 2, "n_embd": 64, "n_head": 2, "num_hidden_layers": 2,
               "hidden_size": 64, "num_attention_heads": 2, "num_layers": 2}  # fmt: skip
    for _ in range(draw.randrange(4)):
        content[draw.choice(keys)] = _json_value(draw)
    text = json.dumps(content).encode()
    if draw.random() < 0.2:
        text = text.replace(b"2", draw.choice(("1" * 10**5, "1e999", "-1e400", "NaN", "Infinity", "[" * 10**5)).encode(), 1)
    return mutated(draw, text) if draw.random() < 0.3 else text


def toml(draw):
    """A description in TOML: a small base, hostile entries."""
    entries = (("model", "layers"), ("model", "width"), ("model", "heads"), ("model", "hidden"), ("model", "name"),
               ("block", "order"), ("block", "norm"), ("block", "branch_scale"), ("block", "skip_scale"), ("block", "epsilon"),
               ("attention", "positions"), ("attention", "temperature"), ("attention", "causal"), ("variances", "output"),
               ("variances", "query"), ("variances", "token"), ("model", "__class__"), ("os", "system"))  # fmt: skip
    lines = {"model": ['base = "gpt2"', "layers = 2", "width = 64", "heads = 2"]}
    for _ in range(draw.randrange(1, 4)):
        table, key = draw.choice(entries)
        raw = value(draw)
        text = raw if draw.random() < 0.4 else json.dumps(raw)
        lines.setdefault(table, []).append(f"{key} = {text}")
    text = "\n".join(f"[{table}]\n" + "\n".join(rows) for table, rows in lines.items()).encode("utf-8", "surrogatepass")
    if draw.random() < 0.1:
        text += draw.choice((b"\na" + b".a" * 9000 + b"=1", b"\na=" + b"[" * 9000, b"\n[[model]]", b"\nx=1979-13-45"))
    return mutated(draw, text) if draw.random() < 0.3 else text


def tensors(draw):
    """A safetensors file whose header lies about sizes, types, nesting or its own length."""
    side = draw.choice((1, 2, 64, 10**9, 10**18, -1, 10**400, True, "1", None))
    entry = {"dtype": draw.choice(("F32", "F64", "BF16", "X", None)), "shape": [side] * draw.choice((0, 1, 2, 8, 1000)),
             "data_offsets": draw.choice(([0, 4], [0, 10**18], [4, 0], [0], [-1, 3], "x", [0, 1 << 62]))}  # fmt: skip
    names = ("wte.weight", "h.0.attn.c_attn.weight", "../x", "\x00", "a" * 9000, "__metadata__")
    header = {draw.choice(names): entry for _ in range(draw.randrange(4))}
    text = json.dumps(header).encode()
    if draw.random() < 0.3:
        text = draw.choice((b"[" * 10**6, b'{"a":' * 10**5, b" " * 10**7, b'{"a":' + b"1" * 10**6 + b"}", b"\xff" * 100,
                            b'{"__metadata__":{}}' + b" " * 10**6))  # fmt: skip
    length = draw.choice((len(text), len(text), len(text), 0, 1 << 63, (1 << 64) - 1, len(text) + 1, 10**9))
    return struct.pack("<Q", length) + text + draw.randbytes(draw.choice((0, 4, 256)))


def _audit(draw):
    target, content = draw.choice((("own.toml", toml), ("config.json", config), ("model.safetensors", tensors), (None, None)))
    files = {} if content is None else {target: content(draw)}
    if target == "model.safetensors":
        files["config.json"] = config(draw)
    arguments = ["audit", draw.choice(_NAMES) if target is None else target]
    arguments += ["--seq-len", "8"]
    if arguments[1] in ("gpt2", "bert", "llama"):
        arguments += ["--depth", "2", "--width", "64"]
    for option in ("--depth", "--width", "--seq-len", "--seed", "--padding", "--growth", "--cosine", "--words", "--state"):
        if draw.random() < 0.08:
            arguments += [option, draw.choice((*_NUMBERS, "zipf", "gram"))]
    if draw.random() < 0.3:
        arguments += ["--init", f"{draw.choice(('output', 'branch_scale', 'query', 'x', ''))}={value(draw)}"]
    if draw.random() < 0.25:
        # The formulas of one layer take no sizes.
        chosen = arguments[arguments.index("--init") :] if "--init" in arguments else []
        return Case(("audit", arguments[1], *chosen, "--latex"), files)
    return Case((*arguments, *draw.choice(((), ("--json",), ("--keys",)))), files)


def _eval(draw):
    target = draw.choice(("noci2022:norm", "noci2022:correlation", draw.choice(_NAMES)))
    keys = ("L", "n", "rho", "alpha_1", "alpha_2", "d", "x", "", "L.a", "\u03c1")
    values = [f"{draw.choice(keys)}={value(draw)}" for _ in range(draw.randrange(5))]
    if draw.random() < 0.3:
        values += draw.choice((["L=n", "n=L"], ["L=L"], ["L=n", "n=rho", "rho=L"], ["L=n**2", "n=2*L"]))
    return Case(("eval", target, *values, *draw.choice(((), ("--json",), ("--assumptions",)))))


def _other(draw):
    name = draw.choice(_NAMES)
    bad = draw.choice(_NUMBERS)
    arguments = draw.choice((
        ("derive", name, "--claim", draw.choice(ESCAPES)), ("derive", "noci2022", "--notation", name),
        ("derive", "noci2022", "--format", name), ("list", name), ("verify", name, "--seed", bad),
        ("appendix", name, "-o", draw.choice(("out", "", ".", "taken", "\x00", "a" * 300)), "--seed", f"{bad}x"),
        ("appendix", "noci2022", "--style", name, "-o", "out"), ("appendix", "noci2022", "--notation", f"x{name}", "-o", "out"),
        ("diagram", "giorlandino2025", "-o", draw.choice(("a.png", "a.exe", "", "\x00.png")), "-x", f"beta:{bad}:5:3",
         "-y", f"alpha_sa:0.1:{value(draw)}:2"),
        ("diagram", name, "-o", "a.png", "-x", f"beta:0.2:5:{bad}"),
        ("init", "deepscalelm", "layers=2", "width=64", f"vocab={value(draw)}"),
        ("init", "deepscalelm", f"layers={bad}", "width=64", "vocab=100", f"dropout={value(draw)}"),
        ("init", name), ("generate", f"{name}:{draw.choice(_NAMES)}", "-o", "gen"), ("generate", name, "--check"),
        ("completion", name), (name,), (name, bad), ("--" + name,),
    ))  # fmt: skip
    # Only refusals are quick here: a whole verification or appendix of a bundled derivation is the work of a minute.
    if arguments[0] in ("verify", "appendix", "generate") and arguments[1].partition(":")[0] in _NAMES[:6]:
        arguments = (*arguments, "--nonsense")
    return Case(arguments)


def case(draw):
    """The next case: half of them audits, whose files have the largest surface."""
    return draw.choice((_audit, _audit, _eval, _other))(draw)


def run(item, sandbox):
    """Run a case in a forked process, its files and its working folder in ``sandbox``."""
    for name, content in item.files.items():
        (sandbox / name).write_bytes(content)
    report = sandbox.parent / f"{sandbox.name}.report"
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(item, sandbox, report)
    _, status, usage = os.wait4(child, 0)
    code, seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
    errors = report.read_text(encoding="utf-8", errors="replace")
    fault = ""
    if code not in (0, 1, 2):
        fault = f"exit code {code} after {seconds:.1f} s of processor time, {time.monotonic() - started:.1f} s in all"
    elif "Traceback" in errors:
        fault = "a traceback"
    elif code == 2 and seconds > SECONDS:
        fault = f"a refusal after {seconds:.1f} s of processor time"
    elif code == 2 and (errors.count("\n") != 1 or len(errors) > 1000):
        fault = f"a refusal of {errors.count(chr(10))} lines and {len(errors)} characters"
    elif usage.ru_maxrss * 1024 > MEMORY:
        fault = f"{usage.ru_maxrss // 1024} MB"
    elif (sandbox / "canary").exists():
        fault = "code was run"
    return Outcome(code, seconds, usage.ru_maxrss * 1024, errors, fault)


def _child(item, sandbox, report):
    """The forked process: bounded, watched, its output discarded and its errors kept; never returns."""
    error = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(error, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 70
    try:
        os.chdir(sandbox)
        tempfile.tempdir = str(sandbox)
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
        resource.setrlimit(resource.RLIMIT_AS, (4 * MEMORY, 4 * MEMORY))
        sys.addaudithook(_watch(str(sandbox)))
        from symprop.cli import main

        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        code = main(item.arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 70
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(sandbox):
    """An audit hook that ends the process at anything a reader of text has no business with."""

    def hook(event, arguments):
        inside = True
        if event == "open":
            path, _mode, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            inside = not changes or isinstance(path, int) or _inside(path, sandbox)
        elif event in _CHANGES:
            inside = _inside(arguments[0], sandbox)
        if not inside or event in _FORBIDDEN:
            os.write(2, f"\nTraceback: {event} {arguments!r}\n"[:500].encode("utf-8", "replace"))
            os._exit(71)

    return hook


def _inside(path, sandbox):
    whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
    return whole == os.devnull or whole.startswith(sandbox)


def prepare(folder):
    """A sandbox with a folder that holds someone's work and a link that leads to itself, and the modules loaded once."""
    sandbox = folder / "sandbox"
    (sandbox / "taken").mkdir(parents=True)
    (sandbox / "taken" / "thesis.tex").write_text("mine")
    (sandbox / "model").mkdir()
    (sandbox / "loop").symlink_to("loop")
    os.environ |= {"SYMPROP_CACHE": str(sandbox / "cache"), "MPLCONFIGDIR": str(sandbox / "matplotlib")}
    sys.dont_write_bytecode = True
    # It lists the fonts of the machine once, by a program of its own.
    importlib.import_module("matplotlib.font_manager")
    from symprop import bundled
    from symprop.cli import main

    # What a paper's module derives when it is loaded is not the input's doing: children inherit it.
    for key in bundled.names():
        _ = bundled.derivation(key).evaluators
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):  # noqa: PTH123
        main(["audit", "gpt2", "--depth", "2", "--width", "64", "--seq-len", "8"])
        main(["eval", "noci2022:norm"])
        main(["diagram", "giorlandino2025", "-o", "none.exe"])
    return sandbox


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    faults = runs = 0
    slowest = largest = 0.0
    with tempfile.TemporaryDirectory() as name:
        sandbox = prepare(Path(name))
        end = time.monotonic() + 60 * options.minutes
        seed = options.seed
        while time.monotonic() < end:
            item = case(random.Random(seed))
            outcome = run(item, sandbox)
            runs, slowest, largest = runs + 1, max(slowest, outcome.seconds), max(largest, outcome.memory)
            if outcome.fault:
                faults += 1
                shown = shlex.join(item.arguments)[:300]
                print(f"seed {seed}: {outcome.fault}\n  {shown!r}\n  {outcome.errors[-600:]}", flush=True)
                for file, content in item.files.items():
                    print(f"  {file}: {content[:300]!r}", flush=True)
            seed += 1
    print(f"{runs} cases, {faults} faults; slowest {slowest:.1f} s of processor time, largest {largest / 1e6:.0f} MB")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
