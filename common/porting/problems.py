"""All reasons why a file's tensors are not a network, and the options that would help."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import numpy as np

from common.errors import argument, nearest
from common.operations import Conv, Shape
from common.operations.names import layer_of
from common.porting.candidates import Candidate, Expected, Placement, absent_heads
from common.porting.reading import Reading

FLOATS = ("float32", "float16", "float64")


def problems_of(placed: Placement, skip: Collection[str], reading: Reading) -> list[str]:
    """All reasons why the tensors are not this network, in one phrase each.

    Args:
        placed: the candidate and the tensors.
        skip: layers, by canonical name, that are not checked.
        reading: says whether float64 may be rounded, and whether all numbers must be finite.
    """
    candidate, tensors = placed.candidate, placed.tensors
    layers = {layer_of(parameter) for parameter in candidate.spec.parameter_shapes}
    problems = [
        f"{name}, which is to be skipped, has no weights; {nearest(name, layers)}"
        for name in skip
        if name not in layers
    ]
    absent = absent_heads(candidate, tensors)
    ones = set(candidate.ones) if candidate.ones and set(candidate.ones).isdisjoint(tensors) else set()
    for name, expected in candidate.expected.items():
        layer = layer_of(expected.parameter)
        if layer in skip or layer in absent or name in ones:
            continue
        spelled = placed.spelled.get(name, name)
        if name not in tensors:
            problems.append(f"{spelled} is missing, expected {shape_text(expected.shapes[0])}")
        elif found := _unfit(tensors[name], expected, candidate, reading):
            problems.append(f"{spelled} {found}")
    for name in candidate.optional:
        if name in tensors and (found := _not_finite(tensors[name], reading)):
            problems.append(f"{placed.spelled.get(name, name)} {found}")
    return problems + [
        f"{placed.spelled.get(name, name)} is unexpected; {nearest(name, candidate.expected)}"
        for name in unexpected(placed, skip)
    ]


def unexpected(placed: Placement, skip: Collection[str]) -> list[str]:
    """The tensors that the network has no place for, without those of a skipped layer."""
    candidate, separator = placed.candidate, placed.candidate.convention.separator
    extra = r"(?!)" if candidate.convention.name != "caffe" else r".*/scale_factor"
    skipped = {
        name.rpartition(separator)[0]
        for name, expected in candidate.expected.items()
        if layer_of(expected.parameter) in skip
    }
    known = {name.partition(separator)[0] for name in candidate.expected}
    head_goes = candidate.spec.outputs["logits"] in skip
    return [
        name
        for name in placed.tensors
        if name not in candidate.expected
        and name not in candidate.optional
        and not re.fullmatch(candidate.convention.ignored, name)
        and not re.fullmatch(extra, name)
        and not any(name.startswith(f"{layer}{separator}") for layer in skipped)
        and not (head_goes and name.partition(separator)[0] not in known)
    ]


def remedy(placed: Placement, problems: list[str], skip: Collection[str]) -> str:
    """The options with which the file could be read, in its own names and in canonical ones."""
    candidate = placed.candidate
    unfit: dict[str, str] = {}
    for name, expected in candidate.expected.items():
        spelled = placed.spelled.get(name, name)
        if any(problem.startswith((f"{spelled} is missing", f"{spelled} has shape")) for problem in problems):
            layer = layer_of(expected.parameter)
            unfit[layer] = f"{layer}" if layer in spelled else f"{layer} (here {_parent(spelled, candidate)})"
    strange = unexpected(placed, skip)
    if any("float64" in problem for problem in problems):
        return f"{argument('round', True)} rounds float64 to float32"
    if renames := _renames(placed, strange):
        return f"{renames} would take them for it, by their shapes"
    if 0 < len(unfit) <= 3:
        return f"{argument('skip', [*unfit])} would leave {', '.join(unfit.values())} at a seeded initialisation"
    if strange and not unfit and len(strange) <= 20:
        pattern = _pattern([placed.spelled.get(name, name) for name in strange])
        return f"{argument('ignore', [pattern])} would leave out the rest"
    return ""


def _renames(placed: Placement, strange: list[str]) -> str:
    """The options that rename tensors to missing layers, if each missing layer has exactly one tensor of its shape."""
    candidate, separator = placed.candidate, placed.candidate.convention.separator
    missing: dict[str, dict[str, Shape]] = {}
    for name, expected in candidate.expected.items():
        if name not in placed.tensors:
            layer, _, kind = name.rpartition(separator)
            missing.setdefault(layer, {})[kind] = expected.shapes[0]
    found: dict[str, dict[str, Shape]] = {}
    for name in strange:
        layer, _, kind = name.rpartition(separator)
        found.setdefault(layer, {})[kind] = placed.tensors[name].shape
    pairs = [(theirs, ours) for ours, shapes in missing.items() for theirs in found if found[theirs] == shapes]
    if not 0 < len(missing) == len(pairs) == len(set(dict(pairs).values())) <= 3:
        return ""
    options = []
    for theirs, ours in pairs:
        full = placed.spelled[next(name for name in strange if name.rpartition(separator)[0] == theirs)]
        prefix = full.partition(f"{theirs}{separator}")[0]  # what stands in front of all names stays there
        options.append(f"{prefix}{theirs}={prefix}{ours}")
    return argument("rename", options)


def _parent(name: str, candidate: Candidate) -> str:
    return name.rpartition(candidate.convention.separator)[0]


def _pattern(names: list[str]) -> str:
    """A shell-style pattern of names."""
    beginning = names[0]
    while not all(name.startswith(beginning) for name in names):
        beginning = beginning[:-1]
    return beginning if len(names) == 1 else f"{beginning}*"


def _unfit(array: np.ndarray, expected: Expected, candidate: Candidate, reading: Reading) -> str | None:
    if array.dtype.name not in FLOATS:
        return f"has dtype {array.dtype}, expected float32"
    if array.dtype == np.float64 and not reading.round:
        return "has dtype float64, expected float32"
    if array.dtype == np.float64 and reading.finite and np.abs(array).max(initial=0) > np.finfo(np.float32).max:
        return f"holds {np.abs(array).max():g}, beyond the range of float32"
    if array.shape in expected.shapes:
        return _not_finite(array, reading)
    wanted = expected.shapes[0]
    message = f"has shape {shape_text(array.shape)}, expected {shape_text(wanted)}"
    if len(array.shape) == len(wanted) > 1 and sorted(array.shape) == sorted(wanted):
        return f"{message}: it looks transposed"
    axis = 2 if candidate.convention.channels_last else 1
    (operation,) = (layer.operation for layer in candidate.spec.layers if layer.name == layer_of(expected.parameter))
    if len(array.shape) == 4 and isinstance(operation, Conv):
        pairs = zip(array.shape, wanted, strict=True)
        if [i for i, (found, want) in enumerate(pairs) if found != want] == [axis]:
            reads = f"each filter reads {array.shape[axis]} channels, not {wanted[axis]}"
            groups = "one group" if operation.groups == 1 else f"{operation.groups} groups"
            return f"{message}: {reads}, as with {groups}"
    return message


def shape_text(shape: Shape) -> str:
    """`64×3×7×7`."""
    return "×".join(map(str, shape)) or "a number"


def _not_finite(array: np.ndarray, reading: Reading) -> str | None:
    if not reading.finite:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):  # quicker than to look at each; a sum that overflows proves nothing
            return None
    finite = np.isfinite(array)
    if finite.all():
        return None
    return f"holds {finite.size - np.count_nonzero(finite):,} values that are NaN or infinite"


def shaped_like(tensors: Mapping[str, np.ndarray], candidates: Collection[Candidate]) -> str | None:
    """The network whose weights have the shapes of the file's, or of most of them, whatever their names are."""

    def kernels(shapes: Collection[Shape]) -> list[Shape]:
        return sorted(tuple(sorted(shape)) for shape in shapes if len(shape) > 1)

    found = kernels([array.shape for array in tensors.values()])
    best, share = None, 0.5
    for candidate in candidates:
        left, common = list(found), 0
        wanted = kernels([expected.shapes[0] for expected in candidate.expected.values()])
        for shape in wanted:
            if shape in left:
                left.remove(shape)
                common += 1
        if common / max(len(wanted), len(found), 1) > share:
            best, share = candidate.spec.name, common / max(len(wanted), len(found))
    return best
