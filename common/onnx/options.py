"""The options of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import TriptychError, nearest
from common.specs.architecture import Preprocessing

ELEMENTS = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}
"""ONNX's name of each element type."""

OPSETS = {"float32": 18, "float16": 18, "bfloat16": 22}
"""The version of the operators by element type; convolutions and pools take bfloat16 since 22 only."""

LRN_FORMS = {"float32": "nodes", "float16": "node", "bfloat16": "node"}
"""How LRN is written by element type. As nodes, ONNX Runtime computes it several times faster (benchmarks/lrn.py), and
has kernels for it on every device; as one node, what overflows float16 on the way is the runtime's concern."""


@dataclass(frozen=True)
class ExportOptions:
    """What an exported graph should be like."""

    outputs: Sequence[str] = ("logits",)
    """Of `logits`, `aux1` and `aux2`, those to write; layers that lead to none of them are left out."""
    softmax: bool = False
    """End in a layer `softmax` and give its output, `probabilities`, in place of the logits; as a model that was built
    with a softmax is exported anyway."""
    batch: int | None = None
    """The number of images, if it is to be fixed."""
    dtype: str = "float32"
    """Of everything in the graph, the image included: `float32`, `float16` or `bfloat16`."""
    fold: bool = False
    """Multiply each batch normalisation that stands directly after a convolution into it."""
    external_data: bool = False
    """Put the weights into `<path>.data`; they are put there in any case if they do not fit into one file."""
    preprocessing: Preprocessing | None = None
    """How photographs become the image, kept in the file's metadata; the specification's if not given."""
    prepared: bool = True
    """Whether the file says so at all; not where nobody knows how photographs are prepared for its weights."""
    lrn: str | None = None
    """Local response normalisation as one `node`, or as the `nodes` that it consists of; `LRN_FORMS` says which if not
    given."""

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
