"""Scripts of this folder as fixtures: they run alone too, and tests are not importable as a package."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _script(name):
    spec = importlib.util.spec_from_file_location(f"trust_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fuzz():
    return _script("fuzz")


@pytest.fixture(scope="session")
def mutate():
    return _script("mutate")
