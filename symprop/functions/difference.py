"""Kernels of two tokens as functions of their covariance, and their differences without subtracting nearly equal numbers.

A kernel at equal variances v is brought to the form P(c) + Q(c) asin(c/s) + T(c) sqrt(s^2 - c^2) with rational P, Q, T,
where s^2 = (v + noise2)(v + other2): both are 0 for a kinked activation, positive for two smooth ogives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy as sp

from symprop.core.errors import RefusedError
from symprop.functions.arc_cosine import AbsoluteGap, ArcCosine


def _scale(v: sp.Expr, noise2: sp.Expr, other2: sp.Expr) -> sp.Expr:
    return v + noise2 if noise2 == other2 else sp.sqrt((v + noise2) * (v + other2))


@dataclass(frozen=True)
class Kernel:
    """P(c) + Q(c) asin(c/s) + T(c) sqrt(s^2 - c^2), c the ``covariance``, s^2 = (``v`` + ``noise2``)(``v`` + ``other2``)."""

    constant: sp.Expr
    angle: sp.Expr
    root: sp.Expr
    covariance: sp.Symbol
    v: sp.Symbol
    noise2: sp.Expr
    other2: sp.Expr

    @classmethod
    def of(
        cls, expression: sp.Expr, covariance: sp.Symbol, v: sp.Symbol, noise2: sp.Expr, other2: sp.Expr | None = None
    ) -> Kernel:
        """The normal form of an expression in asin(c/s) and odd powers of sqrt(1 - c^2/s^2); ``other2`` as ``noise2``."""
        other2 = noise2 if other2 is None else other2
        s = _scale(v, noise2, other2)
        square = s**2 - covariance**2
        angle, root = sp.Dummy("angle"), sp.Dummy("root", positive=True)

        def is_root(node: sp.Expr) -> bool:
            half = node.is_Pow and node.exp.is_Rational and node.exp.q == 2
            return bool(half) and sp.cancel(node.base * s**2 - square) == 0

        def written(node: sp.Expr) -> sp.Expr:
            return root * square ** (node.exp - sp.S.Half) / s ** (2 * node.exp)

        flat = expression.replace(is_root, written).replace(sp.asin, lambda _: angle)
        parts = [flat.subs({angle: 0, root: 0}), sp.diff(flat, angle).subs(root, 0), sp.diff(flat, root).subs(angle, 0)]
        if any(part.has(sp.nan, sp.zoo, root, angle) for part in parts):
            raise RefusedError(str(expression), "it is not linear in the angle and the root", "use quadrature")
        tidy = sp.factor_terms if noise2 == other2 else sp.factor
        constant, slope, odd = (tidy(sp.cancel(sp.together(part))) for part in parts)
        return cls(constant, slope, odd, covariance, v, noise2, other2)

    @property
    def _excess(self) -> sp.Expr:
        """s^2 - v^2, as a sum of positive terms."""
        if self.noise2 == self.other2:
            return self.noise2 * (2 * self.v + self.noise2)
        return self.v * (self.noise2 + self.other2) + self.noise2 * self.other2

    def expression(self) -> sp.Expr:
        """The kernel, written out."""
        s = _scale(self.v, self.noise2, self.other2)
        square = self._excess + self.v**2 - self.covariance**2
        return self.constant + self.angle * sp.asin(self.covariance / s) + self.root * sp.sqrt(square)

    def from_opposite(self) -> sp.Expr:
        r"""The kernel by what it has beyond its value at opposite tokens, covariance -v, where it keeps its digits.

        With :math:`\theta = A_0(s + c)`, asin(c/s) is :math:`\theta - \pi/2`, and v + c and v - c occur as such: near
        either end a difference of the arguments is exact, where 1 - c^2/v^2 loses every digit.

        >>> v, c = sp.symbols("v c", positive=True)
        >>> Kernel(c / 4, c / (2 * sp.pi), 1 / (2 * sp.pi), c, v, sp.S.Zero, sp.S.Zero).from_opposite()
        ArcCosine(1, c + v, v)/(2*pi)
        """
        if self.constant == 0 or self.angle == 0:
            return self._by_root()
        return self._kinked_from_opposite() if self.noise2 == 0 else self._smooth_from_opposite()

    def _distances(self) -> sp.Expr:
        """s^2 - c^2 as a sum of positive terms, of which no one is a difference of squares."""
        return self._excess + (self.v - self.covariance) * (self.v + self.covariance)

    def _by_root(self) -> sp.Expr:
        s, root = _scale(self.v, self.noise2, self.other2), sp.sqrt(self._distances())
        return self.constant + 2 * self.angle * sp.atan(self.covariance / (s + root)) + self._coefficient(self.root) * root

    def _coefficient(self, rational: sp.Expr) -> sp.Expr:
        """A rational function of c with v^2 - (v - c)(v + c) for c^2."""
        c, product = self.covariance, sp.Dummy("product")

        def written(polynomial: sp.Expr) -> sp.Expr:
            return sp.Add(*(
                factor * c ** (power % 2) * (self.v**2 - product) ** (power // 2)
                for (power,), factor in sp.Poly(polynomial, c).terms()
            ))

        above, below = (sp.factor(sp.expand(written(part))) for part in sp.fraction(sp.cancel(sp.together(rational))))
        return (above / below).subs(product, (self.v - c) * (self.v + c))

    def _kinked_from_opposite(self) -> sp.Expr:
        c, gap = self.covariance, sp.Dummy("gap", positive=True)
        constant, angle, root = (sp.expand(part.subs(c, -c)) for part in (self.constant, -self.angle, self.root))
        mirrored = replace(self, constant=constant, angle=angle, root=root)
        total = mirrored.full() - mirrored.difference(gap)
        return sp.expand(total.subs(gap, self.v + c), deep=False)

    def _smooth_from_opposite(self) -> sp.Expr:
        v, c, s = self.v, self.covariance, _scale(self.v, self.noise2, self.other2)
        root = sp.sqrt(self._distances())
        zeroth, first = (ArcCosine(k, s + c, s) for k in range(2))
        slope, start = sp.Poly(self.angle, c).all_coeffs() if self.angle.has(c) else (sp.S.Zero, self.angle)
        # c A_0 is A_1 - sqrt(s^2 - c^2), which cancels least at large variances, and c A_0 itself at small ones.
        share = v**2 / (1 + v**2)
        turning = slope * (c * zeroth + v**2 * first) / (1 + v**2)
        rest = self._coefficient(self.root - slope * share) * root
        return sp.expand(self.constant - self.angle * sp.pi / 2) + start * zeroth + turning + rest

    @property
    def is_even(self) -> bool:
        """Whether the covariances c and -c give the same value."""
        mirrored = {self.covariance: -self.covariance}
        changes = (self.constant - self.constant.subs(mirrored), self.angle + self.angle.subs(mirrored),
                   self.root - self.root.subs(mirrored))
        return all(sp.cancel(change) == 0 for change in changes)

    def full(self) -> sp.Expr:
        """The kernel at covariance v."""
        if self.noise2 != 0:
            return self.expression().subs(self.covariance, self.v)
        return sp.expand((self.constant + self.angle * sp.pi / 2).subs(self.covariance, self.v))

    def difference(self, gap: sp.Symbol) -> sp.Expr:
        """The kernel at covariance v minus the kernel at covariance v - gap."""
        return self._kinked(gap) if self.noise2 == 0 else self._smooth(gap)

    def _kinked(self, gap: sp.Symbol) -> sp.Expr:
        # The sine is A_1 + cos A_0, and gap (2v - gap) A_0 is 4 A_2 + 3 (v - gap) A_1: A_k vanishes faster for larger k.
        v, at = self.v, self.v - gap
        zeroth, first, second = (ArcCosine(k, gap, v) for k in range(3))
        constant, angle, root = (part.subs(self.covariance, at) for part in (self.constant, self.angle, self.root))
        linear = sp.Poly(sp.expand(angle - root * at), gap)
        quotient, remainder = sp.div(linear, sp.Poly(sp.expand(gap * (v + at)), gap))
        even = sp.expand(self.full() - constant - angle * sp.pi / 2)
        first_coefficient = sp.expand(3 * at * quotient.as_expr() - root)
        size = -sp.pi * first_coefficient / 2
        if quotient.is_zero and remainder.is_zero and sp.expand(even - size * gap) == 0:
            return size * AbsoluteGap(gap, v)
        return (
            even + remainder.as_expr() * zeroth + first_coefficient * first + 4 * quotient.as_expr() * second
        )

    def _smooth(self, gap: sp.Symbol) -> sp.Expr:
        v, s, noise = self.v, _scale(self.v, self.noise2, self.other2), self._excess
        at, square = v - gap, gap * (2 * v - gap)
        own, other = sp.sqrt(noise), sp.sqrt(noise + square)
        # Of every generator: its value at v, at v - gap, and the difference of the two.
        covariance = (v, at, gap)
        change = 2 * sp.atan(gap / (own + other))
        if self.noise2 == self.other2:
            angle = (sp.asin(v / s), sp.asin(at / s), change)
        else:
            # Without the root of a product of two scales.
            angle = (sp.atan(v / own), sp.atan(at / other), change)
        root = (own, other, -square / (own + other))
        inverse = (1 / own, 1 / other, square / (own * other * (own + other)))
        parts = [(self.constant, []), (self.angle, [angle])]
        for power, coefficient in self._odd_powers():
            parts.append((coefficient, [root if power > 0 else inverse] * abs(power)))
        total = sp.S.Zero
        for polynomial, extra in parts:
            for (exponent,), coefficient in sp.Poly(polynomial, self.covariance).terms():
                factors = [covariance] * exponent + extra
                for k, (_, _, change) in enumerate(factors):
                    before = sp.Mul(*(lower for _, lower, _ in factors[:k]))
                    after = sp.Mul(*(upper for upper, _, _ in factors[k + 1 :]))
                    total += coefficient * before * change * after
        return total

    def _odd_powers(self) -> list[tuple[int, sp.Expr]]:
        """The root part as a sum of odd powers of sqrt(s^2 - c^2), with coefficients at most linear in c."""
        c = self.covariance
        square = sp.Poly(sp.expand((self.v + self.noise2) * (self.v + self.other2) - c**2), c)
        numerator, denominator = (sp.Poly(part, c) for part in sp.fraction(sp.cancel(sp.together(self.root))))
        power = 1
        while denominator.degree() > 0:
            denominator, remainder = sp.div(denominator, square)
            power -= 2
            if not remainder.is_zero:
                raise RefusedError(str(self.root), "its denominator is not a power of s^2 - c^2", "use quadrature")
        found = []
        while not numerator.is_zero:
            numerator, coefficient = sp.div(numerator, square)
            if not coefficient.is_zero:
                found.append((power, sp.factor_terms(sp.cancel(coefficient.as_expr() / denominator.as_expr()))))
            power += 2
        return found
