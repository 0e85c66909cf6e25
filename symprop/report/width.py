"""How wide a formula sets, and where to break it so that it fits its line."""

from __future__ import annotations

from functools import lru_cache

from symprop.report.unicode import TOKEN

BESIDE = 10.0
"""A fraction that leaves less room on its line, in em, is not set as one."""

_FACTOR = 111.0
"""Price of a break between factors; its units digit tells it from a break at a sign."""
_MATRIX = 302.0
"""Price of a break within a product of matrices, where no sign may stand."""
_MATRICES = {"W", "X", "A", "J", "S", "\\Pi"}
_NONE = {"\\left", "\\right", "\\displaystyle", "\\limits", "\\!", "\\bigl", "\\bigr", "\\Bigl", "\\Bigr", "\\big"}
_WRAPPERS = {"\\mathbb", "\\mathbf", "\\mathrm", "\\text", "\\operatorname", "\\hat", "\\tilde", "\\bar", "\\mathcal"}
_SPACES = {"\\,": 0.17, "\\;": 0.28, "\\:": 0.23, "\\quad": 1.0, "\\qquad": 2.0, "\\ ": 0.33}
_RELATIONS = {"\\otimes", "\\times", "\\cdot", "\\circ", "\\le", "\\ge", "\\neq", "\\to", "\\in", "\\approx"}


@lru_cache(maxsize=4096)
def width(latex: str) -> float:
    """Estimated width in em of a formula in display style."""
    return _Measure(TOKEN.findall(latex)).read()


class _Measure:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position = tokens, 0

    def read(self) -> float:
        """Width up to the closing brace; rows of an environment count by the widest."""
        widest = total = pending = 0.0
        script = ""
        while self.position < len(self.tokens) and self.tokens[self.position] != "}":
            token = self.tokens[self.position]
            if token in ("^", "_"):
                self.position += 1
                own = 0.72 * self._argument()
                # A superscript over a subscript takes no room of its own.
                total += max(0.0, own - pending) if script and script != token else own
                pending, script = own, token
                continue
            if token == "\\\\":
                widest, total = max(widest, total), 0.0
                self.position += 1
                continue
            total += self._item()
            script, pending = "", 0.0
        return max(widest, total)

    def _argument(self) -> float:
        while self.position < len(self.tokens) and self.tokens[self.position].isspace():
            self.position += 1
        return self._item() if self.position < len(self.tokens) else 0.0

    def _item(self) -> float:
        token = self.tokens[self.position]
        self.position += 1
        if token == "{":
            inner = self.read()
            self.position += 1
            return inner
        if token.isspace() or token == "&" or token in _NONE:
            return 0.0
        if token.startswith("\\frac"):
            return max(self._argument(), self._argument()) + 0.24
        if token == "\\sqrt":
            return self._argument() + 0.9
        if token in ("\\begin", "\\end"):
            self._argument()
            return 1.2
        if token in _WRAPPERS:
            return self._argument() + (0.17 if token == "\\operatorname" else 0.0)
        if token in _SPACES:
            return _SPACES[token]
        if token in _RELATIONS or token in "+-=<>":
            return 1.25
        if token == "\\sum":
            return 1.8
        if token.startswith("\\"):
            return 0.62
        if token.isupper():
            return 0.78
        return 0.42 if token in "()[]" else 0.3 if token in ",.;:'|!" else 0.55


def broken(latex: str, available: float, continued: float | None = None) -> list[str]:
    """Lines of a formula that fit ``available`` em (``continued`` em after the first), broken at + and - first.

    Where terms are too long, breaks inside brackets and between factors follow, each at a price.
    """
    continued = available - 2.0 if continued is None else continued
    pieces = _pieces(latex)
    count = len(pieces)
    best: list[tuple[float, int]] = [(0.0, -1)] + [(float("inf"), -1)] * count
    for end in range(1, count + 1):
        line = ""
        for start in range(end - 1, -1, -1):
            line = pieces[start][1] + line
            price, _ = best[start]
            room = available if start == 0 else continued
            excess = width(line) - room
            if excess > 0:
                price += 1e4 * (1 + excess)
            price += 100 + (pieces[start][0] if start else 0.0) + 10 * max(0.0, 1 - width(line) / room) ** 2
            if price < best[end][0]:
                best[end] = (price, start)
            if excess > 60:
                break
    lines: list[str] = []
    end = count
    while end > 0:
        start = best[end][1]
        body = "".join(piece for _, piece in pieces[start:end]).strip().removesuffix(r"\,").rstrip()
        cost = pieces[start][0]
        lines.append(rf"\times {body}" if start and cost % 10 == 1 else body)
        end = start
    return lines[::-1]


def _pieces(latex: str) -> list[tuple[float, str]]:
    """The formula cut at every place where a line may end, each piece with the price of a break before it.

    The units digit of the price is 0 at a sign, 1 between factors, 2 between matrices.
    """
    pieces: list[tuple[float, str]] = []
    current, price = "", 0.0
    braces = parentheses = environments = 0
    tokens = TOKEN.findall(latex)
    for token in tokens:
        before = current.rstrip()
        free = braces == 0 and environments == 0 and before and not before.endswith(("^", "_", r"\big/"))
        opening = before.endswith(("(", "[", r"\bigl", r"\Bigl", r"\big"))
        if free and not opening:
            deep = 150.0 * parentheses
            cut = -1.0
            if token in ("+", "-", r"\otimes") and not before.endswith(("=", "(")):
                cut = deep + (50.0 if token == r"\otimes" else 0.0)
            elif token in (r"\bigl", r"\Bigl", r"\operatorname", r"\sum", "(", r"\mathbb") and _is_factor(
                token, before
            ):
                cut = deep + _FACTOR
            elif token in _MATRICES and parentheses and before.endswith(("}", r"\top", "X", r"\Pi")):
                cut = deep + _MATRIX
            if cut >= 0:
                pieces.append((price, current))
                current, price = "", cut
        current += token
        braces += (token == "{") - (token == "}")
        environments += (token in (r"\begin", r"\left")) - (token in (r"\end", r"\right"))
        parentheses += (token in "([") - (token in ")]")
    return [*pieces, (price, current)]


def _is_factor(token: str, before: str) -> bool:
    """Whether a factor of a product begins here."""
    if before.endswith(("+", "-")):
        return False
    if token == "(":
        return not before.endswith((r"\bigl", r"\Bigl", "}", "C"))
    return token != r"\mathbb" or before.endswith(r"\,")
