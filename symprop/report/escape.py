"""Characters in LaTeX that is text."""

from __future__ import annotations

from symprop.report.unicode import LETTERS

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\ensuremath{<}", ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}", '"': "''", "−": "-", "≤": r"\ensuremath{\le}", "≥": r"\ensuremath{\ge}",
    "→": r"\ensuremath{\to}", "²": r"\ensuremath{^2}", "·": r"\ensuremath{\cdot}", "×": r"\ensuremath{\times}",
    "ℓ": r"\ensuremath{\ell}", "‖": r"\ensuremath{\|}", "√": r"\ensuremath{\sqrt{\,}}", "∞": r"\ensuremath{\infty}",
    "≠": r"\ensuremath{\neq}", "⊗": r"\ensuremath{\otimes}", "∂": r"\ensuremath{\partial}",
}  # fmt: skip
_ESCAPES.update({letter: rf"\ensuremath{{\{name}}}" for name, letter in LETTERS.items()})
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_ESCAPES.update({letter: rf"\ensuremath{{_{index}}}" for index, letter in enumerate(_SUBSCRIPTS)})


def escape(text: str) -> str:
    """Text in which LaTeX sees no command, comment or mathematics.

    >>> escape(r"50% of \\input{x}_1")
    '50\\\\% of \\\\textbackslash{}input\\\\{x\\\\}\\\\_1'
    """
    return "".join(_ESCAPES.get(character, character if _printable(character) else "?") for character in text)


def _printable(character: str) -> bool:
    code = ord(character)
    return (code < 0x180 and (code >= 32 or character in "\n\t")) or 0x2010 <= code <= 0x201E
