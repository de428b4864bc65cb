"""The first convolution of a network: taken out of a file of any format, and drawn in colour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import TriptychError
from common.graphs.onnx_reader import read_model
from common.operations import Conv
from common.porting.conventions import CONVENTIONS
from common.porting.formats import is_onnx, read_source
from common.porting.matching import Network, understand
from common.porting.reading import Reading
from common.porting.source import Source
from common.specs.architecture import Architecture

NOT_A_NUMBER = (255, 0, 255)
"""The colour of NaN and infinity, which no scale has."""

ORDERS = {1: "L", 3: "in an order that the file does not state"}
"""The words for the channel order, by the number of channels, if the file does not say it."""

LOOKING = Reading(round=True, finite=False)
"""How a file is read for looking at it: NaN and float64 are accepted."""


@dataclass(frozen=True)
class Filters:
    """A first convolution."""

    layer: str
    """Its name; in a file that is no network of the catalogue, the file's own."""
    kernel: np.ndarray
    """float32, (filters, channels, height, width)."""
    channels: str | None
    """The order of its channels: `RGB`, `BGR`, or `L` for grey; None if that is not known."""
    notes: tuple[str, ...] = ()

    @property
    def order(self) -> str:
        """The order of its channels, in words: `BGR`."""
        return self.channels or ORDERS.get(self.kernel.shape[1], f"{self.kernel.shape[1]}, their mean in grey")

    @property
    def in_rgb(self) -> np.ndarray:
        """The kernel with its channels as red, green and blue, if it has three and they are not in that order."""
        return self.kernel[:, ::-1] if self.channels == "BGR" else self.kernel


def filters_in(path: Path) -> Filters:
    """The first convolution in a file of weights or in an ONNX model, of any network.

    Raises:
        TriptychError: the file cannot be read, or has no such tensor.
    """
    try:
        source = read_source(path)
    except TriptychError:
        if not path.is_file() or not is_onnx(path):
            raise
        return _of_model(path)
    try:
        return filters_of(understand(source, reading=LOOKING))
    except TriptychError as error:
        return _of_tensors(source, error)


def filters_of(network: Network) -> Filters:
    """The first convolution of a network that was recognised."""
    name = first_convolution(network.spec)
    recipe = network.preprocessing
    return Filters(name, network.weights[f"{name}/weight"], recipe.channels if recipe else None)


def first_convolution(spec: Architecture) -> str:
    """The name of the layer."""
    return next(layer.name for layer in spec.layers if isinstance(layer.operation, Conv))


UNKNOWN = "is not recognised as a network of the catalogue; {} is {}"


def _of_model(path: Path) -> Filters:
    """The first convolution of an ONNX model whose weights are in the file."""
    from onnx import numpy_helper

    graph = read_model(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in constants:
            kernel = numpy_helper.to_array(constants[node.input[1]])
            if kernel.ndim == 4:
                note = f"{path} {UNKNOWN.format(node.name, 'its first convolution')}"
                return Filters(node.name, kernel.astype(np.float32), None, (note,))
    raise TriptychError(f"{path} has no convolution of images whose weights are in the file")


def _of_tensors(source: Source, unknown: TriptychError) -> Filters:
    """The first tensor with the shape of a kernel for a grey or coloured image."""
    lasts = {CONVENTIONS[name].channels_last for name in source.conventions}
    for name, array in source.tensors.items():
        if array.ndim == 4 and array.dtype.kind == "f":
            found = [_canonical(array, last) for last in sorted(lasts) if array.shape[2 if last else 1] in (1, 3)]
            found = [kernel for kernel in found if max(kernel.shape[2:]) <= LARGEST]
            if len(found) == 1:
                spelled = source.spelled.get(name, name)
                note = f"{source.path} {UNKNOWN.format(spelled, 'its first tensor that could be a first convolution')}"
                return Filters(spelled, found[0].astype(np.float32), None, (note,))
    raise TriptychError(f"{unknown}; and no tensor in it is clearly a first convolution of 1 or 3 channels")


LARGEST = 31
"""The largest kernel of a first convolution, in pixels. Chosen: a larger axis counts as channels."""


def _canonical(array: np.ndarray, channels_last: bool) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if channels_last else array


# As colours


def colours(kernel: np.ndarray) -> np.ndarray:
    """Each filter as a picture. Middle grey is 0. A filter's largest weight is as bright or dark as possible.

    Args:
        kernel: (filters, channels, height, width); three channels are taken for red, green and blue, and the mean is
            taken of any other number.

    Returns:
        uint8, (filters, height, width, 3); what is NaN or infinite is `NOT_A_NUMBER`.
    """
    finite = np.isfinite(kernel)
    known = np.where(finite, kernel, 0).astype(np.float64)
    if kernel.shape[1] != 3:
        known = known.mean(axis=1, keepdims=True).repeat(3, axis=1)
    largest = np.abs(known).max(axis=(1, 2, 3), keepdims=True)
    scaled = np.divide(known, largest, out=np.zeros_like(known), where=largest > 0)
    found = np.rint(127.5 + 127.5 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    found[~finite.all(axis=1)] = NOT_A_NUMBER
    return found


def not_finite(filters: Filters) -> Iterator[str]:
    """A phrase for each filter with NaN or infinity, with the place."""
    for number in np.flatnonzero(~np.isfinite(filters.kernel).all(axis=(1, 2, 3))):
        kernel = filters.kernel[number]
        places = np.argwhere(~np.isfinite(kernel))
        channel, row, column = places[0]
        value = "NaN" if np.isnan(kernel[channel, row, column]) else "infinite"
        colour = filters.channels[channel] if filters.channels else channel
        more = f", as {len(places) - 1:,} more of its values are NaN or infinite" if len(places) > 1 else ""
        yield f"{filters.layer} filter {number} is {value} in channel {colour} at row {row}, column {column}{more}"
