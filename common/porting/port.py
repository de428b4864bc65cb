"""`port`: reads a file, writes another, and proves it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.files import require_space, written_whole
from common.porting.formats import read_source
from common.porting.known import known_file
from common.porting.matching import DEPARTURES, PRESUMED, Network, understand
from common.porting.proof import Proof, prove
from common.porting.reading import Reading
from common.porting.targets import Target, check_target, write_target
from common.porting.turning import Ported

VERIFIED = "read back in another process, compared bit by bit, certified on a photograph"
UNVERIFIED = "none: --no-verify"


@dataclass(frozen=True)
class Report:
    """What was ported, and how it was proved."""

    source: Path
    format: str
    convention: str
    source_sha256: str
    known_as: str | None
    """The public file that the source is, if its digest is known."""
    architecture: str
    num_classes: int
    preprocessing: dict[str, Any] | None
    """How to prepare photographs; None if that is not known."""
    target: Path
    kind: str
    tensors: tuple[dict[str, Any], ...]
    """For each tensor: `source`, `source_shape`, `change`, `target`, `name`, `shape`, `sha256`, `error`."""
    notes: tuple[str, ...]
    proof: Proof | None
    """None if no proof was asked for."""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "source": str(self.source), "target": str(self.target)}


def port(
    source: Path,
    target: Target,
    *,
    architecture: str | None = None,
    skip: Collection[str] = (),
    num_classes: int | None = None,
    reading: Reading | None = None,
    verify: bool = True,
    on_progress: Callable[[str], None] = lambda step: None,
) -> Report:
    """Port weights, and prove that nothing was lost before the target gets its name.

    Args:
        source: a file of any format that `read_source` reads.
        target: what to write.
        architecture: the source's, if its content does not say.
        skip: canonical names of layers to leave at a seeded initialisation.
        num_classes: the number of logits, if not the source's.
        reading: what else the user says about the source.
        verify: whether to prove it.
        on_progress: called with the name of each step that is done.

    Raises:
        TriptychError: the source cannot be read or understood, the target cannot be written, or the proof failed; the
            target is not there then.
    """
    reading = reading or Reading()
    options = {"architecture": architecture, "skip": list(skip), "num_classes": num_classes}
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1)) as executor:  # beside this one, which turns and writes
        read = read_source(source)
        digest = executor.submit(lambda: read.sha256)
        network = understand(read, **options, reading=reading)  # type: ignore[arg-type]
        check_target(target, network.spec)
        network = replace(network, parameters=tuple(_contiguous(parameter) for parameter in network.parameters))
        on_progress("read")
        digests = executor.map(lambda parameter: sha256_of(parameter.array), network.parameters)
        size = sum(parameter.array.nbytes for parameter in network.parameters)
        with written_whole(target.path) as temporary:
            require_space(target.path, int(1.02 * size) + (1 << 20))  # a file says something of each tensor, too
            written = replace(target, path=temporary)
            write_target(network, written, _metadata(network, digest.result(), skip, verify))
            on_progress("written")
            proof = prove(source, options | {"reading": asdict(reading)}, written) if verify else None
        on_progress("proved" if verify else "not proved")
        return _report(network, target, digest.result(), list(digests), proof)


def _contiguous(parameter: Ported) -> Ported:
    return replace(parameter, array=np.ascontiguousarray(parameter.array))


def sha256_of(array: np.ndarray) -> str:
    """The SHA-256 of an array's bytes, little-endian and in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _metadata(network: Network, digest: str, skip: Collection[str], verify: bool) -> Mapping[str, str]:
    """The metadata of the target."""
    said = {
        "architecture": network.spec.name,
        "ported_from": f"{network.source.path.name} ({network.source.format}, {network.convention} names)",
        "source_sha256": digest,
        "verification": VERIFIED if verify else UNVERIFIED,
    }
    if network.preprocessing is not None:
        said["preprocessing"] = network.preprocessing.as_json()
    if departures := network.departures or tuple(filter(None, [network.source.metadata.get(DEPARTURES)])):
        said[DEPARTURES] = "; ".join(departures)
    if network.presumed:
        said[PRESUMED] = network.presumed
    if skip:
        said["skipped"] = json.dumps(sorted(skip))
    return said


def _report(network: Network, target: Target, digest: str, digests: list[str], proof: Proof | None) -> Report:
    spelled = target.spelled(network.spec)
    return Report(
        source=network.source.path,
        format=network.source.format,
        convention=network.convention,
        source_sha256=digest,
        known_as=known_file(digest),
        architecture=network.spec.name,
        num_classes=network.spec.num_classes,
        preprocessing=asdict(network.preprocessing) if network.preprocessing else None,
        target=target.path,
        kind=target.kind,
        tensors=tuple(
            {
                "source": parameter.source,
                "source_shape": parameter.source_shape,
                "change": parameter.change,
                "target": spelled[parameter.name],
                "name": parameter.name,
                "shape": parameter.array.shape,
                "sha256": sha256,
                "error": parameter.error,
            }
            for parameter, sha256 in zip(network.parameters, digests, strict=True)
        ),
        notes=network.notes,
        proof=proof,
    )
