"""Finds the network of the catalogue that a graph is, by its skeleton and by the operators between its nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from common.porting.skeletons import Node, differences, inventory, pairs, skeleton
from common.porting.source import unsupported
from common.specs import get_spec, list_architectures
from common.specs.architecture import Architecture


@dataclass(frozen=True)
class Match:
    """The network of the catalogue with the file's skeleton."""

    spec: Architecture
    heads: tuple[Node, ...]
    """The network's skeletons, up to each output."""
    matched: tuple[tuple[Node, Node], ...]
    """The pairs of nodes, the network's and the file's, up to the logits."""
    alternatives: tuple[str, ...]
    """Other networks that fit as well."""
    unfolded: tuple[Match, ...]
    """Networks that it may have been before batch normalisations were folded."""
    notes: tuple[str, ...]
    departures: tuple[str, ...]


def identify(path: Path, form: str, outputs: list[Node], said: str | None) -> Match:
    """The network with the file's skeleton and the fewest differences in operators without parameters."""
    fitting = list(_fitting(outputs))
    if not fitting:
        raise unsupported(path, f"no network in the catalogue has the graph of this {form}: {inventory(outputs)}")
    fewest = min(_weight(match) for match in fitting)
    closest = [match for match in fitting if _weight(match) == fewest]
    chosen = next((match for match in closest if match.spec.name == said), closest[0])
    others = dict.fromkeys(
        match.spec.name for match in closest if said != chosen.spec.name and match.spec.name != chosen.spec.name
    )
    before = tuple(match for match in fitting if _weight(match) == (*fewest[:3], True))
    return replace(chosen, alternatives=tuple(others), unfolded=before)


def _weight(match: Match) -> tuple[int, int, int, bool]:
    """The number of differences, to be minimised. A plain VGG comes before a VGG with folded batch normalisations.

    If two ResNets have as many differences, the one that strides in kernels of the same size is nearer.
    """
    folded = any(mine.norm for mine, _ in match.matched)
    return len(match.departures), len(match.notes), _strides_elsewhere(match), folded


def _strides_elsewhere(match: Match) -> int:
    """How many convolutions stride with a kernel of a size with which those of the other do not."""
    ours, theirs = (
        Counter(
            (node.shape[2:], node.numbers[0]) for node in nodes if node.kind == "Conv" and set(node.numbers[0]) != {1}
        )
        for nodes in zip(*match.matched, strict=True)
    )
    return ((ours - theirs) + (theirs - ours)).total()


def _fitting(outputs: list[Node]) -> Iterator[Match]:
    classes = {node.shape[0] for node in outputs if node.shape} or {1000}
    for name in list_architectures():
        for count in classes:
            if not 0 < count <= 100_000:
                continue
            for folded in (False, True):
                spec, heads = _catalogued(name, count, folded)
                theirs = next((node for node in outputs if node.signature == heads["logits"].signature), None)
                if theirs is None:
                    continue
                found = list(differences(heads["logits"], theirs))
                yield Match(
                    spec,
                    tuple(heads.values()),
                    tuple(pairs(heads["logits"], theirs)),
                    (),
                    (),
                    tuple(f"the graph differs from {name}: {phrase}" for only_padding, phrase in found if only_padding),
                    tuple(phrase for only_padding, phrase in found if not only_padding),
                )
                break


@lru_cache(maxsize=256)
def _catalogued(name: str, count: int, folded: bool) -> tuple[Architecture, dict[str, Node]]:
    """A network of the catalogue, and its skeleton up to each output."""
    spec = get_spec(name, num_classes=count)
    return spec, {output: skeleton(spec, layer, folded=folded) for output, layer in spec.outputs.items()}
