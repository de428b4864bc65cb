"""The part of a network's page that is made from the user's own weights and photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL.Image import Image

from common.errors import TriptychError
from common.explorer.inside.census import Census, censuses
from common.explorer.inside.filters import LOOKING, Filters, colours, filters_of, not_finite
from common.explorer.inside.layers import LayerView, Maps, draw_layers
from common.explorer.inside.pictures import (
    Album,
    Picture,
    as_given,
    encoded,
    original,
    saliency,
    strengths,
    ulp_map,
)
from common.explorer.inside.recording import FRAMEWORKS, Look, check_runnable, look, steps
from common.parity.results import Run, worst
from common.parity.verdicts import DIVERGED
from common.porting.classify import Guess, likeliest, own_labels, read_labels, understand_weights
from common.porting.matching import Network
from common.porting.reading import Reading
from common.specs.architecture import Layer, shape_text
from common.specs.photographs import read_photograph

MOST_FILES, MOST_PHOTOGRAPHS = 2, 4
"""The most files and photographs that are shown side by side."""


@dataclass(frozen=True)
class Subject:
    """The files of one network's weights, and the photographs, to look at."""

    networks: tuple[Network, ...]
    photographs: tuple[Path, ...] = ()
    pictures: tuple[Image, ...] = ()
    labels: tuple[str, ...] | None = None
    """The names of the classes."""

    @property
    def architecture(self) -> str:
        return self.networks[0].spec.name

    @property
    def steps(self) -> int:
        """How often `inside` reports progress."""
        return steps(self.networks) if self.pictures else 0


def read_subject(
    weights: Sequence[Path],
    photographs: Sequence[Path],
    architecture: str | None = None,
    reading: Reading = LOOKING,
    labels: Path | None = None,
) -> Subject:
    """Read the files and photographs to look at.

    Without a photograph, a file may hold NaN, which is shown.

    Raises:
        TriptychError: a file is not of the network, two files are of different networks, or a photograph cannot be
            read.
    """
    for many, most, what in ((weights, MOST_FILES, "files of weights"), (photographs, MOST_PHOTOGRAPHS, "photographs")):
        if len(many) > most:
            raise TriptychError(f"there are {len(many)} {what}; at most {most} can be compared")
    pictures = [read_photograph(path) for path in photographs]
    networks = [understand_weights(path, architecture, reading) for path in weights]
    if len({(network.spec.name, network.spec.num_classes) for network in networks}) > 1:
        told = " and ".join(f"{n.source.path} is {n.spec.name} with {n.spec.num_classes} classes" for n in networks)
        raise TriptychError(f"{told}; two files can be compared only if they are of the same network")
    if photographs:
        networks = [check_runnable(network) for network in networks]
    names = read_labels(labels, networks[0].spec) if labels else own_labels(networks[0])
    return Subject(tuple(networks), tuple(photographs), tuple(pictures), tuple(names) if names else None)


# What the page shows


@dataclass(frozen=True)
class FilterView:
    """A filter of the first convolution."""

    number: int
    pictures: Mapping[str, Picture]
    """By the order of the channels in which it is drawn."""
    told: str


@dataclass(frozen=True)
class FileView:
    """A file of weights."""

    name: str
    filters: Filters
    shown: tuple[FilterView, ...]
    strange: tuple[str, ...]
    """Where NaN is, in words."""
    censuses: tuple[Census, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PhotographView:
    """A photograph, with one file's weights."""

    title: str
    original: Picture
    given: Mapping[str, Picture]
    """By the order of the channels in which it is drawn."""
    least: float
    largest: float
    guesses: tuple[tuple[Guess, Mapping[str, float | None]], ...]
    """The likeliest classes by the first framework, and their probabilities in all frameworks."""
    saliency: Mapping[str, Picture]
    distance: Picture | None
    target: str
    """The class of which the gradient is."""


@dataclass(frozen=True)
class Inside:
    """All that is shown of a network, and the files of its pictures."""

    architecture: str
    files: tuple[FileView, ...]
    photographs: tuple[PhotographView, ...]
    layers: tuple[LayerView, ...]
    runs: tuple[tuple[str, str, str], ...]
    """For each file, direction and framework: the name, the verdict, and the verdict in words."""
    album: Album

    @property
    def told(self) -> str:
        """A summary in one line."""
        strange = sum(len(file.strange) for file in self.files)
        wrong = [layer.name for layer in self.layers if layer.problems]
        parts = [
            f"{len(self.files[0].shown)} filters of {self.files[0].filters.layer}",
            *([f"{strange} of its tensors or filters hold NaN or infinity"] if strange else []),
            *([f"{len(self.layers)} layers, photographs: {len(self.photographs)}"] if self.photographs else []),
            *([f"{wrong[0]} is the first layer that differs"] if wrong else []),
        ]
        return f"{', '.join(parts)}; {self.album.size / 1e6:.2f} MB of pictures"


def inside(subject: Subject, advance: Callable[[str], None] = lambda done: None) -> Inside:
    """Look inside.

    Raises:
        TriptychError: no framework is installed, or none can run the network.
    """
    album = Album()
    files = tuple(_file(album, network) for network in subject.networks)
    if not subject.pictures:
        return Inside(subject.architecture, files, (), (), (), album)
    looks = look(subject.networks, subject.pictures, advance)
    views = [*product(looks, range(len(subject.pictures)))]
    photographs = tuple(_photograph(album, subject, found, place) for found, place in views)
    spec = subject.networks[0].spec
    panels = draw_layers(
        album, [layer.name for layer in spec.layers], len(views), lambda name, view: _maps(views[view], name)
    )
    layers = tuple(
        LayerView(
            layer.name,
            layer.operation.kind,
            shape_text(spec.shapes[layer.name]),
            panels[layer.name],
            *_judged(layer, [found.forward for found in looks]),
        )
        for layer in spec.layers
    )
    runs = tuple(told for found in looks for told in _runs(found, len(looks) > 1))
    return Inside(subject.architecture, files, photographs, layers, runs, album)


def _file(album: Album, network: Network) -> FileView:
    filters = filters_of(network)
    strange, counted = _strange(network, filters), censuses(network.spec, network.weights)
    return file_view(album, network.source.path.name, filters, strange, counted, network.notes)


def file_view(
    album: Album,
    name: str,
    filters: Filters,
    strange: Sequence[str],
    counted: Sequence[Census],
    notes: Sequence[str] = (),
) -> FileView:
    """The facts about weights without a photograph. The filters' pictures are added to the album."""
    drawn = {order: colours(kernel) for order, kernel in _orders(filters).items()}
    shown = tuple(
        FilterView(
            number,
            {order: album.add_inline(pictures[number]) for order, pictures in drawn.items()},
            _extremes(kernel),
        )
        for number, kernel in enumerate(filters.kernel)
    )
    return FileView(name, filters, shown, tuple(strange), tuple(counted), tuple(notes))


def _strange(network: Network, filters: Filters) -> Sequence[str]:
    """Where weights are NaN or infinite: filter by filter in the first convolution, then by parameter."""
    first = f"{filters.layer}/weight"
    others = {
        name: np.argwhere(~np.isfinite(array))
        for name, array in network.weights.items()
        if name != first and not np.isfinite(array).all()
    }
    counted = (
        f"{name} holds {len(places):,} values that are NaN or infinite, the first at {places[0].tolist()}"
        for name, places in others.items()
    )
    return [*not_finite(filters), *counted]


def _orders(filters: Filters) -> dict[str, np.ndarray]:
    """The kernel with its channels in the file's order and in RGB, by the name of the order."""
    if filters.kernel.shape[1] != 3:
        return {filters.channels or "L": filters.kernel}
    if filters.channels is None:
        return {"as in the file": filters.kernel, "reversed": filters.kernel[:, ::-1]}
    return {filters.channels: filters.kernel, "RGB": filters.in_rgb}


def _extremes(kernel: np.ndarray) -> str:
    finite = kernel[np.isfinite(kernel)]
    return f"from {finite.min():.3g} to {finite.max():.3g}" if finite.size else "nothing finite"


def _maps(view: tuple[Look, int], layer: str) -> Maps:
    """The output of a layer in each framework, if it has the right shape."""
    found, place = view
    shape = found.network.spec.shapes[layer]
    recorded = {name: arrays[layer] for name, arrays in found.outputs.items() if layer in arrays}
    return {name: array[place] for name, array in recorded.items() if array.shape[1:] == shape}


def _judged(layer: Layer, runs: Sequence[Run]) -> tuple[str, float | None, tuple[str, ...]]:
    """The verdict on a layer over frameworks and files, its largest error ÷ bound, and the problems."""
    found = [(row.backend, verdict) for run in runs for row in run.backends for verdict in row.layers]
    own = [(backend, verdict) for backend, verdict in found if verdict.name == layer.name]
    ratios = [verdict.bound_ratio for _, verdict in own]
    problems = [
        f"{backend} differs: {verdict.cause or 'no known mistake explains it'}"
        for backend, verdict in own
        if verdict.verdict == DIVERGED
    ]
    ratio = None if None in ratios else max((ratio for ratio in ratios if ratio is not None), default=None)
    return worst([verdict.verdict for _, verdict in own]) if own else "", ratio, tuple(dict.fromkeys(problems))


def _photograph(album: Album, subject: Subject, found: Look, place: int) -> PhotographView:
    image, spec = found.images[place], found.network.spec
    channels = spec.preprocessing.channels
    orders = {channels: image} | ({"RGB": image[::-1]} if channels == "BGR" else {})
    logits = {
        name: arrays[spec.outputs["logits"]][place]
        for name, arrays in found.outputs.items()
        if spec.outputs["logits"] in arrays
    }
    gradients = {name: array[place] for name, array in found.saliency.items()}
    strength = {name: strengths(gradient) for name, gradient in gradients.items()}
    largest = max((float(np.nan_to_num(each).max()) for each in strength.values()), default=0.0)
    guesses = _guesses(logits, subject.labels)
    target = found.likeliest[place] if found.likeliest else 0
    return PhotographView(
        _title(subject, found, place),
        _kept(album, original(subject.pictures[place])),
        {order: _kept(album, as_given(planes)) for order, planes in orders.items()},
        float(image.min()),
        float(image.max()),
        guesses,
        {name: _kept(album, saliency(each, largest)) for name, each in strength.items()},
        _kept(album, ulp_map([*gradients.values()]), lossless=True) if len(gradients) > 1 else None,
        subject.labels[target] if subject.labels else f"class {target}",
    )


def _title(subject: Subject, found: Look, place: int) -> str:
    """The photograph, and the file of weights if there are two."""
    name = subject.photographs[place].name
    return f"{name}, {found.network.source.path.name}" if len(subject.networks) > 1 else name


def _kept(album: Album, pixels: np.ndarray, *, lossless: bool = False) -> Picture:
    return album.add(pixels, encoded(pixels, lossless=lossless))


def _guesses(
    logits: Mapping[str, np.ndarray], labels: Sequence[str] | None
) -> tuple[tuple[Guess, Mapping[str, float | None]], ...]:
    every = {name: {guess.number: guess for guess in likeliest(values, labels)} for name, values in logits.items()}
    if not every:
        return ()
    first = next(iter(every.values()))
    return tuple(
        (guess, {name: found[number].probability if number in found else None for name, found in every.items()})
        for number, guess in first.items()
    )


def _runs(found: Look, several: bool) -> Iterator[tuple[str, str, str]]:
    """The verdicts of each framework, forward and backward; also of one that crashed, which has no pictures."""
    for run, what in ((found.forward, "output"), (found.backward, "gradient")):
        for framework, names in FRAMEWORKS.items():
            for row in (row for row in run.backends if row.backend in names):
                name = f"{framework}, {found.network.source.path.name}" if several else framework
                within = f"every {what} of every layer lies within its bound, at most {row.bound_ratio or 0:.2g} of it"
                yield name, row.verdict, row.reason or within
