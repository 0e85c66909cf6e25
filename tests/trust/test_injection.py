"""Names and labels from a user's files are text in what is printed: LaTeX and HTML never take them for their own."""

import re
from html.parser import HTMLParser

import pytest

from symprop.cli import main

NAMES = (
    r"\input{/etc/passwd} 100% $x$ a_b^c ^^5c & #1 ~ {",
    "<script>alert(1)</script> \"q\" 'p' & </title><img src=x>",
    r"\end{document}\write18{touch canary}",
    "]]><!-- --><math><mi>x</mi></math> \u202e",
)
MODEL = """\
[model]
base = "gpt2"
name = {name}
layers = 2
width = 64
heads = 2
"""


class Reader(HTMLParser):
    """The tags of a page but those of formulas and of broken lines, which follow its words; and its title."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.title = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if not tag.startswith("m") and tag != "tspan":
            self.tags.append(tag)

    def handle_data(self, data):
        if self.tags[-1:] == ["title"]:
            self.title += data


def audit(tmp_path, monkeypatch, name, *arguments):
    monkeypatch.chdir(tmp_path)
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    (tmp_path / "own.toml").write_text(MODEL.format(name=quoted), encoding="utf-8")
    return main(["audit", "own.toml", "--seq-len", "8", "--quiet", *arguments])


def page_of(folder, monkeypatch, name):
    folder.mkdir()
    assert audit(folder, monkeypatch, name, "--html", "page.html") == 0
    return Reader((folder / "page.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_model_s_name_is_text_in_a_page(name, tmp_path, monkeypatch):
    evil, plain = page_of(tmp_path / "evil", monkeypatch, name), page_of(tmp_path / "plain", monkeypatch, "plain")
    assert evil.tags == plain.tags
    assert evil.title.strip().replace("”", '"') == plain.title.strip().replace("plain", name)


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_model_s_name_is_text_in_latex(name, tmp_path, monkeypatch, capsys):
    assert audit(tmp_path, monkeypatch, name, "--latex", "--appendix", "out") == 0
    written = [file.read_text(encoding="utf-8") for file in (tmp_path / "out").glob("*.tex")]
    assert written
    for text in (capsys.readouterr().out, *written):
        live = re.sub(r"(?m)^%.*$", "", text)
        bare = live.replace(r"\textbackslash{}", "").replace(r"\%", "").replace(r"\$", "")
        assert r"\input{/etc" not in bare and r"\write" not in bare and "^^" not in bare and "100%" not in bare
        assert bare.count(r"\end{document}") == text.count(r"\begin{document}")


def test_what_cannot_be_printed_is_refused(tmp_path, monkeypatch, capsys):
    assert audit(tmp_path, monkeypatch, NAMES[3]) == 2
    assert re.fullmatch(r"symprop: model: name = .* printable characters\n", capsys.readouterr().err)
