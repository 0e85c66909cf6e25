"""A paper's claim beside what is derived, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import sympy as sp

from symprop.claims.chain import LatexName
from symprop.core.display import equations, html_table
from symprop.core.expression import Comparison, compare, factored
from symprop.core.proof import ProofStep
from symprop.core.provenance import EXACT, Assumption, Source
from symprop.notation import SYMPROP


class Status(Enum):
    """What a check found."""

    PROVED = "proved"
    AGREES = "agrees"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Result:
    """A derived formula with its proof.

    ``expression`` is in registered symbols and in the symbols of ``names``, which says how each of those prints.
    ``quantity`` is the LaTeX of the left-hand side, with ``\\depth`` for the number of blocks. ``setup`` holds definitions
    and intermediate matrices, ``steps`` the chains of equalities of which the last is of ``quantity`` and ends in
    ``expression``.
    """

    expression: sp.Expr
    quantity: str = ""
    steps: tuple[ProofStep, ...] = ()
    setup: tuple[ProofStep, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    neglected: str = EXACT
    sources: tuple[Source, ...] = ()
    names: Mapping[sp.Symbol, LatexName] = field(default_factory=dict)

    def _repr_latex_(self) -> str:
        named = self.expression.xreplace({item: sp.Symbol(f"{{{name.latex}}}") for item, name in self.names.items()})
        return equations([(SYMPROP.quantity(self.quantity), named)])


@dataclass(frozen=True)
class Claim:
    """One statement of a paper.

    ``stated`` is typed from the page in the paper's own symbols; ``derived`` is called when the claim is checked or
    printed. ``domain`` specialises both sides to the paper's setting. ``relation`` is ``"="``, or ``"<="`` where the
    paper bounds the derived quantity by ``stated``. ``witness`` is a point at which to look first. ``statement``
    replaces the comparison of expressions for statements about matrices: it returns the comparison itself.
    ``stated_whole`` says that ``stated_latex`` is a whole relation and not what the derived quantity equals, and ``printed``
    is False where the paper does not print what is stated: the claim corrects another, or goes beyond the paper.
    ``expected`` is the verdict that a test holds fast; a misprint is expected REFUTED, its ``note`` says what is wrong
    and ``corrected_by`` names the claim that is right.
    """

    id: str
    where: str
    title: str
    derived: Callable[[], Result]
    stated: sp.Expr | None = None
    statement: Callable[[], Comparison] | None = None
    stated_latex: str = ""
    stated_whole: bool = False
    printed: bool = True
    expected: Status = Status.PROVED
    relation: str = "="
    domain: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    witness: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    note: str = ""
    corrected_by: str = ""

    def _repr_html_(self) -> str:
        return html_table(f"{self.id}: {self.title}", *self._facts())

    def _facts(self, *more: tuple[str, str]) -> tuple[tuple[str, str], list[tuple[str, str]]]:
        facts = [("where", self.where), ("expected", self.expected.value), ("note", self.note),
                 ("corrected by", self.corrected_by), *more]  # fmt: skip
        return ("claim", self.id), [fact for fact in facts if fact[1]]


@dataclass(frozen=True)
class Verdict:
    """The outcome of checking a claim."""

    claim: Claim
    status: Status
    comparison: Comparison

    def _repr_html_(self) -> str:
        found = self.status.value + ("" if self.as_expected else " (unexpected)")
        return html_table(f"{self.claim.id}: {self.claim.title}", *self.claim._facts(("verdict", found), ("by", self.detail)))

    @property
    def as_expected(self) -> bool:
        """Whether the outcome is the one that the derivation file holds fast."""
        return self.status is self.claim.expected

    @property
    def detail(self) -> str:
        """How it was decided, with the witness of a refutation."""
        found = self.comparison
        if found.equal is False and found.witness is not None:
            at = ", ".join(f"{key} = {value}" for key, value in sorted(found.witness.items(), key=lambda kv: str(kv[0])))
            sides = "" if found.left is None else f": stated {sp.N(found.left, 8)}, derived {sp.N(found.right, 8)}"
            return f"at {at}{sides}" if at else sides.removeprefix(": ")
        return found.method


def check(claim: Claim) -> Verdict:
    """Compare a claim with the derivation.

    PROVED by an exact argument, REFUTED with a witness, AGREES where 60-digit values agree at several points without a
    proof, UNDECIDED where no finite point was found.
    """
    if claim.statement is not None:
        comparison = claim.statement()
    else:
        stated = sp.sympify(claim.stated).subs(dict(claim.domain))
        derived = claim.derived().expression.subs(dict(claim.domain))
        bound = claim.relation == "<="
        comparison = _compare_bound(derived, stated, claim.witness) if bound else _compare(stated, derived, claim.witness)
    if comparison.equal is None:
        status = Status.AGREES if comparison.points else Status.UNDECIDED
    else:
        status = Status.PROVED if comparison.equal else Status.REFUTED
    return Verdict(claim, status, comparison)


def _compare(stated: sp.Expr, derived: sp.Expr, witness: Mapping[sp.Symbol, sp.Expr]) -> Comparison:
    if witness:
        found = compare(stated, derived, where=witness)
        if found.equal is False:
            return found
    return compare(stated, derived)


def _compare_bound(derived: sp.Expr, bound: sp.Expr, witness: Mapping[sp.Symbol, sp.Expr]) -> Comparison:
    if witness:
        left, right = (sp.N(side.subs(dict(witness)), 50) for side in (bound, derived))
        if bool(right > left):
            return Comparison(False, "the bound is violated", 1, witness, left, right)
    slack = sp.expand(factored(bound - derived))
    if slack.is_nonnegative or all(term.is_nonnegative for term in sp.Add.make_args(slack)):
        return Comparison(True, "every term of the slack is nonnegative")
    return Comparison(None, "the sign of the slack was not decided", 1 if witness else 0)
