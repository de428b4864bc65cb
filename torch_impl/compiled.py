"""A model through `torch.compile`: with every layer's output among its results, or as it is deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import fx, nn

from common.names import canonical_from_torch
from torch_impl.backend import every_head
from torch_impl.export import Tracer

_COMPILED = "_compiled"
"""The attribute of a model that keeps what was compiled, by the layers behind which something is injected."""


@torch.no_grad()
def record_compiled(
    model: nn.Module, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """As `record`, but run by what `torch.compile` makes of the model and of all its layers' outputs at once."""
    injected = dict(injected or {})
    cache = model.__dict__.setdefault(_COMPILED, {})
    key = tuple(injected)
    if key not in cache:
        cache[key] = torch.compile(_with_every_output(model, key), fullgraph=True)
    device = next(model.parameters()).device
    arguments = [torch.from_numpy(array).to(device) for array in (image, *injected.values())]
    return {name: output.cpu().numpy() for name, output in cache[key](*arguments).items()}


@torch.no_grad()
def predict_compiled(model: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """As `predict`, run by what `torch.compile` makes of the model, free to fuse whatever it likes."""
    device = next(model.parameters()).device
    return {"logits": torch.compile(model, fullgraph=True)(torch.from_numpy(image).to(device)).cpu().numpy()}


def _with_every_output(model: nn.Module, injected: Sequence[str]) -> fx.GraphModule:
    """The model as a function of the image and of what is injected, its result every layer's output by name."""
    with every_head(model):
        graph = Tracer().trace(model)
    nodes = {canonical_from_torch(node.target): node for node in graph.nodes if node.op == "call_module"}
    first = next(iter(graph.nodes))
    for name in reversed(injected):
        with graph.inserting_after(first):
            nodes[name].replace_all_uses_with(graph.placeholder(name.replace("/", "_")))
    (output,) = graph.find_nodes(op="output")
    output.args = (nodes,)
    graph.lint()
    return fx.GraphModule(model, graph)
