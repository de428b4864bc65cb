"""Known porting mistakes, each made on purpose: the output of a layer that makes the mistake.

`Operation.mistakes` gets what a backend computed at a layer that diverged (`Observation`), and yields hypotheses. Each
is evaluated with a rounding bound.

Some hypotheses take a number, a mask or an order from the very output that they are to explain. Such a hypothesis could
explain anything. So it counts only if the rest of the output confirms it: a number must fit at least `ENOUGH` different
values, and a mask is named only after its own pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from common.operations.arrays import Arrays, Parameters, np
from common.operations.evaluation import evaluate, evaluated_shape
from common.operations.operation import Fit, Observation, Operation
from common.operations.rounding import SMALLEST_NORMAL, Reference, gamma

Alteration: TypeAlias = "Callable[[Evaluation, Reference], Reference]"
"""A change of the result of an evaluation. It treats each channel or unit by itself."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The output of an operation, computed when it is called."""

    operation: Operation
    inputs: Arrays
    parameters: Parameters
    alterations: tuple[Alteration, ...] = ()

    def __call__(self) -> Reference:
        reference = evaluate(self.operation, self.inputs, self.parameters)
        for alteration in self.alterations:
            reference = alteration(self, reference)
        return reference

    def then(self, alteration: Alteration) -> Evaluation:
        return replace(self, alterations=(*self.alterations, alteration))

    def shape(self) -> tuple[int, ...]:
        """The shape of its result, (N, C, H, W) or (N, features), without evaluating.

        Raises:
            TriptychError: the operation does not take inputs and parameters of these shapes.
        """
        return evaluated_shape(self.operation, self.inputs, self.parameters)

    def of_first(self, count: int) -> Evaluation | None:
        """The same for the first few channels or units. None if there are no more, or if all are computed together."""
        fewer = self.operation.of_first(count, self.inputs)
        if fewer is None and self.operation.channelwise and self.inputs[0].shape[1] > count:
            fewer = self.operation, [x[:, :count] for x in self.inputs]
        if fewer is None:
            return None
        operation, inputs = fewer
        parameters = {name: array[:count] for name, array in self.parameters.items()}
        return replace(self, operation=operation, inputs=inputs, parameters=parameters)


def exchanged(
    seen: Observation,
    operation: Operation | None = None,
    inputs: Arrays | None = None,
    /,
    **parameters: np.ndarray,
) -> Evaluation:
    """The layer's evaluation with another operation, other inputs or other parameters."""
    given = seen.inputs if inputs is None else inputs
    return Evaluation(operation or seen.operation, given, {**seen.parameters, **parameters})


def given(seen: Observation, x: np.ndarray, /, **parameters: np.ndarray) -> Evaluation:
    """The layer's evaluation on another input."""
    return exchanged(seen, None, [x], **parameters)


def rounded_to(bits: int) -> Alteration:
    """One more rounding, to `bits` significant bits, with an error of 2^-bits of the result."""

    def alteration(evaluation: Evaluation, reference: Reference) -> Reference:
        assert reference.bound is not None
        bound = reference.bound + 2.0**-bits * (np.abs(reference.value) + reference.bound)
        return Reference(reference.value, bound)

    return alteration


def widened(slack: float) -> Alteration:
    """A sum of inputs that are known up to `slack`. Their errors are multiplied by the weights."""

    def alteration(evaluation: Evaluation, reference: Reference) -> Reference:
        weight = evaluation.parameters["weight"].astype(np.float64)
        assert reference.bound is not None
        most = 1.001 * slack * np.abs(weight).sum(axis=tuple(range(1, weight.ndim)))
        return replace(reference, bound=reference.bound + most.reshape(-1, *[1] * (reference.value.ndim - 2)))

    return alteration


def times(factor: float) -> Alteration:
    """The result times a number, with one more product."""

    def alteration(evaluation: Evaluation, reference: Reference) -> Reference:
        assert reference.bound is not None
        bound = abs(factor) * (reference.bound + gamma(2) * np.abs(reference.value))
        return Reference(factor * reference.value, bound)

    return alteration


ENOUGH = 8
"""How many different values must confirm a number that was taken from an output."""


def fitted(output: np.ndarray, base: Reference, direction: np.ndarray) -> tuple[float, Reference] | None:
    """The number c for which an output is base + c · direction, and this sum as a reference. None if too few values
    confirm c.

    By least squares c = Σ (ŷ − b) d / Σ d². If each |ŷ − b − c d| is at most e, the error of c is at most Σ e |d| / Σ
    d².

    Args:
        output: float32.
        base: the part that does not depend on c.
        direction: float64, of the same shape.
    """
    if output.shape != direction.shape or len(np.unique(direction[direction != 0])) < ENOUGH:
        return None
    squares = float(np.square(direction).sum())
    factor = float(((output - base.value) * direction).sum()) / squares
    if not np.isfinite(factor):
        return None
    size = np.abs(factor * direction)
    error = (0.0 if base.bound is None else base.bound) + gamma(3) * (np.abs(base.value) + size) + SMALLEST_NORMAL
    doubt = float((error * np.abs(direction)).sum()) / squares
    return factor, Reference(base.value + factor * direction, error + 1.001 * doubt * np.abs(direction))


def factor_fits(seen: Observation, base: Reference, direction: np.ndarray, what: str) -> Iterator[Fit]:
    """The mistake that a part of the result is multiplied by a number. `direction` is this part, `base` the rest."""
    found = fitted(seen.output, base, direction)
    if found:
        factor, reference = found
        # A factor beside 1 is told by how far it is from it.
        number = f"1 {factor - 1:+.3g}" if abs(factor - 1) < 1e-3 else f"{factor:.4g}"
        number = number.replace(" +", " + ").replace(" -", " − ")
        yield f"{what} multiplied by a number", f"{what} multiplied by {number}", reference


ORDERS = {"C, H, W": (0, 1, 2, 3), "H, W, C": (0, 2, 3, 1), "W, H, C": (0, 3, 2, 1), "C, W, H": (0, 1, 3, 2)}
"""The orders in which a map is flattened, as transpositions of (N, C, H, W)."""
