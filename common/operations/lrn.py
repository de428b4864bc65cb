"""Local response normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.evaluation import evaluate
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxGraph, OnnxNode, Parameter
from common.operations.onnx_table import reads
from common.operations.operation import MAP, Found, Hypothesis, Observation, Operation, in_double
from common.operations.overflow import LARGEST, opened
from common.operations.rounding import (
    CARRIED,
    ELEMENTARY_ULP,
    SECOND_ORDER,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    Gradient,
    Gradients,
    Reference,
    gamma,
)
from common.operations.wgsl import QUOTIENT, of_power


@reads("LRN")
@dataclass(frozen=True)
class LRN(Operation):
    """Local response normalisation across channels, in Caffe's convention.

    y_c = x_c · (k + alpha / size · Σ x²)^-beta, the sum running over the `size` channels around c (zeros outside).
    """

    size: int
    alpha: float
    beta: float
    k: float

    integers_before: ClassVar[int] = 16  # so that their squares count beside k
    rounds_once: ClassVar[bool] = False

    def output_shape(self, *inputs: Shape) -> Shape:
        return self._only(inputs, MAP)

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """y = x · s^-beta with s = k + alpha / size · Σ x², and |ŷ − y| ≤ ρ |y|.

        Summed directly, all terms of s are positive, so relative errors do not grow: `size` squares and size − 1
        additions, three operations for alpha / size · Σ in whichever order, two for k and its addition give |ŝ − s| ≤
        γ_(size+5) s. As nodes (`GraphBuilder`), alpha, alpha / size and k are rounded first, and a term meets size + 4
        roundings at most. Caffe and ONNX Runtime instead carry s from channel to channel, adding the term that enters
        the window and subtracting the one that leaves it; both are rounded terms that were computed alike, so only the
        two roundings of each step remain, at most 3u s of each channel passed. The bound allows for both: |ŝ − s| ≤ ε s
        with ε s_c = γ_(size+5) s_c + 3u Σ_(j ≤ c) s_j.

        Raising to −beta gives (1 − ε)^-beta − 1 at most. The power itself, computed directly or as exp(−beta · log s),
        adds E·u for each elementary function, that of the logarithm multiplied by |beta · log s|; the product (or
        quotient) with x and the roundings of −beta and of its product add the rest: ρ = (1 − ε)^-beta − 1 + u (E + 2)
        (1 + |beta · log s|), E = `ELEMENTARY_ULP`.
        """
        (x,) = inputs
        factor, relative = self.factor(x)
        value = x * factor
        return Reference(value, relative * np.abs(value) + (1 + factor) * SMALLEST_NORMAL)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """In several nodes, which divide by pow(s, beta): the power, and 4u for the quotient, of y."""
        factor, _ = self.factor(inputs[0])
        more = of_power(factor ** (-1 / self.beta), np.full(factor.shape, self.beta)) + QUOTIENT - 1
        return bound + CARRIED * UNIT_ROUNDOFF * more * np.abs(reference.value)

    def factor(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The factor s^-beta by which LRN multiplies x, and the bound ρ of the product's relative error; see `_lrn`."""
        before = (self.size - 1) // 2
        padding = ((0, 0), (before, self.size - 1 - before), (0, 0), (0, 0))
        squares = np.pad(np.square(x.astype(np.float64)), padding)
        scale = self.k + self.alpha / self.size * np.lib.stride_tricks.sliding_window_view(squares, self.size, 1).sum(
            -1
        )
        error_of_scale = gamma(self.size + 5) + 3 * UNIT_ROUNDOFF * np.cumsum(scale, axis=1) / scale
        with np.errstate(divide="ignore"):
            relative = np.maximum(1 - error_of_scale, 0) ** -self.beta - 1
        relative += UNIT_ROUNDOFF * (ELEMENTARY_ULP + 2) * (1 + np.abs(self.beta * np.log(scale)))
        # Products of two of these errors are below a thousandth of the larger.
        return scale**-self.beta, 1.001 * relative

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        """The sum of squares that is divided by, carried from channel to channel, may have overflowed."""
        (x,) = inputs
        squares = np.where(np.isfinite(x), np.square(x.astype(np.float64)), np.inf).sum(axis=1, keepdims=True)
        return opened(reference, np.broadcast_to(max(self.alpha, 1.0) * squares >= LARGEST / 2, x.shape))

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """dy_j s_j^-β − 2αβ/n · x_j Σ dy_c x_c s_c^(−β−1), the sum over the channels c whose window holds j.

        The first term has the relative error of the forward pass; each term of the sum that of its power, and a few
        products more.
        """
        x, dy = in_double(inputs[0], dy)
        first, error = self.factor(x)
        steeper = LRN(self.size, self.alpha, self.beta + 1, self.k)
        second, second_error = steeper.factor(x)
        before = (self.size - 1) // 2
        padding = ((0, 0), (self.size - 1 - before, before), (0, 0), (0, 0))

        def spread(terms: np.ndarray) -> np.ndarray:
            return np.lib.stride_tricks.sliding_window_view(np.pad(terms, padding), self.size, axis=1).sum(-1)

        scale = 2 * self.alpha * self.beta / self.size
        term = dy * x * second
        value = dy * first - scale * x * spread(term)
        own, others = np.abs(dy) * first, scale * np.abs(x)
        bound = (error + 2 * UNIT_ROUNDOFF) * own + others * spread(
            np.abs(term) * (second_error + error + gamma(self.size + 10))
        )
        return Gradients([Gradient(value, SECOND_ORDER * bound + 10 * SMALLEST_NORMAL)])

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """y = x · s^-beta, s = k + alpha / size · Σ x² ≥ k.

        A change of x by e at most changes s by d = alpha / size · Σ (2|x|e + e²) at most, so that s − d, and k, are the
        least that it can be. By the mean value theorem s^-beta changes by beta · d · (that least s)^(−beta − 1) at
        most.
        """
        (x,), (e,) = inputs, errors
        size = np.abs(x.astype(np.float64))
        scale = self.factor(x)[0] ** (-1 / self.beta)
        wider = self.factor(size + e)[0] ** (-1 / self.beta)
        least = np.maximum(2 * scale - wider, self.k)
        change = self.beta * (wider - scale) * least ** (-self.beta - 1)
        return SECOND_ORDER * ((size + e) * change + e * scale**-self.beta)

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        usual = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
        return Found(cls(node.attributes["size"], *(node.attributes.get(name, usual[name]) for name in usual)))

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        numbers = {"alpha": float(self.alpha), "beta": float(self.beta), "bias": float(self.k)}
        return graph.node("LRN", name, *inputs, size=self.size, **numbers)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        size, alpha = self.size, self.alpha
        alphas = {
            "alpha is not divided by the size": alpha * size,
            "alpha is divided by the size twice": alpha / size,
            "alpha is ten times too large": alpha * 10,
            "alpha is ten times too small": alpha / 10,
            "alpha is ten times too small and not divided by the size": alpha * size / 10,
        }
        for mistake, value in alphas.items():
            yield mistake, exchanged(seen, replace(self, alpha=value))
        for window, mistake in {
            2 * size + 1: "the size is taken for a radius",
            size // 2 | 1: "a radius is taken for the size",
        }.items():
            if window != size:
                # In TensorFlow alpha / size is one number, which the window does not change; elsewhere alpha is.
                yield mistake, exchanged(seen, replace(self, size=window, alpha=alpha * window / size))
                yield f"{mistake}, and alpha divided by it", exchanged(seen, replace(self, size=window))
        for k in (0.5, 1.0, 2.0):
            if k != self.k:
                yield f"k is {k:g}", exchanged(seen, replace(self, k=k))
                undivided, divided = (replace(self, k=k, alpha=value) for value in (alpha * size, alpha / size))
                yield f"k is {k:g} and alpha is not divided by the size", exchanged(seen, undivided)
                yield f"k is {k:g} and alpha is divided by the size twice", exchanged(seen, divided)
        defaults = LRN(size=11, alpha=11.0, beta=0.5, k=1.0)
        yield "radius 5, bias 1, alpha 1 and beta 0.5 are TensorFlow's defaults", exchanged(seen, defaults)
        for beta in (0.5, 0.75, 1.0):
            if beta != self.beta:
                yield f"beta is {beta:g}", exchanged(seen, replace(self, beta=beta))
        for shift in (-1, 1):
            yield f"the window is {shift:+d} channel off", partial(_shifted_lrn, self, seen.inputs[0], shift)
        for axis, name in ((2, "height"), (3, "width")):
            yield f"the window runs along the {name}, not the channels", partial(_lrn_along, self, seen, axis)
        yield "the window runs over height and width, not the channels", partial(_lrn_in_space, self, seen)
        yield "the normalisation is missing", partial(Reference, seen.inputs[0].astype(np.float64))


def _shifted_lrn(operation: LRN, x: np.ndarray, shift: int) -> Reference:
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    moved = slice(1 + shift, 1 + shift + x.shape[1])
    factor, relative = (array[:, moved] for array in operation.factor(padded))
    value = x * factor
    return Reference(value, relative * np.abs(value) + SMALLEST_NORMAL)


def _lrn_along(operation: LRN, seen: Observation, axis: int) -> Reference:
    turned = evaluate(operation, [seen.inputs[0].swapaxes(1, axis)], {})
    assert turned.bound is not None
    return Reference(turned.value.swapaxes(1, axis), turned.bound.swapaxes(1, axis))


def _lrn_in_space(operation: LRN, seen: Observation) -> Reference:
    """Within each channel, as Caffe's WITHIN_CHANNEL: size² squares, so that their sum has as many roundings."""
    (x,) = seen.inputs
    before = (operation.size - 1) // 2
    over = (before, operation.size - 1 - before)
    padded = np.pad(np.square(x.astype(np.float64)), ((0, 0), (0, 0), over, over))
    squares = np.lib.stride_tricks.sliding_window_view(padded, (operation.size, operation.size), (2, 3)).sum((-2, -1))
    scale = operation.k + operation.alpha / operation.size**2 * squares
    value = x * scale**-operation.beta
    power = UNIT_ROUNDOFF * (ELEMENTARY_ULP + 2) * (1 + np.abs(operation.beta * np.log(scale)))
    relative = 1.001 * (operation.beta * gamma(operation.size**2 + 5) + power)
    return Reference(value, relative * np.abs(value) + (1 + np.abs(x)) * SMALLEST_NORMAL)
