"""Where each layer stands in the source of an implementation. The source is read, never run.

`following` follows the builder of a network and returns patterns of names. Each is looked up among the layers of the
specification. In Keras and TensorFlow 1 a layer's name is the argument `name` of a call, inside the scopes around it.
In PyTorch it is the attribute, key or keyword that a module is bound to, inside those around it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from common.errors import TriptychError
from common.explorer.following import WILD, Follower
from common.explorer.modules import Definition, Span, read_module
from common.implementations import FRAMEWORKS
from common.operations.names import keras_layer, tf1_layer
from common.specs.architecture import Architecture


@dataclass(frozen=True)
class Panel:
    """One of the three implementations, for reading its source."""

    name: str
    title: str
    package: str
    spell: Callable[[str], str]
    """Spells a canonical layer name as the source does."""


_SPELLED: dict[str, Callable[[str], str]] = {
    "keras": keras_layer,
    "torch": str,  # found as paths of attributes, joined by "/"
    "tf1": tf1_layer,
}
PANELS = tuple(Panel(name, FRAMEWORKS[name].title, FRAMEWORKS[name].package, spell) for name, spell in _SPELLED.items())


def builder(panel: Panel, architecture: str, form: str = "") -> Definition | None:
    """The builder that `BUILDERS` in a catalogue names, or its other `form` (`sequential`) if there is one."""
    for node in read_module(panel.package, "catalogue").tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "BUILDERS":
            entries = node.value
            assert isinstance(entries, ast.Dict)
            for key, value in zip(entries.keys, entries.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == architecture:
                    assert isinstance(value, ast.Attribute)
                    assert isinstance(value.value, ast.Name)
                    definitions = read_module(panel.package, value.value.id).definitions
                    return definitions.get(f"{value.attr}_{form}" if form else value.attr)
    raise TriptychError(f"{panel.package} has no builder of {architecture}")


@dataclass(frozen=True)
class Reading:
    """The source of one network, read."""

    definitions: tuple[Definition, ...]
    """The functions and classes that make the network, in the order in which a reader meets them."""
    written: Mapping[Span, frozenset[str]]
    """The lines that write layers, directly or by a call, with the canonical names of these layers."""
    used: Mapping[Span, frozenset[str]]
    """Other lines that mention a layer, such as those of a `forward`."""

    def lines_of(self, layer: str) -> list[Span]:
        """The lines that a layer is written in, from the builder inwards."""
        lines = [span for span, layers in self.written.items() if layer in layers]
        order = [definition.span for definition in self.definitions]
        return sorted(lines, key=lambda line: (next(i for i, whole in enumerate(order) if line in whole), line.first))


def read_network(panel: Panel, spec: Architecture, form: str = "") -> Reading | None:
    """Read the source of a network; None if it does not exist in this form.

    Args:
        panel: whose implementation.
        spec: the network.
        form: `sequential` for the other form that Keras has of a chain.
    """
    definition = builder(panel, spec.name, form)
    if definition is None:
        return None
    reader = Follower()
    reader.enter(definition, [], {})
    names = {panel.spell(layer.name): layer.name for layer in spec.layers}
    stands_for = _resolve({pattern for pattern, _ in (*reader.written, *reader.used)}, names)
    return Reading(
        tuple(dict.fromkeys(reader.definitions)),
        _by_span(reader.written, stands_for),
        _by_span(reader.used, stands_for),
    )


def _by_span(
    found: Sequence[tuple[str, tuple[Span, ...]]], stands_for: Mapping[str, frozenset[str]]
) -> dict[Span, frozenset[str]]:
    layers: dict[Span, frozenset[str]] = {}
    for pattern, spans in found:
        for span in spans if stands_for[pattern] else ():
            layers[span] = layers.get(span, frozenset()) | stands_for[pattern]
    return layers


def _resolve(patterns: set[str], names: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The layers of each pattern. If several patterns fit a layer, those with the most of its name count."""
    stands_for: dict[str, set[str]] = {pattern: set() for pattern in patterns}
    expressions = {pattern: re.compile(re.escape(pattern).replace(r"\*", "[0-9A-Za-z]+")) for pattern in patterns}
    for spelling, layer in names.items():
        fitting = [pattern for pattern, expression in expressions.items() if expression.fullmatch(spelling)]
        most = max((len(pattern.replace(WILD, "")) for pattern in fitting), default=0)
        for pattern in fitting:
            if len(pattern.replace(WILD, "")) == most:
                stands_for[pattern].add(layer)
    return {pattern: frozenset(layers) for pattern, layers in stands_for.items()}
