"""Runs an ONNX file in ONNX Runtime with every value recorded: a process of its own, `python -m common.prove.onnx_run`.

A job has paths: `model`, the file to run; `feeds`, its inputs; `values`, where to write the outputs (safetensors); and
a `device`. With `optimise`, ONNX Runtime may optimise the graph. With `only`, these values and the outputs of the model
alone are asked for; with an empty list, the file is run as it is. With `optimised`, a path, the optimised graph is
written there, and nothing is run.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from safetensors.numpy import load_file

from common.onnx.session import Session, execution_providers
from common.prove.array_files import write_arrays
from common.prove.runtimes import serve

if TYPE_CHECKING:
    import onnx


def exposing(model: onnx.ModelProto, only: Collection[str] | None = None) -> list[str]:
    """Make every value an output of the graph, or only some; returns the names of all outputs."""
    from onnx import helper

    outputs = [value.name for value in model.graph.output]
    # The mask of a Dropout is of no use in inference, and ONNX Runtime does not fill it before opset 10.
    kept = ((node, 1 if node.op_type == "Dropout" else None) for node in model.graph.node)
    made = [name for node, count in kept for name in node.output[:count] if name]
    more = [name for name in made if name not in outputs and (only is None or name in only)]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in more)
    return outputs + more


def model_of(job: dict) -> tuple[str | bytes, list[str], dict[str, str]]:
    """The path of a file that is run as it is, or a model that returns more than its outputs; what it returns; and the
    node that makes each value, if nodes have names of their own."""
    from common.graphs.onnx_files import load
    from common.graphs.onnx_reader import read_model

    only = job.get("only")
    if only == []:
        return job["model"], [value.name for value in load(job["model"], weights=False).graph.output], {}
    model = read_model(job["model"])
    names = exposing(model, only)
    return model.SerializeToString(), names, {name: node.name for node in model.graph.node for name in node.output}


def run(job: dict) -> dict[str, Any]:
    """Do a job, see the module's docstring. Returns the seconds of the run, and where a GPU's run made each value."""
    import onnxruntime

    from common.graphs.onnx_reader import read_model

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if job["optimise"] else levels.ORT_DISABLE_ALL
    if "optimised" in job:
        options.optimized_model_filepath = job["optimised"]
        Session("it", read_model(job["model"]).SerializeToString(), options=options)
        return {"version": onnxruntime.__version__}
    model, names, makers = model_of(job)
    session = Session("it", model, execution_providers(job["device"], "fp32"), options)
    feeds = load_file(job["feeds"])
    started = time.perf_counter()
    found = session.run(names, feeds)
    seconds = time.perf_counter() - started
    write_arrays(dict(zip(names, found, strict=True)), job["values"])
    places = {value: session.places[node] for value, node in makers.items() if node in session.places}
    return {"seconds": seconds, "version": onnxruntime.__version__, "places": places, "note": session.note}


if __name__ == "__main__":
    serve(run)
