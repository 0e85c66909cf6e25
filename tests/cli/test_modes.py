"""Every option in every mode of its command: it does something there, or it is refused."""

from __future__ import annotations

import pytest

from symprop.cli import _parser, main
from symprop.modes import MODES, refuse_ignored

SWEEP = {"workers": ["--workers", "2"], "resume": ["--resume", "kept"], "scheduler": ["--scheduler", "tcp://h:1"]}
STUDY = {"full": ["--full"], "seed": ["--seed", "3"], **SWEEP}
OPTIONS = {
    "list": {"json": ["--json"]},
    "derive": {"claim": ["--claim", "eq12"], "notation": ["--notation", "kedia"], "format": ["--format", "latex"]},
    "eval": {"values": ["L=2"], "assumptions": ["--assumptions"], "json": ["--json"]},
    "verify": {"ablation": ["--ablation"], "minutes": ["--minutes", "1"], "json": ["--json"], **STUDY},
    "appendix": {
        "output": ["-o", "out"], "style": ["--style", "input-only"], "columns": ["--columns", "2"],
        "html": ["--html", "a.html"], "notation": ["--notation", "kedia"], "no-pdf": ["--no-pdf"], **STUDY,
    },
    "diagram": {
        "values": ["sigma_v2=1"], "x": ["-x", "beta:0:1:3"], "y": ["-y", "alpha_sa:1:2:3"], "layers": ["--layers", "5"],
        "tokens": ["--tokens", "9"], "activation": ["--closure", "rem"], "simulate": ["--simulate", "2"],
        "seed": ["--seed", "3"], "json": ["--json"], "output": ["-o", "b.png"], **SWEEP,
    },
    "init": {"values": ["layers=3"], "torch": ["--torch"], "json": ["--json"]},
    "audit": {
        "MODEL": ["gpt2"], "forward": ["--forward"], "keys": ["--keys"], "depth": ["--depth", "3"], "width": ["--width", "64"],
        "seq-len": ["--seq-len", "9"], "words": ["--words", "zipf"], "seed": ["--seed", "3"], "padding": ["--padding", "2"],
        "state": ["--state", "gram"], "init": ["--init", "output=1/d"], "growth": ["--growth", "2"],
        "cosine": ["--cosine", "0.5"], "json": ["--json"], "latex": ["--latex"], "plot": ["--plot", "a.pdf"],
        "html": ["--html", "a.html"], "appendix": ["--appendix", "out"], "columns": ["--columns", "2"],
    },
    "generate": {
        "NAME[:EVALUATOR]": ["noci2022:norm"], "backend": ["--backend", "numpy"], "jacobian": ["--jacobian"],
        "check": ["--check"], "output": ["-o", "out"],
    },
    "completion": {},
}  # fmt: skip
AUDIT, CHECKPOINT = {*OPTIONS["audit"]}, {"forward", "seq-len", "words", "seed", "json"}
REFUSED = {
    "list": set(), "derive noci2022": set(), "derive noci2022 --claim eq12": set(), "eval noci2022:norm": set(),
    "eval noci2022:norm --json": set(),
    "verify noci2022": {"ablation", "minutes"}, "verify mine.py": {"ablation", "minutes"},
    "verify noci2022 --scheduler tcp://h:2": {"ablation", "minutes", "workers"},
    "verify architectures": {*SWEEP}, "verify architectures --ablation": {*SWEEP, "full", "minutes"},
    "appendix noci2022 --html b.html": {"style", "columns", "no-pdf"}, "appendix noci2022 -o b": set(),
    "appendix noci2022 -o b --scheduler tcp://h:2": {"workers"},
    "diagram giorlandino2025 -o a.png": {"seed", *SWEEP}, "diagram giorlandino2025 -o a.png --simulate 1": set(),
    "diagram giorlandino2025 -o a.png --simulate 1 --scheduler tcp://h:2": {"workers"},
    "init deepscalelm": set(), "init deepscalelm --json": {"torch"}, "init deepscalelm --torch": {"json"},
    "audit gpt2": {"forward", "keys", "seed", "columns"}, "audit gpt2 --words zipf": {"forward", "keys", "columns", "latex"},
    "audit gpt2 --appendix b": {"forward", "keys", "seed"}, "audit gpt2 --plot b.pdf": {"forward", "keys", "seed", "columns"},
    "audit gpt2 --json": {"forward", "keys", "seed", "columns", "latex"},
    "audit gpt2 --html b.html": {"forward", "keys", "seed", "columns"},
    "audit gpt2 --latex": AUDIT - {"init", "plot", "html", "appendix"},
    "audit gpt2 --latex --plot b.pdf": {"forward", "keys", "seed", "columns", "json", "growth", "cosine"},
    "audit gpt2 --latex --html b.html": {"forward", "keys", "seed", "columns", "json"},
    "audit gpt2 --latex --appendix b": {"forward", "keys", "seed", "json"},
    "audit --keys": AUDIT, "audit trained": AUDIT - CHECKPOINT, "audit trained/a.safetensors --forward": AUDIT - CHECKPOINT,
    "generate": {"backend", "jacobian"}, "generate --check": {"backend", "jacobian"}, "generate noci2022:norm -o b": set(),
    "generate noci2022:norm -o b --check": set(),
}  # fmt: skip
"""What does nothing beside the words, or takes their meaning from them."""
CASES = [
    pytest.param(words.split(), name, option, name in refused, id=" ".join([words, *option]))
    for words, refused in REFUSED.items()
    for name, option in OPTIONS[words.split()[0]].items()
    if option[0] not in words.split() and (name != "MODEL" or words == "audit --keys")
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "a.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("words", "name", "option", "refused"), CASES)
def test_an_option_does_something_or_is_refused(words, name, option, refused, folder, capsys):
    if not refused:
        options = _parser().parse_known_args([*words, *option])[0]
        refuse_ignored(options.parser, options)
        return
    assert main([*words, *option]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "expected no such option" in shown.err
    named = shown.err.split()[1]
    assert named == name or named == "MODEL" or f"--{named}" in words
    assert [item.name for item in folder.iterdir()] == ["trained"]


def test_the_cases_hold_every_option_of_every_command():
    for command, sub in _subparsers().items():
        actions = [item for item in sub._actions if item.dest not in ("help", "quiet")]
        names = {item.option_strings[-1].lstrip("-") if item.option_strings else item.metavar or item.dest for item in actions}
        first = {"NAME", "TARGET", "RECIPE", "shell"} if command != "generate" else set()
        assert names - first == {"KEY=VALUE" if name == "values" else name for name in OPTIONS[command]}, command


def test_modes_name_options_that_there_are():
    for command, modes in MODES.items():
        known = {item.dest for item in _subparsers()[command]._actions}
        assert all({*mode.takes, *mode.refuses} <= known for mode in modes)


def _subparsers():
    return next(item.choices for item in _parser()._actions if item.dest == "command")
