"""Judging what a network returns: that its outputs are those of its last layers, each under its own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from common.operations import Operation, ReLU, Sigmoid, Softmax, evaluate, shapes_of
from common.operations.rounding import FP32, SMALLEST_NORMAL, Reference
from common.parity.judge import stands_between
from common.parity.measures import measure, verdict_from
from common.parity.verdicts import DIVERGED, LayerVerdict, divergence
from common.probes import Probe
from common.probes.end_to_end import EndToEndProbe
from common.specs.architecture import Architecture
from common.specs.recording import Arrays, Recording, Unnamed

ALONE = "when the other outputs are not asked for, "


def judge_returned(spec: Architecture, probe: Probe, recording: Recording, unnamed: Unnamed) -> list[LayerVerdict]:
    """The outputs that differ from the values of their layers in the same run, by any bit.

    Nothing is computed between a network's last layer and its caller, so no error is allowed. If a value was injected
    after that layer, this value must be returned. If a layer has no value, the verdict on the layer says so.

    Args:
        spec: the network.
        probe: what the backend was given.
        recording: what it recorded and returned.
        unnamed: what stands between its layers, and after the last.
    """
    passed_on = {**recording.layers, **probe.injected}
    verdicts = []
    for returned, when, wanted in (
        (recording.returned, "", list(spec.outputs)),
        (recording.alone, ALONE, ["logits"] if recording.alone else []),
    ):
        for name in dict.fromkeys((*wanted, *returned)):
            layer = spec.outputs.get(name)
            if layer is None:
                verdicts.append(divergence(name, f"{when}{name} is returned, which the specification does not have"))
            elif name not in returned and layer in recording.layers:
                verdicts.append(divergence(name, f"{when}{name} is not returned"))
            elif layer in passed_on and name in returned and not _same(returned[name], passed_on[layer]):
                cause = _why(spec, name, returned, passed_on, unnamed.get(name, []))
                verdicts.append(divergence(name, f"{when}{cause}"))
    return verdicts


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def _why(spec: Architecture, name: str, returned: Arrays, passed_on: Arrays, unnamed: list[str]) -> str:
    """The value that an output is instead."""
    value, layer = returned[name], spec.outputs[name]
    right = passed_on[layer]
    for other, its_layer in spec.outputs.items():
        if other != name and its_layer in passed_on and _same(value, passed_on[its_layer]):
            if other in returned and _same(returned[other], right):
                return f"the outputs {name} and {other} are exchanged"
            return f"the output {name} is {other}"
    what = f"the output {name} is not the value of {layer}"
    if value.shape != right.shape or value.dtype != right.dtype:
        found, expected = (f"{shapes_of([array])} of {array.dtype}" for array in (value, right))
        what = f"the output {name} is {found}, but {layer} has {expected}"
    if unnamed:
        return f"{what}: {stands_between(layer, 'the output', unnamed)}"
    source = next((which for which, array in passed_on.items() if _same(value, array)), None)
    if source:
        return f"{what}; it is the value of {source}"
    applied = next((kind for kind, operation in _APPLIED.items() if _is(operation, right, value)), None)
    return f"{what}; it is the {applied} of that" if applied else what


_APPLIED: Mapping[str, Operation] = {"softmax": Softmax(), "sigmoid": Sigmoid(), "ReLU": ReLU()}


def _is(operation: Operation, right: np.ndarray, value: np.ndarray) -> bool:
    """Whether an output is an operation's result on the right output."""
    if value.shape != right.shape or value.dtype != np.float32 or right.ndim != 2:
        return False
    return verdict_from("", [measure(value, evaluate(operation, [right], {}))], FP32).verdict != DIVERGED


def judge_deployed(
    spec: Architecture, probe: EndToEndProbe, returned: Arrays, alone: Arrays, unnamed: Unnamed
) -> list[LayerVerdict]:
    """Judge a network by all that it returns, each output under the name of the layer that gives it.

    Args:
        spec: the network.
        probe: what the backend was given.
        returned: its outputs, (N, classes), by name.
        alone: its logits, if it returns them in another way when its auxiliary heads are not asked for.
        unnamed: what stands between its layers, and after the last.
    """
    verdicts = judge_outputs(spec, probe, _by_layer(spec, returned), unnamed)
    for name, layer in spec.outputs.items():
        if name not in returned and name != "logits":
            verdicts.append(divergence(layer, f"{name} is not returned"))
    if alone:
        found = judge_outputs(spec, probe, _by_layer(spec, alone), unnamed)
        verdicts += [replace(each, cause=f"{ALONE}{each.cause}") for each in found if each.verdict == DIVERGED]
    return verdicts


def _by_layer(spec: Architecture, returned: Arrays) -> dict[str, np.ndarray]:
    return {layer: returned[name] for name, layer in spec.outputs.items() if name in returned}


def judge_outputs(
    spec: Architecture, probe: EndToEndProbe, recorded: Arrays, unnamed: Unnamed = MappingProxyType({})
) -> list[LayerVerdict]:
    """Judge a network by its outputs alone, each under the name of the layer that gives it.

    Args:
        spec: the network.
        probe: what the backend was given.
        recorded: its outputs, (N, classes), by the name of the layer that gives each; auxiliary heads may be absent.
        unnamed: what stands between its layers, and after the last.
    """
    verdicts = []
    for name, layer in spec.outputs.items():
        if layer in recorded:
            verdicts.append(_judge_output(spec, probe, name, recorded[layer], unnamed.get(name, [])))
        elif name == "logits":
            verdicts.append(divergence(layer, f"{name} was not computed"))
    return verdicts


def _judge_output(
    spec: Architecture, probe: EndToEndProbe, name: str, output: np.ndarray, unnamed: list[str]
) -> LayerVerdict:
    layer = spec.outputs[name]
    expected = probe.outputs[layer].value.shape
    if output.shape != expected:
        found, shape = shapes_of([output]), "×".join(map(str, expected))
        return divergence(layer, f"{name} has shape {found}, expected {shape}")
    if output.dtype != np.float32:
        return divergence(layer, f"{name} is {output.dtype}, expected float32")
    verdict = _against(layer, output, probe.outputs[layer])
    if verdict.verdict != DIVERGED or verdict.cause:
        return verdict
    for other, its_layer in spec.outputs.items():
        if other != name and _against("", output, probe.outputs[its_layer]).verdict != DIVERGED:
            return replace(verdict, cause=f"the output {name} is {other}")
    if unnamed:
        return replace(verdict, cause=stands_between(layer, "the output", unnamed))
    return replace(verdict, cause="the exact probe names the layer, unless fusing is the reason")


def _against(layer: str, output: np.ndarray, reference: Reference) -> LayerVerdict:
    assert reference.bound is not None
    bounded = replace(reference, bound=np.maximum(reference.bound, SMALLEST_NORMAL))
    return verdict_from(layer, [measure(output, bounded)], FP32)
