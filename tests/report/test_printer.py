"""Formulas print as a mathematician writes them."""

from __future__ import annotations

import re
import unicodedata

import pytest
import sympy as sp

from symprop.claims import LatexName
from symprop.core.symbols import A, L, M, a_1, alpha_1, alpha_2, d, d_k, m_f, n, rho, sigma_k2, sigma_q2, sigma_v2, tau
from symprop.functions import ExpMinusOne, GeometricSum, GrowthMinusOne
from symprop.functions.logistic import Silu
from symprop.functions.quadrature_activation import QuadratureActivation
from symprop.notation import NOCI
from symprop.report.escape import escape
from symprop.report.printer import latex, text
from symprop.report.prose import pretty, prose, rule_name
from symprop.report.width import broken, width
from symprop.wick.matrices import Commutation, Softmax, centring, kron, trace

C_Y, N_X = sp.Symbol("C_Y", nonnegative=True), sp.Symbol("N_X9", nonnegative=True)
NAMES = {
    C_Y: LatexName("E C(Y)", r"\mathbb{E}\,C(Y)"),
    N_X: LatexName("E||X||^2", r"\mathbb{E}\|X\|_F^2"),
}
X = sp.MatrixSymbol("X", n, d)
W_Q, W_K = sp.MatrixSymbol("W_Q", d, d_k), sp.MatrixSymbol("W_K", d, d_k)
GROWTH = GrowthMinusOne(alpha_1**2 * d * sigma_v2, L)

CASES = [
    (alpha_2**2 * C_Y, r"\alpha_2^2\,\mathbb{E}\,C(Y)", "α₂² E C(Y)"),
    (alpha_1**2 * d * sigma_v2 + 1, r"1 + \alpha_1^2 d_v \sigma_v^2", "1 + α₁² d_v σ_v²"),
    ((1 + alpha_2**2) ** L, r"(1 + \alpha_2^2)^L", "(1 + α₂²)^L"),
    (sigma_v2**2, r"\sigma_v^4", "σ_v⁴"),
    (sp.sqrt(sigma_v2), r"\sigma_v", "σ_v"),
    (sigma_v2**L, r"(\sigma_v^2)^L", "(σ_v²)^L"),
    (N_X**2, r"(\mathbb{E}\|X\|_F^2)^2", "(E‖X‖²)²"),
    (N_X - C_Y, r"\mathbb{E}\|X\|_F^2 - \mathbb{E}\,C(Y)", "E‖X‖² - E C(Y)"),
    (-1 / (n - 1), r"-\frac{1}{n - 1}", "-1/(n - 1)"),
    (1 + 4 * (1 - rho) / (n * d), r"1 + \frac{4 - 4 \rho}{n d_v}", "1 + (4 - 4 ρ)/(n d_v)"),
    (GROWTH, r"(1 + \alpha_1^2 d_v \sigma_v^2)^L - 1", "(1 + α₁² d_v σ_v²)^L - 1"),
    (GROWTH * C_Y, r"\bigl((1 + \alpha_1^2 d_v \sigma_v^2)^L - 1\bigr)\,\mathbb{E}\,C(Y)",
     "((1 + α₁² d_v σ_v²)^L - 1) E C(Y)"),
    (ExpMinusOne(a_1), r"e^{\tilde{\alpha}_1} - 1", "e^α̃₁ - 1"),
    (ExpMinusOne(a_1) * C_Y / n, r"\frac{e^{\tilde{\alpha}_1} - 1}{n}\,\mathbb{E}\,C(Y)", "(e^α̃₁ - 1)/n E C(Y)"),
    (GeometricSum(alpha_1**2, alpha_2**2, L), r"\sum_{j=0}^{L - 1} (\alpha_1^2)^j (\alpha_2^2)^{L - 1 - j}",
     "Σ_(j=0)^(L - 1) (α₁²)^j (α₂²)^(L - 1 - j)"),
    (sp.Piecewise((rho, sp.Eq(alpha_1, 0)), (1, True)),
     r"\begin{cases} \rho & \text{if } \alpha_1 = 0 \\ 1 & \text{otherwise} \end{cases}",
     "{ ρ if α₁ = 0 ; 1 otherwise }"),
    (trace(X.T * centring(n) * X), r"\operatorname{tr}(X^\top \Pi X)", "tr(Xᵀ Π X)"),
    (Softmax(tau / sp.sqrt(d_k) * X * W_Q * W_K.T * X.T),
     r"\operatorname{softmax}\Bigl(\frac{\tau}{\sqrt{d_k}}\,X W^{Q} W^{K\top} X^\top\Bigr)",
     "softmax(τ/√d_k X W^Q W^Kᵀ Xᵀ)"),
    (Commutation(n, n) * kron(X, X), r"K_{n,n} (X \otimes X)", "K_(n,n) (X ⊗ X)"),
    (sp.Symbol("xhat_i"), r"\hat{x}_i", "x̂_i"),
    (sp.Symbol("X'"), "X'", "X′"),
    (n * (rho - 1) ** 2, r"n (1 - \rho)^2", "n (1 - ρ)²"),
    (-A * (A - 1) / 3, r"\frac{A}{3}\,(1 - A)", "A/3 (1 - A)"),
    ((A * M - A - m_f * M) / (A * M - A - M), r"\frac{A + M m - A M}{A + M - A M}", "(A + M m - A M)/(A + M - A M)"),
    ((d - 2) / (d - 3), r"\frac{d_v - 2}{d_v - 3}", "(d_v - 2)/(d_v - 3)"),
    (tau**2 * sigma_q2 * sigma_k2 / n**2 * C_Y, r"\frac{\tau^2 \sigma_k^2 \sigma_q^2}{n^2}\,\mathbb{E}\,C(Y)",
     "τ² σ_k² σ_q²/n² E C(Y)"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "tex", "plain"), CASES, ids=[case[1] for case in CASES])
def test_prints(expression: sp.Basic, tex: str, plain: str) -> None:
    assert latex(expression, NAMES, NOCI) == tex
    assert text(expression, NAMES, NOCI) == unicodedata.normalize("NFC", plain)


def test_text_is_refused_as_an_expression() -> None:
    with pytest.raises(sp.SympifyError):
        latex("__import__('os').getcwd()")


def test_long_formulas_break_at_signs() -> None:
    formula = latex(sp.Add(*(sp.Symbol(f"x_{i}") * (1 + alpha_1**2) ** L for i in range(20))))
    lines = broken(formula, 30.0)
    assert len(lines) > 2
    assert all(width(line) <= 30 for line in lines)
    assert all(line.startswith("+") for line in lines[1:])


def test_a_long_product_breaks_between_factors() -> None:
    factors = [1 + alpha_1**2 * sp.Symbol(f"y_{i}") ** 2 for i in range(12)]
    lines = broken(latex(sp.Mul(*factors)), 30.0)
    assert len(lines) > 1 and all(line.startswith(r"\times") for line in lines[1:])


@pytest.mark.parametrize(
    "evil", [r"\input{/etc/passwd}", "100%", "$x$", "a_b^c^d", "^^5cinput", "{x_1", "&#~", "x_", "^", "x_{a}_b_c"]
)
def test_prose_holds_no_live_tex(evil: str) -> None:
    for made in (escape(evil), prose(evil), prose(f"by {evil} and so on")):
        bare = made.replace(r"\textbackslash{}", "").replace(r"\%", "").replace(r"\$", "").replace(r"\&", "")
        assert "\\input" not in bare and "%" not in bare and "^^" not in bare and "&" not in bare
        assert bare.count("$") % 2 == 0
        plain = bare.replace(r"\{", "").replace(r"\}", "")
        assert plain.count("{") == plain.count("}")


def test_sentences_keep_their_words() -> None:
    assert prose("what that chat had, a gap in the layer") == "what that chat had, a gap in the layer"
    assert pretty("alpha_1^2 = a_1/L that vanishes") == "α₁² = α̃₁/L that vanishes"
    assert rule_name("E over W_K") == r"\mathbb{E}_{W^{K}}"


@pytest.mark.parametrize("name", ["hard_tanh", "a&b", "50% relu", "a#b", "$x$", "{", "a^b~", "\\input"])
def test_names_of_activations_are_text(name: str) -> None:
    x = sp.Symbol("x", real=True)
    made = QuadratureActivation(x, sp.Max(-1, sp.Min(x, 1)), name).second(sp.S.Zero, tau)
    assert latex(made) == rf"\text{{{escape(name + ' second')}}}(0, \tau)"
    inside = re.sub(r"\\[_&%#${},]|\\(?:backslash|sim|hat\{\\ \})", "", sp.latex(made).split(r"\left(")[0])
    assert re.fullmatch(r"\\mathrm\{[\w ]*\}", inside)


def test_smooth_sums_print_as_functions_of_their_arguments() -> None:
    made = Silu().gap(sp.S.Zero, sigma_v2, tau)
    assert latex(made) == r"\text{silu gap}(\sigma_v^2, \tau)" and text(made) == "silu gap(σ_v², τ)"


def test_a_prime_is_that_of_its_index() -> None:
    assert prose("C(X) sums X_kj X_k'j, not X_kj X_kj'") == "$C(X)$ sums $X_{kj} X_{k'j}$, not $X_{kj} X_{kj'}$"
    assert prose("covariance sigma_x2 [(1 - rho) I + P].") == r"covariance $\sigma_x^2 [(1 - \rho) I + P]$."
    assert prose("pairs of <X_k, X_k'>") == r"pairs of $\langle X_k, X_{k'}\rangle$"


def test_the_article_is_no_matrix() -> None:
    assert prose("A feed-forward expansion, which Appendix A states") == "A feed-forward expansion, which Appendix A states"
    assert prose("A is a matrix") == "$A$ is a matrix"
