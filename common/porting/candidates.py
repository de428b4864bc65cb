"""What a file's tensors may be: a network, under which names, and where in the file.

Wrappers put prefixes before the names of a network: `module.` of DataParallel, `_orig_mod.` of torch.compile, `model.`,
`encoder.`, `resnet_v1_50/`. Prefixes may be nested, and may stand before all names or some. They are found by the part
of the name that fits a network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from common.operations import Conv, Shape
from common.operations.names import layer_of
from common.porting.conventions import CONVENTIONS, Convention
from common.porting.turning import source_shapes
from common.specs import get_spec
from common.specs.architecture import Architecture

WRAPPERS = ("module", "_orig_mod")
"""Parts that a wrapper inserts anywhere into a name."""

MOST_PREFIXES = 6

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Expected:
    """A tensor that a convention expects for an architecture."""

    parameter: str
    shapes: tuple[Shape, ...]
    """The shapes that it may have in the source's layout, the usual one first."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network with the names of a convention."""

    convention: Convention
    spec: Architecture
    expected: Mapping[str, Expected]
    """The expected tensors, by the source's names."""
    optional: Collection[str]
    """Biases of convolutions that have none in this project: they are moved into the normalisation after it."""
    ones: Collection[str]
    """Scales of batch normalisations that the convention may leave out."""

    @property
    def head(self) -> str:
        """The layer of the logits, by the source's name."""
        weight = f"{self.spec.outputs['logits']}/weight"
        (name,) = (name for name, expected in self.expected.items() if expected.parameter == weight)
        return name.removesuffix(f"{self.convention.separator}weight")

    def matched(self, tensors: Tensors) -> int:
        """The number of tensors that are as expected."""
        shapes = {name: array.shape for name, array in tensors.items()}
        return sum(shapes.get(name) in expected.shapes for name, expected in self.expected.items())


@dataclass(frozen=True)
class Placement:
    """A candidate, and the tensors of a file that are assigned to it."""

    candidate: Candidate
    tensors: Tensors
    """The tensors, by the names that the candidate expects; others by their own names."""
    spelled: Mapping[str, str]
    """The file's own spelling of such a name."""
    strangers: Mapping[str, str] = field(default_factory=dict)
    """Tensors that are not the network's, and the file's spelling of their names."""
    notes: tuple[str, ...] = ()
    prefix: str = ""
    """The prefix of the names in the file."""
    doubled: Mapping[str, str] = field(default_factory=dict)
    """For each prefix of a wrapper, one of the names that the file also has without it."""
    matched: int = field(default=0)

    @property
    def likeness(self) -> float:
        """The share of tensors that the file and the network have in common."""
        wanted = len(self.candidate.expected) - len(absent_heads(self.candidate, self.tensors))
        found = sum(array.ndim > 0 for array in self.tensors.values())
        return self.matched / max(wanted, found, 1)


@cache
def candidate_of(convention: str, architecture: str, num_classes: int | None) -> Candidate:
    """A network with the names of a convention."""
    known, spec = CONVENTIONS[convention], get_spec(architecture, num_classes=num_classes)
    names = known.names(spec)
    optional = {
        names[f"{layer.name}/weight"].removesuffix("weight") + "bias"
        for layer in spec.layers
        if isinstance(layer.operation, Conv) and not layer.operation.bias
    }
    return Candidate(
        known,
        spec,
        {name: Expected(parameter, source_shapes(known, spec, parameter)) for parameter, name in names.items()},
        optional,
        {name for parameter, name in names.items() if parameter.endswith("/gamma")} if known.without_gamma else (),
    )


@cache
def _known_names(convention: str) -> frozenset[str]:
    """All names of a convention."""
    known = CONVENTIONS[convention]
    return frozenset(name for spec in known.architectures for name in candidate_of(convention, spec, None).expected)


def absent_heads(candidate: Candidate, tensors: Tensors) -> set[str]:
    """The layers of the auxiliary heads, if the file has none of them. They are used in training only."""
    heads = {layer.partition("/")[0] for name, layer in candidate.spec.outputs.items() if name != "logits"}
    names = {
        name: layer_of(expected.parameter)
        for name, expected in candidate.expected.items()
        if expected.parameter.partition("/")[0] in heads
    }
    return set(names.values()) if names.keys().isdisjoint(tensors) else set()


def placements(
    tensors: Tensors,
    conventions: Iterable[str],
    architecture: str | None,
    num_classes: int | None,
    spelled: Mapping[str, str],
    prefix: str | None = None,
) -> Iterator[Placement]:
    """Every candidate with the tensors that are assigned to it.

    Args:
        tensors: of the file.
        conventions: the conventions whose names they may have.
        architecture: the only one to try; all that the convention is used for if None.
        num_classes: the number of logits; the file's if None.
        spelled: the file's own name of a tensor, if it differs.
        prefix: the prefix of the names; found by itself if None.
    """
    for convention in map(CONVENTIONS.__getitem__, conventions):
        known = _known_names(convention.name)
        if architecture and architecture not in convention.architectures:
            known |= candidate_of(convention.name, architecture, None).expected.keys()
        for start in _prefixes(tensors, convention, known) if prefix is None else (prefix,):
            inner, names, wrapped = _behind(start, tensors, convention)
            within = set(names.values())
            strangers = {name: spelled.get(name, name) for name in tensors if name not in within}
            names = {name: spelled.get(full, full) for name, full in names.items()}
            # What belongs to no layer is no parameter: counters, queues.
            strangers |= {name: names[name] for name in inner if convention.separator not in name}
            inner = {name: array for name, array in inner.items() if convention.separator in name}
            for each in (architecture,) if architecture else convention.architectures:
                first = candidate_of(convention.name, each, num_classes)
                own, theirs = _from_ours(first, inner, names)
                doubled = {wrapper: name for wrapper, name in wrapped.items() if name in first.expected}
                placed = _with_head(Placement(first, own, theirs, strangers, doubled=doubled), tensors)
                bias = placed.tensors.get(f"{first.head}{convention.separator}bias")
                classes = num_classes or (len(bias) if bias is not None and bias.ndim == 1 and len(bias) else None)
                if classes and classes != first.spec.num_classes:
                    placed = replace(placed, candidate=candidate_of(convention.name, each, classes))
                if start and prefix is None:
                    placed = replace(placed, notes=(f"the names in the file begin with {start!r}", *placed.notes))
                yield replace(placed, prefix=start, matched=placed.candidate.matched(placed.tensors))


def _prefixes(tensors: Tensors, convention: Convention, known: Collection[str]) -> list[str]:
    """The possible prefixes, the likeliest first."""
    votes: Counter[str] = Counter()
    longest = max(name.count(convention.separator) for name in known)  # a name in a file may have a thousand parts
    for name in map(convention.normalised, tensors):
        parts = name.split(convention.separator)
        beginnings = [place for place, part in enumerate(parts[:-1]) if part not in WRAPPERS]
        for place in beginnings[-longest:]:
            if _unwrapped(parts[place:], convention) in known:
                votes[convention.separator.join([*parts[:place], ""])] += 1
    most = max(votes.values(), default=0)
    return [prefix for prefix, count in votes.most_common(MOST_PREFIXES) if 2 * count >= most] or [""]


def _unwrapped(parts: list[str], convention: Convention) -> str:
    return convention.separator.join(part for part in parts if part not in WRAPPERS)


def _behind(
    prefix: str, tensors: Tensors, convention: Convention
) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, str]]:
    """The tensors whose names begin with a prefix, by the rest of the name, and their whole names.

    If a wrapper's names are also there without it, it contains another network, or the same one again. It is left out.
    The third result has, for each such wrapper, one of the names that are there twice.
    """
    spellings: dict[str, list[tuple[str, str]]] = {}
    for full in tensors:
        name = convention.normalised(full)
        if name.startswith(prefix):
            rest = _unwrapped(name[len(prefix) :].split(convention.separator), convention)
            spellings.setdefault(rest, []).append((_wrapper(name, convention), full))
    twice: dict[str, str] = {}
    for rest, each in spellings.items():
        each.sort(key=lambda spelling: len(spelling[0]))
        twice |= {wrapper: rest for wrapper, _ in each if wrapper != each[0][0]}
    names = {rest: full for rest, ((wrapper, full), *_) in spellings.items() if wrapper not in twice}
    return {rest: tensors[full] for rest, full in names.items()}, names, twice


def _wrapper(name: str, convention: Convention) -> str:
    """A name up to its last wrapper, such as `features.module.`; empty if it has none."""
    parts = name.split(convention.separator)
    last = max((place for place, part in enumerate(parts) if part in WRAPPERS), default=-1)
    return convention.separator.join([*parts[: last + 1], ""]) if last >= 0 else ""


def _from_ours(
    candidate: Candidate, inner: dict[str, np.ndarray], names: dict[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The same tensors. A tensor with the canonical name of a parameter gets the candidate's name, if that is free."""
    ours = {expected.parameter: name for name, expected in candidate.expected.items()}
    moved = {}
    for name in inner:
        theirs = ours.get(name.replace(candidate.convention.separator, "/"))
        if name not in candidate.expected and theirs and theirs not in inner:
            moved[name] = theirs
    if not moved:
        return inner, names
    return (
        {moved.get(name, name): array for name, array in inner.items()},
        {moved.get(name, name): full for name, full in names.items()},
    )


def _with_head(placed: Placement, tensors: Tensors) -> Placement:
    """The same tensors. If the layer of the logits is missing and only one other layer has its shape, that layer takes
    its place."""
    candidate, separator = placed.candidate, placed.candidate.convention.separator
    weight, bias = (f"{candidate.head}{separator}{kind}" for kind in ("weight", "bias"))
    if weight in placed.tensors:
        return placed
    (usual, *other) = candidate.expected[weight].shapes
    units = -1 if candidate.convention.channels_last else 0
    reads = {_without(shape, units) for shape in (usual, *other)}
    pool = {name: array for name, array in placed.tensors.items() if name not in candidate.expected}
    pool |= {name: tensors[name] for name in placed.strangers if name in tensors}
    fitting = []
    for name, array in pool.items():
        layer, _, kind = name.rpartition(separator)
        beside = pool.get(f"{layer}{separator}bias")
        if kind != "weight" or array.ndim not in (2, 4) or beside is None:
            continue
        if _without(array.shape, units) in reads and beside.shape == (array.shape[units],):
            fitting.append(layer)
    if len(fitting) != 1:
        return placed
    theirs = {f"{fitting[0]}{separator}weight": weight, f"{fitting[0]}{separator}bias": bias}
    classes = pool[f"{fitting[0]}{separator}bias"].shape
    others = (pool[name] for name in pool.keys() - theirs.keys() if name.endswith(f"{separator}weight"))
    if any(array.ndim == 2 and _without(array.shape, units) == classes for array in others):
        return placed  # another layer reads it, so that it is not the last
    spelled = {**placed.strangers, **placed.spelled}
    return replace(
        placed,
        tensors={name: array for name, array in placed.tensors.items() if name not in theirs}
        | {ours: pool[name] for name, ours in theirs.items()},
        spelled={**placed.spelled, **{ours: spelled.get(name, name) for name, ours in theirs.items()}},
        strangers={name: full for name, full in placed.strangers.items() if name not in theirs},
        notes=(
            *placed.notes,
            f"{fitting[0]} is taken for the head, {candidate.spec.outputs['logits']}: its shape fits",
        ),
    )


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:-1] if axis == -1 else shape[1:]
