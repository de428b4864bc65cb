"""TensorFlow 1 checkpoints: `python -m common.porting.checkpoint_files PREFIX OUT` copies one into safetensors.

TensorFlow's reader checks a checksum of every tensor, and aborts on some damaged files, so it runs in a process of its
own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

from common.errors import TriptychError
from common.names import PARAMETERS
from common.porting.safetensors_files import read_safetensors
from common.porting.source import Source, corrupt, mapped

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
"""What the index ends with."""

COLLECTION = "triptych"
"""The graph collection in which our own files keep metadata."""

LONGEST_META = 64 << 20
TIMEOUT = 300.0


def prefix_of(path: Path) -> Path | None:
    """The checkpoint's prefix, if `path` is one or is its index."""
    if not path.exists() and path.with_name(f"{path.name}.index").is_file():
        return path
    if path.is_file() and path.suffix == ".index" and bytes(mapped(path)[-8:]) == MAGIC:
        return path.with_suffix("")
    return None


def read_checkpoint(prefix: Path) -> Source:
    """The variables of a checkpoint, those of optimisers left out.

    Raises:
        TriptychError: TensorFlow is not installed, or cannot read the checkpoint.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with TemporaryDirectory(prefix="triptych-") as folder:
        out = Path(folder) / "variables.safetensors"
        process = subprocess.run(
            [sys.executable, "-m", "common.porting.checkpoint_files", str(prefix), str(out)],
            capture_output=True,
            timeout=TIMEOUT,
            env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
            text=True,
            check=False,
        )
        if process.returncode == 2:
            raise corrupt(prefix, process.stdout.strip())
        if process.returncode or not out.is_file():
            raise corrupt(prefix, f"TensorFlow ended with status {process.returncode} on it")
        source = read_safetensors(out, mapped(out))  # stays mapped when the folder goes
    data = sorted(prefix.parent.glob(f"{prefix.name}.data-*"))
    files = (prefix.with_name(f"{prefix.name}.index"), *data)
    return replace(source, path=prefix, format="TF1 checkpoint", conventions=("tf1",), files=files)


def main() -> None:
    """Copy the variables that are parameters of a network; print one sentence and end with 2 if that cannot be done."""
    prefix, out = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        _copy(prefix, out)
    except ImportError:
        sys.exit(_say("TensorFlow is not installed; pip install -c constraints.txt -e '.[tf1]'"))
    except TriptychError as error:
        sys.exit(_say(str(error)))
    except Exception as error:  # TensorFlow's errors have no common base class
        sys.exit(_say(f"TensorFlow cannot read it ({str(error).splitlines()[0][:200]})"))


def _say(sentence: str) -> int:
    print(sentence)
    return 2


def _copy(prefix: Path, out: Path) -> None:
    import tensorflow.compat.v1 as tf

    from common.weights import write_weights_file

    reader = tf.train.NewCheckpointReader(str(prefix))
    dtypes = reader.get_variable_to_dtype_map()
    shapes: Mapping[str, list[int]] = reader.get_variable_to_shape_map()
    names = [name for name in shapes if name.rpartition("/")[2] in PARAMETERS]
    promised = sum(prod(shapes[name]) * dtypes[name].size for name in names)
    held = sum(file.stat().st_size for file in prefix.parent.glob(f"{prefix.name}.data-*"))
    if promised > held:
        raise TriptychError(f"its index promises {promised:,} bytes, but its data are {held:,}")
    weights = {name: reader.get_tensor(name) for name in names if dtypes[name] == tf.float32}
    for name in names:
        if name not in weights:
            raise TriptychError(f"{name} has dtype {dtypes[name].name}, expected float32")
    write_weights_file(out, weights, metadata=_metadata(prefix))


def _metadata(prefix: Path) -> dict[str, str]:
    """What a checkpoint of ours says of itself, in the collections of its graph."""
    import tensorflow.compat.v1 as tf
    from google.protobuf.message import DecodeError

    meta = prefix.with_name(f"{prefix.name}.meta")
    if not meta.is_file() or meta.stat().st_size > LONGEST_META:
        return {}
    try:
        graph = tf.MetaGraphDef.FromString(meta.read_bytes())
        said = json.loads(graph.collection_def[COLLECTION].bytes_list.value[0])
        return {str(key): str(text) for key, text in said.items()}
    except (DecodeError, IndexError, ValueError, AttributeError, RecursionError):
        return {}


if __name__ == "__main__":
    main()
