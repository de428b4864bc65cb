"""Files that mean harm: one clear sentence, status 2, nothing run, nothing written, no more memory than is due."""

import sys
import tracemalloc
from pathlib import Path

import pytest
from hostile_files import ATTACKS, MARKER

from common import cli

DATA = Path(__file__).parent / "data"


def run(monkeypatch, *arguments):
    """The status with which the command line ends."""
    monkeypatch.setattr(sys, "argv", ["triptych", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name, tmp_path, monkeypatch, capsys):
    path = ATTACKS[name](tmp_path)
    before = sorted(tmp_path.iterdir())
    size = path.stat().st_size
    tracemalloc.start()
    status = run(monkeypatch, "port", path, "--to", "safetensors", "--out", tmp_path / "out.safetensors", "--no-verify")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    out, err = capsys.readouterr()
    assert status == 2, err
    assert out == ""
    assert err.startswith("triptych: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert len(err) <= 401
    assert path.name in err
    assert sorted(tmp_path.iterdir()) == before
    assert not (tmp_path / MARKER).exists()
    assert peak < 4 * size + 40_000_000, f"{peak:,} bytes for a file of {size:,}"


def test_the_collection_is_large():
    assert len(ATTACKS) >= 200
