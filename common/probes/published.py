"""The published results of the exact probe: two machines that both have them have proved parity without having met.

For each network of the catalogue, `published.json` has SHA-256 hashes: of the probe's image, of what each layer is
given (its parameters, and the integers that replace its output), and of what each layer must answer, if its arithmetic
is exact. `sha256` is over all of these and the network's name: one number for a network.

An array is hashed as the line `name float32 SHAPE` (`conv1/weight float32 96,3,11,11`) and its bytes: canonical layout,
C order, little-endian, −0 as +0.

`python -m common.probes.published [NETWORK ...]` computes the results and compares them with the file. `--write` adds
missing ones. The results of a version never change: other numbers need another `VERSION` (`common.probes.exact`).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.files import written_atomically
from common.operations.names import parameters_of
from common.probes.exact import VERSION, exact_probe
from common.probes.probe import Probe
from common.specs import CATALOGUE, get_spec, list_architectures
from common.specs.architecture import IMAGE, Architecture

FILE = Path(__file__).with_name("published.json")
SEED, BATCH = 0, 2
"""Seed and batch of the published probe: the defaults of `triptych parity`."""

Entry = dict[str, Any]
"""`sha256`, `image`, and `layers`: by name, `given` and `answer`, each where there is one."""


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of float32 arrays by name, in hexadecimal; see the module's description."""
    found = sha256()
    for name, array in arrays.items():
        found.update(f"{name} float32 {','.join(map(str, array.shape))}\n".encode())
        numbers = np.ascontiguousarray(array).reshape(-1)
        for start in range(0, numbers.size, _AT_ONCE):
            positive = numbers[start : start + _AT_ONCE] + np.float32(0)  # −0 + 0 is +0
            found.update(positive.astype("<f4", copy=False).data.cast("B"))
    return found.hexdigest()


_AT_ONCE = 1 << 18
"""How many numbers are hashed at once: few enough for the processor's cache."""


def describe(spec: Architecture, probe: Probe) -> Entry:
    """The published entry of an exact probe."""
    layers: dict[str, dict[str, str]] = {}
    for layer in spec.layers:
        name = layer.name
        given = {f"{name}/{kind}": array for kind, array in sorted(parameters_of(name, probe.weights).items())}
        if name in probe.injected:
            given[f"{name}/injected"] = probe.injected[name]
        layers[name] = {"given": digest(given)} if given else {}
        if name in probe.expected:
            layers[name]["answer"] = digest({name: probe.expected[name]})
    entry = {IMAGE: digest({IMAGE: probe.image}), "layers": layers}
    text = json.dumps([spec.name, entry], sort_keys=True)
    return {"sha256": sha256(text.encode()).hexdigest(), **entry}


@cache
def published() -> dict[str, Any]:
    """The file: its `version`, and the `networks` by name."""
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


@dataclass(frozen=True)
class Compared:
    """The result of a comparison with the published entry."""

    same: bool | None
    """None if there is nothing to compare with."""
    difference: str | None = None
    """The first difference from the published entry, in words."""


def compare(spec: Architecture, probe: Probe, seed: int) -> Compared:
    """Compare a probe with the published entry, if it is the published probe of a network of the catalogue."""
    if type(probe) is not Probe or (probe.name, seed, len(probe.image)) != ("exact", SEED, BATCH):
        return Compared(None)
    content = published()
    if content["version"] != VERSION or spec.name not in content["networks"] or spec != get_spec(spec.name):
        return Compared(None)
    difference = _difference(describe(spec, probe), content["networks"][spec.name])
    return Compared(difference is None, difference)


def _difference(found: Entry, wanted: Entry) -> str | None:
    if found["sha256"] == wanted["sha256"]:
        return None
    if found[IMAGE] != wanted[IMAGE]:
        return "the image is not as published"
    for name in dict.fromkeys((*wanted["layers"], *found["layers"])):
        if name not in found["layers"] or name not in wanted["layers"]:
            return f"{name} is not a layer {'here' if name in wanted['layers'] else 'of what is published'}"
        for kind, what in (("given", "what is given to {} (weights, injected integers)"), ("answer", "{}'s output")):
            if found["layers"][name].get(kind) != wanted["layers"][name].get(kind):
                return f"{what.format(name)} is not as published"
    return "it is not what its own parts say"


def check(names: Iterable[str], *, write: bool) -> bool:
    """Compare networks with the file, printing a line for each; whether all are as published.

    Args:
        names: of networks.
        write: whether to add those that are not in the file, which is replaced if it is of another version.

    Raises:
        TriptychError: the file cannot be written.
    """
    content = published() if FILE.exists() else {}
    networks: dict[str, Entry] = dict(content["networks"]) if content.get("version") == VERSION else {}
    same = True
    for name in names:
        spec = get_spec(name)
        found = describe(spec, exact_probe(spec, seed=SEED, batch=BATCH))
        if name in networks:
            wrong = _difference(found, networks[name])
        elif write:
            networks[name], wrong = found, None
        else:
            wrong = "it is not in the file"
        same = same and wrong is None
        print(f"{name}: {wrong or found['sha256']}", flush=True)
    if not same:
        print(f"The outcome of version {VERSION} stands; other numbers need a new VERSION in common/probes/exact.py.")
    elif write:
        ordered = {name: networks[name] for name in CATALOGUE if name in networks}
        with written_atomically(FILE) as temporary:
            temporary.write_text(_as_text({"version": VERSION, "networks": ordered}), encoding="utf-8")
    return same


def _as_text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each layer."""
    return re.sub(r"{\s+(\"(?:given|answer)\"[^{}]*?)\s+}", _in_one_line, json.dumps(content, indent=1)) + "\n"


def _in_one_line(match: re.Match[str]) -> str:
    return "{" + re.sub(r"\s*\n\s*", " ", match[1]) + "}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m common.probes.published", description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="*", default=list_architectures())
    parser.add_argument("--write", action="store_true", help="add the networks that the file does not have")
    arguments = parser.parse_args()
    try:
        return 0 if check(arguments.network, write=arguments.write) else 1
    except TriptychError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
