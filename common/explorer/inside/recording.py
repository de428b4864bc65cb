"""Runs a photograph through a network in each framework, and judges it with the functions of `common.parity`.

The forward pass keeps every layer's output. The backward pass starts from the logit of the likeliest class and gives
the gradient with respect to the image. Every layer must lie within its bound in both, as in any proof of parity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL.Image import Image

from common.errors import TriptychError
from common.parity.backends import BACKENDS, Backend, Hardware
from common.parity.gradients import GradientProbe
from common.parity.processes import Workers
from common.parity.results import Plan, Run
from common.parity.runner import run_parity
from common.porting.matching import Network
from common.porting.preparation import known_preparation
from common.probes import Probe
from common.specs.architecture import IMAGE, Architecture
from common.specs.photographs import preprocess

FRAMEWORKS = {
    "Keras": ("keras-tensorflow", "keras-jax", "keras-torch"),
    "PyTorch": ("torch",),
    "TF1 style": ("tf1",),
}
"""The panels, and the backends that may fill each: the first that is installed does."""

FORWARD, BACKWARD = "photographs", "gradients of the likeliest class"
"""What the two runs are called."""

JOBS = 2
"""Backends that run at a time."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Look:
    """One file's network on some photographs."""

    network: Network
    images: np.ndarray
    """float32, (N, C, H, W): the photographs as the network gets them."""
    outputs: Mapping[str, Arrays]
    """By framework and layer, what it gave: float32, (N, C, H, W) or (N, features)."""
    saliency: Arrays
    """By framework, the gradient of each photograph's likeliest class with respect to it: float32, (N, C, H, W)."""
    likeliest: tuple[int, ...]
    """That class, for each photograph."""
    forward: Run
    backward: Run


def backends() -> dict[str, Backend]:
    """By framework, the one that computes, of those that are installed.

    Raises:
        TriptychError: none is.
    """
    found = {
        framework: next((BACKENDS[name] for name in names if not BACKENDS[name].missing), None)
        for framework, names in FRAMEWORKS.items()
    }
    if not any(found.values()):
        raise TriptychError(
            "a photograph needs Keras, PyTorch or TensorFlow, and none of them is installed; see triptych doctor"
        )
    return {framework: backend for framework, backend in found.items() if backend}


def steps(networks: Sequence[Network]) -> int:
    """How often `look` tells that something is done."""
    return 2 * len(networks) * len(backends())


def check_runnable(network: Network) -> Network:
    """A network that photographs can be run through, with the preparation that its file states.

    Raises:
        TriptychError: nobody says how photographs are prepared, or some weights are NaN or infinite.
    """
    recipe = known_preparation(network.preprocessing, network.source.path)
    for name, array in network.weights.items():
        if not np.isfinite(array).all():
            place = np.argwhere(~np.isfinite(array))[0].tolist()
            count = array.size - np.count_nonzero(np.isfinite(array))
            raise TriptychError(
                f"{network.source.path} cannot be run on a photograph: {name} holds {count:,} values that are NaN or "
                f"infinite, the first at {place}; without a photograph, its filters are shown"
            )
    return replace(network, spec=replace(network.spec, preprocessing=recipe))


def look(
    networks: Sequence[Network], pictures: Sequence[Image], advance: Callable[[str], None] = lambda done: None
) -> list[Look]:
    """Run photographs through networks, forward and back.

    Args:
        networks: of one architecture, from `check_runnable`.
        pictures: RGB, at least one.
        advance: is told of each backend that is done with each of both.

    Raises:
        TriptychError: no framework is installed, or none could run the network.
    """
    chosen = backends()
    plan = Plan([*chosen.values()], hardware=Hardware.shared(min(JOBS, len(chosen))), jobs=JOBS)
    with Workers(plan.hardware) as workers:
        return [_look(network, pictures, chosen, plan, workers, advance) for network in networks]


def _look(
    network: Network,
    pictures: Sequence[Image],
    chosen: Mapping[str, Backend],
    plan: Plan,
    workers: Workers,
    advance: Callable[[str], None],
) -> Look:
    spec, weights = network.spec, network.weights
    images = np.stack([preprocess(picture, spec) for picture in pictures])
    kept: dict[str, dict[str, Arrays]] = {}

    def run(label: str, probe: Probe, kind: str) -> Run:
        def keep(backend: str, _: str, recorded: Mapping[str, Arrays]) -> None:
            kept.setdefault(label, {})[backend] = recorded[kind]

        def told(backend: str, _: str) -> None:
            advance(f"{network.source.path.name}: {label} in {backend}")

        (found,) = run_parity(
            spec, replace(plan, made={label: probe}, gradients=kind == "gradients"), told, workers, on_recorded=keep
        )
        return found

    forward = run(FORWARD, Probe(FORWARD, weights, images), "outputs")
    outputs = _by_framework(kept.get(FORWARD, {}), chosen)
    if not outputs:
        raise TriptychError(f"no framework ran {spec.name}: {'; '.join(row.reason or '' for row in forward.backends)}")
    head = spec.outputs["logits"]
    logits = next((arrays[head] for arrays in outputs.values() if head in arrays), None)
    likeliest = () if logits is None else tuple(np.nan_to_num(logits, nan=-np.inf).argmax(axis=1).tolist())
    backward = run(BACKWARD, _driven(spec, weights, images, likeliest), "gradients")
    gradients = _by_framework(kept.get(BACKWARD, {}), chosen)
    saliency = {name: np.array(arrays[IMAGE]) for name, arrays in gradients.items() if IMAGE in arrays}
    return Look(network, images, outputs, saliency, likeliest, forward, backward)


def _driven(spec: Architecture, weights: Arrays, images: np.ndarray, classes: Sequence[int]) -> GradientProbe:
    """What gives the gradient of one logit of each photograph."""
    drive = np.zeros((len(images), spec.num_classes), np.float32)
    drive[range(len(classes)), classes] = 1
    return GradientProbe(BACKWARD, weights, images, drives={spec.outputs["logits"]: drive})


def _by_framework(kept: Mapping[str, Arrays], chosen: Mapping[str, Backend]) -> dict[str, Arrays]:
    return {framework: kept[backend.name] for framework, backend in chosen.items() if backend.name in kept}
