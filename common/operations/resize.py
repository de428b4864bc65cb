"""Linear and cubic interpolation along axes. The nearest value is a choice, which is in `rearrangement`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, np
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found, Hypothesis, Observation
from common.operations.rearrangement import Rearrangement
from common.operations.rounding import CARRIED, SMALLEST_NORMAL, Reference, gamma, unit_of

HALF_PIXEL, PYTORCH, ALIGNED, ASYMMETRIC = "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"
COORDINATES = (HALF_PIXEL, PYTORCH, ALIGNED, ASYMMETRIC)


@reads("Resize")
@dataclass(frozen=True)
class Resize(ArrayOperation):
    """Each axis of the result is a weighted sum of 2 (linear) or 4 (cubic) neighbours along that axis, beginning with
    the last; what lies beyond an end is the value at the end. Source: ONNX Resize; Keys 1981, equation 4.
    """

    sizes: tuple[int, ...]
    """The shape of the result."""
    scales: tuple[float, ...]
    """The scale of each axis, by which coordinates are divided."""
    cubic: bool = False
    coordinates: str = HALF_PIXEL
    a: float = -0.75
    """The slope of the cubic kernel at distance 1."""

    rounds_once: ClassVar[bool] = False

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        attributes = node.attributes
        mode = attributes.get("mode", "nearest")
        if mode == "nearest":
            return Rearrangement.from_onnx(node)
        coordinates = attributes.get("coordinate_transformation_mode", HALF_PIXEL if node.opset > 10 else ASYMMETRIC)
        for told, is_so in (
            (f"no bound has been derived for a {mode} Resize", mode not in ("linear", "cubic")),
            (f"it takes coordinates by {coordinates}", coordinates not in COORDINATES),
            ("it filters before it makes smaller (antialias)", attributes.get("antialias")),
            ("it leaves out what is outside", attributes.get("exclude_outside")),
            ("it keeps the ratio of its sides", attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch"),
        ):
            if is_so:
                raise Unread(told)
        shape = node.shape(0)
        axes = attributes.get("axes", range(len(shape)))
        scales_at = 2 if node.opset > 10 else 1
        stated, wanted = node.constant(scales_at), node.constant(3)
        sizes, scales = list(shape), [1.0] * len(shape)
        if wanted is not None and wanted.size:
            for axis, size in zip(axes, wanted.tolist(), strict=True):
                sizes[axis], scales[axis] = size, size / shape[axis]
        elif stated is not None and stated.size:
            for axis, scale in zip(axes, stated.tolist(), strict=True):
                sizes[axis], scales[axis] = int(np.floor(shape[axis] * scale)), scale
        else:
            raise Unread("the size of its result is computed")
        a = attributes.get("cubic_coeff_a", -0.75)
        return Found(cls(tuple(sizes), tuple(scales), mode == "cubic", coordinates, a))

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """Each axis multiplies by a matrix W of weights, which are computed of coordinates.

        Of the weights' errors E see `_weights`. With x off by e, a product Ŵ x̂ of k terms is off by
        |W| e + E (|x| + e), and by γ_(k+1) of all that is summed. Whether an implementation does one axis after the
        other or all at once, it rounds no more often than all axes' terms together say.

        Where coordinates are multiples of a power of two that float32 holds, weights and products are exact.
        """
        value = inputs[0].astype(np.float64)
        magnitude, error = np.abs(value), np.zeros(value.shape)
        terms = 2
        for axis in reversed(range(value.ndim)):
            if self.sizes[axis] != value.shape[axis] or self.scales[axis] != 1:
                terms *= 4 if self.cubic else 2
                weights, doubt = self._weights(axis, value.shape[axis])
                size = np.abs(weights)
                error = _along(axis, size + doubt, error) + _along(axis, doubt, magnitude)
                value, magnitude = _along(axis, weights, value), _along(axis, size, magnitude)
        bound = CARRIED * (error + gamma(terms + 4) * (magnitude + error)) + terms * SMALLEST_NORMAL
        return Reference(value, bound, magnitude if self._is_dyadic() else None)

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        scales = (scale for scale in self.scales if scale != 1)
        return unit_of(inputs[0]) * reduce(lambda unit, scale: unit * min(1 / scale, 1.0) / 2, scales, 1.0)

    def _is_dyadic(self) -> bool:
        powers = all(np.frexp(scale)[0] == 0.5 for scale in self.scales)
        return powers and not self.cubic and self.coordinates in (HALF_PIXEL, ASYMMETRIC)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        error = errors[0]
        for axis in reversed(range(error.ndim)):
            if self.sizes[axis] != error.shape[axis] or self.scales[axis] != 1:
                weights, doubt = self._weights(axis, error.shape[axis])
                error = _along(axis, np.abs(weights) + doubt, error)
        return CARRIED * error

    def _weights(self, axis: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The matrix of an axis (result, input), and how far each weight of a float32 computation may be off.

        A coordinate is a sum, a quotient by a rounded scale and a difference, or a product with a rounded ratio: off by
        γ_5 (|c| + 1). A weight is a piecewise polynomial of it, without jumps; it is evaluated at both ends of that.
        Evaluating it rounds: of 1 − t one u; of the cubic polynomials, whose terms are 45 |a| + 6 at most, γ_8 of that.
        """
        coordinates = self._coordinates(axis, length)
        doubt = gamma(5) * (np.abs(coordinates) + 1)
        weights = self._at(coordinates, length)
        beside = [np.abs(self._at(coordinates + off, length) - weights) for off in (doubt, -doubt)]
        near = np.maximum(*beside)
        rounding = gamma(8) * (45 * abs(self.a) + 6) if self.cubic else gamma(2)
        touched = (weights != 0) | (near != 0)
        return weights, 1.01 * near + rounding * touched

    def _coordinates(self, axis: int, length: int) -> np.ndarray:
        """The coordinate in the input of each place of the result."""
        size, scale = self.sizes[axis], float(np.float32(self.scales[axis]))
        places = np.arange(size, dtype=np.float64)
        if self.coordinates == ALIGNED:
            return places * (length - 1) / (size - 1) if size > 1 else np.zeros(size)
        if self.coordinates == ASYMMETRIC:
            return places / scale
        if self.coordinates == PYTORCH and size == 1:
            return np.zeros(size)
        return (places + 0.5) / scale - 0.5

    def _at(self, coordinates: np.ndarray, length: int) -> np.ndarray:
        first = np.floor(coordinates).astype(int)
        weights = np.zeros((len(coordinates), length))
        for tap in (-1, 0, 1, 2) if self.cubic else (0, 1):
            weight = self._kernel(np.abs(coordinates - first - tap))
            np.add.at(weights, (np.arange(len(coordinates)), np.clip(first + tap, 0, length - 1)), weight)
        return weights

    def _kernel(self, distance: np.ndarray) -> np.ndarray:
        d, a = distance, self.a
        if not self.cubic:
            return 1 - d
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        return np.where(d <= 1, near, a * (((d - 5) * d + 8) * d - 4))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        for coordinates in COORDINATES:
            if coordinates != self.coordinates:
                yield (
                    f"coordinates are {coordinates}, not {self.coordinates}",
                    exchanged(seen, replace(self, coordinates=coordinates)),
                )
        other = "linear, not cubic" if self.cubic else "cubic, not linear"
        yield f"it is {other}", exchanged(seen, replace(self, cubic=not self.cubic))
        for a in (-0.5, -0.75, -1.0):
            if self.cubic and a != self.a:
                yield f"the cubic's coefficient is {a:g}, not {self.a:g}", exchanged(seen, replace(self, a=a))


def _along(axis: int, matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A matrix (result, input) times one axis of an array."""
    return np.moveaxis(np.tensordot(matrix, x, ([1], [axis])), 0, axis)
