"""Files that describe no architecture are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from symprop.cli import main

CONFIGS = {
    "duplicate": b'{"model_type": "gpt2", "n_layer": 2, "n_layer": 3}',
    "huge": b'{"model_type": "gpt2", "n_layer": 1000000000000}',
    "type": b'{"model_type": "gpt2", "n_layer": "import os"}',
    "negative": b'{"model_type": "gpt2", "n_embd": -768}',
    "nan": b'{"model_type": "gpt2", "initializer_range": NaN}',
    "infinite": b'{"model_type": "gpt2", "initializer_range": 1e999}',
    "deep": b"[" * 200_000,
    "long": b" " * 2_000_000,
    "not-utf8": b'{"model_type": "\xff"}',
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_config_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(CONFIGS[name])
    assert main(["audit", str(path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
