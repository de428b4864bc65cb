"""Runs an ONNX file in ONNX Runtime with every value recorded: a process of its own, `python -m common.prove.onnx_run`.

A job has paths: `model`, the file to run; `feeds`, its inputs; `values`, where to write the outputs (safetensors). With
`optimise`, ONNX Runtime may optimise the graph.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from safetensors.numpy import load_file

from common.prove.array_files import write_arrays
from common.prove.runtimes import serve

if TYPE_CHECKING:
    import onnx


def exposing(model: onnx.ModelProto) -> list[str]:
    """Make every value an output of the graph; returns their names."""
    from onnx import helper

    outputs = [value.name for value in model.graph.output]
    made = [name for node in model.graph.node for name in node.output if name]
    more = [name for name in made if name not in outputs]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in more)
    return outputs + more


def run(job: dict) -> dict[str, float | str]:
    """Do a job, see the module's docstring. Returns the seconds of the second of two runs."""
    import onnxruntime

    from common.graphs.onnx_reader import read_model

    model = read_model(job["model"])
    names = exposing(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if job["optimise"] else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = load_file(job["feeds"])
    started = time.perf_counter()
    found = session.run(names, feeds)
    seconds = time.perf_counter() - started
    write_arrays(dict(zip(names, found, strict=True)), job["values"])
    return {"seconds": seconds, "version": onnxruntime.__version__}


if __name__ == "__main__":
    serve(run)
