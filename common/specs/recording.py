"""The results of one run of a model: every layer's output, the values between layers, and what the model returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Recording:
    """The values of one run, float32, (N, C, H, W) or (N, features)."""

    layers: Arrays
    """Every layer's own output, by canonical name."""
    returned: Arrays
    """The outputs of the model by name: `logits`, and `aux1`, `aux2` if it has auxiliary heads."""
    alone: Arrays = field(default_factory=dict)
    """Its outputs without auxiliary heads, if that is another path through the model."""
    given: Arrays = field(default_factory=dict)
    """For each layer after `Unnamed` operations, the value that it really read, if it has one input."""


Unnamed = Mapping[str, list[str]]
"""For each layer and output: the operations before it that are no layers of the specification.

Such operations are no mistake by themselves: a padding, a change of shape or a second ReLU may change nothing. Numbers
decide."""
