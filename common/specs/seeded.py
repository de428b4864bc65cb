"""A network's weights, made from a seed, so that a proof needs no file."""

from __future__ import annotations

import zlib
from math import prod, sqrt

import numpy as np

from common.operations import Shape
from common.specs import get_spec
from common.specs.architecture import Architecture


def seeded_generator(seed: int, name: str) -> np.random.Generator:
    """A generator that depends on a seed and a name only, so that tensors do not depend on each other's order."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def random_weights(
    name: str, seed: int = 0, *, num_classes: int | None = None, image_size: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """Seeded weights for an architecture, float32, in the canonical layout, keyed by canonical parameter name.

    Kernels are normal with variance 2 / fan-in (He et al. 2015, section 2.2), which keeps activations of one size
    through the depth; biases are normal with standard deviation 0.1, so that a missing bias shows, and so are beta and
    mean of a batch normalisation, gamma and variance around 1. In every fourth channel gamma is 2^8 and variance 2^16
    times smaller: their scale is of the same size, but there eps matters, as it does in trained networks.

    Raises:
        TriptychError: the architecture is unknown or does not take these options.
    """
    return initial_weights(get_spec(name, num_classes=num_classes, image_size=image_size), seed)


def initial_weights(spec: Architecture, seed: int) -> dict[str, np.ndarray]:
    """`random_weights` for a specification at hand."""
    return {name: _initial(name, shape, seeded_generator(seed, name)) for name, shape in spec.parameter_shapes.items()}


def _initial(name: str, shape: Shape, generator: np.random.Generator) -> np.ndarray:
    parameter = name.rpartition("/")[2]
    deviation = sqrt(2 / prod(shape[1:])) if parameter == "weight" else 0.1
    array = generator.standard_normal(shape, dtype=np.float32)
    array *= np.float32(deviation)  # in place: a second array takes half as long as drawing
    if parameter in ("gamma", "variance"):
        array = np.abs(array + 1) if parameter == "variance" else array + 1
        array[::4] *= np.float32(2.0**-16 if parameter == "variance" else 2.0**-8)
    return array
