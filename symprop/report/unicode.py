"""LaTeX formulas in one line of Unicode, for terminals."""

from __future__ import annotations

import re
import unicodedata
from itertools import accumulate

LETTERS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "theta": "θ", "kappa": "κ",
    "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ",
    "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Sigma": "Σ",
    "Pi": "Π",
}  # fmt: skip
"""Greek letters by their LaTeX names."""
_SYMBOLS = LETTERS | {
    "ell": "ℓ", "infty": "∞", "partial": "∂", "sum": "Σ", "prod": "Π", "cdot": "·", "times": "×",
    "otimes": " ⊗ ", "circ": " ∘ ", "le": " ≤ ", "leq": " ≤ ", "ge": " ≥ ", "geq": " ≥ ", "neq": " ≠ ", "ne": " ≠ ",
    "to": " → ", "rightarrow": " → ", "in": " ∈ ", "approx": " ≈ ", "wedge": " ∧ ", "vee": " ∨ ", "langle": "⟨",
    "rangle": "⟩", "top": "ᵀ", "|": "‖", "Vert": "‖", "lVert": "‖", "rVert": "‖", "mid": " | ", "ldots": "...",
    "dots": "...", "cdots": "...", "prime": "′", "log": "log ", "max": "max ", "min": "min ", "lim": "lim", ",": " ",
    "quad": " ", "qquad": "  ", ";": " ", ":": " ", "!": "", " ": " ", "{": "{", "}": "}", "%": "%", "#": "#",
    "_": "_", "&": "&", "$": "$", "lvert": "|", "rvert": "|", "sim": " ~ ", "gg": " >> ", "ll": " << ", "pm": "±",
    "odot": " ⊙ ", "int": "∫", "equiv": " ≡ ", "propto": " ∝ ", "mapsto": " ↦ ",
}  # fmt: skip
_IGNORED = {"left", "right", "big", "bigl", "bigr", "Big", "Bigl", "Bigr", "displaystyle", "biggl", "biggr"}
_ACCENTS = {"hat": "\u0302", "tilde": "\u0303", "bar": "\u0304", "dot": "\u0307", "vec": "\u20d7"}
_PLAIN = {"ensuremath", "mathbb", "mathbf", "mathrm", "mathcal", "text", "operatorname", "boldsymbol", "mathit"}
_UPPER = str.maketrans("0123456789+-()ᵀ", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ᵀ")
_LOWER = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|[{}^_&]|\s+|[^\\{}^_&\s]", re.DOTALL)
"""A command, a character that is read by itself, or white space."""


def unicode_of(latex: str) -> str:
    """A LaTeX formula as one line of Unicode.

    >>> unicode_of(r"\\frac{1}{n}\\,(1 + \\alpha_2^2 g)^L \\mathbb{E}\\|X'\\|_F^2")
    '1/n (1 + α₂² g)^L E‖X′‖²'
    >>> unicode_of(r"\\overline{x^2} \\odot \\overline{y}")
    '⟨x²⟩ ⊙ ȳ'
    """
    reader = _Reader(TOKEN.findall(latex))
    return " ".join(reader.read().split()).replace("( ", "(").replace(" )", ")").replace(" ,", ",")


def is_formula(latex: str) -> bool:
    """Whether LaTeX is a formula of known commands and closed braces, which may be typeset as it stands.

    >>> is_formula(r"\\frac{d}{n^2}"), is_formula(r"\\input{x}")
    (True, False)
    """
    known = {*_SYMBOLS, *_ACCENTS, *_PLAIN, *_IGNORED, "frac", "tfrac", "sqrt"} - {"&", "%", "#", "$"}
    tokens = TOKEN.findall(latex)
    depths = list(accumulate((token == "{") - (token == "}") for token in tokens))
    return (
        bool(tokens) and min(depths) >= 0 and depths[-1] == 0 and tokens[-1] not in ("^", "_")
        and all(token[1:] in known if token[0] == "\\" else token.isascii() and token not in "%#&$~" for token in tokens)
    )  # fmt: skip


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position = tokens, 0

    def read(self) -> str:
        parts: list[str] = []
        while self.position < len(self.tokens) and self.tokens[self.position] != "}":
            token = self.tokens[self.position]
            if token in "^_":
                self.position += 1
                parts.append(self._script(token, "".join(parts)))
            else:
                parts.append(self._item())
        return "".join(parts)

    def _argument(self) -> str:
        while self.position < len(self.tokens) and self.tokens[self.position].isspace():
            self.position += 1
        return self._item() if self.position < len(self.tokens) else ""

    def _item(self) -> str:
        token = self.tokens[self.position]
        self.position += 1
        if token == "{":
            body = self.read()
            self.position += 1
            return body
        if token == "&":
            return " "
        if token == "'":
            return "′"
        if not token.startswith("\\"):
            return " " if token.isspace() else token
        return self._command(token[1:].rstrip("*"))

    def _command(self, name: str) -> str:
        if name in ("frac", "tfrac", "dfrac"):
            top, bottom = self._argument(), self._argument()
            return f"{_grouped(top, '+-')}/{_grouped(bottom, ' +-/·')}"
        if name == "sqrt":
            return f"√{_grouped(self._argument(), ' +-/^')}"
        if name in _ACCENTS:
            return unicodedata.normalize("NFC", self._argument() + _ACCENTS[name])
        if name == "overline":
            body = self._argument()
            return unicodedata.normalize("NFC", body + _ACCENTS["bar"]) if len(body) == 1 else f"⟨{body}⟩"
        if name in ("stackrel", "overset", "underset"):
            self._argument()
            return self._argument()
        if name in ("begin", "end"):
            self._argument()
            return "{ " if name == "begin" else " }"
        if name == "\\":
            return "; "
        if name in ("partial", "lim") and self._next().isspace():
            self.position += 1
        if name in _PLAIN:
            body = self._argument()
            return body + " " if name == "operatorname" and self._next() not in ("(", "_", "\\bigl", "\\Bigl") else body
        if name in _IGNORED:
            return ""
        return _SYMBOLS.get(name, name)

    def _next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _script(self, kind: str, before: str) -> str:
        body = self._argument().strip()
        if kind == "_":
            if body == "F" and before.endswith("‖"):
                return ""
            lowered = body.translate(_LOWER)
            return (
                lowered if body.isdigit() else f"_{_grouped(body if '=' in body else body.translate(_LOWER), ' +,-=')}"
            )
        if body and all(character in "0123456789ᵀ" for character in body):
            return body.translate(_UPPER)
        return f"^{_grouped(body, ' +-/·')}"


def _grouped(body: str, breaking: str) -> str:
    """Brackets around a body that would not hold together in one line."""
    depth = 0
    for index, character in enumerate(body):
        depth += (character in "([⟨") - (character in ")]⟩")
        if depth == 0 and character in breaking and index > 0:
            return f"({body})"
        if depth == 0 and index == 0 and character in "-" and len(body) > 1:
            return f"({body})"
    return body
