"""ONNX Runtime for browsers: two files of the npm package onnxruntime-web, kept here so that nothing is downloaded.

`python -m common.explorer.live.runtime` takes them again from the package that npm gives, which has to have the pinned
hash. For another version, change the version and its hash, which `npm view onnxruntime-web dist.integrity` prints; it
then prints the hashes of the files.

The one WebAssembly module computes on the CPU and on WebGPU, and runs in every browser that has WebAssembly with SIMD.
It is packed: 27 MB become 4.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
from base64 import b64encode
from functools import cache
from hashlib import sha256, sha512
from pathlib import Path

from common.errors import TriptychError
from common.files import written_atomically

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""The integrity hash of the package in npm."""

SHA256 = {
    "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
"""The SHA-256 of each file, in hexadecimal."""

FOLDER = Path(__file__).with_name("onnxruntime_web")


@cache
def content(name: str) -> bytes:
    """One of the two files.

    Raises:
        TriptychError: it is missing, or is not the one that belongs here.
    """
    packed = FOLDER / f"{name}.xz"
    try:
        found = lzma.decompress(packed.read_bytes())
    except (OSError, lzma.LZMAError):
        found = b""
    if sha256(found).hexdigest() != SHA256[name]:
        raise TriptychError(f"{packed} is missing or damaged; install Triptych again")
    return found


def main() -> int:
    """Take the files from the package again."""
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not installed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
        subprocess.run(
            [npm, "pack", "--silent", f"onnxruntime-web@{VERSION}"], cwd=folder, stdout=subprocess.DEVNULL, check=True
        )
        (package,) = Path(folder).iterdir()
        if f"sha512-{b64encode(sha512(package.read_bytes()).digest()).decode()}" != INTEGRITY:
            print(f"what npm gave for onnxruntime-web {VERSION} has another hash than the pinned one", file=sys.stderr)
            return 1
        with tarfile.open(package) as archive:
            for name in SHA256:
                member = archive.extractfile(f"package/dist/{name}")
                assert member
                found = member.read()
                print(f"{name}: {sha256(found).hexdigest()}")
                with written_atomically(FOLDER / f"{name}.xz") as temporary:
                    temporary.write_bytes(lzma.compress(found, preset=9 | lzma.PRESET_EXTREME))
    return 0


if __name__ == "__main__":
    sys.exit(main())
