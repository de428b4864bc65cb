"""Which network a file's tensors are, and its weights in the canonical layout.

Every candidate is a convention and an architecture, which say what names and shapes to expect; the one that the file
fulfils is it. Where none is fulfilled, the nearest is taken to say what is missing, unexpected or misshapen, all at
once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np

from common import layouts
from common.errors import TriptychError
from common.names import layer_of
from common.porting.conventions import CONVENTIONS, Convention
from common.porting.source import Source, one_line
from common.specs import get_spec, nearest
from common.specs.architecture import (
    Architecture,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    Layer,
    Preprocessing,
    Shape,
)
from common.weights import initial_weights

TILE = (1024, 64)
"""Rows and columns: 256 KiB of float32."""

MOST_PROBLEMS = 20
"""How many are told; the others are counted."""


@dataclass(frozen=True)
class Ported:
    """One parameter of the network, and where it comes from."""

    name: str
    """Canonical."""
    array: np.ndarray
    """float32, in the canonical layout; perhaps a view of the source."""
    source: str | None
    """How the source spells it; None if it is a seeded initialisation."""
    source_shape: Shape
    change: str
    """Of layout, or, where there is no other way, of values."""
    error: float = 0.0
    """The largest rounding error that the change cost, relative to the exact value; 0 if it is bit for bit."""


@dataclass(frozen=True)
class Network:
    """A source, understood."""

    source: Source
    convention: str
    spec: Architecture
    parameters: tuple[Ported, ...]
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return {parameter.name: parameter.array for parameter in self.parameters}


@dataclass(frozen=True)
class _Expected:
    """A tensor that a convention expects for an architecture."""

    parameter: str
    shape: Shape
    """In the source's layout."""


@dataclass(frozen=True)
class _Candidate:
    convention: Convention
    spec: Architecture
    expected: Mapping[str, _Expected]
    """By the source's spelling."""
    optional: Collection[str]
    """Biases of convolutions that have none here: they go into the normalisation behind."""

    def matched(self, shapes: Mapping[str, Shape]) -> int:
        """How many tensors are as expected."""
        return sum(shapes.get(name) == expected.shape for name, expected in self.expected.items())

    def classes(self, shapes: Mapping[str, Shape]) -> int | None:
        """The number of logits in the file."""
        bias = f"{self.spec.outputs['logits']}/bias"
        (head,) = (name for name, expected in self.expected.items() if expected.parameter == bias)
        shape = shapes.get(head, ())
        return shape[0] or None if len(shape) == 1 else None


def understand(
    source: Source, architecture: str | None = None, *, skip: Collection[str] = (), num_classes: int | None = None
) -> Network:
    """The network that a file's tensors are.

    Args:
        source: what a reader gave.
        architecture: its name in the catalogue; guessed from the file's content if None.
        skip: layers to leave at a seeded initialisation, whatever the file has for them.
        num_classes: the number of logits; the file's if None.

    Raises:
        TriptychError: the file fits no network, or several, or has problems, all of which are told; or a layer to skip
            does not exist.
    """
    tensors = dict(source.tensors)
    candidates = _candidates(source, architecture, tensors, num_classes)
    shapes = {name: array.shape for name, array in tensors.items()}
    best = max((candidate.matched(shapes) for candidate in candidates), default=0)
    if not best:
        raise TriptychError(_unknown(source, architecture))
    judged = [
        (_problems(candidate, tensors, skip), candidate)
        for candidate in candidates
        if candidate.matched(shapes) == best
    ]
    fewest = min(len(problems) for problems, _ in judged)
    nearest_ones = [(problems, each) for problems, each in judged if len(problems) == fewest]
    said = [pair for pair in nearest_ones if pair[1].spec.name == source.metadata.get("architecture")]
    problems, chosen = (said or nearest_ones)[0]
    names = list(dict.fromkeys(each.spec.name for _, each in said or nearest_ones))
    if not problems and len(names) > 1:
        raise TriptychError(
            f"{source.path} fits {', '.join(names)}, which have the same parameters; say which with --arch"
        )
    if problems:
        more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        told = one_line("; ".join(problems[:MOST_PROBLEMS]), 4000)
        raise TriptychError(f"{source.path} is not {chosen.spec.name} as {_described(chosen)}: {told}{more}")
    return _network(source, chosen, tensors, skip)


def _described(candidate: _Candidate) -> str:
    name = candidate.convention.name
    return f"{name} names it" if name not in ("canonical",) else "it is named canonically"


def _unknown(source: Source, architecture: str | None) -> str:
    names = list(source.tensors)[:3]
    what = f"of {architecture}" if architecture else "of a network in the catalogue"
    return (
        f"{source.path} ({source.format}) has no tensor {what}; its tensors are named {', '.join(map(repr, names))} …"
    )


def _candidates(
    source: Source, architecture: str | None, tensors: dict[str, np.ndarray], num_classes: int | None
) -> list[_Candidate]:
    if architecture:
        get_spec(architecture)
    candidates = []
    for convention in (CONVENTIONS[name] for name in source.conventions):
        for name in list(tensors):
            if (current := convention.normalised(name)) != name:
                tensors[current] = tensors.pop(name)
        for name in [architecture] if architecture else convention.architectures:
            spec = get_spec(name)
            candidate = _candidate(convention, spec)
            classes = num_classes or candidate.classes({name: array.shape for name, array in tensors.items()})
            if classes and classes != spec.num_classes:
                candidate = _candidate(convention, get_spec(name, num_classes=classes))
            candidates.append(candidate)
    return candidates


def _candidate(convention: Convention, spec: Architecture) -> _Candidate:
    names = convention.names(spec)
    expected = {
        name: _Expected(parameter, _source_shape(convention, spec, parameter)) for parameter, name in names.items()
    }
    optional = {
        names[f"{layer.name}/weight"].removesuffix("weight") + "bias"
        for layer in spec.layers
        if isinstance(layer.operation, Conv) and not layer.operation.bias
    }
    return _Candidate(convention, spec, expected, optional)


def layout_change(
    convention: Convention, spec: Architecture, parameter: str
) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """What turns a tensor into the canonical layout, in words and as a function that makes a view where it can."""
    if not convention.channels_last:
        return "none", np.asarray
    shape = spec.parameter_shapes[parameter]
    if len(shape) == 4:
        return "H,W,in,out → out,in,H,W", layouts.conv_from_hwio
    if len(shape) == 3:
        return "1,1,C → C,1,1", layouts.per_channel_from_hwc
    if len(shape) == 2:
        flattened = _flattened(spec, layer_of(parameter))
        change = "in,out → out,in" if flattened is None else "(H,W,C),out → out,(C,H,W)"
        return change, partial(_dense_from_io, flattened=flattened)
    return "none", np.asarray


def _dense_from_io(kernel: np.ndarray, flattened: tuple[int, int, int] | None) -> np.ndarray:
    """`layouts.dense_from_io`, copied tile by tile, on all cores: a tile fits into the cache.

    Tensors of a pickle begin anywhere in it. Each tile is copied to where float32 may lie before it is turned, since
    NumPy strides over misaligned numbers three times as slowly.
    """
    if flattened is None and kernel.flags.f_contiguous:
        return kernel.T
    inputs, units = kernel.shape
    places = prod(flattened[:2]) if flattened else 1
    canonical = np.empty((units, inputs // places, places), np.float32)
    stored = kernel.reshape(places, inputs // places, units)
    channels = max(1, TILE[0] // places)

    def turn(start: int) -> None:
        columns = slice(start, start + TILE[1])
        for first in range(0, inputs // places, channels):
            rows = slice(first, first + channels)
            canonical[columns, rows] = np.ascontiguousarray(stored[:, rows, columns]).transpose(2, 1, 0)

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        list(executor.map(turn, range(0, units, TILE[1])))
    return canonical.reshape(units, inputs)


def _flattened(spec: Architecture, name: str) -> tuple[int, int, int] | None:
    """The (H, W, C) of the map that is flattened into a dense layer, if one is and it has more than one place."""
    layers = {layer.name: layer for layer in spec.layers}
    before = layers[layers[name].inputs[0]]
    while isinstance(before.operation, Dropout):
        before = layers[before.inputs[0]]
    if not isinstance(before.operation, Flatten):
        return None
    channels, height, width = spec.shapes[before.inputs[0]]
    return (height, width, channels) if height * width > 1 else None


def _source_shape(convention: Convention, spec: Architecture, parameter: str) -> Shape:
    """The shape in the source, found by trying the change of layout on an array that takes no memory."""
    shape = spec.parameter_shapes[parameter]
    if not convention.channels_last:
        return shape
    if len(shape) == 4:
        return shape[2], shape[3], shape[1], shape[0]
    if len(shape) == 3:
        return shape[1], shape[2], shape[0]
    return shape[::-1]


def _problems(candidate: _Candidate, tensors: Mapping[str, np.ndarray], skip: Collection[str]) -> list[str]:
    """Everything that keeps the tensors from being this network."""
    convention, spec = candidate.convention, candidate.spec
    layers = {layer_of(parameter) for parameter in spec.parameter_shapes}
    problems = [
        f"--skip names {name}, which has no weights; {nearest(name, layers)}" for name in skip if name not in layers
    ]
    absent = _absent_heads(candidate, tensors)
    extra = r"(?!)" if convention.name != "caffe" else r".*/scale_factor"
    for name, expected in candidate.expected.items():
        layer = layer_of(expected.parameter)
        if layer in skip or layer in absent:
            continue
        if name not in tensors:
            problems.append(f"{name} is missing, expected {_shape(expected.shape)}")
        elif found := _unfit(tensors[name], expected, spec, convention):
            problems.append(f"{name} {found}")
    for name in candidate.optional:
        if name in tensors and (found := _not_finite(tensors[name])):
            problems.append(f"{name} {found}")
    unexpected = [
        name
        for name in tensors
        if name not in candidate.expected
        and name not in candidate.optional
        and not re.fullmatch(convention.ignored, name)
        and not re.fullmatch(extra, name)
    ]
    return problems + [f"{name} is unexpected; {nearest(name, candidate.expected)}" for name in unexpected]


def _absent_heads(candidate: _Candidate, tensors: Mapping[str, np.ndarray]) -> set[str]:
    """The layers of the auxiliary heads, if the file has none of them: they are for training only."""
    heads = {layer.partition("/")[0] for name, layer in candidate.spec.outputs.items() if name != "logits"}
    names = {
        name: layer_of(expected.parameter)
        for name, expected in candidate.expected.items()
        if expected.parameter.partition("/")[0] in heads
    }
    return set(names.values()) if names.keys().isdisjoint(tensors) else set()


def _unfit(array: np.ndarray, expected: _Expected, spec: Architecture, convention: Convention) -> str | None:
    if array.dtype != np.float32:
        return f"has dtype {array.dtype}, expected float32"
    if array.shape == expected.shape:
        return _not_finite(array)
    message = f"has shape {_shape(array.shape)}, expected {_shape(expected.shape)}"
    if len(array.shape) == len(expected.shape) > 1 and sorted(array.shape) == sorted(expected.shape):
        return f"{message}: it looks transposed"
    axis = 2 if convention.channels_last else 1
    (operation,) = (layer.operation for layer in spec.layers if layer.name == layer_of(expected.parameter))
    if len(array.shape) == 4 and isinstance(operation, Conv):
        pairs = zip(array.shape, expected.shape, strict=True)
        if [i for i, (found, wanted) in enumerate(pairs) if found != wanted] == [axis]:
            reads = f"each filter reads {array.shape[axis]} channels, not {expected.shape[axis]}"
            return f"{message}: {reads}, as with {_groups(operation.groups)}"
    return message


def _groups(count: int) -> str:
    return "one group" if count == 1 else f"{count} groups"


def _not_finite(array: np.ndarray) -> str | None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):  # quicker than to look at each; a sum that overflows proves nothing
            return None
    finite = np.isfinite(array)
    if finite.all():
        return None
    return f"holds {finite.size - np.count_nonzero(finite):,} values that are NaN or infinite"


def _shape(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape))


def _network(
    source: Source, candidate: _Candidate, tensors: Mapping[str, np.ndarray], skip: Collection[str]
) -> Network:
    convention, spec = candidate.convention, candidate.spec
    absent = _absent_heads(candidate, tensors)
    initial = None
    parameters = {}
    for name, expected in candidate.expected.items():
        parameter, layer = expected.parameter, layer_of(expected.parameter)
        if layer in skip or layer in absent:
            initial = initial or initial_weights(spec, seed=0)
            shape = spec.parameter_shapes[parameter]
            parameters[parameter] = Ported(parameter, initial[parameter], None, shape, "initialised from seed 0")
        else:
            change, canonical = layout_change(convention, spec, parameter)
            spelled = source.spelled.get(name, name)
            change = source.changes.get(name, change)
            array, error = tensors[name], source.errors.get(name, 0.0)
            parameters[parameter] = Ported(parameter, canonical(array), spelled, array.shape, change, error)
    notes = list(source.notes)
    for each in spec.layers:
        if isinstance(each.operation, BatchNorm) and parameters[f"{each.name}/mean"].source is not None:
            parameters |= _batch_norm(candidate, each, parameters, tensors, source)
    if absent:
        notes.append(f"the source has no auxiliary heads: {', '.join(sorted(absent))} are initialised from seed 0")
    recipe = source.metadata.get("preprocessing")
    preprocessing = Preprocessing.from_json(recipe) if recipe else convention.recipe(spec)
    return Network(
        source,
        convention.name,
        spec,
        tuple(parameters[name] for name in spec.parameter_shapes),
        preprocessing,
        tuple(notes),
    )


def _batch_norm(
    candidate: _Candidate,
    layer: Layer,
    parameters: Mapping[str, Ported],
    tensors: Mapping[str, np.ndarray],
    source: Source,
) -> dict[str, Ported]:
    """The statistics of a normalisation as they have to be here.

    A bias that the convolution before it has there and not here goes into the mean: gamma · (x + b − mean) …. Another
    eps goes into the variance: √(variance + eps). Caffe stores both times a factor. The arithmetic is done in float64
    and rounded once; what that costs is kept with the parameter.
    """
    names = candidate.convention.names(candidate.spec)
    mean, variance = (parameters[f"{layer.name}/{kind}"] for kind in ("mean", "variance"))
    bias_name = f"{names.get(f'{layer.inputs[0]}/weight', '').removesuffix('weight')}bias"
    bias = tensors[bias_name].astype(np.float64) if bias_name in candidate.optional and bias_name in tensors else None
    factor = tensors.get(f"{layer_of(names[f'{layer.name}/mean'])}/scale_factor")
    scale = 1.0 if factor is None else float(factor[0])
    eps = source.batch_norm_eps or candidate.convention.batch_norm_eps
    here = layer.operation.eps  # type: ignore[attr-defined]
    # Files store eps as float32, and some writers are one unit in the last place off.
    surplus = 0.0 if eps is None or abs(eps / here - 1) < 2**-22 else eps - here
    changed = {}
    means, steps = mean.array.astype(np.float64) / (scale or 1.0), []
    if scale != 1.0:
        steps.append(f"÷ {scale:g} (Caffe's scale factor)")
    if bias is not None and bias.any():
        means -= bias
        steps.append(f"− {source.spelled.get(bias_name, bias_name)} (the convolution's bias)")
    changed[mean.name] = _rounded(mean, means, steps)
    steps = steps[:1] if scale != 1.0 else []
    if surplus:
        steps.append(f"+ {surplus:.3g} (eps is {eps:g} there)")
    changed[variance.name] = _rounded(variance, variance.array / np.float64(scale or 1.0) + surplus, steps)
    return changed


def _rounded(parameter: Ported, exact: np.ndarray, steps: list[str]) -> Ported:
    if not steps:
        return parameter
    array = exact.astype(np.float32)
    return replace(parameter, array=array, change=" ".join(steps), error=rounding_error(array, exact))


def rounding_error(array: np.ndarray, exact: np.ndarray) -> float:
    """The largest error of any element, relative to its exact value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.where(exact == array, 0.0, np.abs((array - exact) / exact))
    return float(errors.max(initial=0.0))
