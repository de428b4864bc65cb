"""What the documentation says is executed."""

import doctest
from pathlib import Path

import pytest

DOCS = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))


@pytest.mark.parametrize("path", [path for path in DOCS if ">>>" in path.read_text()], ids=lambda path: path.name)
def test_examples_give_what_they_say(path):
    results = doctest.testfile(str(path), module_relative=False, encoding="utf-8")
    assert results.attempted > 0
    assert results.failed == 0
