"""Canonical names for the calls of a model: a module that is called twice is two layers.

torchvision calls `self.relu1` twice in a block, as in `self.relu1(self.add(y, x))`. In the specification the second
call is a layer with a name of its own. The structure of the model tells which: the layer that no module is named after,
and that reads what this call reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

from common.specs.architecture import IMAGE, Architecture

IMAGE_CALL = -1
"""Stands for the image instead of a call's number."""


@dataclass(frozen=True)
class Call:
    """One call of a module or layer."""

    name: str
    """The canonical name of the module."""
    reads: tuple[int | None, ...]
    """The numbers of the calls whose results it reads. `IMAGE_CALL` is the image; None is a value that no call made."""


def named_calls(calls: Sequence[Call], spec: Architecture | None) -> list[str]:
    """A name for each call: that of its module. If a module is called several times, the names of the specification.

    A call without a layer in the specification gets a name that no layer has, such as `relu1#27`. Each layer is judged
    by the values under its name. So a wrong name would be found and cannot hide an error.

    Args:
        calls: of the whole model, in the order in which they are made.
        spec: the network that the model is, if it is one of the catalogue.
    """
    times = Counter(call.name for call in calls)
    layers = {layer.name: layer for layer in spec.layers} if spec else {}
    free = [name for name in layers if times[name] != 1]
    names: list[str] = []
    for number, call in enumerate(calls):
        if times[call.name] == 1:
            names.append(call.name)
            continue
        reads = _layers_read(number, calls, names, layers)
        fitting = [name for name in free if reads == list(layers[name].inputs)]
        own = [call.name] if call.name not in names and not fitting else []
        names.append(next(iter(fitting or own), f"{call.name}#{number}"))
        free = [name for name in free if name != names[-1]]
    return names


def wired(calls: Sequence[Call], names: Sequence[str], spec: Architecture | None) -> dict[str, list[str]]:
    """The layers of the specification that each layer reads directly, if that is known."""
    layers = {layer.name for layer in spec.layers} if spec else set(names)
    found = {name: _layers_read(number, calls, names, layers) for number, name in enumerate(names)}
    return {name: reads for name, reads in found.items() if reads}


def _layers_read(number: int, calls: Sequence[Call], names: Sequence[str], layers: Container[str]) -> list[str] | None:
    """The layers that a call reads, through calls that are no layers of the specification; None if not known."""
    found: list[str] = []
    for source in calls[number].reads:
        if source is None:
            return None
        if source == IMAGE_CALL:
            found.append(IMAGE)
        elif names[source] in layers:
            found.append(names[source])
        elif (before := _layers_read(source, calls, names, layers)) is not None:
            found += before
        else:
            return None
    return found
