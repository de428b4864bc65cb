"""ONNX operators that only move, choose or compare values, by ONNX's own reference. They round nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import permutations
from typing import TYPE_CHECKING, Any, ClassVar

from common.operations.arrays import Arrays, Parameters, np
from common.operations.onnx_node import OnnxNode
from common.operations.onnx_table import reads
from common.operations.operation import ArrayOperation, Found
from common.operations.rounding import CARRIED, Reference, upwards

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator

    from common.operations.operation import Hypothesis, Observation

_EXACT = """
Identity Reshape Flatten Squeeze Unsqueeze Concat Split Slice Gather GatherND GatherElements Pad Expand Tile Transpose
DepthToSpace SpaceToDepth Shape Size Constant ConstantOfShape Cast CastLike Where Max Min Equal Less Greater LessOrEqual
GreaterOrEqual Not And Or Range Neg Abs Sign ReduceMax ReduceMin ArgMax ArgMin TopK Dropout ScatterND ScatterElements
Trilu Floor Ceil Round Mod NonZero OneHot EyeLike IsNaN GlobalMaxPool
"""
REARRANGES = frozenset(_EXACT.split())
"""ONNX's operators whose result consists of what they are given, or of small integers."""

_IN_PLACE = """
Where Max Min Equal Less Greater LessOrEqual GreaterOrEqual Not And Or Neg Abs Sign Floor Ceil Round Mod IsNaN
"""
ELEMENTWISE = frozenset(_IN_PLACE.split())
"""Those of them that work element by element."""

_MOVES = """
Identity Reshape Flatten Squeeze Unsqueeze Concat Split Slice Gather Expand Tile DepthToSpace SpaceToDepth Pad Transpose
Dropout
"""
LINEAR = frozenset(_MOVES.split())
"""Those of them that move errors as they move values."""
_LARGEST = {
    "Max": "Max",
    "Min": "Max",
    "ReduceMax": "ReduceMax",
    "ReduceMin": "ReduceMax",
    "GlobalMaxPool": "GlobalMaxPool",
}
_CHOOSES = _LARGEST | {"Neg": "Identity", "Abs": "Identity", "Where": "Where"} | {name: name for name in LINEAR}
"""What those that bring no two values further apart do with errors: a minimum is off by the largest of its inputs'."""


@reads(*REARRANGES - {"Concat"})
@dataclass(frozen=True)
class Rearrangement(ArrayOperation):
    """One output of a node that ONNX's reference evaluator computes bit for bit."""

    operator: str
    node: bytes
    """The serialised node."""
    opset: int
    output: int = 0
    any_result: ClassVar[bool] = True

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Found:
        places = tuple(node.inputs.index(name) for name in dict.fromkeys(node.inputs) if name)
        return Found(cls(node.kind, node.proto.SerializeToString(), node.opset, node.result), places)

    @property
    def kind(self) -> str:
        return self.operator

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Of the node, as in `OnnxNode`."""
        import onnx

        return OnnxNode(onnx.NodeProto.FromString(self.node), {}, {}, self.opset).attributes

    @cached_property
    def _evaluator(self) -> tuple[ReferenceEvaluator, list[str]]:
        return self._evaluator_of(self.operator)

    def _evaluator_of(self, operator: str) -> tuple[ReferenceEvaluator, list[str]]:
        """Of the node, with an operator of the same inputs and attributes in place of its own."""
        import onnx
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        node = onnx.NodeProto()
        node.ParseFromString(self.node)
        node.op_type = operator
        names = list(dict.fromkeys(name for name in node.input if name))
        given = [helper.make_empty_tensor_value_info(name) for name in names]
        made = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = helper.make_graph([node], "one", given, made)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        return ReferenceEvaluator(model), names

    def reference(self, inputs: Arrays, parameters: Parameters) -> Reference:
        """The value itself; floats stay float32."""
        if self.operator == "Transpose":  # a view: the evaluator would take longer
            return Reference(inputs[0].transpose(self.attributes.get("perm")))
        if self.operator == "GatherElements":  # onnx's own fails where the indices are fewer than the elements
            x, places = inputs
            axis = self.attributes.get("axis", 0) % x.ndim
            part = tuple(slice(None if at == axis else size) for at, size in enumerate(places.shape))
            return Reference(np.take_along_axis(x[part], places, axis))
        evaluator, names = self._evaluator
        found = list(evaluator.run(None, dict(zip(names, inputs, strict=True))))
        return Reference(np.asarray(found[self.output]))

    def carried(self, inputs: Arrays, errors: Arrays, parameters: Parameters) -> np.ndarray:
        if self.operator == "IsNaN" and np.isfinite(errors[0]).all():  # what is near a number is one
            return np.zeros(errors[0].shape)
        if self.operator not in _CHOOSES:
            raise NotImplementedError(f"how {self.operator} carries errors on has not been derived")
        evaluator, names = self._evaluator_of(_CHOOSES[self.operator])
        moved = [
            upwards(error) if np.issubdtype(x.dtype, np.floating) else x
            for x, error in zip(inputs, errors, strict=True)
        ]
        found = list(evaluator.run(None, dict(zip(names, moved, strict=True))))
        return CARRIED * np.asarray(found[self.output], np.float64)

    def mistakes(self, seen: Observation) -> Iterator[Hypothesis]:
        """Another order of axes, or of what is concatenated: that which the output itself shows."""
        if self.operator == "Transpose":
            (x,) = seen.inputs
            for axes in permutations(range(x.ndim)):
                moved = x.transpose(axes)
                if np.array_equal(moved, seen.output):
                    unmoved = axes == tuple(range(x.ndim))
                    mistake = "no axis is moved" if unmoved else f"the axes are in the order {_counted(axes)}"
                    yield mistake, partial(Reference, moved)
        if self.operator == "Concat" and len(seen.inputs) <= _FEW:
            for order in permutations(range(len(seen.inputs))):
                found = self.reference([seen.inputs[place] for place in order], {})
                if np.array_equal(found.value, seen.output):
                    yield order_of_inputs(order), partial(Reference, found.value)


_FEW = 5
"""Up to how many inputs are tried in every order."""


def _counted(places: Sequence[int]) -> str:
    return ", ".join(str(place + 1) for place in places)


def order_of_inputs(order: Sequence[int]) -> str:
    """That inputs were concatenated in another order, in words."""
    reverse = list(order) == sorted(order, reverse=True)
    return "the inputs are in reverse order" if reverse else f"the inputs are in the order {_counted(order)}"
