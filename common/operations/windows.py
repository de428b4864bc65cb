"""Windows that slide over height and width: padding, stride, the view of every window, and mistakes with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import ClassVar, Literal

from common.errors import TriptychError
from common.operations.arrays import Shape, np
from common.operations.mistake import Evaluation, exchanged
from common.operations.onnx_node import OnnxNode, Unread
from common.operations.operation import MAP, Hypothesis, Observation, Operation

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
"""((top, bottom), (left, right)), in pixels."""
Paddings = tuple[Pair, ...]
"""(before, after) for each axis."""

SAME = "same"
"""TensorFlow's SAME padding, for the variants that are defined by it; see `same_padding`."""


def pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def same_paddings(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> Paddings:
    """TensorFlow's SAME in pixels: the least padding that gives ceil(size / stride) positions, with an odd pixel at the
    end."""
    totals = [
        max((-(-length // step) - 1) * step + window - length, 0)
        for length, window, step in zip(size, kernel, stride, strict=True)
    ]
    return tuple((total // 2, total - total // 2) for total in totals)


def same_padding(size: Sequence[int], kernel: Pair, stride: Pair) -> Padding:
    """The same for height and width: an odd pixel is below and right."""
    vertical, horizontal = same_paddings(size, kernel, stride)
    return vertical, horizontal


def pads_of(padding: Paddings) -> list[int]:
    """Padding as ONNX lists it: all beginnings, then all ends."""
    return [*(before for before, _ in padding), *(after for _, after in padding)]


@dataclass(frozen=True)
class OnnxWindow:
    """How an ONNX node slides its window.

    Source: ONNX's Conv and MaxPool: `auto_pad`, `pads` (all beginnings, then all ends), `ceil_mode`.
    """

    kernel: Shape
    stride: Shape
    dilation: Shape
    padding: Paddings
    overhang: Shape
    """How far the last windows reach beyond the padding, if their number is rounded up."""

    @property
    def plain(self) -> bool:
        """Whether `Windowed` can express it: two axes, not dilated."""
        return len(self.kernel) == 2 and set(self.dilation) == {1}

    @classmethod
    def of(cls, node: OnnxNode, kernel: Sequence[int]) -> OnnxWindow:
        """The window of a node.

        Raises:
            Unread: its sizes are not those of one window.
        """
        axes = len(kernel)
        stride, dilation = (tuple(node.attributes.get(name, [1] * axes)) for name in ("strides", "dilations"))
        automatic = node.attributes.get("auto_pad", "NOTSET")
        pads = node.attributes.get("pads", [0] * 2 * axes) if automatic == "NOTSET" else [0] * 2 * axes
        if {len(stride), len(dilation), len(pads) / 2} != {axes}:
            raise Unread(f"its window has {axes} axes, its strides {len(stride)}, its paddings {len(pads) // 2}")
        padding = tuple(zip(pads[:axes], pads[axes:], strict=True))
        spans = [(length - 1) * apart + 1 for length, apart in zip(kernel, dilation, strict=True)]
        overhang = [0] * axes
        if automatic.startswith("SAME"):
            odd_at_end = same_paddings(node.shape(0)[2:], spans, stride)
            padding = tuple(side if automatic == "SAME_UPPER" else side[::-1] for side in odd_at_end)
        elif node.attributes.get("ceil_mode"):
            for axis, (size, step, span) in enumerate(zip(node.shape(0)[2:], stride, spans, strict=True)):
                room = size + sum(padding[axis]) - span
                number = -(-room // step) + 1
                if (number - 1) * step >= size + padding[axis][0]:  # the last window must begin inside
                    number -= 1
                overhang[axis] = max((number - 1) * step - room, 0)
        return cls(tuple(kernel), stride, dilation, padding, tuple(overhang))


@dataclass(frozen=True)
class Windowed(Operation):
    """An operation that slides a window over height and width. `padding` is in pixels, or `SAME`."""

    kernel: int | Pair
    stride: int | Pair = 1
    padding: int | Padding | str = 0

    pools: ClassVar[bool] = True
    """Whether it chooses or averages within a window. Else it sums products, and zeros around the map do not matter."""

    def window(self, shape: Shape) -> tuple[Pair, Pair, Padding]:
        """Kernel, stride and padding, each for height and width, on an input of (channels, height, width)."""
        kernel, stride = pair(self.kernel), pair(self.stride)
        if isinstance(self.padding, int):
            return kernel, stride, ((self.padding, self.padding), (self.padding, self.padding))
        return (
            kernel,
            stride,
            same_padding(shape[1:], kernel, stride) if isinstance(self.padding, str) else self.padding,
        )

    def _positions(self, inputs: tuple[Shape, ...]) -> Pair:
        """How many windows fit into the only input, down and across."""
        shape = self._only(inputs, MAP)
        height, width = (
            (size + sum(padding) - kernel) // stride + 1
            for size, kernel, stride, padding in zip(shape[1:], *self.window(shape), strict=True)
        )
        if height < 1 or width < 1:
            kernel = "×".join(map(str, pair(self.kernel)))
            raise TriptychError(
                f"a {kernel} window does not fit into a map of {shape[1]}×{shape[2]}; use a larger image"
            )
        return height, width


def windows_of(image: np.ndarray, kernel: Pair, stride: Pair, padding: Padding, fill: float = 0.0) -> np.ndarray:
    """A view of every window: (N, C, output height, output width, kernel height, kernel width)."""
    padded = np.pad(image, ((0, 0), (0, 0), *padding), constant_values=fill) if np.any(padding) else image
    sizes = zip(padded.shape[2:], kernel, stride, strict=True)
    positions = [(size - length) // step + 1 for size, length, step in sizes]
    *outer, down, right = padded.strides
    strides = (*outer, down * stride[0], right * stride[1], down, right)
    shape = (*padded.shape[:2], *positions, *kernel)
    return np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)


def over_windows(
    combine: np.ufunc, image: np.ndarray, kernel: Pair, stride: Pair, padding: Padding, fill: float = 0.0
) -> np.ndarray:
    """The pixels of every window combined, by rows first: (N, C, output height, output width)."""
    combined = np.pad(image, ((0, 0), (0, 0), *padding), constant_values=fill) if np.any(padding) else image
    for axis, length, step in zip((2, 3), kernel, stride, strict=True):
        end = combined.shape[axis] - length + 1
        before = (slice(None),) * axis
        combined = reduce(combine, [combined[*before, slice(place, place + end, step)] for place in range(length)])
    return combined


def scattered(windows: np.ndarray, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Padding) -> np.ndarray:
    """The transpose of `_windows`: every element of every window added to where it came from."""
    (top, bottom), (left, right) = padding
    image = np.zeros((*shape[:2], shape[2] + top + bottom, shape[3] + left + right))
    height, width = windows.shape[2:4]
    for i, j in np.ndindex(*kernel):
        rows = slice(i, i + stride[0] * (height - 1) + 1, stride[0])
        columns = slice(j, j + stride[1] * (width - 1) + 1, stride[1])
        image[:, :, rows, columns] += windows[..., i, j]
    return image[:, :, top : top + shape[2], left : left + shape[3]]


def window_mistakes(operation: Windowed, seen: Observation) -> Iterator[tuple[str, Evaluation]]:
    """Another padding, stride or rounding of the number of windows."""
    kernel, stride, padding = operation.window(seen.inputs[0].shape[1:])
    over: Padding = ((0, stride[0] - 1), (0, stride[1] - 1))
    same = replace(operation, padding=SAME)
    if same.window(seen.inputs[0].shape[1:])[2] != padding:
        yield "the padding is TensorFlow's SAME", exchanged(seen, same)
    if any(map(any, padding)):
        down = operation.pools and padding == over
        yield (
            "the number of windows is rounded down, not up" if down else "the padding is missing",
            exchanged(seen, replace(operation, padding=0)),
        )
        (top, bottom), (left, right) = padding
        for step, side in ((1, "the bottom and right"), (-1, "the top and left")):
            shifted: Padding = ((top - step, bottom + step), (left - step, right + step))
            if min(map(min, shifted)) >= 0:
                mistake = f"the padding is shifted by a pixel to {side}"
                yield mistake, exchanged(seen, replace(operation, padding=shifted))
        before: Padding = ((top + bottom, 0), (left + right, 0))
        after: Padding = ((0, top + bottom), (0, left + right))
        for one_sided, side in ((before, "the top and left"), (after, "the bottom and right")):
            yield f"all of the padding is at {side}", exchanged(seen, replace(operation, padding=one_sided))
    for pixels in range(1, max(kernel)):
        if padding != ((pixels, pixels), (pixels, pixels)):
            yield f"the padding is {pixels}", exchanged(seen, replace(operation, padding=pixels))
    if operation.pools and max(stride) > 1 and padding != over:
        mistake = "the number of windows is rounded up, not down"
        yield mistake, exchanged(seen, replace(operation, padding=over))
    for step in range(1, 6):
        if stride != (step, step):
            yield f"the stride is {step}", exchanged(seen, replace(operation, stride=step))
    for size in range(1, 8) if operation.pools else ():
        if kernel != (size, size):
            yield f"the window is {size}×{size}", exchanged(seen, replace(operation, kernel=size))


def position_mistakes(operation: Windowed, seen: Observation) -> Iterator[Hypothesis]:
    """The windows begin at another pixel, or the map is turned over before they do."""
    (x,) = seen.inputs
    height, width = x.shape[2:]
    for down, right in ((0, 1), (1, 0), (1, 1), (0, -1), (-1, 0), (-1, -1)):
        ways = [way for way, step in {"down": down, "right": right, "up": -down, "left": -right}.items() if step > 0]
        mistake = f"what it reads is shifted by a pixel {' and '.join(ways)}"
        rolled = np.roll(x, (down, right), (2, 3))
        yield f"{mistake}, what leaves it comes back opposite", exchanged(seen, None, [rolled])
        modes: dict[str, Literal["constant", "edge"]] = {
            "zeros": "constant",
            "a copy of its border": "edge",
        }
        for beside, mode in modes.items():
            larger = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode=mode)
            moved = larger[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
            yield f"{mistake}, {beside} in its place", exchanged(seen, None, [moved])
    (top, bottom), (left, right) = operation.window(x.shape[1:])[2]
    for step in (1, 2):
        if (top, left) == (0, 0):
            later = replace(operation, padding=((0, bottom + step), (0, right + step)))
            yield f"the windows begin at pixel {step}, not 0", exchanged(seen, later, [x[:, :, step:, step:]])
    if seen.preprocessing is None:  # an image has hypotheses of its own
        yield "what it reads has height and width exchanged", exchanged(seen, None, [x.swapaxes(2, 3)])
        yield "what it reads is mirrored from left to right", exchanged(seen, None, [x[..., ::-1]])
        yield "what it reads is upside down", exchanged(seen, None, [x[:, :, ::-1]])
        what = "the channels of what it reads, or of its kernels," if seen.parameters else "its channels"
        yield f"{what} are in reverse order", exchanged(seen, None, [x[:, ::-1]])


def border_mistakes(operation: Windowed, seen: Observation) -> Iterator[Hypothesis]:
    """Mistakes with the border: other values than the right ones around the map."""
    (x,) = seen.inputs
    padding = operation.window(x.shape[1:])[2]
    if not np.any(padding):
        return
    kinds: list[tuple[str, Literal["constant", "reflect", "edge", "wrap"]]] = [
        ("the map is padded with zeros, which can win", "constant"),
        ("the border is reflected", "reflect"),
        ("the border is repeated", "edge"),
        ("the map goes on at its opposite side", "wrap"),
    ]
    for mistake, mode in kinds[not operation.pools :]:
        if mode == "reflect" and max(map(max, padding)) >= min(x.shape[2:]):
            continue
        padded = np.pad(x, ((0, 0), (0, 0), *padding), mode=mode)
        yield mistake, exchanged(seen, replace(operation, padding=0), [padded])
