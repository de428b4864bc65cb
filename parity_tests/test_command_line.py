"""The vocabulary of the command line."""

import re

import pytest
from test_hostile import run

FORMER = {"export": "--from", "probe": "--from", "train": "--with"}
"""What `--framework` was called in these commands; scripts of users say it still."""


@pytest.mark.parametrize("command", FORMER)
@pytest.mark.parametrize("form", ["{} caffe", "{}=caffe"])
def test_a_framework_by_its_former_flag(command, form, monkeypatch, capsys):
    """It is read, and refused for what it says, as under its name of today."""
    words = []
    for flag in ("--framework", FORMER[command]):
        assert run(monkeypatch, command, "lenet5", *form.format(flag).split(), "--out", "nowhere") == 2
        words.append(capsys.readouterr().err)
    assert words[0] == words[1]
    assert re.search(r"'--framework'.*'caffe' is not one of", words[0])


@pytest.mark.parametrize("command", FORMER)
def test_help_has_one_word_for_a_framework(command, monkeypatch, capsys):
    assert run(monkeypatch, command, "--help") == 0
    told = capsys.readouterr().out
    assert "--framework" in told
    assert not re.search("--(from|with)", told)
