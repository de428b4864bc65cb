"""Matrix products. Both factors may be computed, as in attention. Also the dense layers of graphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from common.operations.arrays import ELEMENTS_AT_ONCE, Arrays, Parameters, np
from common.operations.dense import Dense
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found, Hypothesis, Observation
from common.operations.rounding import CARRIED, SMALLEST_NORMAL, Precision, Reference, gamma, unit_of
from common.operations.sums import Sums, of_shorter_factors, rounded


def _product(left: np.ndarray, right: np.ndarray, terms: int) -> Reference:
    """left · right over the last two axes, the others broadcast; a few columns of a large matrix at a time."""
    sums = Sums(left, right)
    rows = sums.scaled(left, 0)

    def of(columns: np.ndarray) -> Reference:
        return sums.reference([a @ b for a, b in zip(rows, sums.scaled(columns, 1), strict=True)], None, terms)

    if right.ndim != 2 or right.size <= 4 * ELEMENTS_AT_ONCE:
        return of(right)
    at_once = max(1, 4 * ELEMENTS_AT_ONCE // len(right))
    columns = (slice(first, first + at_once) for first in range(0, right.shape[1], at_once))
    return Reference.joined((*left.shape[:-1], right.shape[1]), (((..., part), of(right[:, part])) for part in columns))


@reads("MatMul")
@dataclass(frozen=True)
class MatMul(ArrayOperation):
    """a · b over the last two axes, the others broadcast: (…, M, K) and (…, K, N) to (…, M, N).

    Source: numpy.matmul, ONNX MatMul.
    """

    integers_before: ClassVar[int] = 1

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """A sum of n products: |ŷ − y| ≤ γ_n Σ|a·b|, in every order (Higham, section 3.1)."""
        left, right = inputs
        return _product(left, right, terms=left.shape[-1] - 1)

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        return unit_of(inputs[0]) * unit_of(inputs[1])

    def computed_at(self, reference: Reference, bound: np.ndarray, precision: Precision) -> np.ndarray:
        return of_shorter_factors(reference, bound, precision)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """e|b| + |a|f + ef, and what the rounding of these products makes of it."""
        left, right = (np.abs(x.astype(np.float64)) for x in inputs)
        e, f = errors
        return (1 + gamma(left.shape[-1])) * CARRIED * (e @ (right + f) + left @ f)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        left, right = seen.inputs
        if right.shape[-1] == right.shape[-2]:
            yield "the second factor is transposed", exchanged(seen, None, [left, right.swapaxes(-1, -2)])
        if left.shape[-1] == left.shape[-2]:
            yield "the first factor is transposed", exchanged(seen, None, [left.swapaxes(-1, -2), right])
        if right.ndim == 2:
            turned = right.reshape(right.shape[::-1]).T
            yield "the second factor is reshaped where it should be transposed", exchanged(seen, None, [left, turned])
            yield "the columns of the second factor are in reverse order", exchanged(seen, None, [left, right[:, ::-1]])
        for name, bits in (("bfloat16", 8), ("TF32", 11)):
            short = rounded(right, bits)
            yield f"the second factor is rounded to {name}", exchanged(seen, None, [left, short])
            yield f"factors are rounded to {name}", exchanged(seen, None, [rounded(left, bits), short])


@reads("Gemm")
@dataclass(frozen=True)
class Gemm(MatMul):
    """alpha · a · b + beta · c. `transposes` says whether a and b are transposed. c is broadcast to the result.

    Source: ONNX Gemm.
    """

    alpha: float = 1.0
    beta: float = 1.0
    transposes: tuple[bool, bool] = (False, False)

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """As a product of matrices, with an addition, a product with each factor and the rounding of each factor."""
        left, right = (x.T if turned else x for x, turned in zip(inputs[:2], self.transposes, strict=True))
        operations = left.shape[-1] + 5
        product = _product(left, right, terms=operations)
        alpha, beta = np.float64(np.float32(self.alpha)), np.float64(np.float32(self.beta))
        assert product.magnitude is not None
        assert product.bound is not None
        assert product.spread is not None
        value, magnitude = alpha * product.value, abs(alpha) * product.magnitude
        bound, spread = abs(alpha) * product.bound, abs(alpha) * product.spread
        if len(inputs) > 2:
            summand = beta * inputs[2].astype(np.float64)
            value, magnitude = value + summand, magnitude + np.abs(summand)
            bound = bound + gamma(operations) * np.abs(summand)
        return Reference(value, bound, magnitude if abs(alpha) == abs(beta) == 1 else None, spread)

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        unit = unit_of(inputs[0]) * unit_of(inputs[1])
        return min(unit, unit_of(inputs[2])) if len(inputs) > 2 else unit

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        turned = [
            [x.T if turn else x for x, turn in zip(arrays[:2], self.transposes, strict=True)]
            for arrays in (inputs, errors)
        ]
        product = abs(self.alpha) * super().carried(turned[0], turned[1], parameters)
        return product + abs(self.beta) * errors[2] if len(inputs) > 2 else product

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        """A dense layer, if it is one: the second factor is a constant (out, in), the summand a vector."""
        factors = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
        turned = bool(node.attributes.get("transA", 0)), bool(node.attributes.get("transB", 0))
        weight, bias = node.constant(1), node.constant(2)
        vector = not node.has(2) or (bias is not None and bias.ndim == 1)
        if factors == (1.0, 1.0) and turned == (False, True) and weight is not None and vector:
            return Found(Dense(len(weight)), parameters={"weight": 1} | ({"bias": 2} if node.has(2) else {}))
        return Found(cls(*factors, turned), (0, 1, 2) if node.has(2) else (0, 1))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        if len(seen.inputs) > 2:
            left, right, summand = seen.inputs
            yield "the bias is missing", exchanged(seen, None, [left, right, 0 * summand])
            yield "the bias is added twice", exchanged(seen, None, [left, right, 2 * summand])


@reads("Einsum")
@dataclass(frozen=True)
class Einsum(ArrayOperation):
    """Products of elements with the same letters, summed over the letters that the result does not have.

    Source: numpy.einsum, ONNX Einsum.
    """

    equation: str

    integers_before: ClassVar[int] = 1

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        equation = "".join(node.attributes["equation"].split())
        if "." in equation:
            raise Unread("its equation leaves axes unnamed")
        return Found(cls(equation), tuple(range(len(node.inputs))))

    @property
    def _sides(self) -> tuple[list[str], str]:
        """The letters of each input, and of the result: without an arrow, those that occur once, in their order."""
        given, arrow, made = self.equation.partition("->")
        letters = given.replace(",", "")
        once = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
        return given.split(","), made if arrow else once

    def _terms(self, inputs: Arrays) -> int:
        """How many products an element sums."""
        given, made = self._sides
        sizes: dict[str, int] = {}
        for names, x in zip(given, inputs, strict=True):
            sizes.update(zip(names, x.shape, strict=True))
        return prod(size for letter, size in sizes.items() if letter not in made)

    def _of(self, arrays: Arrays) -> np.ndarray:
        found: np.ndarray = np.einsum(self.equation, *arrays, optimize=len(arrays) > 1)
        return found

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """A sum of n products of m factors: |ŷ − y| ≤ γ_(n+m−1) Σ|product|, in every order."""
        arrays = [x.astype(np.float64) for x in inputs]
        magnitude = self._of([np.abs(x) for x in arrays])
        operations = self._terms(inputs) + len(inputs) - 1
        bound = gamma(operations) * magnitude + operations * SMALLEST_NORMAL * (
            1 + sum(np.abs(x).max(initial=0) for x in arrays)
        )
        return Reference(self._of(arrays), bound, magnitude, np.sqrt(self._of([np.square(x) for x in arrays])))

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        return prod(unit_of(x) for x in inputs)

    def computed_at(self, reference: Reference, bound: np.ndarray, precision: Precision) -> np.ndarray:
        return of_shorter_factors(reference, bound, precision)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """Π(|x| + e) − Π|x|, and what the rounding of these products makes of it."""
        sizes = [np.abs(x.astype(np.float64)) for x in inputs]
        more = self._of([size + error for size, error in zip(sizes, errors, strict=True)])
        whole = self._of(sizes)
        # float64's own rounding of the difference
        return CARRIED * (1 + gamma(self._terms(inputs))) * np.maximum(more - whole + 1e-12 * more, 0)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        given, made = self._sides
        for place, (names, x) in enumerate(zip(given, seen.inputs, strict=True)):
            for axis in range(x.ndim - 1):
                if x.shape[axis] == x.shape[axis + 1] and names[axis] != names[axis + 1]:
                    turned = names[:axis] + names[axis + 1] + names[axis] + names[axis + 2 :]
                    equation = f"{','.join([*given[:place], turned, *given[place + 1 :]])}->{made}"
                    yield f"it is {equation}, not {self.equation}", exchanged(seen, replace(self, equation=equation))
