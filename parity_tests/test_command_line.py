"""The vocabulary of the command line."""

import doctest
import re
from pathlib import Path

import pytest

from common import errors
from common.cli import flags
from common.cli.commands import app
from parity_tests.commands import run

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


@pytest.mark.parametrize("module", [errors, flags])
def test_arguments_become_flags(module):
    """The examples in the docstrings."""
    assert doctest.testmod(module) == (0, len(re.findall(">>> ", Path(module.__file__).read_text())))


def test_every_argument_that_a_message_names_has_a_flag(monkeypatch, capsys):
    """As a command spells it in its help."""
    named = set()
    for path in (Path(errors.__file__).parent).rglob("*.py"):
        named.update(re.findall(r"(?<!def )\bargument\(['\"](\w+)['\"]", path.read_text(encoding="utf-8")))
    assert len(named) > 10
    known = set()
    for command in app.registered_commands:
        assert run(monkeypatch, command.name or command.callback.__name__, "--help") == 0
        known.update(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {name for name in named if flags.FLAGS.get(name, "--" + name.replace("_", "-")) not in known} <= {"verify"}
    assert "--no-verify" in known
