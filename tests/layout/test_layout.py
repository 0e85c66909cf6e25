"""The house: which part may import which, what is installed, what lies at the root."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "core": set(),
    "functions": {"core"},
    "notation": {"core"},
    "wick": {"core", "functions"},
    "components": {"core", "functions"},
    "network": {"core", "functions", "components"},
    "depth": {"core", "functions", "components", "network"},
    "architectures": {"core", "functions", "components", "network", "depth"},
    "simulate": {"core", "functions", "components", "network", "wick"},
    "codegen": {"core", "functions", "components", "network", "depth"},
    "claims": {"core", "functions", "components", "network", "depth", "notation", "wick", "simulate", "codegen"},
    "report": {
        "core", "functions", "components", "network", "depth", "notation", "wick", "simulate", "codegen", "claims",
    },
}
OPTIONAL = {"torch", "matplotlib", "scipy", "transformers", "safetensors", "numba", "joblib", "dask", "distributed"}
ENTRIES = {"pyproject.toml", "README.md", "symprop", "derivations", "tests", "generated",
           "LICENSE", "CHANGELOG.md", "CITATION.cff", "docs"}


def modules():
    return sorted((ROOT / "symprop").rglob("*.py"))


def imports(path, top_level=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_import_arrows(path):
    parts = path.relative_to(ROOT / "symprop").parts
    if len(parts) == 1:
        return
    room = parts[0]
    for name in imports(path):
        if name.startswith("symprop."):
            other = name.split(".")[1]
            assert other == room or other in ALLOWED[room], f"{room} must not import {other}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_optional_packages_are_imported_where_used(path):
    assert not {name.split(".")[0] for name in imports(path, top_level=True)} & OPTIONAL


def test_every_package_is_installed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "symprop").rglob("__init__.py")}
    assert listed == found | {"symprop.derivations", "symprop.generated"}


def test_every_room_says_what_it_is():
    for path in (ROOT / "symprop").rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_root_holds_only_what_belongs_there():
    tracked = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert tracked - {"out", "build", "dist"} - {name for name in tracked if name.endswith(".egg-info")} <= ENTRIES


def test_no_code_is_evaluated_from_text():
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "eval", path
                assert node.func.id != "exec" or path.parts[-2:] == ("codegen", "render.py"), path
