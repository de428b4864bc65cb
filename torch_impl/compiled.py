"""A model through `torch.compile`: with every layer's output among its results, or as it is deployed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import fx, nn

from common.parity.cudnn import direct_sums
from common.specs import get_spec
from common.specs.architecture import IMAGE
from common.specs.recording import Recording, Unnamed
from torch_impl import backend
from torch_impl.backend import arrays, named_parameters, read_weights, record
from torch_impl.export import Tracer
from torch_impl.graph import every_head, named_outputs, names_of_calls
from torch_impl.train import losses_of, training_mode

Arrays = Mapping[str, np.ndarray]

_COMPILED = "_compiled"
"""The attribute of a model that keeps what was compiled, by the layers after which something is injected."""


def record_compiled(
    model: nn.Module, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """As `record`, but run by what `torch.compile` makes of the model and of all its layers' outputs at once."""
    return dict(run_compiled(model, image, injected).layers)


@direct_sums()
@torch.no_grad()
def run_compiled(
    model: nn.Module,
    image: np.ndarray,
    injected: Mapping[str, np.ndarray] | None = None,
    unnamed: Unnamed = MappingProxyType({}),
) -> Recording:
    """As `record_compiled`, with what the model returns, and what the layers in `unnamed` were given."""
    injected = dict(injected or {})
    cache = model.__dict__.setdefault(_COMPILED, {})
    key = tuple(injected)
    if key not in cache:
        # Nothing is laid out anew for the convolutions: every output would be transposed back, by a kernel of its own.
        options = {"layout_optimization": False}
        cache[key] = torch.compile(_with_every_output(model, key, unnamed), fullgraph=True, options=options)
    device = next(model.parameters()).device
    arguments = [torch.from_numpy(array).to(device) for array in (image, *injected.values())]
    layers, returned, given = (arrays(tensors) for tensors in cache[key](*arguments))
    return Recording(layers, returned, given=given)


@torch.no_grad()
def predict_compiled(model: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """As `predict`, run by what `torch.compile` makes of the model, free to fuse whatever it likes."""
    device = next(model.parameters()).device
    return arrays(named_outputs(torch.compile(model, fullgraph=True)(torch.from_numpy(image).to(device))))


def predict_heads_compiled(model: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """As `predict_compiled`, every output of a model that has auxiliary heads."""
    with every_head(model):
        return predict_compiled(model, image)


@direct_sums()
def kernels() -> dict[str, str]:
    """As `kernels` of the backend, and the instructions that inductor writes its kernels with."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa  # takes a second, and a compiler

    return {"inductor": str(pick_vec_isa()), **backend.kernels()}


def record_gradients_compiled(
    model: nn.Module, image: np.ndarray, *, injected: Arrays, drives: Arrays, labels: np.ndarray | None, training: bool
) -> dict[str, dict[str, np.ndarray]]:
    """As `record_gradients`, by the backward pass that `torch.compile` makes of the model.

    It differentiates with respect to arguments only: the gradient of a layer's output is that of a zero added to it.
    What is only recorded is detached, so that the backward pass is that of the loss and of nothing else.
    """
    device = next(model.parameters()).device
    model.eval()  # running it leaves no trace then
    shapes = {name: array.shape for name, array in record(model, image).items()}
    if training:
        training_mode(model, dropout=False)
    added = {name: torch.zeros(shape) for name, shape in shapes.items() if name not in injected}
    given = (
        {IMAGE: torch.from_numpy(image)} | added | {name: torch.from_numpy(array) for name, array in injected.items()}
    )
    given = {name: tensor.to(device, copy=True).requires_grad_() for name, tensor in given.items()}
    heads = get_spec(model.architecture).outputs if labels is not None else {}
    differentiable = {*drives, *heads.values()}
    graph = _with_every_sum(model, list(added), list(injected), differentiable)
    outputs, ends = torch.compile(graph, fullgraph=True)(*given.values())
    terms = [(ends[name] * torch.from_numpy(drive).to(device)).sum() for name, drive in drives.items()]
    if labels is not None:
        of_heads = {name: ends[layer] for name, layer in heads.items()}
        terms.append(losses_of(of_heads, torch.from_numpy(labels).to(device))[1])
    parameters = {name: p for name, p in named_parameters(model).items() if p.requires_grad}
    sources = [*given.values(), *parameters.values()]
    found = torch.autograd.grad(torch.stack(terms).sum(), sources, allow_unused=True)
    gradients = dict(zip([*given, *parameters], found, strict=True))
    model.eval()
    return {
        "outputs": {name: output.cpu().numpy() for name, output in outputs.items()},
        "gradients": {name: gradients[name].cpu().numpy() for name in given if gradients[name] is not None},
        "parameters": {name: gradients[name].cpu().numpy() for name in parameters if gradients[name] is not None},
        "weights": read_weights(model),
    }


def _with_every_sum(
    model: nn.Module, added: Sequence[str], injected: Sequence[str], differentiable: Collection[str]
) -> fx.GraphModule:
    """The model as a function of the image, of what is added to layers' outputs, and of what is injected after others.

    Its result: every layer's own output by name, to be looked at; and those that the loss is made of, with what was
    added to them.
    """
    with every_head(model):
        graph = Tracer().trace(model)
    nodes = _named_nodes(model, graph)
    first = next(iter(graph.nodes))
    arguments = {}
    for name in reversed([*added, *injected]):
        with graph.inserting_after(first):
            arguments[name] = graph.placeholder(name.replace("/", "_"))
    outputs, ends = {}, {}
    for name, node in nodes.items():
        if name in injected:
            node.replace_all_uses_with(arguments[name])
            total = node
        else:
            with graph.inserting_after(node):
                total = graph.call_function(torch.add, (node, arguments[name]))
            node.replace_all_uses_with(total, delete_user_cb=lambda user, total=total: user is not total)
        if name in differentiable:
            ends[name] = total
        with graph.inserting_after(node):
            outputs[name] = graph.call_method("detach", (node,))
    (output,) = graph.find_nodes(op="output")
    output.args = ((outputs, ends),)
    graph.lint()
    return fx.GraphModule(model, graph)


def _with_every_output(model: nn.Module, injected: Sequence[str], unnamed: Unnamed) -> fx.GraphModule:
    """The model as a function of the image and of what is injected.

    Its result: every layer's output by name, what the model returns, and what the layers in `unnamed` are given.
    """
    with every_head(model):
        graph = Tracer().trace(model)
    nodes = _named_nodes(model, graph)
    first = next(iter(graph.nodes))
    for name in reversed(injected):
        with graph.inserting_after(first):
            nodes[name].replace_all_uses_with(graph.placeholder(name.replace("/", "_")))
    (output,) = graph.find_nodes(op="output")
    returned = named_outputs(output.args[0])
    given = {name: node.args[0] for name, node in nodes.items() if name in unnamed and len(node.args) == 1}
    output.args = ((nodes, returned, given),)
    graph.lint()
    return fx.GraphModule(model, graph)


def _named_nodes(model: nn.Module, graph: fx.Graph) -> dict[str, fx.Node]:
    """The call of every layer by canonical name, in order; a module may be called at several places."""
    names = {path: iter(of_path) for path, of_path in names_of_calls(model).items()}
    return {next(names[node.target]): node for node in graph.nodes if node.op == "call_module"}
