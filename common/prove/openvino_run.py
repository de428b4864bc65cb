"""Runs an ONNX file in OpenVINO on the CPU with every value recorded. A process of its own, with jobs as for
`onnx_run`.

OpenVINO would compute in bfloat16 or float16 on some CPUs, so float32 is asked for.
"""

from __future__ import annotations

import time

from safetensors.numpy import load_file

from common.prove.array_files import write_arrays
from common.prove.onnx_run import model_of
from common.prove.runtimes import serve


def run(job: dict) -> dict[str, float | str]:
    """What the module's description says; returns the seconds of the second of two runs."""
    import openvino

    model, names, _ = model_of(job)
    core, precise = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", precise)
    feeds = load_file(job["feeds"])
    given = {port: array for port in compiled.inputs for name, array in feeds.items() if name in port.get_names()}
    compiled(given)
    started = time.perf_counter()
    found = compiled(given)
    seconds = time.perf_counter() - started
    write_arrays({name: found[place] for place, name in enumerate(names)}, job["values"])
    return {"seconds": seconds, "version": openvino.__version__}


if __name__ == "__main__":
    serve(run)
