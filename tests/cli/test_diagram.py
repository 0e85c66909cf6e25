"""The diagram command: its files, its summary, and one line for every bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from symprop.cli import main

BASE = ["diagram", "giorlandino2025", "-x", "beta:0.2:5:9", "-y", "alpha_sa:0.25:3:12"]


@pytest.mark.parametrize(("suffix", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_picture_and_data(tmp_path, suffix, head):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / f"phase.{suffix}"
    assert main([*BASE, "-o", str(path), "--layers", "50"]) == 0
    assert path.read_bytes().startswith(head)
    assert sorted(item.name for item in path.parent.iterdir()) == sorted([path.name, "phase.npz"])
    first = path.read_bytes()
    assert main([*BASE, "-o", str(path), "--layers", "50"]) == 0
    assert path.read_bytes() == first


def test_no_line_crosses_the_name_of_a_region():
    from symprop.report.diagram import crossing, label_place

    rows, columns = np.mgrid[:40, :60]
    line = crossing(columns - 14.5)
    assert line.sum() == 80 and line[:, 14:16].all()
    whole = np.ones((40, 60), dtype=bool)
    assert not crossing(np.full((40, 60), -1.0)).any()
    assert label_place(whole, ~whole) == (19, 29)
    row, column = label_place(whole, line)
    assert column - 15 > 15 and row in range(10, 30)
    assert label_place(rows + columns < 3, ~whole) is None
    assert label_place(whole, whole) is None


def test_values_are_those_of_an_independent_implementation(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "phase.png"
    axes = ["-x", "beta:3:5:2", "-y", "alpha_sa:1:3:5"]
    assert main(["diagram", "giorlandino2025", *axes, "-o", str(path), "sigma_v2=0.2", "rho=1/5"]) == 0
    data = np.load(tmp_path / "phase.npz")
    np.testing.assert_allclose(data["overlap"][[0, 1, 2, 4], 0], [0.99882, 0.9097, 0.6986, 0.5171], atol=6e-5)
    np.testing.assert_allclose(data["overlap"][[0, 1, 2, 4], 1], [0.98456, 0.7106, 0.5632, 0.4646], atol=6e-5)
    assert data["parameter: gain_v"] == 0.2


def test_json_and_simulation(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = [*BASE, "-o", str(tmp_path / "p.svg"), "--json", "--simulate", "2", "--tokens", "16", "--layers", "4",
                 "--closure", "uniform", "-x", "beta:0:0.3:5"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["closure"] == "uniform" and found["values"]["L"] == 4 and found["axes"]["x"][:3] == ["beta", 0, 0.3]
    from symprop import bundled
    from symprop.codegen.render import load

    theory = load(bundled.derivation("giorlandino2025").evaluator("overlap_uniform"))
    for point in found["simulated"]:
        want = theory(rho=0.2, L=4, n=16, gain_v=0.2, gain_w=0.2, sigma_b2=4e-4, alpha_sa=point["y"], alpha_mlp=1.0).overlap
        # Four networks: three standard errors, and width 64, whose bias is of order 1/width for every layer.
        assert abs(point["value"] - want) < 3 * point["stderr"] + 4 / 64


@pytest.mark.parametrize(("arguments", "message"), [
    (["-x", "gamma:0:1:5"], "unknown axis 'gamma'"),
    (["-x", "beta:1:0:5"], "low < high"),
    (["-x", "beta:0:1"], "name:low:high:points"),
    (["-x", "beta:-1:1:5"], "beta = -1.0 is not allowed"),
    (["-x", "beta:0:nan:5"], "low < high"),
    (["-x", "L:1:9:3"], "takes any real value"),
    (["-x", "alpha_sa:1:2:3"], "another parameter"),
    (["-x", "beta:0:1:9999"], "low < high|at most|beta"),
    (["--closure", "rems"], "did you mean 'rem'"),
    (["sigma_v2=-1"], "gain_v = -1.0 is not allowed"),
    (["rho=2"], "rho = 2.0 is not allowed"),
    (["sigma=1"], "sigma"),
    (["beta=1"], "parameter of an axis"),
    (["-o", "picture.bmp"], "ends in .png"),
    (["-o", "/proc/picture.png"], "can be written"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(tmp_path, capsys, monkeypatch, arguments, message):
    import re

    monkeypatch.chdir(tmp_path)
    base = [*BASE, "-o", "p.png"]
    if "9999" in "".join(arguments):
        arguments, message = [*arguments, "-y", "alpha_sa:1:2:9999"], "at most 4000000"
    assert main([*base, *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(message, lines[0]), lines
    assert list(tmp_path.iterdir()) == []


def test_a_derivation_without_a_diagram(capsys, tmp_path):
    assert main(["diagram", "noci2022", "-o", str(tmp_path / "p.png")]) == 2
    assert "one that declares a diagram" in capsys.readouterr().err


def test_stray_arguments_are_still_refused(capsys):
    with pytest.raises(SystemExit):
        main([*BASE, "-o", "p.png", "stray"])
    with pytest.raises(SystemExit):
        main(["list", "a=1"])


@pytest.mark.parametrize(("name", "arguments", "zero"), [
    ("cowsik2024", ["--activation", "erf", "-x", "sigma_w:0.5:6:9", "-y", "A:0.02:0.5:7", "M=1/4"], "order and chaos"),
    ("cowsik2024", ["-x", "sigma_w:0.5:6:5", "-y", "A:0.02:0.5:4"], "order and chaos"),
    ("kedia2024", ["-x", "gap:0:2:5", "-y", "mu:-1:1:4"], None),
    ("softmax_attention", ["-x", "gap:0:1:4", "-y", "sigma_q2:0:0.05:3"], None),
])
def test_every_diagram_is_its_evaluator(tmp_path, name, arguments, zero):
    pytest.importorskip("matplotlib")
    from symprop import bundled
    from symprop.codegen.render import load

    assert main(["diagram", name, *arguments, "-o", str(tmp_path / "d.svg")]) == 0
    diagram = bundled.derivation(name).diagram
    level = arguments[1] if "--activation" in arguments else next(iter(diagram.evaluators))
    data = np.load(tmp_path / "d.npz")
    others = {key.removeprefix("parameter: "): value for key, value in data.items() if key.startswith("parameter: ")}
    spec = bundled.derivation(name).evaluator(diagram.evaluators[level])
    given = {key: value for key, value in others.items() if key in {item.name for item in spec.parameters}}
    found = load(spec)(**{diagram.x.name: data[diagram.x.name], diagram.y.name: data[diagram.y.name][:, None]}, **given)
    np.testing.assert_array_equal(data[str(diagram.output)], getattr(found, str(diagram.output)))
    if zero is not None:
        assert (data[f"boundary: {zero}"] < 0).any() and (data[f"boundary: {zero}"] > 0).any()


def test_a_range_that_ends_at_the_largest_double(tmp_path, capfd):
    """Points that overflow are counted, what matplotlib says of its ticks is not shown, and no value at all is refused."""
    axes = ["-x", "beta:0:5:3", "-y", "alpha_sa:0.1:1e308:2"]
    assert main(["diagram", "giorlandino2025", *axes, "-o", str(tmp_path / "d.png"), "--json"]) == 0
    printed = capfd.readouterr()
    output = json.loads(printed.out)["output"]
    assert printed.err == "" and 0 <= output["least"] <= output["largest"] <= 1
    assert output["points_without_value"] == np.isnan(np.load(tmp_path / "d.npz")["overlap"]).sum()
    nothing = ["-x", "beta:1e200:1e300:3", "-y", "alpha_sa:1e307:1e308:2"]
    assert main(["diagram", "giorlandino2025", *nothing, "-o", str(tmp_path / "none.png")]) == 2
    refused = capfd.readouterr().err
    assert refused.count("\n") == 1 and "ranges where" in refused and not (tmp_path / "none.png").exists()


def test_a_path_with_a_null_character_is_refused_before_the_work(capsys):
    assert main([*BASE, "-o", "\0.png"]) == 2
    assert capsys.readouterr().err == "symprop: output = '\\x00.png' is not allowed: expected a path without null characters\n"


@pytest.mark.parametrize(("words", "message"), [
    (("cowsik2024", "--layers", "5"), "layers = 5 is not allowed: expected no value, as L changes nothing in cowsik2024"),
    (("cowsik2024", "--tokens", "5"), "tokens = 5 is not allowed: expected no value, as n changes nothing in cowsik2024"),
    (("giorlandino2025", "n=5"), "n = 5 is not allowed: expected no value, as n changes nothing in giorlandino2025 with rem"),
    (("giorlandino2025", "L=5", "--layers", "6"), "layers = 6 is not allowed: expected one value for L"),
    (("giorlandino2025", "sigma_v2=1", "gain_v=2"), "gain_v = 2 is not allowed: expected one value for gain_v"),
])  # fmt: skip
def test_a_value_that_changes_nothing_is_refused(tmp_path, capsys, words, message):
    assert main(["diagram", *words, "-o", str(tmp_path / "p.png")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_title_names_the_level_where_there_are_several():
    from symprop import bundled
    from symprop.claims import Axis
    from symprop.report.diagram import compute

    def title(name, level):
        item = bundled.derivation(name)
        small = [Axis(axis.symbol, axis.name, axis.low, axis.high, 2) for axis in (item.diagram.x, item.diagram.y)]
        return compute(item, replace(item.diagram, x=small[0], y=small[1]), level).title

    assert title("cowsik2024", "relu") == "Angle exponent at collapse, M = 0.09, relu"
    assert title("giorlandino2025", "uniform") == "Overlap of tokens after 50 layers, uniform"
    assert title("softmax_attention", "exact").endswith("with unit variance")
