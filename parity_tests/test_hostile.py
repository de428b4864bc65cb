"""Files that mean harm: one clear sentence, status 2, nothing run, nothing written, no more memory than is due."""

import tracemalloc
from pathlib import Path

import pytest
from hostile_files import ATTACKS, MARKER

from common.porting import port as porting
from parity_tests.commands import run

DATA = Path(__file__).parent / "data"


@pytest.fixture
def peaks(monkeypatch):
    """The most memory that each port took; that of the command line's own parsing does not depend on the file."""
    found = []

    def measured(*arguments, real=porting.port, **options):
        tracemalloc.start()
        try:
            return real(*arguments, **options)
        finally:
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    monkeypatch.setattr(porting, "port", measured)
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name, tmp_path, monkeypatch, capsys, peaks):
    path = ATTACKS[name](tmp_path)
    before = sorted(tmp_path.iterdir())
    size = path.stat().st_size
    status = run(monkeypatch, "port", path, "--to", "safetensors", "--out", tmp_path / "out.safetensors", "--no-verify")
    (peak,) = peaks
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
