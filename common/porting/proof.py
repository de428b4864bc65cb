"""The proof that a port lost nothing, by another process: `python -m common.porting.proof`.

It reads the source again, and reads the target with the framework's own functions. It compares every tensor bit by bit.
It runs the target on a photograph, and every layer must lie within its rounding bound. Nothing is taken from the memory
of the process that wrote the target.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError, argument
from common.implementations import import_implementation
from common.parity.judge import judge
from common.parity.verdicts import DIVERGED, first_divergence, overall
from common.porting.formats import read_source
from common.porting.matching import Network, understand
from common.porting.reading import Reading
from common.porting.targets import Target
from common.probes import Probe
from common.process import ProcessFailure, answering, ask, requests
from common.process.sparing import spare_imports
from common.specs.photographs import photograph, preprocess
from common.weights import Weights

TIMEOUT = 1800.0


@dataclass(frozen=True)
class Proof:
    """The findings of the other process."""

    tensors: int
    """How many tensors were compared; all are equal bit by bit."""
    verdict: str
    """The verdict of the run on a photograph: `identical` or `certified`."""
    bound_ratio: float | None
    """The largest error of any layer as a fraction of its bound."""
    framework: str
    """The framework that it was run in."""


def prove(source: Path, request: Mapping[str, Any], target: Target) -> Proof:
    """Let a new process compare the target with the source, and run it.

    Args:
        source: the file that was ported.
        request: the options of `understand`.
        target: the file that was written.

    Raises:
        TriptychError: a tensor differs, a layer is not within its bound, or the process failed.
    """
    asked = {"source": str(source), "options": request, "target": {**asdict(target), "path": str(target.path)}}
    try:
        answer = ask("common.porting.proof", asked, timeout=TIMEOUT)
    except ProcessFailure as failure:
        if failure.out_of_time:
            without = argument("verify", False)
            told = f"the proof took more than {TIMEOUT:.0f} s; {without} writes the file without it"
            raise TriptychError(told) from None
        told = str(failure)
        raise TriptychError(
            told if failure.answer else f"the process that was to prove the port failed: {told}"
        ) from None
    return Proof(**answer)


def main() -> None:
    """Answer the request on standard input with one JSON line."""
    answer, asked = answering(), next(requests())
    spare_imports()
    target = Target(asked["target"]["kind"], Path(asked["target"]["path"]), asked["target"]["names"])
    try:
        options = asked["options"]
        said = options.pop("reading", None) or {}
        reading = Reading(**said | {name: tuple(said[name]) for name in ("rename", "ignore") if name in said})
        network = understand(read_source(asked["source"]), **options, reading=reading)
        found = asdict(_prove(network, target))
    except TriptychError as error:
        found = {"error": error.message}
    answer(found)


def _prove(network: Network, target: Target) -> Proof:
    found, record = _restored(network, target)
    expected = network.weights
    problems = [name for name in expected if name not in found or not _same_bits(found[name], expected[name])]
    problems += [f"{name} (unexpected)" for name in found if name not in expected]
    if problems:
        raise TriptychError(f"the target has other weights than the source: {', '.join(problems[:10])}")
    # Where nobody knows how photographs are prepared, any preparation gives a picture to prove the layers on.
    spec = replace(network.spec, preprocessing=network.preprocessing or network.spec.preprocessing)
    image = preprocess(photograph(0), spec)[None]
    probe = Probe("photo", {name: np.ascontiguousarray(array) for name, array in expected.items()}, image)
    verdicts = judge(spec, probe, record(image))
    if overall(verdicts, probe) == DIVERGED:
        first = first_divergence(verdicts)
        assert first is not None
        raise TriptychError(
            f"the target's weights are the source's, but on a photograph its layer {first.name} is not within its bound"
            + (f": possibly {first.cause}" if first.explanations else f": {first.cause}" if first.cause else "")
        )
    ratios = [verdict.bound_ratio for verdict in verdicts]
    worst = None if None in ratios else max(ratio for ratio in ratios if ratio is not None)
    return Proof(len(expected), overall(verdicts, probe), worst, target.framework)


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    left, right = (np.ascontiguousarray(array).reshape(-1).view(np.uint32) for array in (left, right))
    return bool(np.array_equal(left, right))


def _restored(network: Network, target: Target) -> tuple[Weights, Any]:
    """The weights in the target, and a function that runs it and records every layer."""
    spec = network.spec
    if target.kind == "onnx":
        import onnx

        from common.onnx.session import RecordingSession

        graph = onnx.load(target.path).graph
        found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        return {name: found[name] for name in spec.parameter_shapes if name in found}, RecordingSession(
            target.path
        ).record
    implementation = import_implementation(target.framework)
    model = implementation.build(spec.name, num_classes=spec.num_classes)
    if target.kind == "safetensors":
        from safetensors.numpy import load_file

        implementation.load_weights(model, load_file(target.path))
    else:
        options = {"names": target.spelled(spec)} if target.names else {}
        model = implementation.restore_weights(model, target.path, **options) or model
    backend = sys.modules[f"{implementation.__name__}.backend"]
    return implementation.read_weights(model), lambda image: backend.record(model, image)


if __name__ == "__main__":
    main()
