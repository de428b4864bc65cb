"""The proof of the prover: every porting mistake is caught by each probe, at the layer where it was made, and named."""

import pytest
from conftest import load_implementation
from mutants import MUTANTS, judge_mutant

from common import get_spec, random_weights
from common.probes import exact_probe, photo_probe


@pytest.fixture(scope="module")
def probes():
    spec = get_spec("alexnet_bvlc")
    return {
        "exact": exact_probe(spec, batch=2),
        "photo": photo_probe(spec, batch=1, weights=random_weights("alexnet_bvlc")),
    }


@pytest.mark.parametrize("probe", ["exact", "photo"])
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_mistake_is_caught_where_it_was_made(mutant, probe, probes):
    load_implementation(mutant.package)
    divergence = judge_mutant(mutant, probes[probe])
    assert divergence is not None, "the mutant survived"
    assert divergence.name == mutant.layer, divergence
    assert mutant.cause in str(divergence.cause)
