"""Finds the network that a file's tensors are, and its weights in the canonical layout.

A candidate is a convention and an architecture, which say the names and shapes to expect. The candidate that the file
fits is the network. If none fits, the message compares the file with the nearest one: everything that is missing,
unexpected or of another shape, at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from common.errors import TriptychError, argument
from common.operations import BatchNorm
from common.operations.names import layer_of
from common.porting.candidates import Placement, absent_heads, candidate_of, placements
from common.porting.preparation import UNKNOWN, preparation
from common.porting.problems import problems_of, remedy, shaped_like
from common.porting.reading import Reading, edited, entries, some_of
from common.porting.source import Source, one_line
from common.porting.statistics import canonical_statistics, rounding_error
from common.porting.turning import Ported, layout_change
from common.specs import CATALOGUE, get_spec
from common.specs.architecture import Architecture, Preprocessing
from common.specs.seeded import initial_weights

MOST_PROBLEMS = 20
"""How many problems a message lists; it counts the others."""

LEAST_LIKENESS = 0.25
"""If a file has less than this share in common with the nearest network, it is compared with none."""

DEPARTURES = "departures"
"""The metadata in which files of this project say that their weights are from another network."""

PRESUMED = "presumed"
"""The metadata in which they say that several networks were possible."""


@dataclass(frozen=True)
class Network:
    """A source whose network is known."""

    source: Source
    convention: str
    spec: Architecture
    parameters: tuple[Ported, ...]
    preprocessing: Preprocessing | None
    """How to prepare photographs; None if that is not known."""
    notes: tuple[str, ...] = ()
    departures: tuple[str, ...] = ()
    """How the network of the weights differs from this one."""
    presumed: str | None = None
    """A sentence that the source does not distinguish this network from others."""

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return {parameter.name: parameter.array for parameter in self.parameters}


@dataclass(frozen=True)
class _Judged:
    """A file's tensors, assigned to the nearest network."""

    placed: Placement
    skip: tuple[str, ...]
    problems: list[str]
    fitting: tuple[str, ...]
    """The networks that they fit equally well."""
    rivals: tuple[str, ...] = ()
    """Networks that they would fit as well, if this one were not presumed."""

    @property
    def presumed(self) -> str | None:
        """A sentence that the network cannot be told from its rivals, if there are any."""
        if not self.rivals:
            return None
        name = self.placed.candidate.spec.name
        return f"nothing in it distinguishes {name} from {' or '.join(self.rivals)}: it is taken for {name}"


def understand(
    source: Source,
    architecture: str | None = None,
    *,
    skip: Collection[str] = (),
    num_classes: int | None = None,
    reading: Reading | None = None,
) -> Network:
    """The network that a file's tensors are.

    Args:
        source: the result of a reader.
        architecture: its name in the catalogue; guessed from the file's content if None.
        skip: layers to leave at a seeded initialisation, even if the file has them; by canonical names or the file's.
        num_classes: the number of logits; the file's if None.
        reading: what the user says about the file.

    Raises:
        TriptychError: the file fits no network, or several, or has problems, all of which are told; or a layer to skip
            does not exist.
    """
    reading = reading or Reading()
    if architecture:
        get_spec(architecture)
    judged = {}
    for entry, tensors in entries(source, reading).items():
        renamed, spelled = edited(source, tensors, reading)
        judged[entry] = _nearest(source, renamed, spelled, architecture, skip, num_classes, reading)
    found = {entry: each for entry, each in judged.items() if each and not each.problems}
    if len(found) > 1:
        fitting = ", ".join(f"{entry!r} ({each.fitting[0]})" for entry, each in found.items())
        raise TriptychError(f"{source.path} has several networks: {fitting}; say which with {argument('entry')}")
    likely = list(found.values()) or [each for each in judged.values() if each]
    if not likely:
        raise TriptychError(_unknown(source, architecture))
    best = max(likely, key=lambda each: each.placed.likeness)
    if best.problems:
        raise TriptychError(_sentence(source, best, architecture))
    departures = _accepted_departures(source, best.placed, architecture, reading)
    if len(best.fitting) > 1:
        raise TriptychError(
            f"{source.path} fits {', '.join(best.fitting)}, which have the same parameters; "
            f"say which with {argument('architecture')}"
        )
    if len(judged) > 1:
        entry = next(entry for entry, each in judged.items() if each is best)
        source = replace(source, notes=(*source.notes, f"of its entries, {entry!r} is the one that fits"))
    return _network(source, best, departures, reading)


def _nearest(
    source: Source,
    tensors: Mapping[str, np.ndarray],
    spelled: Mapping[str, str],
    architecture: str | None,
    skip: Collection[str],
    num_classes: int | None,
    reading: Reading,
) -> _Judged | None:
    """The network that is most similar to the tensors, by structure; None if none is similar.

    Raises:
        TriptychError: they are several networks, each with its own prefix.
    """
    found = list(placements(tensors, source.conventions, architecture, num_classes, spelled, reading.prefix))
    most = max((placed.likeness for placed in found), default=0.0)
    if most < (1e-9 if architecture else LEAST_LIKENESS):
        return None

    def judge(placed: Placement) -> _Judged:
        ours = _in_our_names(placed, skip)
        return _Judged(placed, ours, problems_of(placed, ours, reading), (placed.candidate.spec.name,))

    # What the file says that it is, or its graph shows, it is, if nothing is against it.
    named = source.metadata.get("architecture")
    for placed in found:
        if placed.candidate.spec.name == named and not (said := judge(placed)).problems:
            return said
    judged = [judge(placed) for placed in found if placed.likeness >= most - 1e-9]
    whole = [each.placed for each in judged if not each.problems]
    beginnings = {
        other.prefix
        for placed in whole
        for other in found
        if other.candidate is placed.candidate and other.matched == placed.matched
    }
    if len(beginnings) > 1:
        shown = ", ".join(f"one whose names begin with {prefix!r}" for prefix in sorted(beginnings))
        raise TriptychError(f"{source.path} has several networks: {shown}; say which with {argument('prefix')}")
    if reading.prefix is None and whole and whole[0].doubled:
        wrapper, name = next(iter(whole[0].doubled.items()))
        raise TriptychError(
            f"{source.path} has {name!r} both with {wrapper!r} in its name and without; "
            f"{argument('ignore', [f'*{wrapper}*'])} takes those without"
        )
    fewest = min(len(each.problems) for each in judged)
    closest = [each for each in judged if len(each.problems) == fewest]
    told = [each for each in closest if each.placed.candidate.spec.name == named]
    names = tuple(dict.fromkeys(each.placed.candidate.spec.name for each in told or closest))
    for each in told or closest:
        if each.placed.candidate.spec.name in each.placed.candidate.convention.presumed and not each.problems:
            return replace(each, rivals=tuple(name for name in names if name not in each.fitting))
    return replace((told or closest)[0], fitting=names)


def _in_our_names(placed: Placement, skip: Collection[str]) -> tuple[str, ...]:
    """Canonical names of the layers to skip. The user may have named some as in the file."""
    separator = placed.candidate.convention.separator
    ours = {
        name.rpartition(separator)[0]: layer_of(expected.parameter)
        for name, expected in placed.candidate.expected.items()
    }
    layers = set(ours.values())
    return tuple(name if name in layers else ours.get(name, name) for name in skip)


def _sentence(source: Source, best: _Judged, architecture: str | None) -> str:
    """A sentence: why the file is not the nearest network."""
    spec, convention = best.placed.candidate.spec, best.placed.candidate.convention.name
    named = "it is named canonically" if convention == "canonical" else f"{convention} names it"
    more = f"; and {len(best.problems) - MOST_PROBLEMS} more" if len(best.problems) > MOST_PROBLEMS else ""
    told = one_line("; ".join(best.problems[:MOST_PROBLEMS]), 4000)
    help_ = remedy(best.placed, best.problems, best.skip)
    return f"{source.path} is not {spec.name} as {named}{f' ({help_})' if help_ else ''}: {told}{more}"


def _unknown(source: Source, architecture: str | None) -> str:
    what = f"of {architecture}" if architecture else "of a network in the catalogue"
    alike = shaped_like(source.tensors, [candidate_of("canonical", name, None) for name in CATALOGUE])
    ways = f"{argument('rename', ['OLD=NEW'])}, {argument('prefix', 'P')}"
    hint = f"; they have the shapes of {alike}'s, but other names ({ways})" if alike else ""
    names = [source.spelled.get(name, name) for name in source.tensors]
    return f"{source.path} ({source.format}) has no tensors {what}; {some_of(names)}{hint}"


def _accepted_departures(
    source: Source, placed: Placement, architecture: str | None, reading: Reading
) -> tuple[str, ...]:
    """How the file's network differs from the one whose weights it has, if the user accepts that.

    Raises:
        TriptychError: the user has not accepted it.
    """
    spec, convention = placed.candidate.spec, placed.candidate.convention
    departures = list(source.departures)
    shown = source.metadata.get("architecture", spec.name)
    if shown != spec.name and shown in CATALOGUE:
        other = get_spec(shown, num_classes=spec.num_classes)
        if other.parameter_shapes == spec.parameter_shapes:
            departures.append(f"it is {shown}, which has the same parameters")
    if spec.family in convention.departures:
        departures.append(convention.departures[spec.family])
    if departures and not (architecture and reading.force):
        options = f"{argument('architecture', spec.name)} {argument('force', True)}"
        raise TriptychError(
            f"{source.path} has weights that fit {spec.name}, but is another network "
            f"({options} takes them all the same): {'; '.join(departures)}"
        )
    return tuple(departures)


def _network(source: Source, best: _Judged, departures: tuple[str, ...], reading: Reading) -> Network:
    candidate, tensors = best.placed.candidate, best.placed.tensors
    convention, spec = candidate.convention, candidate.spec
    absent = absent_heads(candidate, tensors)
    initial: dict[str, np.ndarray] = {}
    parameters = {}
    for name, expected in candidate.expected.items():
        parameter, layer = expected.parameter, layer_of(expected.parameter)
        shape = spec.parameter_shapes[parameter]
        if layer in best.skip or layer in absent:
            initial = initial or initial_weights(spec, seed=0)
            parameters[parameter] = Ported(parameter, initial[parameter], None, shape, "initialised from seed 0")
        elif name not in tensors:
            parameters[parameter] = Ported(parameter, np.ones(shape, np.float32), None, shape, "1, as it has no scale")
        else:
            parameters[parameter] = _ported(source, best.placed, name, parameter)
    for each in spec.layers:
        if isinstance(each.operation, BatchNorm) and parameters[f"{each.name}/mean"].source is not None:
            parameters |= canonical_statistics(best.placed, each, parameters, source)
    recipe = preparation(source, convention.recipe(spec), spec, reading.preprocessing)
    return Network(
        source,
        convention.name,
        spec,
        tuple(parameters[name] for name in spec.parameter_shapes),
        recipe,
        tuple(_notes(source, best, absent, departures, recipe, parameters)),
        departures,
        best.presumed or source.metadata.get(PRESUMED),
    )


def _ported(source: Source, placed: Placement, name: str, parameter: str) -> Ported:
    """A tensor of the file in the canonical layout, converted to float32."""
    candidate, array = placed.candidate, placed.tensors[name]
    spelled = placed.spelled.get(name, name)
    change, canonical = layout_change(candidate.convention, candidate.spec, parameter, array.shape)
    change, error, dtype = source.changes.get(name, change), source.errors.get(name, 0.0), array.dtype.name
    shape = array.shape
    if dtype != "float32":
        narrow = array.astype(np.float32)
        error = max(error, rounding_error(narrow, array)) if dtype == "float64" else error
        change, array = f"{dtype} → float32" if change == "none" else f"{dtype} → float32, {change}", narrow
    return Ported(parameter, canonical(array), spelled, shape, change, error)


def _notes(
    source: Source,
    best: _Judged,
    absent: set[str],
    departures: tuple[str, ...],
    recipe: Preprocessing | None,
    parameters: Mapping[str, Ported],
) -> list[str]:
    notes = [*source.notes, *best.placed.notes]
    if best.presumed:
        notes.append(f"{best.presumed}, unless the architecture is named")
    elif PRESUMED in source.metadata:
        notes.append(f"of what its weights were ported from: {one_line(source.metadata[PRESUMED])}")
    notes += [f"taken by force, though {departure}" for departure in departures]
    if DEPARTURES in source.metadata:
        notes.append(f"its weights were ported by force, though {one_line(source.metadata[DEPARTURES])}")
    if remark := best.placed.candidate.convention.remarks.get(best.placed.candidate.spec.family):
        notes.append(remark)
    if best.placed.candidate.convention.turned:
        notes.append("its kernels are rotated by 180°, as for Theano: they are rotated back")
    if strangers := list(best.placed.strangers.values()):
        shown = ", ".join(strangers[:3]) + (" …" if len(strangers) > 3 else "")
        notes.append(f"left out, since they are not the network's: {shown} ({len(strangers)} tensors)")
    if absent:
        notes.append(f"the source has no auxiliary heads: {', '.join(sorted(absent))} are initialised from seed 0")
    if narrowed := [each for each in parameters.values() if "float64" in each.change]:
        worst = max(each.error for each in narrowed)
        cost = f"were rounded to float32, by at most {worst:.1e} of a value"
        exact = "are exact in float32"
        notes.append(f"{len(narrowed)} tensors of float64 {cost if worst else exact}")
    if recipe is None:
        notes.append(UNKNOWN)
    return [one_line(note) for note in notes]
