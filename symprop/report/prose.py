"""Plain sentences in LaTeX: everything escaped, with ASCII formulas set as mathematics."""

from __future__ import annotations

import re

from symprop.core import symbols
from symprop.report.escape import escape
from symprop.report.printer import MATRICES, plain_name
from symprop.report.unicode import is_formula, unicode_of

_OPERATORS = {"tr": r"\operatorname{tr}", "diag": r"\operatorname{diag}", "softmax": r"\operatorname{softmax}",
              "kron": r"\otimes", "o": r"\circ", "E": r"\mathbb{E}", "Var": r"\operatorname{Var}", "exp": r"\exp",
              "log": r"\log", "max": r"\max", "min": r"\min", "infinity": r"\infty", "sqrt": r"\sqrt"}  # fmt: skip
_SIGNS = {"||_F": r"\|_F", "||": r"\|", "<=": r"\le ", ">=": r"\ge ",
          "!=": r"\neq ", "->": r"\to ", "*": r"\,", "<<": r"\ll ",
          ">>": r"\gg "}  # fmt: skip
_LEADING = {"kron", "=", "<=", ">=", "->", "+", "-"}
_UNESCAPED = ((r"\$", "\ue000"), (r"\%", "%"), ("$", ""), ("\ue000", "$"), ("''", '"'), (r"\textbackslash{}", "\ue001"),
              (r"\textasciicircum{}", "\ue002"), (r"\textasciitilde{}", "~"))  # fmt: skip
_WRITTEN = re.compile(r"(?<!\\)\$(?! )([^$\n]+?)(?<! )\$(?!\d)")
_VERBS = {"is", "has", "acts", "and", "or", "of", "at", "with"}
"""What follows a matrix A at the start of a sentence, and not the article."""
_NUMBERED = {"Appendix", "Section", "Part", "Lemma", "Theorem"}
"""What a single letter after it is the number of."""
_WORDS = {"gap", "layer", "common", "a"}
_MATH = re.compile(r"\w+_[\w{]|\)_\w|\)/\(?\w|\w\^|\|\||[=<>+*]|^(?:kron|tr|Pi|infinity|E|-)$|^[B-HJ-Z]'?$"
                   r"|^[A-Za-z]{1,2}/[A-Za-z]{1,2}$"
                   r"|\d/|/\d|\w\(.*\)/|\)\^|^\|\w|\w\|"
                   r"|^(?:[A-Za-z]|tr|Var)\([\w',^_]+$|^d[A-Z]+/d[A-Z]+$")  # fmt: skip
_ACCENTED = re.compile(r"\w+(?:hat|tilde|bar)")
_BRIDGE = re.compile(r"^\d+\(\d+$|^[A-Za-z0-9./+\-]$|^\d[\d./]*$")
_ATOM = re.compile(
    r"\|\|_F|"
    r"[A-Za-z]+(?:_(?:\w+(?:'\w*)?|\{[\w']+\}))?"
    r"|_\w+|\|\||<=|>=|!=|->|<<|>>|\d+(?:\.\d+)?|\^\([^()]*\)|\^|\s+|.",
    re.DOTALL,
)


def prose(text: str) -> str:
    """A sentence in LaTeX; what looks like a formula in ASCII becomes one, and a formula between dollars stays.

    >>> prose("G = X^T Pi X, a 50% share")
    '$G = X^\\\\top \\\\Pi X$, a 50\\\\% share'
    >>> prose(r"$W^\\top$, not $5 or $\\input{x}$")
    '$W^\\\\top$, not \\\\$5 or \\\\$\\\\textbackslash{}input\\\\{x\\\\}\\\\$'
    """
    parts: list[str] = []
    position = 0
    for found in _WRITTEN.finditer(text):
        if is_formula(found[1]):
            parts += [_plain_prose(text[position : found.start()]), found[0]]
            position = found.end()
    return "".join([*parts, _plain_prose(text[position:])]).strip()


def _plain_prose(text: str) -> str:
    """A part of a sentence, with the spaces that set it off from its neighbours."""
    body = _sentence(text)
    return f"{' ' if text[:1].isspace() else ''}{body}{' ' if body and text[-1:].isspace() else ''}"


def _sentence(text: str) -> str:
    words = text.split()
    mathematical = [_is_math(word) for word in words]
    for index, word in enumerate(words):
        if not mathematical[index] and _BRIDGE.match(word.strip("[](),;:")):
            before = index > 0 and mathematical[index - 1] and words[index - 1][-1] not in ",;:."
            after = index + 1 < len(words) and mathematical[index + 1] and word[-1] not in ",;:."
            article = word in ("a", "A", "I") and not (after and words[index + 1] in _LEADING)
            mathematical[index] = before or (after and not article)
    for index in range(len(words) - 1):
        starts = index == 0 or words[index - 1][-1] in ".:"
        if starts and words[index] == "A" and words[index + 1] not in _VERBS and re.fullmatch("[A-Za-z-]+", words[index + 1]):
            mathematical[index] = mathematical[index + 1]
        if words[index] in _NUMBERED and re.fullmatch("[A-Z]", words[index + 1].strip("(),.;:")):
            mathematical[index + 1] = False
    parts: list[str] = []
    run: list[str] = []
    for word, math in zip(words, mathematical, strict=True):
        opened = len(re.findall(r"<\w", " ".join(run)))
        if not math and opened <= len(re.findall(r"[\w']>", " ".join(run))):
            parts.extend(_flushed(run))
            parts.append(escape(word))
            continue
        run.append(word)
        joined = " ".join(run)
        balanced = all(joined.count(a) <= joined.count(b) for a, b in ("()", "[]"))
        balanced = balanced and len(re.findall(r"<\w", joined)) <= len(re.findall(r"[\w']>", joined))
        closed = word[-1] == ")" and joined.count(")") > joined.count("(")
        if closed or (word[-1] in ",;:." and balanced):
            parts.extend(_flushed(run))
    parts.extend(_flushed(run))
    return " ".join(parts)


def rule_name(rule: str) -> str:
    """What stands over an equals sign.

    >>> rule_name("skip"), rule_name("E over W_K")
    ('\\\\text{skip}', '\\\\mathbb{E}_{W^{K}}')
    """
    over = re.fullmatch(r"E over (.+)", rule)
    return rf"\mathbb{{E}}_{{{ascii_math(over[1])}}}" if over else rf"\text{{{prose(rule)}}}"


def pretty(text: str) -> str:
    """A sentence for a terminal or a figure, with its ASCII formulas in Unicode.

    >>> pretty("alpha_1 = 1/sqrt(L)")
    'α₁ = 1/√L'
    """
    body = prose(text)
    for mark, plain in _UNESCAPED:
        body = body.replace(mark, plain)
    return unicode_of(body).replace("\ue001", "\\").replace("\ue002", "^")


def ascii_math(formula: str) -> str:
    """An ASCII formula in LaTeX: names, powers, norms, transposes; anything else is escaped."""
    formula = re.sub(r"sqrt\(([^()]*)\)", lambda found: f"\ue000{found[1]}\ue001", formula)
    formula = re.sub(r"<([^<>=]*,[^<>=]*)>", "\ue002\\1\ue003", formula)
    parts: list[str] = []
    for atom in _ATOM.findall(formula):
        if atom == "^":
            parts.append("^")
        elif atom.startswith("^("):
            parts.append(f"^{{{ascii_math(atom[2:-1])}}}")
        elif parts and parts[-1] == "^":
            exponent = r"\top" if atom == "T" else ascii_math(atom)
            parts.append(exponent if len(atom) == 1 else f"{{{exponent}}}")
        elif atom[0] == "_" and len(atom) > 1:
            parts.append(f"{{}}_{{{atom[1:]}}}" if parts else rf"\text{{{escape(atom)}}}")
        elif atom in _SIGNS:
            parts.append(_SIGNS[atom])
        elif atom in "\ue000\ue001\ue002\ue003":
            parts.append({"\ue000": r"\sqrt{", "\ue001": "}", "\ue002": r"\langle ", "\ue003": r"\rangle "}[atom])
        elif atom[0].isalpha() and atom[0].isascii():
            parts.append(_named(atom))
        elif atom == "'" or atom.isspace() or atom.isdigit():
            words = atom.isspace() and parts and parts[-1].startswith(r"\text{")
            parts.append("\\ " if words else " " if atom.isspace() else atom)
        elif atom in "()[]+-=/.,;:!<>|" or re.fullmatch(r"[\d.]+", atom):
            parts.append(atom)
        else:
            parts.append(rf"\text{{{escape(atom)}}}")
    return _braced(re.sub(" +", " ", "".join(parts)).strip())


def _braced(formula: str) -> str:
    """No dangling or doubled script marks: TeX would stop at them."""
    formula = re.sub(r"\{(\\\w+_\w+\^2)\}(?!\^)", r"\1", formula)
    formula = re.sub(r"\^\s*(?=\^|_|$|[})\],=+])", r"\\text{\\textasciicircum{}}", formula)
    return re.sub(r"(\^(?:\{[^{}]*\}|\\?\w+))(?=\^)", r"\1{}", formula)


def _named(word: str) -> str:
    weight = re.fullmatch(r"W_([A-Z])", word)
    if weight:
        return f"W^{{{weight[1]}}}"
    if word in MATRICES:
        return MATRICES[word] + (" " if MATRICES[word].startswith("\\") else "")
    if word in _OPERATORS:
        return _OPERATORS[word] + (" " if _OPERATORS[word][-1] != "}" else "")
    if symbols.is_registered(word) and not (len(word) == 1 and word.isupper()):
        name = symbols.info(word).latex
        return f"{{{name}}}" if "^" in name else name
    head = word.split("_")[0]
    if word.startswith("sum_"):
        return rf"\sum_{{{word[4:]}}} "
    if _ACCENTED.fullmatch(head):
        return rf"\text{{{escape(word)}}}"
    if len(head) > 2 and not head.isupper() and plain_name(head) == head:
        return rf"\text{{{escape(word)}}}"
    return plain_name(word.replace("{", "").replace("}", ""))


def _is_math(word: str) -> bool:
    core = word.strip("(),.;:[]")
    known = symbols.is_registered(core) and core not in _WORDS
    greek = plain_name(core).startswith("\\") and not _ACCENTED.fullmatch(core)
    return bool(core) and (known or greek or bool(_MATH.search(core)))


def _flushed(run: list[str]) -> list[str]:
    if not run:
        return []
    joined = " ".join(run)
    run.clear()
    body = joined.rstrip(",.;:")
    ends = joined[len(body) :]
    opened = ""
    while body.startswith("(") and body.count("(") > body.count(")"):
        opened, body = opened + "(", body[1:]
    while body.endswith(")") and body.count(")") > body.count("("):
        ends, body = ")" + ends, body[:-1]
    return [f"{opened}${ascii_math(body)}${ends}"] if body else [escape(joined)]
