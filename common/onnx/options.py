"""The options of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import TriptychError, nearest
from common.specs.architecture import Preprocessing

ELEMENTS = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}
"""ONNX's name of each element type."""

OPSETS = {"float32": 18, "float16": 18, "bfloat16": 22}
"""The operators' version for each element type. Convolutions and pools take bfloat16 only from 22 on."""

LRN_FORMS = {"float32": "nodes", "float16": "node", "bfloat16": "node"}
"""How LRN is written for each element type. As nodes it is several times faster in ONNX Runtime (benchmarks/lrn.py),
and every device has kernels. In float16 the squares would overflow, so it is one node there."""


@dataclass(frozen=True)
class ExportOptions:
    """The options of an exported graph."""

    outputs: Sequence[str] = ("logits",)
    """The outputs to write, of `logits`, `aux1` and `aux2`. Layers that lead to none of them are left out."""
    softmax: bool = False
    """End in a layer `softmax` and return its output, `probabilities`, instead of the logits. A model that was built
    with a softmax is always exported so."""
    batch: int | None = None
    """A fixed number of images; None for any number."""
    dtype: str = "float32"
    """The type of everything in the graph, including the image: `float32`, `float16` or `bfloat16`."""
    fold: bool = False
    """Fold each batch normalisation that is directly after a convolution into the convolution."""
    external_data: bool = False
    """Write the weights into `<path>.data`. This is done in any case if they do not fit into one file."""
    unless: Path | None = None
    """An export with its weights beside it. If this one is the same, but for the line that says which framework it is
    from, nothing is written."""
    preprocessing: Preprocessing | None = None
    """How to prepare photographs, for the file's metadata; by default the specification's."""
    prepared: bool = True
    """Whether the file says how to prepare photographs. False if that is not known for its weights."""
    lrn: str | None = None
    """Local response normalisation as one `node`, or as several `nodes`; by default as in `LRN_FORMS`."""

    def __post_init__(self) -> None:
        if self.dtype not in ELEMENTS:
            raise TriptychError(f"cannot export as {self.dtype!r}; {nearest(self.dtype, ELEMENTS)}")
        if self.batch is not None and self.batch < 1:
            raise TriptychError(f"cannot export a batch of {self.batch}; it has at least one image")
        if not self.outputs:
            raise TriptychError("cannot export a network without outputs; name logits, aux1 or aux2")
        if self.lrn not in (None, "node", "nodes"):
            raise TriptychError(f"cannot write LRN as {self.lrn!r}; node or nodes")
        if self.lrn == "nodes" and self.dtype == "float16":
            raise TriptychError("cannot write LRN as nodes in float16: squares beyond 65504 overflow; write it as node")

    @property
    def decomposes_lrn(self) -> bool:
        return (self.lrn or LRN_FORMS[self.dtype]) == "nodes"
