"""The reverse of test_mutants.py: a correct backend is never accused, whatever the network, seed, batch and image.

There is a fixed random sequence of combinations. The suite runs the cheapest of each family in one implementation,
`-m slow` all.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pytest
from conftest import DEEPER, IMPLEMENTATIONS, built, load_implementation

from common import TriptychError, get_spec, list_architectures
from common.parity.judge import judge, judge_structure
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL, overall
from common.probes import Probe, exact_probe, random_probe
from common.specs.architecture import Architecture
from parity_tests.injection import release

ALL = 240
"""How many combinations there are: a round over `FAMILIES`, again and again."""

FAMILIES = (*("lenet", "resnet", "vgg", "densenet") * 2, "lenet", "resnet", "alexnet", "googlenet")
"""What costs less comes up more often."""

MOST_PARAMETERS = 70_000_000
"""VGG with its dense layers is left to the other tests: its convolutions are those of the variant without them."""


@dataclass(frozen=True)
class Combination:
    """One implementation of one network, and what it is given."""

    package: str
    architecture: str
    image_size: tuple[int, int]
    batch: int
    seed: int
    magnitude: float
    """What the random image is multiplied by."""

    def __str__(self) -> str:
        height, width = self.image_size
        return f"{self.package}-{self.architecture}-{self.batch}×{height}×{width}-seed{self.seed}-{self.magnitude:g}"

    @cached_property
    def spec(self) -> Architecture:
        return get_spec(self.architecture, image_size=self.image_size)

    @property
    def cost(self) -> float:
        """In multiply-adds, those that fetching and storing a parameter is worth included."""
        return self.batch * self.spec.multiply_adds + 20 * self.spec.parameter_count


@cache
def combination(number: int) -> Combination:
    """The combination of that number: always the same one."""
    generator = np.random.default_rng(number)
    family = FAMILIES[number % len(FAMILIES)]
    package = IMPLEMENTATIONS[number // len(FAMILIES) % len(IMPLEMENTATIONS)]
    architecture = generator.choice(_networks(family, deeper=package == "torch_impl"))
    return Combination(
        package,
        str(architecture),
        next(_fitting_sizes(architecture, generator)),
        batch=int(generator.integers(1, 2 if family in ("alexnet", "googlenet") else 4)),
        seed=int(generator.integers(2**31)),
        magnitude=10.0 ** generator.integers(-3, 4),
    )


@cache
def _networks(family: str, *, deeper: bool) -> list[str]:
    """The deeper ones in PyTorch alone: in the others, building them takes longer than all the rest."""
    specs = [get_spec(name) for name in list_architectures() if deeper or name not in DEEPER]
    return [spec.name for spec in specs if spec.family == family and spec.parameter_count < MOST_PARAMETERS]


def _fitting_sizes(architecture: str, generator: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Random heights and widths that the network takes: around the paper's where a flatten fixes them, else small."""
    paper = get_spec(architecture).input_shape[1]
    least, most = (32, 72) if _takes(architecture, (40, 56)) else (paper - 2, paper + 24)
    while True:
        height, width = (int(length) for length in generator.integers(least, most, 2))
        if _takes(architecture, (height, width)):
            yield height, width


def _takes(architecture: str, image_size: tuple[int, int]) -> bool:
    try:
        return bool(get_spec(architecture, image_size=image_size))
    except TriptychError:
        return False


def accusations(combination: Combination) -> list[str]:
    """What the harness holds against a correct implementation: nothing, it is hoped."""
    load_implementation(combination.package)
    backend = importlib.import_module(f"{combination.package}.backend")
    spec = combination.spec
    model = built(combination.package, combination.architecture, image_size=combination.image_size)
    verdicts = judge_structure(spec, *backend.structure(model))
    for make, proved in ((exact_probe, IDENTICAL), (random_probe, CERTIFIED)):
        probe: Probe = make(spec, seed=combination.seed, batch=combination.batch)
        if proved == CERTIFIED:
            probe.image[...] *= np.float32(combination.magnitude)
        backend.load_weights(model, probe.weights)
        found = judge(spec, probe, backend.record(model, probe.image, probe.injected))
        assert overall(found, probe) in (proved, DIVERGED)
        verdicts += found
    del model
    release(combination.package)
    return [f"{verdict.name}: {verdict}" for verdict in verdicts if verdict.verdict == DIVERGED]


def each_family() -> Iterator[pytest.param]:
    """In each implementation; every day in one of them, the larger ones in PyTorch."""
    daily = {"lenet": "tf1_style_impl", "resnet": "keras_impl"}
    for family in sorted(set(FAMILIES)):
        for package in IMPLEMENTATIONS:
            marks = [] if package == daily.get(family, "torch_impl") else pytest.mark.slow
            yield pytest.param(family, package, id=f"{family}-{package}", marks=marks)


@pytest.mark.parametrize(("family", "package"), list(each_family()))
def test_a_correct_backend_is_not_accused(family, package):
    combinations = [combination(number) for number in range(ALL) if FAMILIES[number % len(FAMILIES)] == family]
    cheapest = min((c for c in combinations if c.package == package), key=lambda combination: combination.cost)
    assert accusations(cheapest) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ALL))
def test_no_correct_backend_is_accused(number):
    assert accusations(combination(number)) == []


def test_the_combinations_are_many_and_various():
    combinations = [combination(number) for number in range(ALL)]
    assert len(set(combinations)) == ALL
    assert {combination.spec.family for combination in combinations} == set(FAMILIES)
    assert {combination.package for combination in combinations} == set(IMPLEMENTATIONS)
    assert sum(len(set(combination.image_size)) == 2 for combination in combinations) > ALL / 2
