"""Porting mistakes, injected on purpose: an edit of one source file, and the implementation imported afresh with it.

Nothing on disk changes, and the real modules are back when the `with` block is left.
"""

from __future__ import annotations

import gc
import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from common import get_spec
from common.operations import Dense
from common.specs.architecture import Architecture

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """One mistake: in `file`, an occurrence of `old` becomes `new`."""

    package: str
    file: str
    """Path from the project's root: of the package's own, or of `common/layouts.py`, the door of two of them."""
    architecture: str
    mistake: str
    old: str
    new: str
    layer: str
    """The first that it changes; none in particular if it is a mistake in training."""
    cause: str | None
    """What the harness must say it is; None: it knows no such mistake, and must not name another."""
    occurrence: int | None = 0
    """Which occurrence of `old` is replaced, counted from 0; None: each."""
    seen_by: tuple[str, ...] = ("exact", "certified")
    """The probes that must catch it. Factors of few bits are the same in float16, say: no integers show that."""
    step: int | None = None
    """The first step of a training that it changes, if it is a mistake in one."""
    through_onnx: bool = False
    """Whether it is the export that is run, in which the mistake is."""

    def __str__(self) -> str:
        return f"{self.package}, {self.architecture}: {self.mistake}"

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")


def unchanged(package: str, architecture: str) -> Mutant:
    """No mistake: the implementation as it is, but for its narrow dense layers."""
    file = f"{package}/catalogue.py"
    return Mutant(package, file, architecture, "nothing", "import", "import", layer="", cause="")


IMAGE_SIZES = {"resnet": (32, 64), "densenet": (32, 64), "vgg": (36, 64), "googlenet_bn": (32, 64)}
"""Height and width by family or network, small and not square …"""

FULL_SIZE = tuple(f"vgg{depth}{kind}" for depth in (11, 13, 16, 19) for kind in ("", "_bn"))
"""… where a flatten does not fix them."""

WIDE, NARROW = 4096, 24
"""The units of AlexNet's and VGG's dense layers, and how many they have here: 60 million weights prove no more."""


@cache
def specification(architecture: str, image_size: tuple[int, int] | None = None) -> Architecture:
    """What a mutant has to break: the network with narrow dense layers, on a small image if none is given."""
    spec = get_spec(architecture, image_size=image_size)
    small = IMAGE_SIZES.get(architecture, IMAGE_SIZES.get(spec.family))
    if image_size is None and small and architecture not in FULL_SIZE:
        spec = get_spec(architecture, image_size=small)
    layers = [
        replace(layer, operation=Dense(NARROW)) if layer.operation == Dense(WIDE) else layer for layer in spec.layers
    ]
    return replace(spec, layers=tuple(layers))


@contextmanager
def imported_with(mutant: Mutant) -> Iterator[ModuleType]:
    """The `backend` module of the mutant's package, imported afresh with the edit."""
    finder = _Finder(mutant)
    importlib.import_module(f"{mutant.package}.backend")
    real = {name: module for name, module in sys.modules.items() if _is_fresh(name, mutant)}
    custom_objects = _keras_custom_objects(mutant.package)
    before = dict(custom_objects)
    # A package may have something else under the name of a module of its own, as `train` the function.
    attributes = {
        name: vars(sys.modules[name.rpartition(".")[0]]).get(name.rpartition(".")[2]) for name in real if "." in name
    }
    _forget(real)
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module(f"{mutant.package}.backend")
    finally:
        sys.meta_path.remove(finder)
        _forget([name for name in sys.modules if _is_fresh(name, mutant)])
        sys.modules.update(real)
        for name, value in attributes.items():
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, value)
        custom_objects.clear()
        custom_objects.update(before)


def _is_fresh(name: str, mutant: Mutant) -> bool:
    return name.partition(".")[0] == mutant.package or name == mutant.module


def _forget(names) -> None:
    for name in list(names):
        module = sys.modules.pop(name)
        parent, _, child = name.rpartition(".")
        if parent in sys.modules and getattr(sys.modules[parent], child, None) is module:
            delattr(sys.modules[parent], child)


def _keras_custom_objects(package: str) -> dict:
    """Where Keras keeps the layers that register themselves when they are imported."""
    if package != "keras_impl":
        return {}
    import keras

    return keras.saving.get_custom_objects()


@dataclass(frozen=True)
class _Finder:
    """Finds the modules of the mutant's package, and the one that it edits."""

    mutant: Mutant

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        file = ROOT / f"{fullname.replace('.', '/')}.py"
        if not _is_fresh(fullname, self.mutant) or not file.is_file():
            return None
        loader = _Loader(fullname, str(file))
        loader.mutant = self.mutant
        return spec_from_file_location(fullname, file, loader=loader)


class _Loader(SourceFileLoader):
    """Loads a file of the implementation: edited if it is the mutant's, and with narrow dense layers."""

    mutant: Mutant

    def get_source(self, fullname: str) -> str:
        """Also what AutoGraph reads, which compiles some functions of TensorFlow 1 anew."""
        source = Path(self.path).read_text()
        if fullname == self.mutant.module:
            source = edited(source, self.mutant)
        return re.sub(rf"\b{WIDE}\b", str(NARROW), source)

    def get_code(self, fullname: str) -> CodeType:
        # A name of its own, by which AutoGraph keeps the source.
        about = self.mutant if fullname == self.mutant.module else "all mutants"
        return _compiled(self.get_source(fullname), f"{self.path} of {about}")


@cache
def _compiled(source: str, name: str) -> CodeType:
    return compile(source, name, "exec")


def edited(source: str, mutant: Mutant) -> str:
    """The file's source with the mistake in it.

    Raises:
        ValueError: the text that the mistake replaces is not there.
    """
    parts = source.split(mutant.old)
    wanted = range(len(parts) - 1) if mutant.occurrence is None else [mutant.occurrence]
    if len(parts) <= max(wanted, default=0) + 1:
        raise ValueError(f"{mutant}: {mutant.old!r} does not occur often enough in {mutant.file}")
    pieces = [part + (mutant.new if place in wanted else mutant.old) for place, part in enumerate(parts[:-1])]
    return "".join([*pieces, parts[-1]])


def release(package: str) -> None:
    """Give memory back: Keras keeps every model it has built, until it is told to forget them.

    No model is left, so that what there is need not be looked at again, which would take a fifth of a second.
    """
    if package == "keras_impl":
        importlib.import_module("keras").backend.clear_session(free_memory=False)
    gc.collect()
    gc.freeze()
