"""Changes of layout. Each is a pure reordering of elements.

The canonical layout is that of ONNX, Caffe and PyTorch: activations (N, C, H, W), convolution kernels (out, in, H, W),
dense kernels (out, in), and a flatten that runs C, H, W.

TensorFlow and Keras have activations (N, H, W, C), convolution kernels (H, W, in, out) and dense kernels (in, out).
Their flatten runs H, W, C, so the rows of a dense kernel after a flatten are in another order, too.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
from numpy import ndarray

TILE = 64, 1 << 16
"""The largest tile that is turned at a time: its length along the first and the last axis, and its number of elements,
256 KiB of float32."""

TURNS = {3: ((0, 1, 2), (0, 2, 1)), 4: ((0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2))}
"""The transpositions between the places of the channels, by the number of axes. The first changes nothing."""


def to_channels_last(activation: ndarray) -> ndarray:
    """(N, C, H, W) → (N, H, W, C); anything that is not a map stays as it is."""
    return activation.transpose(0, 2, 3, 1) if activation.ndim == 4 else activation


def to_channels_first(activation: ndarray) -> ndarray:
    """(N, H, W, C) → (N, C, H, W); anything that is not a map stays as it is."""
    return activation.transpose(0, 3, 1, 2) if activation.ndim == 4 else activation


def conv_to_hwio(kernel: ndarray) -> ndarray:
    """(out, in, H, W) → (H, W, in, out)."""
    return kernel.transpose(2, 3, 1, 0)


def conv_from_hwio(kernel: ndarray) -> ndarray:
    """(H, W, in, out) → (out, in, H, W)."""
    return kernel.transpose(3, 2, 0, 1)


def dense_to_io(kernel: ndarray, flattened: tuple[int, int, int] | None = None) -> ndarray:
    """(out, in) → (in, out).

    `flattened` is the (H, W, C) of the map that was flattened into the layer's input, if one was: its rows are then
    reordered from C, H, W to H, W, C.
    """
    if flattened is None:
        return kernel.T
    height, width, channels = flattened
    return turned(kernel.reshape(-1, channels, height * width)).reshape(kernel.shape[1], kernel.shape[0])


def dense_from_io(kernel: ndarray, flattened: tuple[int, int, int] | None = None) -> ndarray:
    """(in, out) → (out, in): the inverse of `dense_to_io`."""
    if flattened is None:
        return kernel.T
    height, width, channels = flattened
    return turned(kernel.reshape(height * width, channels, -1)).reshape(kernel.shape[1], kernel.shape[0])


def turned(array: ndarray) -> ndarray:
    """(a, b, c) → (c, b, a), copied tile by tile, on all cores: a tile fits into the cache.

    That is up to five times as fast as NumPy's own copy of a large kernel. Tensors of a pickle begin anywhere in it:
    each tile is copied to where a number may lie before it is turned, since NumPy strides over misaligned numbers
    three times as slowly. What takes no memory, one number everywhere, is only looked at the other way.
    """
    if not any(array.strides):
        return array.transpose(2, 1, 0)
    result = _empty(array.shape[::-1], array.dtype.newbyteorder("="))
    longest, elements = TILE
    first, middle, last = array.shape
    height = max(1, elements // (min(first, longest) * min(last, longest)))

    def turn(a: int) -> None:
        for b in range(0, middle, height):
            for c in range(0, last, longest):
                tile = np.ascontiguousarray(array[a : a + longest, b : b + height, c : c + longest])
                result[c : c + longest, b : b + height, a : a + longest] = tile.transpose(2, 1, 0)

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        list(executor.map(turn, range(0, first, longest)))
    return result


def apart_from(other: ndarray, array: ndarray) -> ndarray:
    """The array, or a copy of it if it looks into another's memory.

    TensorFlow and JAX take an array that begins at a multiple of 64 bytes for their own, as one in four does by chance:
    what is later written into it would change a variable. Any other array they copy, but not this one.
    """
    if not np.may_share_memory(array, other):
        return array
    copy = _empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> ndarray:
    """An array that begins at a multiple of 64 bytes."""
    size = prod(shape) * dtype.itemsize
    room = np.empty(size + 63, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)


def in_one_piece(array: ndarray) -> ndarray:
    """The same numbers in the order of the axes, copied only if they lie otherwise.

    NumPy's own copy of a map whose channels lie last takes up to eight times as long as this, row by row; and
    `numpy.save` writes what is not in one piece four times as slowly as it copies it.
    """
    if array.flags.c_contiguous or array.ndim != 4:
        return np.asarray(array, order="C")
    result = np.empty(array.shape, array.dtype)
    for row in range(array.shape[2]):
        result[:, :, row] = array[:, :, row]
    return result


def per_channel_to_hwc(parameter: ndarray) -> ndarray:
    """(C, 1, 1) → (1, 1, C)."""
    return parameter.transpose(1, 2, 0)


def per_channel_from_hwc(parameter: ndarray) -> ndarray:
    """(1, 1, C) → (C, 1, 1)."""
    return parameter.transpose(2, 0, 1)


def flat_to_channels_first(activation: ndarray, flattened: tuple[int, int, int]) -> ndarray:
    """(N, H·W·C) → (N, C·H·W), where `flattened` is the (H, W, C) of the map."""
    return to_channels_first(activation.reshape(-1, *flattened)).reshape(activation.shape)
