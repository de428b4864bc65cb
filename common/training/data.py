"""Images with labels: IDX files, folders of images, or the digits that ship with scikit-learn."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError, argument
from common.files import os_error_sentence
from common.specs.photographs import read_photograph
from common.specs.seeded import seeded_generator

HELD_OUT = 0.2
"""The share of each class that is held out for testing, if the data are not split already."""


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    pictures: np.ndarray | Files
    """Each uint8, (height, width) or (height, width, 3) in RGB; those in files may differ in size."""
    labels: np.ndarray
    """int64, (N,): the number of each picture's class."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """The pictures at these positions."""
        chosen = (
            Files([self.pictures.paths[index] for index in indices])
            if isinstance(self.pictures, Files)
            else self.pictures[indices]
        )
        return Split(chosen, self.labels[indices])


class Files:
    """Image files, read when they are needed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(_read_picture(self.paths[index]))


@dataclass(frozen=True)
class Data:
    """The data to train on and to test with."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    """The name of each class, by number."""
    skipped: tuple[str, ...] = ()
    """A sentence for each file that was left out because it could not be read."""

    def fingerprint(self) -> str:
        """A digest that changes with the labels, with the order, and with the images if they are in memory."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split in (self.train, self.test):
            digest.update(split.labels.tobytes())
            if isinstance(split.pictures, Files):
                digest.update("\0".join(path.name for path in split.pictures.paths).encode())
            else:
                digest.update(split.pictures.tobytes())
        return digest.hexdigest()[:16]

    def check(self, num_classes: int) -> None:
        """Refuse data that a network with `num_classes` logits cannot learn from.

        Raises:
            TriptychError: a split is empty, a label is out of range, a class has nothing to be learnt from, or a
                picture in memory is not a picture.
        """
        for name, split in (("training", self.train), ("test", self.test)):
            if not len(split):
                raise TriptychError(f"{self.name} has no {name} images")
            if len(split.pictures) != len(split):
                raise TriptychError(f"{self.name} has {len(split.pictures)} {name} images but {len(split)} labels")
            outside = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
            if outside.size:
                raise TriptychError(
                    f"{self.name}: {name} image {outside[0]} has label {split.labels[outside[0]]}, but labels go from "
                    f"0 to {num_classes - 1}; correct it, or train with more classes"
                )
            if not isinstance(split.pictures, Files):
                for index, picture in enumerate(split.pictures):
                    _check_picture(picture, f"{self.name}: {name} image {index}")
        empty = set(range(len(self.classes))) - set(self.train.labels.tolist())
        if empty:
            names = ", ".join(repr(self.classes[number]) for number in sorted(empty))
            raise TriptychError(f"{self.name} has no training image of class {names}; add some, or remove the class")


def _check_picture(picture: np.ndarray, what: str) -> None:
    shape = "×".join(map(str, picture.shape))
    if picture.ndim not in (2, 3) or 0 in picture.shape or (picture.ndim == 3 and picture.shape[2] != 3):
        raise TriptychError(f"{what} has shape {shape}, expected height×width or height×width×3")
    if picture.dtype != np.uint8:
        raise TriptychError(f"{what} has dtype {picture.dtype}, expected uint8 (0…255)")


def digits(seed: int = 0) -> Data:
    """The 1,797 handwritten digits of 8×8 pixels that ship with scikit-learn, a fifth of each class held out.

    Source: Alpaydin and Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998.
    """
    # The file itself: importing scikit-learn takes longer than an epoch.
    home = find_spec("sklearn")
    if home is None or not home.submodule_search_locations:
        raise TriptychError(
            "the embedded digits come with scikit-learn, which is not installed; pip install -c constraints.txt -e "
            f"'.[train]', or give {argument('data')}"
        )
    rows = np.loadtxt(Path(home.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",")
    pictures = np.rint(rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # the file has 0…16
    everything = Split(pictures, rows[:, 64].astype(np.int64))
    return _split("the digits of scikit-learn", everything, tuple("0123456789"), seed)


def read_data(path: str | Path, *, bad_files: str = "refuse", seed: int = 0) -> Data:
    """Read a folder of IDX files (as MNIST has them, gzip or not) or a folder with a folder of images for each class.

    IDX: files whose names hold `train` and `t10k` or `test`, and `images` and `labels`. Class folders: directly in
    `path`, or in its folders `train` and `test` (or `val`). If there is nothing to test with, a fifth of each class is
    held out.

    Args:
        path: the folder.
        bad_files: `refuse` or `skip` image files that cannot be read.
        seed: the seed of the held-out images.

    Raises:
        TriptychError: there are no such files, or one of them is not what it should be; it is named.
    """
    path = Path(path)
    if not path.is_dir():
        raise TriptychError(f"there is no folder {path}; give one with IDX files or with a folder of images per class")
    if any("idx" in file.name and file.is_file() for file in path.iterdir()):
        return _read_idx_folder(path, seed)
    return _read_class_folders(path, bad_files, seed)


def _split(name: str, everything: Split, classes: tuple[str, ...], seed: int, skipped: tuple[str, ...] = ()) -> Data:
    """Hold out a share of each class, at least one image of a class with two or more."""
    training: list[np.ndarray] = []
    testing: list[np.ndarray] = []
    for number in range(len(classes)):
        members = seeded_generator(seed, f"held out {number}").permutation(np.flatnonzero(everything.labels == number))
        count = min(max(1, math.floor(HELD_OUT * len(members))), len(members) - 1)
        testing.append(members[: max(count, 0)])
        training.append(members[max(count, 0) :])
    train, test = (np.sort(np.concatenate(parts)) for parts in (training, testing))
    return Data(name, everything.take(train), everything.take(test), classes, skipped)


# IDX


def _read_idx_folder(folder: Path, seed: int) -> Data:
    files = sorted(file for file in folder.iterdir() if "idx" in file.name and file.is_file())

    def one(what: str, test: bool) -> Path | None:
        found = [file for file in files if what in file.name and _is_test(file) == test]
        if len(found) > 1:
            raise TriptychError(f"{folder} has both {found[0].name} and {found[1].name}; leave one of them there")
        return found[0] if found else None

    splits = []
    for test in (False, True):
        images, labels = one("images", test), one("labels", test)
        if images and labels:
            splits.append(_read_idx_split(images, labels))
        elif images or labels:
            alone, missing = (images, "labels") if images else (labels, "images")
            raise TriptychError(f"{alone} has no {missing} beside it")
    if not splits or not any(not _is_test(file) for file in files):
        raise TriptychError(f"{folder} has no IDX files of training images and labels, such as train-images-idx3-ubyte")
    names = tuple(str(number) for number in range(int(splits[0].labels.max(initial=-1)) + 1))
    if len(splits) == 1:
        return _split(str(folder), splits[0], names, seed)
    data = Data(str(folder), splits[0], splits[1], names)
    data.check(len(names))
    return data


def _is_test(file: Path) -> bool:
    return "t10k" in file.name or "test" in file.name


def _read_idx_split(images: Path, labels: Path) -> Split:
    pictures, numbers = _read_idx(images, 3), _read_idx(labels, 1)
    if len(pictures) != len(numbers):
        raise TriptychError(f"{images} has {len(pictures)} images, but {labels.name} has {len(numbers)} labels")
    return Split(pictures, numbers.astype(np.int64))


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file: two zero bytes, 8 for unsigned bytes, the number of dimensions, their lengths, the bytes."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except OSError as error:
        raise TriptychError(f"cannot read {path}: {os_error_sentence(error)}") from None
    except (EOFError, zlib.error):
        raise TriptychError(f"{path} is a damaged gzip file") from None
    header = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < header:
        raise TriptychError(f"{path} is not an IDX file of unsigned bytes with {dimensions} dimensions")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, 4).tolist())
    if len(content) - header != math.prod(shape):
        wanted, found = "×".join(map(str, shape)), len(content) - header
        raise TriptychError(f"{path} says that it holds {wanted} bytes, but holds {found:,}; it is damaged")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


# Folders of images


def _read_class_folders(folder: Path, bad_files: str, seed: int) -> Data:
    train, test = (
        next((folder / name for name in names if (folder / name).is_dir()), None)
        for names in (("train",), ("test", "val"))
    )
    root = train or folder
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if len(classes) < 2:
        raise TriptychError(f"{root} has {len(classes)} folders of images, expected one for each class, at least two")
    skipped: list[str] = []
    everything = _read_classes(root, classes, bad_files, skipped.append)
    if train is None or test is None:
        data = _split(str(folder), everything, classes, seed, tuple(skipped))
    else:
        unknown = {entry.name for entry in test.iterdir() if entry.is_dir()} - set(classes)
        if unknown:
            raise TriptychError(f"{test} has a class {min(unknown)!r} that {train} does not have")
        tested = _read_classes(test, classes, bad_files, skipped.append)
        data = Data(str(folder), everything, tested, classes, tuple(skipped))
    data.check(len(classes))
    return data


def _read_classes(root: Path, classes: tuple[str, ...], bad_files: str, skip: Callable[[str], None]) -> Split:
    paths, labels, problems = [], [], []
    for number, name in enumerate(classes):
        files = sorted((root / name).iterdir()) if (root / name).is_dir() else []
        for file in files:
            if file.name.startswith("."):
                continue
            try:
                _read_picture(file)
            except TriptychError as error:
                problems.append(str(error))
                continue
            paths.append(file)
            labels.append(number)
    if problems and bad_files == "refuse":
        more = f" (and {len(problems) - 1} more such files)" if len(problems) > 1 else ""
        skip_them = f"skip them with {argument('bad_files', 'skip')}"
        raise TriptychError(f"{problems[0]}{more}; remove them, or {skip_them}")
    for problem in problems:
        skip(problem)
    return Split(Files(paths), np.array(labels, np.int64))


def _read_picture(path: Path) -> Any:
    try:
        return read_photograph(path)
    except TriptychError:
        raise
    except Exception as error:  # a decoder that meets damage raises what it likes
        raise TriptychError(f"cannot read the image {path}: {error}") from None
