"""Linear and cubic interpolation along axes. The nearest value is a choice, which is in `rearrangement`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, np
from common.operations.mistake import exchanged
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found, Hypothesis, Observation
from common.operations.rearrangement import Rearrangement
from common.operations.rounding import CARRIED, SMALLEST_NORMAL, Reference, gamma, unit_of
from common.operations.wgsl import QUOTIENT

HALF_PIXEL, PYTORCH, ALIGNED, ASYMMETRIC = "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"
COORDINATES = (HALF_PIXEL, PYTORCH, ALIGNED, ASYMMETRIC)


@reads("Resize")
@dataclass(frozen=True)
class Resize(ArrayOperation):
    """Each axis of the result is a weighted sum of 2 (linear) or 4 (cubic) neighbours along that axis, beginning with
    the last; what lies beyond an end is the value at the end.

    With `antialias`, an axis that is made smaller is filtered: the kernel is as many times wider as the axis gets
    shorter, and its weights are divided by their sum. With `exclude_outside`, what lies beyond an end has no weight,
    and the other weights are divided by their sum.

    Source: ONNX Resize; Keys 1981, equation 4.
    """

    sizes: tuple[int, ...]
    """The shape of the result."""
    scales: tuple[float, ...]
    """The scale of each axis, by which coordinates are divided."""
    cubic: bool = False
    coordinates: str = HALF_PIXEL
    a: float = -0.75
    """The slope of the cubic kernel at distance 1."""
    antialias: bool = False
    exclude_outside: bool = False

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
        options = (bool(attributes.get(name, 0)) for name in ("antialias", "exclude_outside"))
        return Found(cls(tuple(sizes), tuple(scales), mode == "cubic", coordinates, a, *options))

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """Each axis multiplies by a matrix W of weights, which are computed of coordinates.

        Of the weights' errors E see `_weights`. With x off by e, a product Ŵ x̂ of k terms is off by
        |W| e + E (|x| + e), and by γ_(k+1) of all that is summed. Whether an implementation does one axis after the
        other or all at once, it rounds no more often than all axes' terms together say.

        Where coordinates are multiples of a power of two that float32 holds, weights and products are exact.
        """
        return self._reference(inputs)

    def in_shader(self, inputs: Arrays, parameters: Parameters, reference: Reference, bound: np.ndarray) -> np.ndarray:
        """With a quotient that is off by 5u in each coordinate, and in each cubic weight, which is divided by 1 where
        there is no other divisor."""
        if self.antialias:
            raise Unread("how a WebGPU shader filters has not been derived")
        found = self._reference(inputs, quotient=QUOTIENT).bound
        assert found is not None
        return found

    def _reference(self, inputs: Arrays, quotient: float = 1.0) -> Reference:
        value = inputs[0].astype(np.float64)
        magnitude, error = np.abs(value), np.zeros(value.shape)
        terms = 2
        for axis in reversed(range(value.ndim)):
            if self.sizes[axis] != value.shape[axis] or self.scales[axis] != 1:
                terms *= 2 * ceil(self._reach * self._stretch(axis))
                weights, doubt = self._weights(axis, value.shape[axis], quotient)
                size = np.abs(weights)
                error = _along(axis, size + doubt, error) + _along(axis, doubt, magnitude)
                value, magnitude = _along(axis, weights, value), _along(axis, size, magnitude)
        bound = CARRIED * (error + gamma(terms + 4) * (magnitude + error)) + terms * SMALLEST_NORMAL
        return Reference(value, bound, magnitude if self._is_dyadic() else None)

    def unit(self, inputs: Arrays, parameters: Parameters) -> float:
        """A distance is a multiple of half the inverse scale; of a kernel that is s times wider, of 1 / (2 s), and the
        division by the weights' sum, s, makes that 1 / (2 s²)."""
        resized = (axis for axis, scale in enumerate(self.scales) if scale != 1)
        units = (min(1 / self.scales[axis], 1 / self._stretch(axis) ** 2) / 2 for axis in resized)
        return unit_of(inputs[0]) * prod(units)

    def _is_dyadic(self) -> bool:
        powers = all(np.frexp(scale)[0] == 0.5 for scale in self.scales)
        return powers and not (self.cubic or self.exclude_outside) and self.coordinates in (HALF_PIXEL, ASYMMETRIC)

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        error = errors[0]
        for axis in reversed(range(error.ndim)):
            if self.sizes[axis] != error.shape[axis] or self.scales[axis] != 1:
                weights, doubt = self._weights(axis, error.shape[axis])
                error = _along(axis, np.abs(weights) + doubt, error)
        return CARRIED * error

    @property
    def _reach(self) -> int:
        """The distance from which the kernel is 0."""
        return 2 if self.cubic else 1

    def _stretch(self, axis: int) -> float:
        """How many times wider the kernel is."""
        return max(1 / float(np.float32(self.scales[axis])), 1.0) if self.antialias else 1.0

    def _weights(self, axis: int, length: int, quotient: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """The matrix of an axis (result, input), and how far each weight of a float32 computation may be off.

        A coordinate c is a sum, a quotient by a rounded scale and a difference, or a product with a rounded ratio: off
        by γ_5 (|c| + 1), or by γ_(4+q) if a quotient is off by q instead of 1. The cubic's distances are d, 1 ± d and
        2 − d: off by γ_3 · 2. A filter moves c by half a pixel and back, subtracts it from each neighbour, and divides
        by its stretch s, which three operations make of a rounded scale: c is off by γ_8 (|c| + 1), and a distance in
        pixels, r s at most, by γ_6 (r + 1) s. A weight is a piecewise polynomial of the distance, without jumps, which
        is 0 at its ends, so that it does not matter whether a neighbour there is counted; it is evaluated at both ends
        of the doubt. Evaluating it rounds: of 1 − t one u; of the cubic polynomials γ_8 of the sum of their terms'
        magnitudes.

        Divided by their sum T, which is off by E = Σ e + γ_n Σ (|w| + e), weights w with errors e are off by
        (e + |w / T| E + γ_(1+q) (|w| + e)) / (T − E).
        """
        coordinates, stretch = self._coordinates(axis, length), self._stretch(axis)
        doubt = gamma(4 + quotient) * (np.abs(coordinates) + 1)
        if self.antialias:
            doubt = gamma(8) * (np.abs(coordinates) + 1) + gamma(6) * (self._reach + 1) * stretch
        elif self.cubic:
            doubt = doubt + gamma(3) * 2
        side = ceil(self._reach * stretch)
        taps = np.floor(coordinates)[:, None] + np.arange(-side, side + 2)
        of_coordinates = [coordinates, coordinates + doubt, coordinates - doubt]
        distances = [np.abs(taps - each[:, None]) / stretch for each in of_coordinates]
        weights, *beside = (self._kernel(distance) for distance in distances)
        near = np.maximum(*(np.abs(other - weights) for other in beside))
        touched = (weights != 0) | (near != 0)
        errors = 1.01 * near + (gamma(8) * self._terms(distances[0]) if self.cubic else gamma(2)) * touched
        if self.exclude_outside:
            inside = (taps >= 0) & (taps < length)
            weights, errors = weights * inside, errors * inside
        if self.antialias or self.exclude_outside:
            sums = weights.sum(axis=1, keepdims=True)
            off = (errors + gamma(taps.shape[1]) * (np.abs(weights) + errors)).sum(axis=1, keepdims=True)
            errors = errors + np.abs(weights / sums) * off + gamma(1 + quotient) * (np.abs(weights) + errors)
            weights, errors = weights / sums, errors / (sums - off)
        elif self.cubic and quotient > 1:
            errors = errors + gamma(quotient) * (np.abs(weights) + errors)
        matrices = np.zeros((2, len(taps), length))
        to = np.arange(len(taps))[:, None], np.clip(taps, 0, length - 1).astype(int)
        for matrix, of_taps in zip(matrices, (weights, errors), strict=True):
            np.add.at(matrix, to, of_taps)
        return matrices[0], matrices[1]

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

    def _kernel(self, distance: np.ndarray) -> np.ndarray:
        d, a = distance, self.a
        if not self.cubic:
            return np.maximum(1 - d, 0)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        return np.where(d <= 1, near, np.where(d < 2, a * (((d - 5) * d + 8) * d - 4), 0))

    def _terms(self, distance: np.ndarray) -> np.ndarray:
        """The sum of the magnitudes of the terms of the cubic polynomial."""
        d, a = distance, self.a
        near = (abs(a + 2) * d + abs(a + 3)) * d * d + 1
        return np.where(d <= 1, near, abs(a) * (((d + 5) * d + 8) * d + 4))

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        for coordinates in COORDINATES:
            if coordinates != self.coordinates:
                yield (
                    f"coordinates are {coordinates}, not {self.coordinates}",
                    exchanged(seen, replace(self, coordinates=coordinates)),
                )
        if self.antialias:
            yield "antialias is forgotten", exchanged(seen, replace(self, antialias=False))
            plain = replace(self, antialias=False, exclude_outside=False)
            yield "antialias is forgotten, and what lies beyond an end is the value there", exchanged(seen, plain)
        elif any(scale < 1 for scale in self.scales):
            yield "it is filtered (antialias)", exchanged(seen, replace(self, antialias=True))
            pillow = replace(self, antialias=True, exclude_outside=True)
            yield "it is filtered (antialias), and what lies beyond an end has no weight", exchanged(seen, pillow)
        if self.antialias or self.cubic:
            beyond = "is the value there, not left out" if self.exclude_outside else "is left out, not the value there"
            other_ends = replace(self, exclude_outside=not self.exclude_outside)
            yield f"what lies beyond an end {beyond}", exchanged(seen, other_ends)
        other = "linear, not cubic" if self.cubic else "cubic, not linear"
        yield f"it is {other}", exchanged(seen, replace(self, cubic=not self.cubic))
        for a in (-0.5, -0.75, -1.0):
            if self.cubic and a != self.a:
                yield f"the cubic's coefficient is {a:g}, not {self.a:g}", exchanged(seen, replace(self, a=a))


def _along(axis: int, matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A matrix (result, input) times one axis of an array."""
    return np.moveaxis(np.tensordot(matrix, x, ([1], [axis])), 0, axis)
