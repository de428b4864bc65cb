"""The proof of the prover: every porting mistake is caught by both kinds of probe, where it was made, by its name."""

import importlib
import sys
from collections import Counter

import pytest
from conftest import IMPLEMENTATIONS, load_implementation

from common import get_spec, list_architectures
from parity_tests.injection import ROOT, unchanged
from parity_tests.mutants import MUTANTS, PROBES, daily, kind, outcomes, representatives, stated, without_numbers


def with_marks():
    """One of each kind is made every day, if that is quick; the others are slow. Those of a network have the same
    probes."""
    quick = daily()
    by_network = sorted(MUTANTS, key=lambda mutant: mutant.architecture)
    return [pytest.param(it, marks=[] if it in quick else pytest.mark.slow, id=str(it)) for it in by_network]


@pytest.mark.parametrize("mutant", with_marks())
def test_the_mistake_is_caught_where_it_was_made(mutant):
    load_implementation(mutant.package)
    found = outcomes(mutant)
    assert [outcome.probe for outcome in found] == list(PROBES)
    for outcome in found:
        assert outcome.killed, outcome
    for cause in stated(found):  # once the probes have been held against each other
        assert (mutant.cause or "") in str(cause)


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_an_edit_that_changes_nothing_is_not_caught(package):
    real = load_implementation(package)
    same = outcomes(unchanged(package, "alexnet_mnist"))
    assert [(outcome.divergence, outcome.error) for outcome in same] == [(None, None)] * 2
    assert sys.modules[package] is real
    assert importlib.import_module(f"{package}.backend").build is real.build


def test_there_are_mutants_of_every_family_in_every_implementation():
    families = {get_spec(name).family for name in list_architectures()}
    found = Counter((get_spec(mutant.architecture).family, mutant.package) for mutant in MUTANTS)
    assert found.keys() == {(family, package) for family in families for package in IMPLEMENTATIONS}
    assert len(MUTANTS) == len({str(mutant) for mutant in MUTANTS}) >= 210


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_what_the_mistake_edits_is_there(mutant):
    """Of the slow ones too, which would otherwise be missed for days after a change of the source."""
    found = (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old)
    assert found > (mutant.occurrence or 0)


def test_every_family_and_every_implementation_has_a_mistake_of_every_day():
    chosen, quick = representatives(), daily()
    assert {kind(mutant) for mutant in chosen} == {kind(mutant) for mutant in MUTANTS}
    assert (
        without_numbers("it reads fc1, not relu3")
        == without_numbers("it reads pool1, not conv2_block1/bn1")
        == "it reads layer, not layer"
    )
    shape = "conv2/weight has shape 256×96×5×5, expected 256×48×5×5"
    assert without_numbers(shape) == "layer has shape n, expected n"
    assert {get_spec(mutant.architecture).family for mutant in quick} == {
        get_spec(name).family for name in list_architectures()
    }
    assert {mutant.package for mutant in quick} == set(IMPLEMENTATIONS)
    assert 60 < len({kind(mutant) for mutant in quick}) <= len(quick) < len(chosen)
    assert 80 < len({kind(mutant) for mutant in chosen}) <= len(chosen) < 0.4 * len(MUTANTS)
