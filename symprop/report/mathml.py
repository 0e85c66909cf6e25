"""LaTeX formulas, as the printer writes them, in MathML.

Only elements of MathML Core are written, which every current browser draws without a script.
"""

from __future__ import annotations

import re
from html import escape

from symprop.report.unicode import LETTERS

_TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|[{}^_&]|\s+|\d+(?:\.\d+)?|[^\\{}^_&\s]", re.DOTALL)
_IDENTIFIERS = LETTERS | {"ell": "ℓ", "infty": "∞", "partial": "∂", "top": "⊤", "prime": "′", "aleph": "ℵ"}
_OPERATORS = {
    "cdot": "·", "times": "×", "otimes": "⊗", "circ": "∘", "odot": "⊙", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥",
    "neq": "≠", "ne": "≠", "to": "→", "rightarrow": "→", "in": "∈", "approx": "≈", "sim": "∼", "gg": "≫", "ll": "≪",
    "pm": "±", "wedge": "∧", "vee": "∨", "mid": "|", "middle": "", "dots": "…", "ldots": "…", "cdots": "⋯", "equiv": "≡",
    "propto": "∝", "mapsto": "↦",
}  # fmt: skip
_FENCES = {"langle": "⟨", "rangle": "⟩", "|": "‖", "Vert": "‖", "lVert": "‖", "rVert": "‖", "lvert": "|", "rvert": "|",
           "{": "{", "}": "}", "lfloor": "⌊", "rfloor": "⌋"}  # fmt: skip
_LARGE = {"sum": "∑", "prod": "∏", "int": "∫"}
_FUNCTIONS = {"log", "exp", "max", "min", "lim", "sup", "inf", "sin", "cos", "tan", "tanh", "arccos", "arcsin", "det", "ln"}
_UNDER = {"lim", "max", "min", "sup", "inf"}
_ACCENTS = {"hat": "^", "tilde": "~", "bar": "¯", "vec": "→", "dot": "˙", "overline": "¯", "widehat": "^", "widetilde": "~"}
_SPACES = {",": 0.17, ":": 0.22, ";": 0.28, "!": 0.0, " ": 0.33, "quad": 1.0, "qquad": 2.0}
_SIZES = {"bigl": 1.2, "bigr": 1.2, "big": 1.2, "Bigl": 1.8, "Bigr": 1.8, "Big": 1.8, "biggl": 2.4, "biggr": 2.4}
_IGNORED = {"displaystyle", "textstyle", "limits", "nolimits", "nonumber", "allowbreak"}
_STYLED = {"mathbb": 0x1D538, "mathbf": 0x1D400, "mathcal": 0x1D49C}
_HOLES = {"ℂ": 0x1D53A, "ℍ": 0x1D53F, "ℕ": 0x1D545, "ℙ": 0x1D547, "ℚ": 0x1D548, "ℝ": 0x1D549, "ℤ": 0x1D551,
          "ℬ": 0x1D49D, "ℰ": 0x1D4A0, "ℱ": 0x1D4A1, "ℋ": 0x1D4A3, "ℐ": 0x1D4A4, "ℒ": 0x1D4A7, "ℳ": 0x1D4A8,
          "ℛ": 0x1D4AD}  # fmt: skip
_HOLE = {code: letter for letter, code in _HOLES.items()}
_CELL_ENDS = ("&", "\\\\", "\\end")
_LEADING = set("([{⟨,=<>+−±·×⊗∘≤≥≠→∈≈∼")
"""Operators after which a minus is a sign."""
_ESCAPED = {"textbackslash": "\\", "textasciicircum": "^", "textasciitilde": "~"}


def mathml(latex: str, *, display: bool = False) -> str:
    """A formula as a ``math`` element; nothing in it is live markup.

    >>> mathml(r"\\frac{1}{n}\\,\\alpha_2^2")[:70]
    '<math><mfrac><mn>1</mn><mi>n</mi></mfrac><mspace width="0.17em"></mspa'
    """
    return _element(_Reader(latex).whole(), display)


def mathml_rows(rows: list[tuple[str, str]]) -> str:
    """Rows of an alignment, each a left and a right part, as one ``math`` element in display style."""
    cells = "".join(
        f"<mtr><mtd>{_grouped(_Reader(left).whole())}</mtd><mtd>{_grouped(_Reader(right).whole())}</mtd></mtr>"
        for left, right in rows
    )
    return _element([f'<mtable class="aligned" displaystyle="true">{cells}</mtable>'], True)


def inline_text(latex: str) -> str:
    """What LaTeX text says, as plain text: escapes undone, commands and the marks of formulas left out.

    >>> inline_text(r"50\\% of \\textbackslash{}x for \\$5 at $L$")
    '50% of \\\\x for $5 at L'
    """
    latex = re.sub(r"(?<!\\)\$", "", latex)
    latex = re.sub(r"\\ensuremath\{([^{}]*)\}", lambda found: _plain(found[1]), latex)
    latex = re.sub(r"\\(textbackslash|textasciicircum|textasciitilde)\{\}", lambda found: _ESCAPED[found[1]], latex)
    return re.sub(r"\\([\s{}$&#%_])", r"\1", latex).replace("''", "”")


def _plain(formula: str) -> str:
    name = formula.strip().removeprefix("\\").rstrip(",")
    return _IDENTIFIERS.get(name) or _OPERATORS.get(name) or _FENCES.get(name) or formula


def _element(items: list[str], display: bool) -> str:
    return ('<math display="block">' if display else "<math>") + "".join(items) + "</math>"


def _grouped(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"<mrow>{''.join(items)}</mrow>"


def _operator(sign: str, attributes: str = "") -> str:
    return f"<mo{attributes}>{escape(sign)}</mo>"


def _identifier(name: str) -> str:
    upright = ' mathvariant="normal"' if len(name) == 1 and name in "∞∂⊤ΓΔΘΛΞΠΣΦΨΩ" else ""
    return f"<mi{upright}>{escape(name)}</mi>"


def _styled(base: int, text: str) -> str:
    """Letters in another alphabet of Unicode."""
    parts = []
    for letter in text:
        code = base + ord(letter) - ord("A") if "A" <= letter <= "Z" else 0
        if "0" <= letter <= "9" and base != _STYLED["mathcal"]:
            code = (0x1D7D8 if base == _STYLED["mathbb"] else 0x1D7CE) + int(letter)
        parts.append(_HOLE.get(code, chr(code) if code else letter))
    return "".join(parts)


class _Reader:
    def __init__(self, latex: str) -> None:
        self.tokens = _TOKEN.findall(latex)
        self.position = 0

    def whole(self) -> list[str]:
        """The elements of the whole formula; a brace that closes nothing is left out."""
        items = self.row()
        while self.position < len(self.tokens):
            self.position += 1
            items += self.row()
        return items

    def row(self, stop: tuple[str, ...] = ()) -> list[str]:
        """The elements up to a closing brace, or up to one of the tokens in ``stop``."""
        items: list[str] = []
        while self.position < len(self.tokens) and self.tokens[self.position] not in ("}", *stop):
            token = self.tokens[self.position]
            if token in ("^", "_", "'"):
                items.append(self._scripts(items.pop() if items else "<mrow></mrow>"))
            elif token.isspace() or token == "&":
                self.position += 1
            else:
                items += self._item(items)
        return items

    def _argument(self) -> str:
        while self.position < len(self.tokens) and self.tokens[self.position].isspace():
            self.position += 1
        if self.position >= len(self.tokens):
            return "<mrow></mrow>"
        if self.tokens[self.position] == "{":
            self.position += 1
            inner = self.row()
            self.position += 1
            return _grouped(inner)
        if self.tokens[self.position].isdigit():
            # TeX takes one digit.
            token = self.tokens[self.position]
            self.tokens[self.position : self.position + 1] = [token[0], token[1:]] if len(token) > 1 else [token]
        return _grouped(self._item([]))

    def _raw(self) -> str:
        """The LaTeX between braces."""
        depth, parts = 0, []
        while self.position < len(self.tokens):
            token = self.tokens[self.position]
            self.position += 1
            depth += (token == "{") - (token == "}")
            if depth == 0 and token == "}":
                break
            parts.append(token)
            if depth == 0 and not token.isspace():
                break
        return "".join(parts).removeprefix("{")

    def _scripts(self, base: str) -> str:
        below = ""
        upper: list[str] = []
        while self.position < len(self.tokens) and self.tokens[self.position] in ("^", "_", "'"):
            token = self.tokens[self.position]
            if (token == "_" and below) or (token == "^" and upper and "′" not in upper[-1]):
                break
            self.position += 1
            if token == "'":
                upper.append(_operator("′"))
            elif token == "_":
                below = self._argument()
            else:
                upper.append(self._argument())
        above = _grouped(upper) if upper else ""
        under = base.startswith("<munder")
        if under:
            base = base.removeprefix("<munder>").removesuffix("</munder>")
        names = {(True, True): "munderover", (True, False): "munder", (False, True): "mover"} if under else {
            (True, True): "msubsup", (True, False): "msub", (False, True): "msup"}  # fmt: skip
        name = names[bool(below), bool(above)]
        return f"<{name}>{base}{below}{above}</{name}>"

    def _item(self, before: list[str]) -> list[str]:
        token = self.tokens[self.position]
        self.position += 1
        if token == "{":
            inner = self.row()
            self.position += 1
            return [_grouped(inner)]
        if token.startswith("\\"):
            return self._command(token[1:].rstrip("*"))
        if token[0].isdigit():
            return [f"<mn>{token}</mn>"]
        if token.isalpha():
            return [_identifier(token)]
        if token == "-":
            return [self._minus(before)]
        if token in "()[]":
            return [_operator(token, ' stretchy="false"')]
        if token == "|":
            return [_operator("|", ' stretchy="false" lspace="0.05em" rspace="0.05em"')]
        if token in "/!":
            return [_operator(token, ' lspace="0" rspace="0"')]
        return [_operator(token)]

    @staticmethod
    def _minus(before: list[str]) -> str:
        last = re.findall(r"^<mover><mo>([^<>]+)</mo>|>([^<>]+)</mo>$", before[-1]) if before else []
        sign = before and not (last and "".join(last[0]) in _LEADING)
        return _operator("−", "" if sign else ' form="prefix"')

    def _command(self, name: str) -> list[str]:
        if name in ("frac", "tfrac", "dfrac"):
            return [f"<mfrac>{self._argument()}{self._argument()}</mfrac>"]
        if name == "sqrt":
            return [f"<msqrt>{self._argument()}</msqrt>"]
        if name in ("text", "mathrm", "operatorname", "mathit", "textrm"):
            return self._word(name)
        if name in _STYLED:
            return [f"<mi>{escape(_styled(_STYLED[name], self._raw()))}</mi>"]
        if name in _ACCENTS:
            mark = _operator(_ACCENTS[name], ' stretchy="false"')
            return [f'<mover accent="true">{self._argument()}{mark}</mover>']
        if name in ("stackrel", "overset"):
            over, base = self._argument(), self._argument()
            return [f"<mover>{base}{over}</mover>"]
        if name in _SPACES:
            return [f'<mspace width="{_SPACES[name]}em"></mspace>'] if _SPACES[name] else []
        if name in _SIZES or name in ("left", "right", "middle"):
            return self._sized({"left": "l", "right": "r"}.get(name, name))
        if name == "begin":
            return [self._environment()]
        return self._sign(name)

    def _sign(self, name: str) -> list[str]:
        if name in _LARGE:
            # Limits stand above and below in display style, beside elsewhere.
            return [f"<munder>{_operator(_LARGE[name])}</munder>"] if self._next() in ("_", "^") else [_operator(_LARGE[name])]
        if name in _FUNCTIONS:
            if name in _UNDER and self._next() == "_":
                return [f"<munder>{_operator(name)}</munder>"]
            gap = [] if self._next() in ("(", "_", "^", "\\bigl", "\\Bigl", "{") else ['<mspace width="0.17em"></mspace>']
            return [f"<mi>{name}</mi>", *gap]
        if name in _IDENTIFIERS:
            return [_identifier(_IDENTIFIERS[name])]
        if name in _OPERATORS:
            return [_operator(_OPERATORS[name])]
        if name in _FENCES:
            return [_operator(_FENCES[name], ' stretchy="false" lspace="0" rspace="0"')]
        if name in _IGNORED:
            return []
        if name == "\\":
            return ['<mspace width="1em"></mspace>']
        return [f"<mtext>{escape(name if len(name) == 1 else chr(92) + name)}</mtext>"]

    def _next(self) -> str:
        rest = (token for token in self.tokens[self.position :] if not token.isspace())
        return next(rest, "")

    def _word(self, name: str) -> list[str]:
        items: list[str] = []
        # Text may hold formulas between dollars.
        for position, part in enumerate(re.split(r"(?<!\\)\$", self._raw())):
            if position % 2:
                items += _Reader(part).whole()
            elif part:
                body = escape(inline_text(re.sub(r"\\emph\{([^{}]*)\}", r"\1", part))).replace(" ", "\u00a0")
                items.append(f"<mtext>{body}</mtext>" if name == "text" else f'<mi mathvariant="normal">{body}</mi>')
        if name == "operatorname" and self._next() not in ("(", "_", "^", "\\bigl", "\\Bigl", "["):
            items.append('<mspace width="0.17em"></mspace>')
        return items

    def _sized(self, name: str) -> list[str]:
        token = self._next()
        while self.position < len(self.tokens) and self.tokens[self.position] != token:
            self.position += 1
        self.position += 1
        mark = _FENCES.get(token[1:], token[1:]) if token.startswith("\\") else token
        if mark in ("", "."):
            return []
        form = {"l": "prefix", "r": "postfix"}.get(name[-1], "infix")
        size = _SIZES.get(name)
        limits = f' symmetric="true" minsize="{size}em" maxsize="{size}em"' if size else ""
        return [_operator(mark, f' form="{form}" stretchy="true"{limits} lspace="0" rspace="0"')]

    def _environment(self) -> str:
        name = self._raw()
        if name == "array":
            self._raw()
        rows: list[list[str]] = [[]]
        while self.position < len(self.tokens):
            cell = _grouped(self.row(_CELL_ENDS))
            rows[-1].append(f"<mtd>{cell}</mtd>")
            token = self.tokens[self.position] if self.position < len(self.tokens) else "\\end"
            self.position += 1
            if token == "\\\\":
                rows.append([])
            elif token != "&":
                break
        self._raw()
        body = "".join(f"<mtr>{''.join(row)}</mtr>" for row in rows)
        left, right = {"cases": ("{", ""), "pmatrix": ("(", ")"), "bmatrix": ("[", "]")}.get(name, ("", ""))
        table = f'<mtable class="{"cases" if name == "cases" else "matrix"}">{body}</mtable>'
        opened = _operator(left, ' stretchy="true" form="prefix"') if left else ""
        closed = _operator(right, ' stretchy="true" form="postfix"') if right else ""
        return f"<mrow>{opened}{table}{closed}</mrow>"
