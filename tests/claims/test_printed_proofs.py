"""What the proofs of all bundled derivations print: true equalities, of symbols that the notation explains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import sympy as sp

from symprop.bundled import derivation, names
from symprop.claims import PaperDerivation, Result
from symprop.core import symbols
from symprop.core.expression import compare
from symprop.core.proof import ProofStep
from symprop.core.symbols import alpha_1, sigma_k2, sigma_q2
from symprop.report.content import block_report, claim_names
from symprop.wick.attention import AttentionLayer
from symprop.wick.invariants import TokenInvariants
from symprop.wick.words import Alphabet

LIMITS = {r"\to", r"\sim", r"\approx"}
"""Relations of steps that leave something out."""


@cache
def results(name: str) -> tuple[tuple[str, Result], ...]:
    """Every result that a derivation prints, with the claim that it is of."""
    found = derivation(name)
    return tuple((claim.id, claim.derived()) for claim in found.claims) + tuple(
        (f"dynamics {index}", result) for index, result in enumerate(found.dynamics)
    )


def slips(result: Result) -> Iterator[str]:
    """Steps after which a quantity has another value than before them, and a proof that does not end in its result."""
    for before, after in pairwise(result.steps):
        assert after.relation in LIMITS | {"="}
        if before.quantity == after.quantity and after.relation == "=" and not _same(before, after, result):
            yield f"{before.rule} -> {after.rule}"
    if result.steps and (result.steps[-1].quantity or not _equal(result.steps[-1].expression, result.expression)):
        yield "the last step"


def _same(before: ProofStep, after: ProofStep, result: Result) -> bool:
    gone = before.expression.free_symbols - after.expression.free_symbols
    if gone & set(result.names):
        # A rule of a component puts in what a signal is.
        return True
    if after.rule.startswith("E over "):
        matrix = after.rule.removeprefix("E over ")
        return any(str(item) == matrix for item in gone) or (matrix == "X" and bool(gone & set(_invariants().definitions)))
    if after.rule == "variances":
        return gone <= {sigma_q2, sigma_k2}
    if before.expression.has(sp.MatrixExpr):
        return not Alphabet().polynomial(before.expression - _invariants().traces(after.expression))
    return _equal(before.expression, after.expression)


def _invariants() -> TokenInvariants:
    return AttentionLayer().invariants


def _equal(left: sp.Expr, right: sp.Expr) -> bool:
    found = compare(left, right)
    return bool(found.equal) or (found.equal is None and found.points > 0)


def test_a_false_equality_is_found() -> None:
    x = alpha_1**2 + 1
    steps = (ProofStep("chain rule", "", x), ProofStep("logarithm", "", sp.log(x)))
    chain = Result(sp.log(x), r"\lambda", steps)
    assert list(slips(chain)) == ["chain rule -> logarithm"]
    assert not list(slips(replace(chain, steps=(replace(steps[0], quantity=r"e^\lambda"), steps[1]))))
    assert list(slips(replace(chain, steps=steps[:1]))) == ["the last step"]


def _unexplained(name: str) -> Iterator[tuple[str, str]]:
    found: PaperDerivation = derivation(name)
    block = block_report(found, found.view)
    printed = [("block", item.expression, item.names) for step in block.steps for item in step.equations]
    printed += [("depth", item.expression, item.names) for item in (*block.closed, *block.limit)]
    for key, result in results(name):
        known = claim_names(found, found.view, result)
        printed += [(key, item.expression, known) for item in (*result.setup, *result.steps, result)]
    for claim, (_, result) in zip(found.claims, results(name), strict=False):
        known = claim_names(found, found.view, result)
        if claim.stated is not None and not claim.stated_latex:
            printed.append((claim.id, sp.sympify(claim.stated), known))
        printed += [(claim.id, key, known) for key in (*claim.domain, *claim.witness)]
    for key, expression, known in printed:
        for item in getattr(sp.sympify(expression), "free_symbols", ()):
            if type(item) is sp.Symbol and item not in known and item not in _registered():
                yield key, str(item)


def _registered() -> set[sp.Symbol]:
    return {item.symbol for item in symbols.registered()}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name == "kedia2024" else name for name in names()
])
def test_steps_of_one_quantity_are_equal_and_symbols_explained(name: str) -> None:
    assert not {key: wrong for key, result in results(name) if (wrong := list(slips(result)))}
    assert not sorted(set(_unexplained(name)))


def test_what_corrects_or_goes_beyond_the_paper_is_not_said_to_be_printed() -> None:
    words = ("Beyond", "corrected", "replaced", "exact")
    own = [claim for claim in derivation("noci2022").claims if any(word in claim.where for word in words)]
    assert own and not any(claim.printed for claim in own)
    assert not any(claim.printed for claim in derivation("rate_laws").claims)
