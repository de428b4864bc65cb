"""The results of one run of a model: every layer's output, the values between layers, and what the model returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Recording:
    """All of the same run, float32, (N, C, H, W) or (N, features)."""

    layers: Arrays
    """Every layer's own output, by canonical name."""
    returned: Arrays
    """What the model returns, by the name of the output: `logits`, and `aux1`, `aux2` where it has auxiliary heads."""
    alone: Arrays = field(default_factory=dict)
    """What it returns when its auxiliary heads are not asked for, if that is another way through it."""
    given: Arrays = field(default_factory=dict)
    """For each layer that `Unnamed` operations stand in front of, what it was really given, in its only place."""


Unnamed = Mapping[str, list[str]]
"""By layer and output: the operations between it and the layers before it that are no layers of the specification.

That there are some is no mistake: a padding, a change of shape, a second ReLU change nothing. Numbers decide."""
