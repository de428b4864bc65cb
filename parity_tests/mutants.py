"""The proof of the prover: every porting mistake is caught by each kind of probe, where it was made, by its name.

`python -m parity_tests.mutants` prints the score, and ends with status 1 if it is below 100 %. The mistakes are in
`parity_tests/mutations/`, a file for each family.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import get_spec
from common.parity.agreement import cross_checked
from common.parity.causes import UNTRACED, Traced
from common.parity.judge import Between, judge_in_order, judge_structure
from common.parity.nearby import Earlier
from common.parity.results import BackendResult
from common.parity.returned import judge_returned
from common.parity.verdicts import CERTIFIED, DIVERGED, LayerVerdict, first_divergence
from common.probes import Probe, exact_probe, photo_probe
from common.specs.recording import Recording
from parity_tests.injection import Mutant, imported_with, release, specification
from parity_tests.mutations import (
    activations,
    alexnet,
    densenet,
    doors,
    googlenet,
    lenet,
    numbers,
    places,
    resnet,
    returned,
    vgg,
)

FAMILIES = lenet, alexnet, vgg, googlenet, resnet, densenet, doors, returned, activations, numbers, places

MUTANTS: list[Mutant] = sorted(
    (mutant for family in FAMILIES for mutant in family.MUTANTS),
    key=lambda mutant: mutant.architecture,
)


def kind(mutant: Mutant) -> str:
    """What the mistake is about: the first words of what the harness says of it, without where and how much."""
    if mutant.cause is None:
        return "no known mistake"
    said = without_numbers(mutant.cause)
    if re.match(r"(every|only) group|the groups'", said):
        return "groups"
    if re.search(r" is taken, not an? \w+$", said):
        return "another function"
    return " ".join(said.replace("'s ", " ").split()[:2])


def without_numbers(text: str) -> str:
    """A sentence with no layer and no number in it."""
    layer = r"\b(?:conv|fc|c|inception_|transition|pool|bn|norm|relu)\d\w*(?:/\w+)*"
    return re.sub(r"\d+(?:[.,×]\d+)*(?:e-\d+)?", "n", re.sub(layer, "layer", text))


def representatives() -> list[Mutant]:
    """Of each kind of mistake the cheapest, and as well of each family, and in each implementation."""
    chosen = set()
    by_cost = sorted(MUTANTS, key=_cost)
    for group in (kind, lambda it: get_spec(it.architecture).family, lambda it: it.package):
        seen = {group(mutant) for mutant in chosen}
        for mutant in by_cost:
            if group(mutant) not in seen:
                seen.add(group(mutant))
                chosen.add(mutant)
    return [mutant for mutant in MUTANTS if mutant in chosen]


def daily() -> list[Mutant]:
    """Those of them that are made every day: where it takes longer, one for each kind of layer."""
    chosen: dict[str, Mutant] = {}
    for mutant in sorted(representatives(), key=_cost):
        layers = {layer.name: layer.operation.kind for layer in specification(mutant.architecture).layers}
        longer = _cost(mutant) > LONGER
        chosen.setdefault(layers.get(mutant.layer, mutant.layer) if longer else str(mutant), mutant)
    return [mutant for mutant in MUTANTS if mutant in chosen.values()]


LONGER = 1e8
"""By `_cost`. What costs less is quick: the LeNets, and in PyTorch a ResNet-18 and a GoogLeNet."""


def _cost(mutant: Mutant) -> float:
    """In multiply-adds; PyTorch builds a model in the least time, and TensorFlow 1 in the most."""
    return specification(mutant.architecture).multiply_adds * {"torch_impl": 1, "keras_impl": 2}.get(mutant.package, 3)


PROBES = {"exact": exact_probe, "certified": photo_probe}


@dataclass(frozen=True)
class Outcome:
    """What the harness said of one mutant on one probe."""

    mutant: Mutant
    probe: str
    divergence: LayerVerdict | None
    error: str | None = None
    """Why nothing could be judged: a backend that crashes gets a row of its own, but no cause."""

    @property
    def killed(self) -> bool:
        """Whether it was caught, in the layer where it was made, under its right name, if it has one.

        That name may be among others which the numbers cannot tell from it. A probe that need not see the mistake may
        see nothing or know no name; but what it says must be true as well.
        """
        found, mutant = self.divergence, self.mutant
        if found is None or not found.cause:
            unseen = self.error is None and self.probe not in mutant.seen_by
            return unseen or (found is not None and found.name == mutant.layer and mutant.cause is None)
        named = not found.explanations if mutant.cause is None else mutant.cause in found.cause
        return found.name == mutant.layer and named


def outcomes(mutant: Mutant) -> list[Outcome]:
    """Run a mutated implementation on each probe, and judge it as `triptych parity` does."""
    try:
        return _outcomes(mutant)
    except Exception as error:
        return [Outcome(mutant, probe, None, f"{type(error).__name__}: {error}") for probe in PROBES]
    finally:
        release(mutant.package)


def _outcomes(mutant: Mutant) -> list[Outcome]:
    spec, probes = specification(mutant.architecture), _probes(mutant.architecture)
    with imported_with(mutant) as backend:
        with getattr(backend, "uninitialised", nullcontext)():  # its weights are loaded before it is run
            model = backend.build(mutant.architecture, image_size=spec.input_shape[1:])
        structure = judge_structure(spec, *backend.structure(model))
        unnamed, traced = {}, UNTRACED
        if not mutant.through_onnx:
            unnamed = backend.unnamed_operations(model)
            traced = Traced(backend.FLATTENED, backend.wiring(model))
        found = []
        for name, (probe, earlier) in probes.items():
            divergence = first_divergence(structure)
            with suppress(Exception) if structure else nullcontext():  # numbers that do not fit together cannot be run
                backend.load_weights(model, probe.weights)
                if mutant.through_onnx:
                    recording = _run_export(mutant.package, model, probe)
                else:
                    recording = backend.run(model, probe.image, probe.injected, unnamed)
                between = Between(unnamed, recording.given)
                verdicts = judge_in_order(spec, probe, recording.layers, earlier, between=between, traced=traced)
                behind = judge_returned(spec, probe, recording, unnamed)
                divergence = first_divergence(chain(verdicts, behind)) or divergence
            found.append(Outcome(mutant, name, divergence))
    return found


def _run_export(package: str, model: Any, probe: Probe) -> Recording:
    from common.onnx.session import RecordingSession

    with TemporaryDirectory() as folder:
        path = Path(folder) / "export.onnx"
        importlib.import_module(f"{package}.export").export_onnx(model, path)
        return RecordingSession(path, probe.injected).run(probe.image, probe.injected)


def stated(found: Sequence[Outcome]) -> list[str | None]:
    """The cause that a run on all these probes states for each of those that caught the mutant."""
    results = [
        BackendResult(
            outcome.mutant.package,
            DIVERGED if outcome.divergence else "ok",
            DIVERGED if outcome.divergence else CERTIFIED,
            first_divergence=outcome.divergence.name if outcome.divergence else None,
            likely_cause=outcome.divergence.cause if outcome.divergence else None,
            layers=[outcome.divergence] if outcome.divergence else [],
        )
        for outcome in found
    ]
    checked = cross_checked(results, [outcome.probe for outcome in found])
    return [result.likely_cause for result in checked if result.status == DIVERGED]


@lru_cache(maxsize=4)
def _probes(architecture: str) -> dict[str, tuple[Probe, Earlier]]:
    """By name, with what was found on each: most layers of a mutant are those of the one before it."""
    spec = specification(architecture)
    batch = 1 if spec.multiply_adds > 5e8 else 2
    return {name: (make(spec, batch=batch), Earlier()) for name, make in PROBES.items()}


def score(mutants: Sequence[Mutant]) -> list[Outcome]:
    """Run mutants, those of one network one after the other, and print a row for each outcome."""
    found = []
    for mutant in mutants:
        for outcome in outcomes(mutant):
            found.append(outcome)
            divergence = outcome.divergence
            caught = f"{divergence.name}: {divergence.cause}" if divergence else outcome.error or "not caught"
            expected = "" if outcome.killed else f" (expected {mutant.layer}: {mutant.cause})"
            state = "killed" if outcome.killed else "ALIVE "
            print(f"{state}  {mutant.architecture:18} {outcome.probe:9}  {mutant}  →  {caught}{expected}", flush=True)
    return found


def main() -> int:
    """Print the score of the mutants whose description has all the words that are given."""
    import torch  # noqa: F401, first: loaded after TensorFlow it can crash

    chosen = [mutant for mutant in MUTANTS if all(word in str(mutant) for word in sys.argv[1:])]
    found = score(chosen)
    killed = sum(outcome.killed for outcome in found)
    print(f"{len(chosen)} mutants, {len(PROBES)} probes: {killed} of {len(found)} killed")
    return 0 if found and killed == len(found) else 1


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.exit(main())
