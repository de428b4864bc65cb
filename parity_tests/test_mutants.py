"""The proof of the prover: every porting mistake is caught by both kinds of probe, where it was made, by its name."""

import importlib
import sys
from collections import Counter

import pytest
from conftest import IMPLEMENTATIONS, load_implementation

from common import get_spec, list_architectures
from parity_tests.injection import Mutant
from parity_tests.mutants import MUTANTS, PROBES, outcomes, stated


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
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
    file = f"{package}/alexnet_variants.py"
    same = Mutant(package, file, "alexnet_mnist", "none", "padding", "padding", layer="", cause="")
    assert [(outcome.divergence, outcome.error) for outcome in outcomes(same)] == [(None, None)] * 2
    assert sys.modules[package] is real
    assert importlib.import_module(f"{package}.backend").build is real.build


def test_there_are_mutants_of_every_family_in_every_implementation():
    families = {get_spec(name).family for name in list_architectures()}
    found = Counter((get_spec(mutant.architecture).family, mutant.package) for mutant in MUTANTS)
    assert found.keys() == {(family, package) for family in families for package in IMPLEMENTATIONS}
    assert len(MUTANTS) == len({str(mutant) for mutant in MUTANTS}) >= 210
