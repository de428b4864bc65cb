"""Runs a `.tflite` file in LiteRT on the CPU with every tensor recorded; a process of its own.

A job has `model`, the file; `feeds`, what it is given, in the order of its inputs; and `values`, the path of where to
write its float32 tensors, by number. It runs LiteRT's own kernels: what is handed to XNNPACK has no tensors within.
With `deployed` it runs as its users run it, in XNNPACK, and only its outputs are written.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from common.errors import TriptychError
from common.prove.array_files import write_arrays
from common.prove.runtimes import serve


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job, see the module's docstring. Returns the numbers of the outputs, and the seconds of a second run.

    Raises:
        TriptychError: the file is no such model, is quantised, or has other inputs.
    """
    import ai_edge_litert
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    deployed = job["deployed"]
    kernels = OpResolverType.AUTO if deployed else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = Interpreter(
            job["model"], experimental_preserve_all_tensors=not deployed, experimental_op_resolver_type=kernels
        )
    except ValueError as error:
        raise TriptychError(f"{job['called']} is no model that LiteRT reads: {error}") from None
    refuse_quantised(job["called"], interpreter.get_tensor_details())
    feeds = load_file(job["feeds"])
    inputs = interpreter.get_input_details()
    given = [feeds[name] for name in sorted(feeds)]
    if len(given) != len(inputs):
        raise TriptychError(f"{job['called']} takes {len(inputs)} inputs, but is given {len(given)}")
    for array, found in zip(given, inputs, strict=True):
        _require_shape(job["called"], array.shape, found)
        interpreter.resize_tensor_input(found["index"], array.shape)
    interpreter.allocate_tensors()
    for array, found in zip(given, inputs, strict=True):
        interpreter.set_tensor(found["index"], array)
    interpreter.invoke()
    started = time.perf_counter()
    interpreter.invoke()
    seconds = time.perf_counter() - started
    arrays = {}
    for tensor in interpreter.get_output_details() if deployed else interpreter.get_tensor_details():
        if tensor["dtype"] is np.float32:
            arrays[f"{tensor['index']:06}"] = interpreter.get_tensor(tensor["index"])
    write_arrays(arrays, job["values"])
    outputs = [f"{tensor['index']:06}" for tensor in interpreter.get_output_details()]
    return {"seconds": seconds, "outputs": outputs, "version": ai_edge_litert.__version__}


def refuse_quantised(called: str, tensors: list[dict[str, Any]]) -> None:
    """Check that a model computes in float32.

    Raises:
        TriptychError: one of its tensors is of integers with a scale, or of float16.
    """
    for tensor in tensors:
        if len(tensor["quantization_parameters"]["scales"]) or tensor["dtype"] is np.float16:
            kind = np.dtype(tensor["dtype"]).name
            told = f"{called} is quantised: its tensor {tensor['name'].partition(';')[0]} is {kind}"
            raise TriptychError(f"{told}; prove the float32 model that it was made from")


def _require_shape(called: str, shape: tuple[int, ...], found: dict[str, Any]) -> None:
    stated = [int(size) for size in found["shape_signature"]] or [int(size) for size in found["shape"]]
    if len(stated) != len(shape) or any(size not in (-1, own) for size, own in zip(stated[1:], shape[1:], strict=True)):
        takes = "×".join("any" if size == -1 else str(size) for size in stated)
        raise TriptychError(f"{called} takes {takes}, but is given {'×'.join(map(str, shape))}")


if __name__ == "__main__":
    serve(run)
