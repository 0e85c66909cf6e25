"""Fixtures of the contract tests."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def torch_gradients(monkeypatch):
    """The function that differentiates a numpy sampler by torch autograd."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("contract_autograd", Path(__file__).with_name("autograd.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda sample, inputs, g: module.gradients(sample, inputs, g, monkeypatch)
