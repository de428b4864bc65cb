"""Converts a file's layout into the canonical one: the shape that is expected in the file, and its permutation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from common import layouts
from common.operations import Dropout, Flatten, Shape
from common.operations.names import layer_of
from common.porting.conventions import Convention
from common.specs.architecture import Architecture

Change = tuple[str, Callable[[np.ndarray], np.ndarray]]
"""The change in words, and as a function, which returns a view if possible."""


@dataclass(frozen=True)
class Ported:
    """One parameter of the network, and where it comes from."""

    name: str
    """Canonical."""
    array: np.ndarray
    """float32, in the canonical layout; perhaps a view of the source."""
    source: str | None
    """The source's name of it; None if it was initialised."""
    source_shape: Shape
    change: str
    """The change of layout or, if it cannot be avoided, of values."""
    error: float = 0.0
    """The largest rounding error of the change, relative to the exact value; 0 if it is exact."""


def source_shapes(convention: Convention, spec: Architecture, parameter: str) -> tuple[Shape, ...]:
    """The shapes that a parameter may have in a file, the usual one first. A dense layer may also be a convolution."""
    shape = spec.parameter_shapes[parameter]
    if len(shape) == 4:
        out, inner, height, width = shape
        last = convention.channels_last and not convention.turned
        return ((height, width, inner, out) if last else shape,)
    if len(shape) == 3:
        return ((shape[1], shape[2], shape[0]) if convention.channels_last else shape,)
    if len(shape) != 2:
        return (shape,)
    units, inputs = shape
    height, width, channels = flattened(spec, layer_of(parameter)) or (1, 1, inputs)
    if convention.channels_last:
        return (inputs, units), (height, width, channels, units)
    return (units, inputs), (units, channels, height, width)


def layout_change(convention: Convention, spec: Architecture, parameter: str, found: Shape | None = None) -> Change:
    """The change of a tensor into the canonical layout.

    Args:
        convention: the convention of its layout.
        spec: the network.
        parameter: its canonical name.
        found: its shape in the file; the usual one if None.
    """
    shape = spec.parameter_shapes[parameter]
    if len(shape) == 2 and found is not None and len(found) == 4:  # a dense layer that was written as a convolution
        if convention.channels_last:
            return "H,W,C,out → out,(C,H,W)", lambda array: layouts.conv_from_hwio(array).reshape(shape)
        return "out,C,H,W → out,(C,H,W)", lambda array: array.reshape(shape)
    if convention.turned and len(shape) == 4:
        return "turned by 180°, as Theano convolves", lambda array: array[:, :, ::-1, ::-1]
    if not convention.channels_last:
        return "none", np.asarray
    if len(shape) == 4:
        return "H,W,in,out → out,in,H,W", layouts.conv_from_hwio
    if len(shape) == 3:
        return "1,1,C → C,1,1", layouts.per_channel_from_hwc
    if len(shape) == 2:
        places = None if convention.turned else flattened(spec, layer_of(parameter))
        change = "in,out → out,in" if places is None else "(H,W,C),out → out,(C,H,W)"
        return change, partial(_dense_from_io, flattened=places)
    return "none", np.asarray


def flattened(spec: Architecture, name: str) -> tuple[int, int, int] | None:
    """The (H, W, C) of the map that is flattened into a dense layer, if there is one with more than one pixel."""
    layers = {layer.name: layer for layer in spec.layers}
    before = layers[layers[name].inputs[0]]
    while isinstance(before.operation, Dropout):
        before = layers[before.inputs[0]]
    if not isinstance(before.operation, Flatten):
        return None
    channels, height, width = spec.shapes[before.inputs[0]]
    return (height, width, channels) if height * width > 1 else None


def _dense_from_io(kernel: np.ndarray, flattened: tuple[int, int, int] | None) -> np.ndarray:
    """`layouts.dense_from_io`, copied at once if the result is not a view of whole rows."""
    if flattened is None and not kernel.flags.f_contiguous:
        return layouts.turned(kernel[np.newaxis]).reshape(kernel.shape[::-1])
    return layouts.dense_from_io(kernel, flattened)
