"""LeNet-5's sub-sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from common.errors import TriptychError
from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.evaluation import evaluate
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxGraph, Parameter
from common.operations.operation import MAP, Hypothesis, Observation, Operation, in_double
from common.operations.overflow import sums_that_overflow
from common.operations.pooling import AveragePool, MaxPool
from common.operations.rounding import CARRIED, SMALLEST_NORMAL, Gradients, Reference, gamma, summed, upwards
from common.operations.windows import windows_of


@dataclass(frozen=True)
class SubSampling(Operation):
    """LeNet-5's: the sum of each 2×2 window, times a trainable coefficient, plus a trainable bias, for each channel.

    Source: LeCun et al. 1998, section II.B, layer S2.
    """

    integers_before: ClassVar[int] = 1
    rounds_once: ClassVar[bool] = False

    def output_shape(self, *inputs: Shape) -> Shape:
        channels, height, width = self._only(inputs, MAP)
        if min(height, width) < 2:
            raise TriptychError(f"a 2×2 window does not fit into a map of {height}×{width}; use a larger image")
        return (channels, height // 2, width // 2)

    def parameter_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        channels, _, _ = self._only(inputs, MAP)
        return {"weight": (channels, 1, 1), "bias": (channels, 1, 1)}

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """Three additions, the product and the bias, or one factor of four more: |ŷ − y| ≤ γ_6 (|w| Σ|x| + |b|)."""
        windows = windows_of(inputs[0], (2, 2), (2, 2), ((0, 0), (0, 0)), fill=0.0)
        weight, bias = (parameters[name].astype(np.float64) for name in ("weight", "bias"))
        value = weight * windows.sum(axis=(4, 5), dtype=np.float64) + bias
        magnitude = np.abs(weight) * np.abs(windows).sum(axis=(4, 5), dtype=np.float64) + np.abs(bias)
        return Reference(value, gamma(6) * magnitude + 6 * SMALLEST_NORMAL * (1 + np.abs(weight)), magnitude)

    def overflowing(self, inputs: Arrays, parameters: Parameters, reference: Reference) -> Reference:
        """A window may be added up before its coefficient is applied."""
        return sums_that_overflow(self.reference, inputs, parameters, largest=self._largest_intermediate)

    def _largest_intermediate(self, x: np.ndarray, parameters: Parameters) -> np.ndarray:
        sizes = {name: np.abs(array.astype(np.float64)) for name, array in parameters.items()}
        ones = {"weight": np.ones_like(parameters["weight"]), "bias": 0 * parameters["bias"]}
        sums = self.reference([np.abs(x)], ones).value
        return 4 * np.maximum(sizes["weight"], 1) * sums + sizes["bias"]

    def gradients(self, inputs: Arrays, parameters: Parameters, dy: np.ndarray, training: bool) -> Gradients:
        """The window's sum may be four times its mean: two products more, both by powers of two."""
        x, w, dy = in_double(inputs[0], parameters["weight"], dy)
        sums, magnitudes = (
            windows_of(array, (2, 2), (2, 2), ((0, 0), (0, 0))).sum(axis=(4, 5)) for array in (x, np.abs(x))
        )
        spread = np.zeros_like(x)
        height, width = dy.shape[2:]
        spread[:, :, : 2 * height, : 2 * width] = (dy * w).repeat(2, axis=2).repeat(2, axis=3)
        over, count = (0, 2, 3), dy.size // dy.shape[1]
        products, sizes = ((a * b).sum(over).reshape(w.shape) for a, b in ((dy, sums), (np.abs(dy), magnitudes)))
        of_bias = summed(count, dy.sum(over).reshape(w.shape), np.abs(dy).sum(over).reshape(w.shape))
        of_weight = summed(count + 4, products, sizes)
        return Gradients([summed(3, spread, np.abs(spread))], {"weight": of_weight, "bias": of_bias})

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        """|w| Σ e."""
        without = {"weight": np.abs(parameters["weight"]), "bias": np.zeros_like(parameters["bias"])}
        return CARRIED * self.reference([upwards(errors[0])], without).value

    def to_onnx(self, graph: OnnxGraph, name: str, *inputs: str, shape: Shape = (), **parameters: Parameter) -> str:
        """In four nodes: ONNX has no sum over windows, but four times the average rounds nothing more."""
        four, weight, bias = graph.constants(
            name, four=np.array(4, np.float32), weight=parameters["weight"], bias=parameters["bias"]
        )
        means = AveragePool((2, 2), (2, 2)).to_onnx(graph, f"{name}/average", *inputs)
        sums = graph.node("Mul", f"{name}/sum", means, four)
        return graph.node("Add", name, graph.node("Mul", f"{name}/scaled", sums, weight), bias)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        weight, bias = seen.parameters["weight"], seen.parameters["bias"]
        yield "coefficient and bias are exchanged", exchanged(seen, weight=bias, bias=weight)
        yield "the mean is taken, not the sum", exchanged(seen, weight=weight / 4)
        yield "the coefficient is missing", exchanged(seen, weight=np.ones_like(weight))
        yield (
            "coefficient and bias are missing, and the mean is taken",
            exchanged(seen, weight=np.full_like(weight, 0.25), bias=0 * bias),
        )
        yield "the bias is missing", exchanged(seen, bias=0 * bias)
        yield "the bias is added before the coefficient is applied", exchanged(seen, bias=weight * bias)
        for factor, what in ((1.0, "the maximum is taken, not the sum"), (4.0, "four times the maximum is taken")):
            yield what, partial(_scaled_maximum, seen, factor)


def _scaled_maximum(seen: Observation, factor: float) -> Reference:
    """The maximum, exact, times a coefficient, plus a bias: two operations, and one with the factor."""
    weight, bias = (seen.parameters[name].astype(np.float64) for name in ("weight", "bias"))
    product = factor * weight * evaluate(MaxPool(2, 2), seen.inputs, {}).value
    return Reference(product + bias, gamma(3) * (np.abs(product) + np.abs(bias)) + SMALLEST_NORMAL)
