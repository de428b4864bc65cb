"""A PyTorch model as a graph: its specification in ONNX, and a run in which every value is recorded."""

from __future__ import annotations

import copy
import logging
import operator
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

OPSET = 20
SPECIFICATION, OFFICIAL = "specification.onnx", "export.onnx"
Given: TypeAlias = "Sequence[torch.Tensor] | Mapping[str, torch.Tensor]"
"""A model's inputs: in order, or by name."""


class Exported:
    """A model and its graph, whose values have the names of the specification."""

    def __init__(self, model: torch.nn.Module, examples: Given, folder: Path) -> None:
        import onnxscript.optimizer
        import torch

        self.model: Any = model
        self.by_name = isinstance(examples, Mapping)
        self.arguments = arguments(model, examples)
        # Unfolded: a batch normalisation that the exporter multiplies into a convolution is none any more.
        try:
            program = self._program(model, optimize=False)
        except torch.onnx.errors.OnnxExporterError:
            program = self._program(_exportable(model, *self.arguments), optimize=False)
        if program.exported_program is not None and _divide(program.exported_program):
            program = self._program(program.exported_program, optimize=False)
        onnxscript.optimizer.fold_constants(program.model, onnx_shape_inference=True)
        _leave_out_zeros(program.model.graph)
        onnxscript.optimizer.remove_unused_nodes(program.model)
        self.hidden_states = _hidden_states(program.model.graph)
        program.save(folder / SPECIFICATION, external_data=False)
        exported = program.exported_program
        assert exported is not None
        self.graph: Any = exported.module()

    def write_official(self, folder: Path) -> None:
        """Write what PyTorch's exporter makes of the model by itself."""
        program = self._program(self.model)
        _hidden_states(program.model.graph)  # which names them as in the specification
        program.save(folder / OFFICIAL, external_data=False)

    def _program(self, model: Any, **options: Any) -> Any:
        import torch

        ordered, named = self.arguments
        options |= {"dynamo": True, "opset_version": OPSET, "verbose": False, "external_data": False}
        # Without no_grad an attention with a computed mask is laid out in two ways, and the exporter fails.
        with torch.no_grad(), _quietly(), _functions_parsed_once():
            program = torch.onnx.export(model, ordered, kwargs=named, **options)
        assert program is not None
        return program

    def record(
        self, given: Mapping[str, torch.Tensor], compiled: bool, only: Collection[str] | None = None
    ) -> tuple[dict[str, np.ndarray], float, bool]:
        """Every value, the seconds, and whether the model's own call gives the same bits as its graph.

        Args:
            given: the inputs by their names in the specification, in its order.
            compiled: whether to use `torch.compile`.
            only: the values that are wanted, if not all.
        """
        import torch

        names, graph = _recording(self.graph, self.hidden_states, only)
        run = torch.compile(graph) if compiled else graph
        with torch.no_grad():
            values = run(*given.values())
            started = time.perf_counter()
            values = run(*given.values())
            seconds = time.perf_counter() - started
            ordered, named = self._arguments(given)
            same = compiled or _equal(self.graph(*ordered, **named), self.model(*ordered, **named))
        arrays = {name: value.detach().numpy() for name, value in zip(names, values, strict=True)}
        return arrays, seconds, same

    def call(self, given: Mapping[str, torch.Tensor], compiled: bool) -> tuple[list[np.ndarray], float]:
        """What the model itself returns, called as its users call it, and the seconds."""
        import torch
        from torch.utils._pytree import tree_leaves

        ordered, named = self._arguments(given)
        run = torch.compile(self.model) if compiled else self.model
        if hasattr(self.model, "predict_on_batch") and not compiled:
            run = self.model.predict_on_batch
        with torch.no_grad():
            run(*ordered, **named)
            started = time.perf_counter()
            returned = run(*ordered, **named)
            seconds = time.perf_counter() - started
        found = [leaf.detach().numpy() if hasattr(leaf, "detach") else leaf for leaf in tree_leaves(returned)]
        return [array for array in found if isinstance(array, np.ndarray)], seconds

    def _arguments(self, given: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, torch.Tensor]]:
        return arguments(self.model, given if self.by_name else list(given.values()))


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out what the exporter says about itself: torchvision is not installed, one of its calls is out of date."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _functions_parsed_once() -> Iterator[None]:
    """The exporter parses the sources of its 497 functions for operators, in half a second: here for the first export,
    elsewhere for each."""
    from onnxscript.values import TracedOnnxFunction

    own = TracedOnnxFunction.function_ir
    TracedOnnxFunction.function_ir = _parsed()
    try:
        yield
    finally:
        TracedOnnxFunction.function_ir = own


@cache
def _parsed() -> property:
    from onnxscript.values import TracedOnnxFunction

    return property(cache(TracedOnnxFunction.function_ir.fget))


def arguments(model: Any, given: Given) -> tuple[tuple[Any, ...], dict[str, torch.Tensor]]:
    """A model's inputs as arguments of its call, in order and by name. A Keras model takes several as one list."""
    if isinstance(given, Mapping):
        return (), dict(given)
    return ((list(given),) if hasattr(model, "get_layer") and len(given) > 1 else tuple(given)), {}


def _hidden_states(graph: Any) -> dict[str, tuple[str, int, int]]:
    """For each recurrent call, the value that has all hidden states of its last layer, the number of directions, and of
    units. If the value is unused, it gets a name that is the same in every export.

    The exporter says for each node which call it is of.
    """
    found = {}
    for node in graph:
        called = node.metadata_props.get("pkg.torch.onnx.fx_node", "").partition(" ")[0].removeprefix("%")
        if node.op_type in ("LSTM", "GRU") and called:
            states = node.outputs[0]
            if not (states.uses() or states.is_graph_output()):
                states.name = f"{node.name}/states"
            directions = 1 + (node.attributes["direction"].as_string() == "bidirectional")
            found[called] = states.name, directions, node.attributes["hidden_size"].as_int()
    return found


def _recording(
    graph: Any, hidden_states: Mapping[str, tuple[str, int, int]], only: Collection[str] | None = None
) -> tuple[list[str], Any]:
    """The graph with every tensor that it computes as an output, or only some; and their names.

    Of a recurrent call, all hidden states are recorded in the specification's layout, (T, D, N, hidden), even if the
    model only reads the last.
    """
    import torch

    traced = copy.deepcopy(graph.graph)
    states = {}
    for node in list(traced.nodes):
        if node.name in hidden_states and node.target in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
            name, directions, units = hidden_states[node.name]
            with traced.inserting_after(node):
                made = traced.call_function(operator.getitem, (node, 0))
            for call, arguments in (
                (torch.transpose, (0, 1) if node.args[8] else (0, 0)),
                (torch.unflatten, (2, (directions, units))),
                (torch.transpose, (1, 2)),
            ):
                with traced.inserting_after(made):
                    made = traced.call_function(call, (made, *arguments))
            states[made] = name
    nodes = [
        node for node in traced.nodes if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
    ]
    for node in nodes:  # a compiler may lay a value out otherwise than the export did, so that it has no such view
        if node.target == torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    for node in reversed(list(traced.nodes)):
        if (node.op == "call_module" or "_guards" in node.name) and not node.users:
            traced.erase_node(node)
    nodes = [node for node in nodes if only is None or node.name in only]
    output = next(node for node in traced.nodes if node.op == "output")
    states = {made: name for made, name in states.items() if only is None or name in only}
    output.args = ((*nodes, *states),)
    if only is not None:
        traced.eliminate_dead_code()
    traced._codegen = torch.fx.graph.CodeGen()  # the exported one puts outputs back into the model's own structure
    module = torch.fx.GraphModule(graph, traced)
    return [*(node.name for node in nodes), *states.values()], module


def _equal(one: Any, other: Any) -> bool:
    """Whether two results have the same tensors, however they are nested."""
    import torch
    from torch.utils._pytree import tree_leaves

    pairs = zip(*(tree_leaves(found) for found in (one, other)), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def _leave_out_zeros(graph: Any) -> None:
    """Leave out the bias that the exporter gives to a convolution without one. For three axes its shape is wrong."""
    for node in graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        if bias is not None and bias.const_value is not None and bias.const_value.numpy().ndim != 1:
            node.replace_input_with(2, None)


def _exportable(
    model: torch.nn.Module, ordered: tuple[Any, ...], named: Mapping[str, Any]
) -> torch.export.ExportedProgram:
    """The graph of a model, each attention without a mask one of arrays with four axes. The exporter knows no other."""
    import torch

    with torch.no_grad():
        program = torch.export.export(model, ordered, dict(named), strict=False)
    for node in list(program.graph.nodes):
        if node.target == torch.ops.aten.scaled_dot_product_attention.default and len(node.args) == 3:
            _give_four_axes(program.graph, node)
    program.graph_module.recompile()
    return program


def _divide(program: torch.export.ExportedProgram) -> bool:
    """Make each average pool with a divisor of its own an average and a factor; returns whether there is one.

    The exporter leaves the divisor out.
    """
    import torch

    found = False
    for node in list(program.graph.nodes):
        if node.target != torch.ops.aten.avg_pool2d.default or len(node.args) < 7:
            continue
        x, kernel, stride, padding, cut_short, _, divisor = node.args
        if divisor is None or cut_short:  # a window that is cut short would have a size of its own
            continue
        found = True
        height, width = (*kernel, *kernel)[:2]  # one number stands for both
        node.args = x, [height, width], stride, padding, False, True
        users = list(node.users)
        with program.graph.inserting_after(node):
            scaled = program.graph.call_function(torch.ops.aten.mul.Tensor, (node, height * width / divisor))
        scaled.meta = dict(node.meta)
        for user in users:
            user.replace_input_with(node, scaled)
    program.graph_module.recompile()
    return found


def _give_four_axes(graph: torch.fx.Graph, node: Any) -> None:
    import torch

    def reshaped(array: Any, shape: Sequence[int]) -> Any:
        made = graph.call_function(torch.ops.aten.reshape.default, (array, list(shape)))
        made.meta = array.meta | {"val": array.meta["val"].reshape(shape)}
        return made

    def four(shape: Sequence[int]) -> Sequence[int]:
        return (1, *shape) if len(shape) == 3 else (-1, *shape[-3:])

    value = node.meta["val"]
    if value.ndim == 4:
        return
    with graph.inserting_before(node):
        node.args = tuple(reshaped(array, four(array.meta["val"].shape)) for array in node.args)
    node.meta["val"] = value.reshape(four(value.shape))
    users = list(node.users)
    with graph.inserting_after(node):
        back = reshaped(node, value.shape)
    for user in users:
        user.replace_input_with(node, back)
