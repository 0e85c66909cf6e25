"""The release: one version, and a wheel built from the sdist that works in a clean environment."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
from pathlib import Path

import pytest

import symprop

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_semantic_and_has_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "symprop.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", symprop.__version__)
    # Citation files cannot refer to code.
    assert f"\nversion: {symprop.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {symprop.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_every_release_says_which_formulas_changed():
    releases = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]
    for release in releases:
        assert "\n### Formulas changed\n" in release, release.splitlines()[0]


def run(*command, cwd):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    run(sys.executable, "-m", "build", "-o", tmp_path / "dist", ROOT, cwd=tmp_path)
    (sdist,), (wheel,) = (tmp_path / "dist").glob("*.tar.gz"), (tmp_path / "dist").glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "derivations/noci2022.py", "generated/index.json"} <= names
    venv.create(tmp_path / "clean", with_pip=True)
    scripts = tmp_path / "clean" / "bin"
    run(scripts / "python", "-m", "pip", "install", "-q", wheel, cwd=tmp_path)
    home = run(scripts / "python", "-c", "import symprop.derivations as d; print(d.__file__)", cwd=tmp_path)
    assert (tmp_path / "clean") in Path(home.strip()).parents
    assert run(scripts / "symprop", "--version", cwd=tmp_path) == f"symprop {symprop.__version__}\n"
    assert "noci2022:correlation" in run(scripts / "symprop", "list", cwd=tmp_path)
    words = ("eval", "noci2022:correlation", "L=24", "n=128", "rho=1/10", "alpha_1=1")
    assert "one_minus_correlation = 5.01200851353166E-7" in run(scripts / "symprop", *words, cwd=tmp_path)
    assert "Verdict: proved" in run(scripts / "symprop", "derive", "noci2022", "--claim", "eq12", cwd=tmp_path)
    run(scripts / "python", "-c", "from symprop.generated.noci2022_numpy import norm", cwd=tmp_path)
    # Nothing optional is installed there: what needs it says so in one line.
    figure = ("audit", "gpt2", "--depth", "1", "--seq-len", "4", "--plot", "figure.pdf")
    ran = subprocess.run([scripts / "symprop", *figure], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 2 and len(ran.stderr.splitlines()) == 1 and "symprop[plot]" in ran.stderr
