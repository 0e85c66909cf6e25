"""The command line as a person and a script use it."""

import json
import os
import subprocess
import sys

import pytest

from symprop import bundled
from symprop.cli import main
from symprop.core.errors import InputError
from symprop.core.parsing import parse_expression


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_needs_no_sympy():
    code = "import sys; from symprop.cli import main; main(['list']); assert 'sympy' not in sys.modules"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "eq12" in found.stdout


@pytest.mark.parametrize(
    "words", [(), ("derive",), ("eval",), ("verify",), ("appendix",), ("audit",), ("generate",), ("list",)]
)
def test_help(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    assert "usage: symprop" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["unicode", "latex", "sympy", "json"])
def test_derive_prints_a_claim(capsys, form):
    code, out, _ = run(capsys, "derive", "noci2022", "--claim", "eq12", "--format", form)
    assert code == 0
    assert "skip" in out
    if form == "json":
        json.loads(out)
    if form == "unicode":
        assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("notation", ["symprop", "noci", "kedia", "cowsik", "giorlandino"])
def test_derive_in_every_notation(capsys, notation):
    code, out, _ = run(capsys, "derive", "noci2022", "--notation", notation)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80


def test_eval_gives_fifteen_digits(capsys):
    words = ["L=12", "alpha_1=1", "alpha_2=1", "n=10", "C=1", "N=1"]
    code, out, _ = run(capsys, "eval", "noci2022:norm", *words)
    assert code == 0
    # (1+1)^12 (N + ((1+1)^12 - 1) C/n), by hand.
    assert float(out) == pytest.approx(4096 * (1 + 4095 / 10), rel=1e-15)


def test_eval_takes_expressions_in_other_parameters(capsys):
    words = ["L=16", "alpha_1=1/sqrt(L)", "n=4", "rho=0.2", "--json"]
    code, out, _ = run(capsys, "eval", "noci2022:correlation", *words)
    assert code == 0
    content = json.loads(out)
    assert content["values"]["alpha_1"] == "1/4"
    assert content["assumptions"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("derive", "noci2022x"), "did you mean 'noci2022'"),
        (("derive", "noci2022", "--claim", "eq12x"), "did you mean 'eq12'"),
        (("derive", "noci2022", "--notation", "kedai"), "did you mean 'kedia'"),
        (("derive", "noci2022", "--format", "pdf"), "unknown format 'pdf' (known: "),
        (("audit", "gpt2", "--words", "bogus"), "unknown words 'bogus' (known: distinct, uniform, zipf)"),
        (("eval", "noci2022:nrom"), "did you mean 'noci2022:norm'"),
        (("eval", "noci2022:norm", "LL=3"), "unknown parameter 'LL'"),
        (("eval", "noci2022:norm", "L"), "expected key=value"),
        (("eval", "noci2022:correlation", "L=2", "n=4", "alpha_1=1", "rho=-0.5"), "[-1/(n - 1), 1]"),
        (("eval", "noci2022:correlation", "L=0", "n=4", "alpha_1=1", "rho=0"), "an integer >= 1"),
        (("eval", "noci2022:norm", "L=2", "n=4", "alpha_1=1", "alpha_2=1", "N=-1", "C=1"), "N = -1 is not allowed"),
        (("eval", "noci2022:norm", "L=1e999"), "an integer >= 1 that a double holds"),
        (("eval", "noci2022:norm", "L=__import__('os').system('x')"), "is not allowed"),
        (("eval", "noci2022:norm", "C=log(-2)"), "C = log(-2) is not allowed: expected a finite real value"),
        (("eval", "noci2022:correlation", "L=16", "n=4", "rho=0", "alpha_1=sqrt(1-L)"), "is not allowed"),
        (("diagram", "giorlandino2025", "rho=sqrt(-1)", "-o", "none.png"), "rho = sqrt(-1) is not allowed"),
        (("init", "deepscalelm", "layers=1", "width=64", "vocab=9", "dropout=sqrt(-1)"), "dropout = sqrt(-1) is not allowed"),
        (("init", "deepscalelm", "layers=1e308", "width=64", "vocab=9", "dropout=0"), "an integer in [3, 10000]"),
        (("verify", "../noci2022"), "unknown derivation"),
        (("generate", "dong2021", "dong2021:log_gpa", "-o", "none"), "did you mean 'dong2021:log_gap'"),
        (("generate", "-o", __file__), "a folder that can be written"),
        (("diagram", "giorlandino2025", "-o", f"{__file__}/a.png"), "a folder that can be written"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, words, message):
    code, out, err = run(capsys, *words)
    assert code == 2
    assert not out
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "arguments are required: COMMAND"),
        (("derve",), "invalid choice: 'derve'"),
        (("audit", "gpt2", "--depth", "1e999"), "argument --depth: '1e999' is not allowed: expected an integer"),
        (("audit", "gpt2", "--width", "\u0663"), "expected an integer"),
        (("audit", "gpt2", "--cosine", "much"), "expected a number"),
        (("audit", "gpt2", "--dept\nh=2"), "--dept h=2"),
        (("verify", "noci2022", "--seed", "-1"), "argument --seed"),
    ],
)
def test_words_that_cannot_be_read_are_one_line_and_exit_code_2(capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert not printed.out
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('x')", "().__class__", "lambda: 1", "[1][0]", "x", "1e999999", "9**9**9**9", "nan", "inf",
     "'a'*3", "f'{1}'", "٣", "1_000", "0x10", "1j", "True", "sqrt(2, 3)", "exp(exp(exp(99)))**999", "(" * 150, "1/0"],
)
def test_parser_refuses(text):
    with pytest.raises(InputError):
        parse_expression(text)


@pytest.mark.slow
def test_generated_files_are_up_to_date_under_another_hash_seed(tmp_path):
    command = [sys.executable, "-m", "symprop.cli", "generate", "--check"]
    found = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_generate_check_sees_a_changed_and_a_stale_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(bundled, "generated_files", lambda: {"a.py": "x = 1\n", "b.py": "y = 2\n"})
    assert run(capsys, "generate", "-o", str(tmp_path / "out"))[0] == 0
    assert run(capsys, "generate", "--check", "-o", str(tmp_path / "out"))[0] == 0
    (tmp_path / "out" / "a.py").write_text("x = 2\n")
    (tmp_path / "out" / "c.py").write_text("")
    code, out, _ = run(capsys, "generate", "--check", "-o", str(tmp_path / "out"))
    assert code == 1
    assert out.splitlines() == ["a.py: different", "c.py: stale"]


def test_appendix_refuses_a_folder_with_other_files(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    code, _, err = run(capsys, "appendix", "noci2022", "-o", str(tmp_path))
    assert code == 2
    assert "thesis.tex" in err
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_verify_fails_when_a_claim_does_not_hold(capsys, monkeypatch):
    derivation = bundled.derivation("noci2022")
    claim = derivation.claim("eq10")
    from dataclasses import replace

    wrong = replace(claim, stated=claim.stated * 2)
    broken = replace(derivation, build_claims=lambda: (wrong,), study_points=lambda *_: ())
    monkeypatch.setattr(bundled, "derivation", lambda _: broken)
    code, out, _ = run(capsys, "verify", "noci2022", "--json")
    assert code == 1
    assert json.loads(out)["failures"]


def test_audit_prints_a_table_a_verdict_and_repairs(capsys):
    code, out, _ = run(capsys, "audit", "gpt2", "--depth", "2", "--seq-len", "8")
    assert code == 0
    assert "Gradients grow by" in out and "Repair of gradient growth" in out
    code, out, _ = run(capsys, "audit", "gpt2", "--depth", "2", "--seq-len", "8", "--init", "output=1/d", "--json")
    assert code == 0
    content = json.loads(out)
    assert content["architecture"]["initialisation"]["output"] == "1/d"
    assert len(content["rows"]) == 3


def test_an_audit_of_one_layer_reads_as_such(capsys):
    code, out, _ = run(capsys, "audit", "gpt2", "--depth", "1", "--seq-len", "8")
    assert code == 0 and "1 layer, width" in out and "over 1 layer (" in " ".join(out.split())
    assert "1 layers" not in out and "0.0000" in out and "-0.0000" not in out


def test_the_axes_of_an_audit_name_what_they_show():
    from symprop.architectures.audit import audit
    from symprop.architectures.presets import preset
    from symprop.auditing import figure

    found = figure(audit(preset("bert").replace(layers=1), tokens=4))
    assert (found.xlabel, found.ylabel) == ("layer of bert, 4 tokens", "moments and deviations")


def test_the_json_of_an_audit_has_a_form_that_stays(capsys):
    code, out, _ = run(capsys, "audit", "gpt2", "--depth", "1", "--seq-len", "6", "--growth", "1.01", "--json")
    content = json.loads(out)
    assert code == 0 and content["schema"] == "symprop-audit-1"
    assert {name: type(value).__name__ for name, value in content.items()} == {
        "schema": "str", "architecture": "dict", "tokens": "int", "padding": "int", "state": "str", "reason": "str",
        "cotangent": "str", "rows": "list", "verdict": "list", "repairs": "list",
    }  # fmt: skip
    assert list(content["architecture"]) == [
        "name", "source", "layers", "width", "heads", "key_width", "hidden", "vocabulary", "order", "norm", "activation",
        "gated", "causal", "positions", "epsilon", "initialisation",
    ]  # fmt: skip
    for row in content["rows"]:
        assert list(row) == [
            "layer", "q", "mean", "cosine", "gap", "logit_deviation", "participation", "gradient", "gradient_cosine", "weights",
        ]  # fmt: skip
    first, last = content["rows"]
    assert set(first["weights"]) == {"query", "key", "value", "output", "up", "down"} and not last["weights"]
    assert last["logit_deviation"] is None and last["participation"] is None
    repair, = content["repairs"]
    assert list(repair) == ["problem", "target", "factor", "before", "after", "sentence", "tokens"]


def test_the_options_of_an_audit_reach_it(capsys):
    code, out, _ = run(capsys, "audit", "bert", "--depth", "1", "--seq-len", "9", "--state", "exchangeable")
    assert code == 0 and "state of the tokens: exchangeable (as asked for)" in out
    code, out, _ = run(capsys, "audit", "bert", "--depth", "1", "--seq-len", "9", "--padding", "2")
    text = " ".join(out.split())
    assert code == 0 and "9 tokens, the last 2 of them padding" in text and "gram (a part" in text
    first = run(capsys, "audit", "bert", "--depth", "1", "--seq-len", "40", "--words", "zipf", "--json")
    again = run(capsys, "audit", "bert", "--depth", "1", "--seq-len", "40", "--words", "zipf", "--json")
    other = run(capsys, "audit", "bert", "--depth", "1", "--seq-len", "40", "--words", "zipf", "--seed", "1", "--json")
    assert first == again != other
    assert json.loads(first[1])["reason"] == "words are repeated"


def test_audit_without_a_model_says_what_it_wants(capsys):
    code, out, err = run(capsys, "audit")
    assert (code, out) == (2, "") and "MODEL = missing" in err


@pytest.mark.parametrize(("name", "start"), [("a.pdf", b"%PDF"), ("a.PNG", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_audit_writes_a_figure_in_the_format_of_its_name(capsys, tmp_path, name, start):
    code, _, _ = run(capsys, "audit", "bert", "--depth", "2", "--seq-len", "4", "--plot", str(tmp_path / name))
    assert code == 0
    assert (tmp_path / name).read_bytes().startswith(start)


def test_audit_refuses_a_figure_of_no_format_before_it_works(capsys, tmp_path):
    code, out, err = run(capsys, "audit", "gpt2", "--plot", str(tmp_path / "a.txt"))
    assert (code, out) == (2, "") and ".png, .svg, .pdf" in err
    assert not list(tmp_path.iterdir())


def test_audit_refuses_in_one_line(capsys):
    for words in (("gpt3",), ("gpt2", "--seq-len", "0"), ("gpt2", "--seq-len", "9" * 18), ("gpt2", "--growth", "0"),
                  ("gpt2", "--width", "100")):  # fmt: skip
        code, out, err = run(capsys, "audit", *words)
        assert (code, out) == (2, "") and err.count("\n") == 1


@pytest.mark.parametrize("command", [("appendix", "noci2022"), ("audit", "gpt2")])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, command):
    for target, allowed in ((tmp_path, "not a folder"), (tmp_path / "missing" / "a.html", "a folder that exists")):
        code, out, err = run(capsys, *command, "--html", str(target))
        assert (code, out, err.count("\n")) == (2, "", 1) and allowed in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "allowed"),
    [(None, "that exists"), ("1 / 0", "ZeroDivisionError"), ("DERIVATION = 1", "a PaperDerivation")],
)
def test_a_file_of_ones_own_that_declares_no_derivation_is_refused(tmp_path, capsys, text, allowed):
    own = tmp_path / "own.py"
    if text is not None:
        own.write_text(text)
    code, out, err = run(capsys, "derive", str(own))
    assert (code, out, err.count("\n")) == (2, "", 1) and allowed in err


def test_a_file_of_ones_own_names_its_derivation(tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text("from symprop.bundled import derivation\n\nDERIVATION = derivation('noci2022')\n")
    words = ("--claim", "eq12", "--format", "latex")
    assert run(capsys, "derive", str(own), *words) == run(capsys, "derive", "noci2022", *words)


def test_a_file_of_ones_own_is_verified_and_derived_anew_when_it_changes(tmp_path, capsys):
    own, kept = tmp_path / "own.py", tmp_path / "kept"
    text = (
        "from dataclasses import replace\nfrom symprop.bundled import derivation\n\nBASE = derivation('dong2021')\n"
        "DERIVATION = replace(BASE, paper=replace(BASE.paper, key='own2026', title='{title}'))\n"
    )
    files = set()
    for title in ("First title", "Second title"):
        own.write_text(text.format(title=title))
        code, out, _ = run(capsys, "derive", str(own))
        assert code == 0 and title in out
        code, out, _ = run(capsys, "verify", str(own), "--json", "--resume", str(kept))
        assert code == 0 and len(json.loads(out)["simulation"]) >= 1
        # What was simulated for another text of the file does not count.
        assert len(set(kept.glob("*.json")) - files) == len(bundled.derivation(str(own)).study_points(0, False))
        files |= set(kept.glob("*.json"))
