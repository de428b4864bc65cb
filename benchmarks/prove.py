"""The cost of a proof beside that of comparing: in one thread, of one PyTorch model and its export, every value of it.

Run it with `.venv/bin/python -m benchmarks.prove [MODEL]`, a MODEL of `triptych prove` that takes one image, in PyTorch
or in Keras on it; `keras.applications:MobileNetV2` if none is named. It prints medians in seconds of processor time: of
the model's forward pass, as it is and in ONNX Runtime, of our judging of every node, of torch.onnx.verification's
comparison of every value, and of Polygraphy's of two runs of the file; and each ÷ the two forward passes. The peers'
times are those of running and comparing, ours of judging what was recorded.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from threadpoolctl import threadpool_limits
from torch.onnx.verification import verify_onnx_program

from benchmarks.measuring import table
from common.graphs import read_graph
from common.graphs.onnx_reader import read_model
from common.prove.judging import judge_graph
from common.prove.models import load, parse
from common.prove.onnx_run import exposing
from common.prove.torch_export import OPSET, SPECIFICATION, Exported


def seconds_of(function: Callable[[], Any], runs: int) -> float:
    """The median of processor time, which other processes change little; one run before it is not counted. Of a single
    run, its own."""
    times = []
    for _ in range(runs + (runs > 1)):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return statistics.median(times[runs > 1 :])


def session_of(model: onnx.ModelProto, *, optimise: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_polygraphy(path: Path, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs, OnnxFromPath
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator
    from polygraphy.constants import MARK_ALL
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    build = SessionFromOnnx(BytesFromOnnx(ModifyOutputs(OnnxFromPath(str(path)), outputs=MARK_ALL)))

    def compare() -> None:
        results = Comparator.run([OnnxrtRunner(build), OnnxrtRunner(build)], data_loader=[feeds])
        Comparator.compare_accuracy(results)

    return compare


def main() -> None:
    """Print a row for each way."""
    threadpool_limits(1)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    name = sys.argv[1] if len(sys.argv) > 1 else "keras.applications:MobileNetV2"
    model = load(parse(name)).eval()
    stated = getattr(model, "input_shape", (None, 3, 224, 224))  # of a Keras model, channels last
    example = torch.randn(1, *stated[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SPECIFICATION
        Exported(model, [example], Path(folder))
        proto = read_model(path)
        graph = read_graph(path, proto)
        feeds = {name: example.numpy() for name in graph.inputs}
        optimised, plain = (session_of(proto, optimise=optimise) for optimise in (True, False))
        forward = seconds_of(lambda: optimised.run(None, feeds), 20)
        with torch.no_grad():
            own = seconds_of(lambda: model(example), 20)

        rows: list[tuple[str, ...]] = []

        def tell(what: str, seconds: float) -> None:
            rows.append((what, f"{seconds:.3f}", f"{seconds / own:.1f}", f"{seconds / forward:.1f}"))

        tell("the model's forward pass", own)
        tell("in ONNX Runtime, optimised", forward)
        tell("in ONNX Runtime, not optimised", seconds_of(lambda: plain.run(None, feeds), 20))
        everything = onnx.ModelProto()
        everything.CopyFrom(proto)
        names = exposing(everything)
        values = dict(zip(names, session_of(everything, optimise=False).run(names, feeds), strict=True)) | feeds
        tell("triptych prove, judging", seconds_of(lambda: list(judge_graph(graph, values)), 5))
        if importlib.util.find_spec("polygraphy"):
            tell("Polygraphy", seconds_of(by_polygraphy(path, feeds), 3))
        else:
            rows.append(("Polygraphy", "not installed"))
        program = torch.onnx.export(model, (example,), dynamo=True, opset_version=OPSET, verbose=False)
        verify = partial(verify_onnx_program, program, (example,), compare_intermediates=True)
        tell("torch.onnx.verification", seconds_of(verify, 1))
        print(table((name, "seconds of processor", "÷ the model's", "÷ ONNX Runtime's"), rows))


if __name__ == "__main__":
    main()
