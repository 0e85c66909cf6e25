"""Files that describe no model: one line, exit code 2, no traceback and no time."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from symprop.architectures import ACTIVATIONS
from symprop.architectures.entries import MAX_BYTES
from symprop.architectures.readers import KEYS, READERS, from_config, from_toml
from symprop.cli import main
from symprop.core.errors import SympropError


def _config(kind="gpt2", **entries):
    return json.dumps({"model_type": kind, **entries})


def _raw(entry):
    return '{"model_type": "gpt2", ' + entry + "}"


def _based(entry, table="variances"):
    return f'[model]\nbase = "gpt2"\n[{table}]\n{entry}\n'


BIG = "1" + "0" * 4200
CONFIGS = {
    "deep list": "[" * 200_000 + "]" * 200_000,
    "deep table": '{"model_type": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001,
    "no table": "[1]",
    "nothing": "",
    "null": "null",
    "open": '{"model_type": "gpt2"',
    "code": "__import__('os').system('true')",
    "no type": "{}",
    "type is a list": '{"model_type": ["gpt2"]}',
    "unknown type": _config("mamba"),
    "type of many characters": _config("x" * 10**5),
    "type with an escape": _config("\x1b[31mgpt2"),
    "duplicate": _raw('"n_embd": 64, "n_embd": 128'),
    "nested duplicate": '{"model_type": "llama", "rope_parameters": {"rope_theta": 1e4, "rope_theta": 1e5}}',
    "negative width": _config(n_embd=-768),
    "zero width": _config(n_embd=0),
    "flag for a width": _config(n_embd=True),
    "two widths": _config(n_embd=256, hidden_size=512),
    "text for an alias": _config(num_hidden_layers="12"),
    "oblong patches": _config("vit", patch_size=[16, 8]),
    "a window that is switched on": _config("qwen2", sliding_window=16, use_sliding_window=True),
    "text for a width": _config(n_embd="768"),
    "fraction for a width": _config(n_embd=768.5),
    "list for a width": _config(n_embd=[768]),
    "code for a width": _config(n_embd="__import__('os')"),
    "width of 4200 digits": _raw(f'"n_embd": {BIG}'),
    "width of 6000 digits": _raw('"n_embd": 1' + "0" * 6000),
    "layers of 4200 digits": _raw(f'"n_layer": {BIG}'),
    "layers beyond all": _config(n_layer=10**9),
    "heads that do not divide": _config(n_head=7),
    "no heads": _config(n_head=0),
    "negative heads": _config(n_head=-12),
    "nan": _raw('"initializer_range": NaN'),
    "infinity": _raw('"initializer_range": -Infinity'),
    "1e999": _raw('"layer_norm_epsilon": 1e999'),
    "large std": _config(initializer_range=1e200),
    "std of 4200 digits": _raw(f'"initializer_range": {BIG}'),
    "gates of zero": _config("llama", initializer_range=0),
    "negative std": _config(initializer_range=-0.02),
    "std whose logits are a step": _config(initializer_range=1e5),
    "width whose hidden layer is beyond all": _config(n_embd=10**15),
    "negative epsilon": _config(layer_norm_epsilon=-1e-5),
    "unknown activation": _config(activation_function="mish"),
    "code for an activation": _config(activation_function="lambda x: x"),
    "cross attention": _config(add_cross_attention=True),
    "decoder": _config("bert", is_decoder=True),
    "no llama heads": _config("llama", num_attention_heads=0),
    "key heads that do not divide": _config("llama", num_key_value_heads=5),
    "short window": _config("mistral", sliding_window=16),
    "yarn": _config("llama", rope_scaling={"rope_type": "yarn"}),
    "rope is a list": _config("llama", rope_parameters=[1]),
    "rope base of zero": _config("llama", rope_theta=0),
    "odd head": _config("llama", head_dim=3),
    "rotary share": _config("gpt_neox", rotary_pct=7),
    "heads of 4200 digits": '{"model_type": "gpt_neox", "hidden_size": ' + BIG + "}",
    "rotated beyond the head": _config("gptj", rotary_dim=10**6),
    "patch of 200 digits": '{"model_type": "vit", "patch_size": 1' + "0" * 200 + "}",
    "negative patch": _config("vit", num_channels=-3),
    "factor": _config("t5", initializer_factor=2.0),
    "feed forward": _config("t5", feed_forward_proj="gated-code()"),
}
DESCRIPTIONS = {
    "gate without a variance": _based("gated = true", "block"),
    "deep list": "a = " + "[" * 50_000 + "]" * 50_000,
    "deep table": "[" + ".".join("a" * 1 for _ in range(50_000)) + "]",
    "duplicate": _based("output = 1\noutput = 2"),
    "duplicate table": _based("output = 1") + "[model]\n",
    "code": _based("output = \"__import__('os').system('true')\""),
    "attribute": _based('output = "d.__class__"'),
    "tower": _based('output = "V**V**V**V"'),
    "nested exponentials": _based('output = "exp(exp(V))"'),
    "powers of powers": _based('output = "((((V**1000)**1000)**1000)**1000)**1000"'),
    "numbers in a tower": _based('output = "9**9**9**9"'),
    "long expression": _based('output = "' + "1+" * 10**5 + '1"'),
    "negative": _based("output = -1"),
    "root of a negative": _based('output = "sqrt(d - 1000)"'),
    "pole": _based('output = "1/(d - 768)"'),
    "nan": _based("output = nan"),
    "infinity": _based("output = inf"),
    "1e999": _based("output = 1e999"),
    "integer of 9000 digits": _based("output = 0x" + "f" * 8000),
    "layers of 9000 digits": '[model]\nbase = "gpt2"\nlayers = 0x' + "f" * 8000,
    "epsilon of 9000 digits": _based("epsilon = 0x" + "f" * 8000, "block"),
    "date": _based("output = 1979-05-27"),
    "table for a number": _based("output = {a = 1}"),
    "unknown key": '[model]\nbase = "gpt2"\nlayrs = 3\n',
    "unknown table": '[model]\nbase = "gpt2"\n[blocks]\n',
    "missing": "[model]\nlayers = 3\n",
    "text for layers": '[model]\nlayers = "3"\n',
    "no table": "model = 3\n",
    "empty": "",
    "base on itself": '[model]\nbase = "x.toml"\n',
    "base elsewhere": '[model]\nbase = "../../etc/passwd"\n',
    "base is a list": '[model]\nbase = ["gpt2", "gpt2"]\n',
    "long name": '[model]\nbase = "gpt2"\nname = "' + "x" * 61 + '"\n',
    "escape in a name": '[model]\nbase = "gpt2"\nname = "\\u001b[31m"\n',
}  # fmt: skip


def _refused(capsys, *words):
    start = time.process_time()
    try:
        code = main(["audit", *map(str, words)])
    except SystemExit as stop:
        code = stop.code
    spent = time.process_time() - start
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("symprop: ") and len(err) < 700 and err[:-1].isprintable()
    assert re.search("expected|known|did you mean|remedy", err), err
    assert spent < 1
    return err


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config(tmp_path, capsys, name):
    (tmp_path / "config.json").write_text(CONFIGS[name])
    _refused(capsys, tmp_path)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_hostile_description(tmp_path, capsys, name):
    (tmp_path / "x.toml").write_text(DESCRIPTIONS[name])
    _refused(capsys, tmp_path / "x.toml")


def _loop(path):
    path.symlink_to(path)


def _sparse(path):
    with path.open("wb") as file:
        file.truncate(100 * 2**20)


PATHS = {
    "absent": lambda path: None,
    "symlink to itself": _loop,
    "dangling symlink": lambda path: path.symlink_to(path.with_name("absent")),
    "directory": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "100 MB": _sparse,
    "too long by a byte": lambda path: path.write_bytes(b" " * (MAX_BYTES + 1)),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "UTF-16": lambda path: path.write_bytes('{"model_type": "gpt2"}'.encode("utf-16")),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
}


@pytest.mark.parametrize("suffix", ["json", "toml"])
@pytest.mark.parametrize("name", PATHS)
def test_a_hostile_path(tmp_path, capsys, name, suffix):
    path = tmp_path / f"x.{suffix}"
    PATHS[name](path)
    _refused(capsys, path)


@pytest.mark.parametrize(
    "target",
    ["/dev/zero", "gpt3", "", "x.txt", "a\nb.json", "a\x00b.toml", ".", "x" * 300, "x" * 300 + ".json", "x" * 5000 + ".toml"],
)
def test_a_target_that_is_no_model(tmp_path, monkeypatch, capsys, target):
    monkeypatch.chdir(tmp_path)
    _refused(capsys, target)


@pytest.mark.parametrize("text", [_config(n_head=7), _config("llama", rope_theta=1), _config(activation_function="mish")])
def test_a_model_out_of_range_is_refused_before_components_are_imported(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    code = (
        "import sys; from symprop.cli import main; code = main(['audit', sys.argv[1]])\n"
        "print(code, 'symprop.components' in sys.modules, 'numpy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert found.stdout == "2 False False\n"
    assert found.stderr.count("\n") == 1 and found.stderr.startswith("symprop: ")


def test_a_layer_norm_of_one_coordinate_is_refused_by_its_width(tmp_path, capsys):
    (tmp_path / "config.json").write_text(_config(n_embd=1, n_head=1))
    assert _refused(capsys, tmp_path).startswith("symprop: width = 1 is not allowed")


def test_an_unknown_model_type_names_those_known_and_the_way_out(tmp_path, capsys):
    (tmp_path / "config.json").write_text(_config("mamba"))
    error = _refused(capsys, tmp_path)
    assert all(kind in error for kind in READERS) and "--keys" in error


@pytest.mark.parametrize(
    "words",
    [("--seq-len", "0"), ("--seq-len", "-5"), ("--seq-len", "1000000"), ("--depth", "0"), ("--depth", "1000000000"),
     ("--width", "0"), ("--width", "-64"), ("--width", "100"), ("--width", "1" + "0" * 30), ("--padding", "128"),
     ("--padding", "-1"), ("--words", "chinese"), ("--state", "full"), ("--growth", "nan"), ("--growth", "0"),
     ("--cosine", "2"), ("--init", "output"), ("--init", "nothing=1"), ("--init", "output=nan"),
     ("--init", "output=__import__('os')"), ("--init", "output=1e400"), ("--init", "epsilon=d"), ("--init", "epsilon=exp(d)")],
    ids=" ".join,
)  # fmt: skip
def test_a_hostile_option(capsys, words):
    _refused(capsys, "gpt2", *words)


SHARED = {"layers": 3, "width": 64, "heads": 4, "hidden": 128, "vocabulary": 50}
VALUES = SHARED | {
    "name": "mine", "cross": True, "key_width": 16,
    "order": "post", "norm": "rms", "epsilon": 0.001, "activation": "relu", "gated": True,
    "branch_scale": "1/sqrt(L)", "skip_scale": 0.5, "embedding_norm": True, "final_norm": False, "causal": False,
    "positions": "rotary", "rotated": 8, "rotary_base": 500.0, "temperature": "1/sqrt(d_k)", "head": "1/d",
    **dict.fromkeys(("token", "position", "segment", "class_token", "query", "key", "value", "output", "up", "gate", "down"),
                    "0.02**2/(2*L)"),
}  # fmt: skip
WRONG = {"an integer": '"3"', "a number": '"x"', "true or false": "1", "text": "3", "an expression": '"d.x"'}


def _described(**entries):
    tables = {}
    for name, value in (SHARED | entries).items():
        tables.setdefault(KEYS[name].table, []).append(f"{name} = {value}")
    return "\n".join(f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items())


@pytest.mark.parametrize("name", KEYS)
def test_every_key_of_a_description_is_read(name):
    value = VALUES[name]
    needed = {"gate": 1, "up": 1} if name == "gated" else {}
    model = from_toml(_described(**{name: json.dumps(value)} | needed))
    if KEYS[name].allowed != "an expression":
        assert getattr(model, name) == value
    else:
        known = {"1/sqrt(L)": 3**-0.5, "1/sqrt(d_k)": 0.25, "1/d": 1 / 64, "0.02**2/(2*L)": 0.02**2 / 6}
        assert model.number(name) == pytest.approx(known.get(value, value))


@pytest.mark.parametrize("name", KEYS)
def test_every_key_of_a_description_is_checked(name):
    wrong = WRONG.get(KEYS[name].allowed, '"sideways"')
    with pytest.raises(SympropError, match=name) as error:
        from_toml(_described(**{name: wrong}))
    assert "\n" not in str(error.value)


def test_the_keys_are_printed_with_their_tables(capsys):
    assert main(["audit", "--keys"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in KEYS)
    assert out.count("\n[") == 4


def test_an_unknown_key_is_answered_with_those_of_its_table():
    with pytest.raises(SympropError) as error:
        from_toml(_based("colour = 1", "block"))
    assert all(name in str(error.value) for name, key in KEYS.items() if key.table == "block")


@pytest.mark.parametrize("kind", READERS)
def test_a_config_of_its_type_alone_has_the_defaults_of_the_library(kind):
    assert from_config(_config(kind)).name in (kind, "gpt2", "vit", "t5", "gpt_neox", "gptj")


def test_activations_are_known_by_their_own_names():
    assert all(name == item.name for name, item in ACTIVATIONS.items())
