"""One array seen as another: reshaped, transposed, reshaped once more; nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from common.operations.arrays import Arrays, Parameters, Shape, np
from common.operations.operation import ArrayOperation
from common.operations.rounding import Reference


@dataclass(frozen=True)
class View:
    """How an array is had from another one that holds the same numbers: `x.reshape(…).transpose(…).reshape(…)`."""

    shape: Shape
    """What the other one is reshaped to first."""
    axes: tuple[int, ...]
    """How that is transposed."""
    final: Shape
    """What that is reshaped to."""

    @classmethod
    def plain(cls, shape: Shape) -> View:
        """Of an array itself."""
        return cls(shape, tuple(range(len(shape))), shape)

    @classmethod
    def turned(cls, shape: Shape, axes: tuple[int, ...]) -> View:
        """Of an array that is transposed."""
        return cls(shape, axes, tuple(shape[axis] for axis in axes))

    @property
    def is_turned(self) -> bool:
        """Whether it does no more than transpose."""
        return self.final == tuple(self.shape[axis] for axis in self.axes)

    @property
    def keeps_order(self) -> bool:
        """Whether the numbers stay in their order, so that it does no more than reshape."""
        long = [axis for axis in self.axes if self.shape[axis] != 1]
        return long == sorted(long)

    def of(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.shape).transpose(self.axes).reshape(self.final)

    def undone(self, array: np.ndarray) -> np.ndarray:
        """The array that it is of, in the shape that that is first reshaped to."""
        turned = tuple(self.shape[axis] for axis in self.axes)
        return array.reshape(turned).transpose(np.argsort(self.axes))

    def reshaped(self, shape: Shape) -> View:
        return View(shape, tuple(range(len(shape))), shape) if self.keeps_order else replace(self, final=shape)

    def transposed(self, axes: tuple[int, ...]) -> View | None:
        """What a transposition makes of it; None if it can no longer be said in this way."""
        if self.keeps_order:
            return View.turned(self.final, axes)
        return View.turned(self.shape, tuple(self.axes[axis] for axis in axes)) if self.is_turned else None


@dataclass(frozen=True)
class Arrange(ArrayOperation):
    """What a view makes of an array."""

    view: View
    contracts: ClassVar[bool] = True

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        return Reference(self.view.of(inputs[0]))


@dataclass(frozen=True)
class Surround(ArrayOperation):
    """An array with something around it; `sides` has the numbers before and after, for each axis."""

    sides: tuple[tuple[int, int], ...]
    fill: float | None = 0.0
    """None: the border is repeated."""

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        if self.fill is None:
            return Reference(np.pad(inputs[0], self.sides, mode="edge"))
        return Reference(np.pad(inputs[0], self.sides, constant_values=np.float32(self.fill)))

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        return np.pad(errors[0], self.sides, mode="edge") if self.fill is None else np.pad(errors[0], self.sides)
