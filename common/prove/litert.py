"""LiteRT: judges a `.tflite` file by the model that it was made from, or the export of a Keras model.

Such a file has fewer tensors, with other names and layouts. A tensor is matched to a value of the specification by its
numbers, as for Keras' layers. Fused nodes are judged as one region. A wrong match cannot hide an error: each tensor is
judged by what it was computed from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from common.graphs import Graph
from common.layouts import TURNS
from common.prove.array_files import write_arrays
from common.prove.keras_layers import called_in_graph
from common.prove.runtimes import Process, Recorded, Runtime

LITERT = Runtime("litert", optimise=True, needs="ai_edge_litert")


def record_file(
    file: Path, called: str, graph: Graph, known: Mapping[str, np.ndarray], folder: Path, *, deployed: bool = False
) -> Recorded:
    """The values that LiteRT computes, by the names of the specification's values.

    Args:
        file: the `.tflite` file.
        called: its name in messages.
        graph: the specification.
        known: the values of another runtime, with its inputs.
        folder: a folder for the files of the two processes.
        deployed: whether it runs as its users run it, and only its outputs are seen.
    """
    if not LITERT.is_there:
        return Recorded(error="LiteRT is not installed; pip install -c constraints.txt -e '.[litert]'", skipped=True)
    feeds = {f"{place:03}": known[name] for place, name in enumerate(graph.inputs)}
    given, made = folder / "litert feeds.safetensors", folder / "litert values.safetensors"
    write_arrays(feeds, given)
    job = {"model": str(file), "called": called, "feeds": str(given), "values": str(made), "deployed": deployed}
    with Process("common.prove.litert_run") as process:
        answer = process.ask(job)
    if "error" in answer:
        return Recorded(error=answer["error"])
    tensors = load_file(made)
    makers = graph.makers()
    values = {name: array for name, array in known.items() if name in makers and array.dtype == np.float32}
    outputs = dict(zip(answer["outputs"], graph.outputs, strict=False))
    found = _named({name: array for name, array in tensors.items() if name not in outputs}, values)
    found |= {ours: _like(tensors[name], known[ours].shape) for name, ours in outputs.items()}
    return Recorded(found, answer["seconds"])


def _named(tensors: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors by the names of the values with the same numbers, transposed like these."""
    found: dict[str, np.ndarray] = {}
    for turn in (None, *(turn for ways in TURNS.values() for turn in ways[1:])):
        turned = {
            name: array if turn is None else np.ascontiguousarray(array.transpose(turn))
            for name, array in tensors.items()
            if turn is None or array.ndim == len(turn)
        }
        left = {name: value for name, value in values.items() if name not in found}
        for name, ours in called_in_graph(turned, left).items():
            found[ours] = turned[name]
    return found


def _like(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An output in the shape of the specification's, if it is only transposed."""
    fitting = (turn for turn in TURNS.get(array.ndim, ()) if tuple(array.shape[axis] for axis in turn) == shape)
    turn = next(fitting, None)
    return np.ascontiguousarray(array.transpose(turn)) if turn else array
