"""One array seen as another: reshaped, transposed, reshaped once more; nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.operation import ArrayOperation
from common.operations.rounding import Reference


@dataclass(frozen=True)
class View:
    """How one array is made from another with the same numbers: `x.reshape(…).transpose(…).reshape(…)`."""

    shape: Shape
    """The shape that the other array is first reshaped to."""
    axes: tuple[int, ...]
    """How the result is transposed."""
    final: Shape
    """The shape that the result is reshaped to."""

    @classmethod
    def plain(cls, shape: Shape) -> View:
        """The view of an array as it is."""
        return cls(shape, tuple(range(len(shape))), shape)

    @classmethod
    def turned(cls, shape: Shape, axes: tuple[int, ...]) -> View:
        """The view of an array that is transposed."""
        return cls(shape, axes, tuple(shape[axis] for axis in axes))

    @property
    def is_turned(self) -> bool:
        """Whether it only transposes."""
        return self.final == tuple(self.shape[axis] for axis in self.axes)

    @property
    def keeps_order(self) -> bool:
        """Whether the numbers stay in their order, so that it only reshapes."""
        long = [axis for axis in self.axes if self.shape[axis] != 1]
        return long == sorted(long)

    def of(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.shape).transpose(self.axes).reshape(self.final)

    def undone(self, array: np.ndarray) -> np.ndarray:
        """The inverse: the original array, in the shape that it is first reshaped to."""
        turned = tuple(self.shape[axis] for axis in self.axes)
        return array.reshape(turned).transpose(np.argsort(self.axes))

    def reshaped(self, shape: Shape) -> View:
        return View(shape, tuple(range(len(shape))), shape) if self.keeps_order else replace(self, final=shape)

    def transposed(self, axes: tuple[int, ...]) -> View | None:
        """The view after a transposition; None if that is no view of this form."""
        if self.keeps_order:
            return View.turned(self.final, axes)
        return View.turned(self.shape, tuple(self.axes[axis] for axis in axes)) if self.is_turned else None


@dataclass(frozen=True)
class Arrange(ArrayOperation):
    """Applies a view to an array."""

    view: View
    contracts: ClassVar[bool] = True

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        return Reference(self.view.of(inputs[0]))


@dataclass(frozen=True)
class Surround(ArrayOperation):
    """An array with a border. `sides` has its width before and after, for each axis."""

    sides: tuple[tuple[int, int], ...]
    fill: float | None = 0.0
    """None: the border is repeated."""

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        if self.fill is None:
            return Reference(np.pad(inputs[0], self.sides, mode="edge"))
        return Reference(np.pad(inputs[0], self.sides, constant_values=np.float32(self.fill)))

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return np.pad(errors[0], self.sides, mode="edge") if self.fill is None else np.pad(errors[0], self.sides)
