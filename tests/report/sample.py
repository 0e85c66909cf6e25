"""A small derivation that uses every part of a report."""

from __future__ import annotations

import sympy as sp

from symprop.claims import Claim, Curve, Figure, Paper, PaperDerivation, Points, Result, Slip, Status, depth_result, trace_chain
from symprop.components import Linear, UniformAttention
from symprop.core.expression import Comparison
from symprop.core.proof import ProofStep
from symprop.core.symbols import alpha_1, alpha_2, d, d_F, sigma_down2, sigma_up2, sigma_v2
from symprop.depth import DepthSolution, solve
from symprop.network import named, residual, sequential, stack
from symprop.notation import NOCI
from symprop.report.content import block_names
from symprop.simulate.measurement import Measurement

EVIL = r"50% of \input{/etc/passwd} costs $5 & a_b #1 ~ {x ^^5c"
BLOCK = sequential(
    named(residual(named(UniformAttention(d, sigma_v2), "S"), alpha_1), "Z"),
    named(residual(named(sequential(Linear(d_F, sigma_up2), Linear(d, sigma_down2)), "Y"), alpha_2), "X'"),
)


def _solution() -> DepthSolution:
    return solve(stack(BLOCK))


def _result(index: int) -> Result:
    solution = _solution()
    names, coordinate = block_names(solution.trace, NOCI), NOCI.coordinates[index]
    steps = trace_chain(solution.trace, NOCI, coordinate)
    provenance = solution.provenance
    return Result(
        steps[-1].expression,
        names[coordinate.symbol("X'")].latex,
        steps,
        assumptions=provenance.assumptions,
        sources=provenance.sources,
        names=names,
    )


def _gradient() -> Result:
    from symprop.wick.attention import gradient_norm

    found = gradient_norm("W_Q")
    return Result(
        found.expression,
        r"\mathbb{E}\|\partial S/\partial W^Q\|_F^2",
        found.steps,
        found.setup,
        found.assumptions,
        found.neglected,
        found.sources,
    )


def _growth() -> Result:
    """A result of two steps, of which the first is of another quantity."""
    factor = alpha_2**2 + 1
    steps = (ProofStep("chain rule", "one block", factor, r"e^{\lambda}"), ProofStep("logarithm", "of it", sp.log(factor)))
    return Result(sp.log(factor), r"\lambda", steps)


def _claims() -> tuple[Claim, ...]:
    products, norm, gradient = (_result(0).expression, _result(1).expression, _gradient().expression)
    return (
        Claim("products", "Lemma 3.2", EVIL, lambda: _result(0), products),
        Claim(
            "norm",
            "Eq. 12",
            "Norm over one block",
            lambda: _result(1),
            norm.subs(sigma_v2, 1 / d),
            domain={sigma_v2: 1 / d},
        ),
        Claim("query", "Theorem 3.1", "Gradient norm of W_Q", _gradient, gradient),
        Claim(
            "norm-printed",
            "Eq. 12",
            "Norm, as printed",
            lambda: _result(1),
            2 * norm,
            expected=Status.REFUTED,
            note="A factor 2 too much. " + EVIL,
            corrected_by="norm",
        ),
        Claim("growth", "Eq. 13, corrected", "Growth of the norm", _growth, sp.log(1 + alpha_2**2), printed=False),
        Claim("relation", "Eq. 14", "Growth, as printed", _growth,
              statement=lambda: Comparison(False, "", 1, {alpha_2: sp.S.One}), stated_latex=r"\lambda > 1",
              stated_whole=True, expected=Status.REFUTED),
        Claim("depth", "Eq. 15", "Products after all blocks", lambda: depth_result(_solution(), NOCI, "C"),
              depth_result(_solution(), NOCI, "C").expression),
    )


def measurements() -> tuple[Measurement, ...]:
    """Rows that hold, and one where the assumption fails."""
    return (
        Measurement(
            "E||X^L||^2 with residual weights", "n=8, d=32, alpha_1 = 1/sqrt(L)", 1234567.8, 1234600.1, 32.5, 100
        ),
        Measurement("E C(X^L)", EVIL, 0.125, 0.125, 0.0, 100),
        Measurement("E C(X^L)", "softmax", 2.0, 3.0, 0.1, 100, expected_to_hold=False),
    )


def figures() -> tuple[Figure, ...]:
    """One figure with a curve and its points."""
    x = [1.0, 2.0, 3.0]
    return (
        Figure(
            "norm over depth",
            "Norm over depth; " + EVIL,
            "depth L",
            "E||X^L||^2",
            (Curve("alpha_1 = 1", x, x),),
            (Points("alpha_1 = 1", x, x, [0.1, 0.1, 0.1]), Points("softmax $", x, x, [0.1] * 3)),
            logy=True,
        ),
    )


def make() -> PaperDerivation:
    """The derivation."""
    paper = Paper(
        "noci2022",
        "Noci, Lorenzo and Lucchi, Aurelien",
        "A title with 100% & more",
        "NeurIPS",
        2022,
        "https://example.org/a_b",
    )
    return PaperDerivation(
        paper,
        NOCI,
        {sigma_v2: 1 / d, sigma_up2: 1 / d, sigma_down2: 1 / d_F},
        lambda: _solution().trace,
        _claims,
        lambda: (),
        lambda *_: measurements(),
        lambda *_: figures(),
        (Slip("footnote 2", EVIL, "0 < gamma"),),
        build_solution=_solution,
    )
