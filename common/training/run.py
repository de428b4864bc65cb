"""The folder of a run: checkpoints, history, plot, and the final weights.

`run.json` is written last, in one step. It names the finished epochs; the checkpoint of the last of them is beside it.
Whatever a killed run leaves besides is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError, argument
from common.files import os_error_sentence, require_space, written_atomically
from common.specs.architecture import Architecture
from common.training.data import Data
from common.training.recipe import Recipe

RUN, PLOT, WEIGHTS = "run.json", "training.png", "weights.safetensors"


@dataclass(frozen=True)
class Step:
    """One step of a training as it is reported while it runs; epochs and steps are counted from 1."""

    epoch: int
    step: int
    steps: int
    """Steps in an epoch."""
    loss: float
    """The mean cross-entropy of the logits over the batch, without auxiliary heads and without weight decay."""


@dataclass(frozen=True)
class Epoch:
    """One epoch as it ended."""

    learning_rate: float
    losses: list[float]
    """The loss of each step; see `Step`."""
    test_loss: float
    top1: float
    """The share of the test pictures whose class has the largest logit."""
    top5: float
    """The share whose class is among the five largest logits."""

    @property
    def loss(self) -> float:
        """The mean of the steps' losses."""
        return float(np.mean(self.losses))


def launched() -> tuple[int, int]:
    """The number of this process, from 0, and the number of processes, as `torchrun` says in the environment; else 0
    and 1."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Monitor:
    """Is called with the progress of a training. This one does nothing."""

    def step(self, step: Step) -> None:
        """A step has been made."""

    def epoch(self, number: int, epoch: Epoch) -> None:
        """An epoch, counted from 1, has ended, and its checkpoint is written."""


@dataclass
class TrainingRun:
    """A training and, if it has a folder, its files there."""

    identity: dict[str, Any]
    folder: Path | None
    monitor: Monitor
    checkpoint_size: int
    """Bytes that a checkpoint takes at most."""
    leads: bool = True
    """Whether this process writes files and calls the monitor. Among several that train one model, only one does."""
    history: list[Epoch] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        framework: str,
        spec: Architecture,
        data: Data,
        recipe: Recipe,
        folder: Path | None,
        resume: bool,
        monitor: Monitor,
        *,
        leads: bool = True,
    ) -> TrainingRun:
        """Start a new run in `folder`, or resume the one that is there.

        Raises:
            TriptychError: the data do not fit the network; there is a run already, or none to resume, or the one there
                is another network's or was made in another way.
        """
        data.check(spec.num_classes)
        identity = {
            "architecture": spec.name,
            "framework": framework,
            "num_classes": spec.num_classes,
            "image": list(spec.input_shape),
            "data": f"{data.name} ({data.fingerprint()})",
            **json.loads(json.dumps(asdict(recipe))),
        }
        # A number and its velocity, and what a file says about each of them.
        size = int(1.1 * 8 * spec.parameter_count) + (1 << 20)
        run = cls(identity, folder, monitor if leads else Monitor(), size, leads)
        if resume:
            run._continue()
        elif folder is not None:
            if (folder / RUN).exists():
                advice = f"continue it with {argument('resume', True)}, or give another {argument('out')}"
                raise TriptychError(f"{folder} holds a run already; {advice}")
            if leads:
                _make(folder)
                require_space(run._checkpoint(1, ""), size)
        return run

    def _continue(self) -> None:
        assert self.folder is not None
        if not (self.folder / RUN).is_file():
            raise TriptychError(f"there is nothing to resume in {self.folder}: no epoch was finished there")
        try:
            stored = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
            self.history = [Epoch(**epoch) for epoch in stored["history"]]
            found = stored["identity"]
        except (OSError, ValueError, KeyError, TypeError):
            raise TriptychError(f"{self.folder / RUN} is damaged; start again in another folder") from None
        for name, wanted in self.identity.items():
            if found.get(name) != wanted:
                what = name.replace("_", " ")
                raise TriptychError(
                    f"{self.folder} holds a checkpoint of another training: its {what} is {found.get(name)}, "
                    f"not {wanted}"
                )

    def restore(self, suffix: str, read: Callable[[Path], None]) -> None:
        """Read the checkpoint of the last finished epoch.

        Raises:
            TriptychError: it is not there, or is not one of this network.
        """
        path = self._checkpoint(len(self.history), suffix)
        try:
            read(path)
        except Exception as error:  # each framework raises what it likes
            name = self.identity["architecture"]
            raise TriptychError(f"{path} is missing or not a checkpoint of this {name}: {_first_line(error)}") from None

    def _checkpoint(self, epoch: int, suffix: str) -> Path:
        assert self.folder is not None
        return self.folder / f"checkpoint-{epoch:04}{suffix}"

    def finish_epoch(self, epoch: Epoch, suffix: str, write: Callable[[Path], None]) -> None:
        """Add an epoch to the history. With a folder, write its checkpoint, and then remove the one before.

        Raises:
            TriptychError: a file cannot be written, or the network was lost in the last step: the loss on the pictures
                that were held out is not finite.
        """
        if not isfinite(epoch.test_loss):
            raise TriptychError(
                f"step {len(epoch.losses)} of epoch {len(self.history) + 1}, its last, was too large: the loss on "
                f"held-out pictures is {epoch.test_loss:.4g}{self._kept}; {self._advice}"
            )
        history = [*self.history, epoch]
        if self.folder is not None and self.leads:
            self._keep(self.folder, history, suffix, write)
        self.history = history
        self.monitor.epoch(len(self.history), epoch)

    def _keep(self, folder: Path, history: list[Epoch], suffix: str, write: Callable[[Path], None]) -> None:
        path = self._checkpoint(len(history), suffix)
        try:
            require_space(path, self.checkpoint_size)
            write(path)
        except TriptychError as error:
            raise TriptychError(f"{error}{self._kept}") from None
        except Exception as error:  # each framework raises what it likes
            raise TriptychError(f"cannot write {path}: {_first_line(error)}{self._kept}") from None
        stored = {"identity": self.identity, "history": [asdict(epoch) for epoch in history]}
        with written_atomically(folder / RUN) as temporary:
            temporary.write_text(json.dumps(stored, indent=1), encoding="utf-8")
        for old in folder.iterdir():
            outdated = old.name.startswith("checkpoint-") and not old.name.startswith(path.name)
            if outdated or ".part" in old.suffixes:
                old.unlink()

    def not_finite(self, step: Step, recorded: Mapping[str, np.ndarray]) -> TriptychError:
        """The exception to raise if the loss is NaN or infinite. `recorded` are the outputs of the layers in this
        step."""
        layer = next((name for name, output in recorded.items() if not np.isfinite(output).all()), None)
        where = f"begins in layer {layer}" if layer else "is in no layer, but in the loss or its gradient"
        return TriptychError(
            f"step {step.step} of epoch {step.epoch} cannot be made, its loss is {step.loss:.4g}: NaN or infinity "
            f"{where}{self._kept}; {self._advice}"
        )

    @property
    def _kept(self) -> str:
        return f"; the checkpoint of epoch {len(self.history)} is kept" if self.folder and self.history else ""

    @property
    def _advice(self) -> str:
        return f"try a smaller learning rate than {self.identity['learning_rate']:g}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TriptychError(f"cannot make the folder {folder}: {os_error_sentence(error)}") from None


def next_folder(parent: Path, name: str) -> Path:
    """A folder for a new run: `name`, or `name-2`, `name-3` … if there is one."""
    return next(folder for folder in _numbered(parent, name) if not folder.exists())


def last_folder(parent: Path, name: str) -> Path:
    """The folder of the latest run of that name."""
    found = parent / name
    for folder in _numbered(parent, name):
        if not folder.exists():
            return found
        found = folder
    raise AssertionError


def _numbered(parent: Path, name: str) -> Any:
    yield parent / name
    number = 2
    while True:
        yield parent / f"{name}-{number}"
        number += 1
