"""What a terminal shows: 80 columns, progress on a terminal alone, completion, one line for a missing package."""

import contextlib
import io
import os
import pty
import shutil
import subprocess
import sys
import threading

import pytest

from symprop.cli import main

COMMANDS = {
    "list": ("list",),
    "eval": ("eval", "noci2022:correlation", "L=24", "n=128", "rho=1/10", "alpha_1=1", "--assumptions"),
    "audit": ("audit", "gpt2", "--depth", "3", "--seq-len", "8"),
    "keys": ("audit", "--keys"),
    "init": ("init", "deepscalelm", "layers=12", "width=256", "vocab=1000"),
    "derive": ("derive", "norm_placement"),
}
SYMPROP = (sys.executable, "-c", "import sys; from symprop.cli import main; sys.exit(main())")


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_output_fits_80_columns(words, capsys):
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out and max(map(len, shown.out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["", "list", "derive", "eval", "verify", "appendix", "diagram", "init", "audit",
                                     "generate", "completion"])  # fmt: skip
def test_help_fits_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def on_a_terminal(words, **environment):
    """Standard output and what appears on a terminal that is standard error."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", **environment}
    ran = subprocess.Popen([*SYMPROP, *words], stdout=subprocess.PIPE, stderr=theirs, env=env)
    os.close(theirs)
    seen = io.BytesIO()

    def read():
        with contextlib.suppress(OSError):  # how Linux ends a terminal without a writer
            while piece := os.read(ours, 4096):
                seen.write(piece)

    # A terminal that nobody reads blocks its writer after a few thousand characters.
    reader = threading.Thread(target=read)
    reader.start()
    out = ran.communicate()[0]
    reader.join()
    os.close(ours)
    assert ran.returncode == 0
    return out, seen.getvalue()


def test_progress_shows_on_a_terminal_unless_quiet():
    words = COMMANDS["init"]
    out, seen = on_a_terminal(words)
    assert b"solving" in seen
    plain, silent = on_a_terminal((*words, "--quiet"))
    assert silent == b"" and out == plain
    assert b"\x1b[3" not in on_a_terminal(words, NO_COLOR="1")[1]


def complete(script, *words):
    shell = f'{script}\nCOMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _symprop; echo "${{COMPREPLY[@]}}"'
    return subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_options_and_names(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert complete(script, "symprop", "de") == ["derive"]
    assert complete(script, "symprop", "derive", "noci2022") == ["noci2022"]
    assert "noci2022:correlation" in complete(script, "symprop", "eval", "noci2022:corr")
    assert complete(script, "symprop", "audit", "gpt2") == ["gpt2"]
    assert complete(script, "symprop", "derive", "noci2022", "--cl") == ["--claim"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_scripts(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("derive", "noci2022:correlation", "--quiet", "gpt2"):
        assert word in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    "module, words, extra",
    [
        ("matplotlib", ("audit", "gpt2", "--depth", "1", "--seq-len", "4", "--plot", "figure.pdf"), "plot"),
        pytest.param("transformers", ("verify", "architectures"), "hf", marks=pytest.mark.slow),
    ],
)
def test_a_missing_package_is_one_line(module, words, extra, tmp_path):
    code = f"import sys; sys.modules[{module!r}] = None; from symprop.cli import main; sys.exit(main())"
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1 and f"symprop[{extra}]" in ran.stderr
