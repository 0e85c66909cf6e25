"""Fixtures of the report tests."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from symprop.claims import PaperDerivation, check
from symprop.report.appendix import Part, appendix
from symprop.report.document import Document

SAMPLE = Path(__file__).with_name("sample.py")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_sample", SAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["report_sample"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """A small derivation with rows of measurements and a figure."""
    return _load()


@pytest.fixture(scope="session")
def derivation(sample: ModuleType) -> PaperDerivation:
    """The derivation of the sample, built once."""
    made: PaperDerivation = sample.make()
    return made


@pytest.fixture(scope="session")
def document(derivation: PaperDerivation, sample: ModuleType) -> Document:
    """The report of the sample."""
    verdicts = [check(claim) for claim in derivation.claims]
    return appendix([Part(derivation, verdicts, sample.measurements(), sample.figures())], derivation.view)


@pytest.fixture(scope="session")
def both(derivation: PaperDerivation, sample: ModuleType) -> Document:
    """The report of the sample and of the same under another key."""
    other = replace(derivation, paper=replace(derivation.paper, key="other2023", authors="Other, Ann", year=2023))
    parts = [
        Part(item, [check(claim) for claim in item.claims], sample.measurements(), sample.figures())
        for item in (derivation, other)
    ]
    return appendix(parts, derivation.view)


@pytest.fixture(scope="session")
def narrow(derivation: PaperDerivation, sample: ModuleType) -> Document:
    """The report of the sample for text in two columns."""
    verdicts = [check(claim) for claim in derivation.claims]
    parts = [Part(derivation, verdicts, sample.measurements(), sample.figures())]
    return appendix(parts, derivation.view.in_columns())
