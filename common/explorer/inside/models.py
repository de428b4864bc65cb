"""A user's model, as its proof recorded it: the filters of the first convolution, and the output of every node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.explorer.inside.census import census
from common.explorer.inside.filters import Filters, not_finite
from common.explorer.inside.layers import LayerView, Maps, draw_layers
from common.explorer.inside.page import FileView, file_view
from common.explorer.inside.pictures import LIMIT, InlineAlbum
from common.graphs import Graph, Node
from common.operations import Conv, Dense
from common.specs.architecture import shape_text


@dataclass(frozen=True)
class ModelInside:
    """The pictures of a model."""

    weights: FileView | None
    """None if it has no convolution of maps."""
    nodes: Mapping[str, LayerView]
    """For each value, the pictures of its node in each runtime."""


def look_at(name: str, graph: Graph, recorded: Mapping[str, Maps], models: int = 1) -> ModelInside:
    """Draw a model.

    Args:
        name: what it is called.
        graph: its specification.
        recorded: by runtime and value, float32, of one image: (C, H, W), (tokens, features) or (features,).
        models: the number of models on the page, which share the limit of its pictures.
    """
    album = InlineAlbum(inline=LIMIT - LIMIT // models)
    kernels = [(node, kernel) for node in graph.nodes if (kernel := _kernel(graph, node)) is not None]
    filters = next((Filters(node.name, kernel, None) for node, kernel in kernels if kernel.ndim == 4), None)
    counted = [census(node.name, kernel, getattr(node.operation, "groups", 1)) for node, kernel in kernels]
    weights = file_view(album, name, filters, [*not_finite(filters)], counted) if filters else None
    made = {node.output: _maps(recorded, node.output) for node in graph.nodes}
    made = {value: maps for value, maps in made.items() if maps}
    panels = draw_layers(album, list(made), 1, lambda value, _: made[value])
    nodes = {
        node.output: LayerView(node.name, node.kind, _shape(made[node.output]), panels[node.output], "", None, ())
        for node in graph.nodes
        if node.output in made
    }
    return ModelInside(weights, nodes)


def _kernel(graph: Graph, node: Node) -> np.ndarray | None:
    """The weights of a convolution of maps or of a dense layer, (filters, …), if the file has them."""
    found = graph.constants.get(node.parameters.get("weight", ""))
    if found is None or found.dtype != np.float32:
        return None
    axes = {Conv: 4, Dense: 2}.get(type(node.operation))
    return found if found.ndim == axes else None


def _maps(recorded: Mapping[str, Maps], value: str) -> Maps:
    """A value in each runtime in which it has the same shape as in the first."""
    found = {runtime: values[value] for runtime, values in recorded.items() if value in values}
    shapes = [array.shape for array in found.values()]
    drawn = {runtime: array for runtime, array in found.items() if array.shape == shapes[0] and array.size}
    return {runtime: array[np.newaxis] if array.ndim == 2 else array for runtime, array in drawn.items()}


def _shape(maps: Maps) -> str:
    return shape_text(next(iter(maps.values())).shape)
