"""A network's weights as the checkpoint of another network that should be the same: `triptych port A --into B`.

Both are aligned as for a proof (`common.prove.pairs`). The first one's weights are moved into the second, and the
second's own checkpoint is written. Another process loads it into the second again, which is then judged by the first.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.files import require_space, written_whole
from common.parity.results import worst
from common.prove.models import ModelName
from common.prove.moving import Moved
from common.prove.pairs import First
from common.prove.proof import PAIRED, PROBES, like, random_feeds, require_packages
from common.prove.ready import make_ready
from common.prove.results import ProofRun, as_json
from common.prove.runtimes import ONNX_RUNTIMES
from common.prove.subject import KerasSubject, Subject, TorchSubject
from common.prove.variables import read, save

SUFFIXES = {"PyTorch": (".pth", ".pt", ".safetensors"), "Keras": (".weights.h5", ".keras"), "ONNX": (".onnx",)}
"""The suffixes of checkpoints of each kind of model."""


@dataclass(frozen=True)
class PortedInto:
    """The moves of the weights, and whether the two networks are the same function."""

    source: str
    into: str
    target: Path
    moved: Moved
    unfilled: Sequence[str]
    """Variables of the second that are used but have no counterpart in the first, in words. Not empty only with
    `force`."""
    runs: Sequence[ProofRun]
    """The runs of the second with the file's weights, judged by the first."""

    @property
    def verdict(self) -> str:
        return worst([run.verdict for run in self.runs])

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "into": self.into,
            "target": str(self.target),
            "tensors": [
                {"source": move.source, "change": move.change, "target": move.to, "shape": move.shape}
                for move in self.moved.moves
            ],
            "kept": self.moved.kept,
            "without_place": self.moved.without_place,
            "unfilled": list(self.unfilled),
            "proof": as_json(self.runs),
        }


def port_into(
    names: tuple[ModelName, ModelName],
    out: Path,
    *,
    shape: Sequence[int] | None = None,
    seed: int = 0,
    force: bool = False,
    advance: Callable[[str], None] = lambda done: None,
) -> PortedInto:
    """Write one model's weights as the checkpoint of another.

    Args:
        names: the model that has the weights, and the one that gets them.
        out: the file, of a suffix that the second's framework reads: see `SUFFIXES`.
        shape: the shape of the first one's only input, if the model does not say it.
        seed: the seed of a library model's weights, and of the inputs.
        force: write what fits, although some weights have no place or some places have no weights.
        advance: called after each step.

    Raises:
        TriptychError: a model cannot be had; the second cannot take the first's weights; the file cannot be written, or
            does not load into the second again. Nothing is there then.
    """
    _check_suffix(out, [suffix for suffixes in SUFFIXES.values() for suffix in suffixes], "a model")
    require_packages("onnx", "onnxruntime")
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as place, ExitStack() as ends:

        def ready(name: ModelName, called: str, **options: Any) -> Subject:
            return make_ready(name, Path(place) / called, ends, seed=seed, backends=PAIRED, turn=True, **options)

        one = ready(names[0], "first", shape=shape)
        feeds = random_feeds(one.graph, seed)
        recorded = one.record(ONNX_RUNTIMES[0], feeds)
        if recorded.error:
            raise TriptychError(f"ONNX Runtime cannot run {one.text}: {recorded.error}")
        first = First.of(one, feeds, recorded)
        advance("the first network read")
        options = like(feeds)
        two = ready(names[1], "second", marked=True, **options)
        _check_suffix(out, SUFFIXES[_kind(two)], two.text)
        changed, moved, unfilled = first.moved_into(two)
        if not force:
            _require_all(one.text, two.text, moved, unfilled)
        advance("weights moved")
        with written_whole(out) as temporary:
            require_space(out, int(1.1 * sum(array.nbytes for array in moved.variables.values())) + (1 << 20))
            save(changed, temporary)
            again = _loaded_again(ready, names[1], two, temporary, options)
            _require_same(out, moved, again)
            advance("written, and read back")
            runs = [_with_moves(run, moved) for run in first.pair_with(again, "own", PROBES, advance)]
        return PortedInto(one.text, two.text, out, moved, unfilled, runs)


def _with_moves(run: ProofRun, moved: Moved) -> ProofRun:
    """A run in which the second had its weights already, with the report of where they came from."""
    assert run.pair is not None
    moves = [vars(move) for move in moved.moves]
    return replace(run, pair=replace(run.pair, moved=moves, without_place=moved.without_place))


def _kind(subject: Subject) -> str:
    if not isinstance(subject, TorchSubject):
        return "ONNX"
    return "Keras" if isinstance(subject, KerasSubject) else "PyTorch"


def _check_suffix(out: Path, suffixes: Sequence[str], called: str) -> None:
    if not out.name.endswith(tuple(suffixes)):
        raise TriptychError(
            f"{out.name} is no name of a checkpoint of {called}; it must end in {' or '.join(suffixes)}"
        )


def _require_all(first: str, second: str, moved: Moved, unfilled: Sequence[str]) -> None:
    """Check that every weight has a place, and every place a weight."""
    for owner, things, other in ((second, moved.without_place, first), (first, unfilled, second)):
        if things:
            more = f", nor for {len(things) - 1} more" if len(things) > 1 else ""
            raise TriptychError(
                f"{owner} has nothing for {things[0]} of {other}{more}; nothing was written; "
                f"`triptych prove` shows how the two are aligned, --force writes what fits"
            )


def _loaded_again(
    ready: Callable[..., Subject], name: ModelName, two: Subject, file: Path, options: Mapping[str, Any]
) -> Subject:
    """The second network with the weights of a file."""
    if file.name.endswith((".onnx", ".keras")):
        copied = two.folder / file.name  # a process may still have it open when the file gets its name
        shutil.copyfile(file, copied)
        again = ready(ModelName(name.text, str(copied), ""), "again", **options)
        again.text = two.text
        return again
    return ready(name, "again", checkpoint=file, **options)


def _require_same(out: Path, moved: Moved, again: Subject) -> None:
    """Check that the variables that were read back have the same bits."""
    found = list(read(again).items())
    wanted = list(moved.variables.items())
    by_name = dict(found)
    if by_name.keys() != moved.variables.keys():  # a model that Keras has made again counts its layers anew
        if len(found) != len(wanted):
            raise TriptychError(f"{out.name} was read back with {len(found)} variables, written with {len(wanted)}")
        by_name = {name: array for (name, _), (_, array) in zip(wanted, found, strict=True)}
    for name, array in wanted:
        if not np.array_equal(by_name[name], array):
            raise TriptychError(f"{out.name} was read back with other numbers in {name}; nothing was written")
