"""TensorFlow's checkpoints: copied into safetensors, and read from there.

Three kinds are read: those of a Saver, with the names of the variables, also in the format from before 0.12; object
checkpoints, which keep the names separately; and the variables of a SavedModel. TensorFlow's reader checks a checksum
of every tensor. It aborts on some damaged files, so it runs in a process of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

from common.errors import Damaged, TriptychError
from common.porting.safetensors_files import read_safetensors
from common.porting.source import Source, corrupt, mapped, unanswered, unsupported
from common.process import ProcessFailure, answering, ask, requests
from common.process.sparing import spare_imports
from common.process.template import Imports

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
"""What the index ends with, and what each file of a checkpoint of the first version does."""

FIRST_VERSION = re.compile(rb"\0\0[\x80-\xff]{0,4}[\1-\x7f]\n[\x80-\xff]{0,4}[\1-\x7f]\n[\x80-\xff]{0,4}[\1-\x7f]\n")
"""What such a file begins with: the empty key, and below it a message of messages, each of which begins with a name."""

SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})")
"""The name of one file of such a checkpoint, if its Saver was sharded."""

SPELLED = "spelled"
"""The key of the copy's metadata under which it says what the checkpoint calls the variables."""

COLLECTION = "triptych"
"""The graph collection in which our own files keep metadata."""

OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The variable in which a checkpoint of objects keeps what belongs together, and the names."""

KINDS = {
    "weights": "weight",
    "W": "weight",
    "b": "bias",
    "kernel": "weight",
    "biases": "bias",
    "moving_mean": "mean",
    "moving_variance": "variance",
}
"""How others call parameters."""

PARAMETERS = {*KINDS, "weight", "bias", "gamma", "beta", "mean", "variance"}

LONGEST_META = 64 << 20
TIMEOUT = 300.0


def prefix_of(path: Path) -> Path | None:
    """The checkpoint's prefix, if `path` is one, is its index, or is a folder with one or with a SavedModel.

    Raises:
        TriptychError: the folder has several, or none.
    """
    if path.is_dir():
        return _prefix_in(path)
    if not path.exists() and path.with_name(f"{path.name}.index").is_file():
        return path
    if path.name == "saved_model.pb" and path.is_file():
        return _prefix_in(path.parent)
    if path.is_file() and path.suffix == ".index" and bytes(mapped(path)[-8:]) == MAGIC:
        return path.with_suffix("")
    return None


def _prefix_in(folder: Path) -> Path:
    found = sorted(folder.glob("variables/variables.index")) or sorted(folder.glob("*.index"))
    if not found:
        raise TriptychError(
            f"{folder} is a folder without a SavedModel or a checkpoint; give the path of a weights file"
        )
    if len(found) > 1:
        names = ", ".join(file.stem for file in found[:5])
        raise TriptychError(f"{folder} has {len(found)} checkpoints, {names} …; give the path of one, {folder}/NAME")
    return found[0].with_suffix("")


def read_checkpoint(prefix: Path) -> Source:
    """The variables of a checkpoint, those of optimisers left out.

    Raises:
        TriptychError: TensorFlow is not installed, or cannot read the checkpoint.
    """
    data = sorted(prefix.parent.glob(f"{prefix.name}.data-*"))
    return _read(prefix, str(prefix), (prefix.with_name(f"{prefix.name}.index"), *data))


def is_first_version(content: memoryview) -> bool:
    """Whether a file is a checkpoint of the first version, or part of one, perhaps cut off."""
    return FIRST_VERSION.match(content[:64]) is not None


def read_first_version(path: Path) -> Source:
    """The variables of a checkpoint in the format of before TensorFlow 0.12, by its file, or by one of its files.

    Raises:
        TriptychError: one of its files is missing; TensorFlow is not installed, or cannot read the checkpoint.
    """
    files = [path]
    if shard := SHARD.fullmatch(path.name):
        count = int(shard[2])
        files = [path.with_name(f"{shard[1]}-{index:05}-of-{shard[2]}") for index in range(count)]
    for file in files:
        if bytes(mapped(file)[-8:]) != MAGIC:
            raise corrupt(file, "it is a checkpoint of TensorFlow that is cut off")
    with TemporaryDirectory(prefix="triptych-") as folder:  # by other names: TensorFlow takes a path for a pattern
        for index, file in enumerate(files):
            (Path(folder) / f"part-{index:05}").symlink_to(file.resolve())
        return _read(path, f"{folder}/part-*", tuple(files))


def _read(prefix: Path, pattern: str, files: tuple[Path, ...]) -> Source:
    with TemporaryDirectory(prefix="triptych-") as folder:
        out = Path(folder) / "variables.safetensors"
        try:
            held = sum(file.stat().st_size for file in files if file.suffix != ".index")
            asked = {"prefix": str(prefix), "pattern": pattern, "held": held, "out": str(out)}
            ask(
                "common.porting.checkpoint_files",
                asked,
                timeout=TIMEOUT,
                variables={"TF_CPP_MIN_LOG_LEVEL": "3"},
                imports=Imports(("tensorflow.compat.v1",), spared="*"),
            )
        except ProcessFailure as failure:
            if failure.answer:
                raise (corrupt if failure.answer["damaged"] else unsupported)(prefix, str(failure)) from None
            raise unanswered(prefix, "TensorFlow", failure) from None
        source = read_safetensors(out, mapped(out))  # stays mapped when the folder goes
    spelled = json.loads(source.metadata.get(SPELLED, "{}"))
    metadata = {key: text for key, text in source.metadata.items() if key not in (SPELLED, "format")}
    return replace(
        source,
        path=prefix,
        format="TensorFlow checkpoint",
        conventions=("tf1", "slim", "tensorpack", "keras", "keras.applications"),
        files=files,
        spelled=spelled,
        metadata=metadata,
    )


def main() -> None:
    """Copy the variables that are parameters of a network from `prefix` to `out`."""
    answer, asked = answering(), next(requests())
    spare_imports()
    try:
        _copy(asked["pattern"], asked["held"], _metadata(Path(asked["prefix"])), Path(asked["out"]))
    except ImportError:
        told, damaged = "TensorFlow is not installed; pip install -c constraints.txt -e '.[tf1]'", False
    except TriptychError as error:
        told, damaged = str(error), isinstance(error, Damaged)
    except Exception as error:  # TensorFlow's errors have no common base class
        said = str(error).splitlines()[0].replace(f"{Path(asked['pattern']).parent}/", "")
        told = f"TensorFlow cannot read it ({said[:200]})"
        damaged = type(error).__name__ != "UnimplementedError"  # what the first version has in slices, or as float16
    else:
        answer({})
        return
    answer({"error": told, "damaged": damaged})


def _copy(pattern: str, held: int, metadata: Mapping[str, str], out: Path) -> None:
    import tensorflow.compat.v1 as tf

    from common.weights import write_weights_file

    reader = tf.train.NewCheckpointReader(pattern)
    dtypes = reader.get_variable_to_dtype_map()
    shapes: Mapping[str, list[int]] = reader.get_variable_to_shape_map()
    promised = sum(prod(shapes[name]) * dtypes[name].size for name in shapes)
    if promised > held:
        raise Damaged(f"its index promises {promised:,} bytes, but its data are {held:,}")
    names = _names_of_objects(reader.get_tensor(OBJECTS)) if OBJECTS in shapes else {name: name for name in shapes}
    weights, spelled = {}, {}
    for key, name in sorted(names.items()):
        layer, _, kind = name.removesuffix("/EMA").rpartition("/")  # tensorpack's moving averages
        if not layer or kind not in PARAMETERS or key not in shapes:
            continue
        canonical = f"{layer}/{KINDS.get(kind, kind)}"
        if canonical in weights:
            continue  # a SavedModel has its variables in two lists
        if dtypes[key] not in (tf.float32, tf.float16, tf.float64):
            raise TriptychError(f"{name} has dtype {dtypes[key].name}, expected float32")
        weights[canonical], spelled[canonical] = reader.get_tensor(key), name
    write_weights_file(out, weights, metadata={**metadata, SPELLED: json.dumps(spelled)})


def _names_of_objects(content: bytes) -> dict[str, str]:
    """What the variables of a checkpoint of objects were called, by key; those of optimisers left out."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    graph = TrackableObjectGraph.FromString(content)
    return {
        attribute.checkpoint_key: attribute.full_name
        for node in graph.nodes
        for attribute in node.attributes
        if attribute.full_name
        and "OPTIMIZER_SLOT" not in attribute.checkpoint_key
        and not attribute.checkpoint_key.startswith(("optimizer/", "model/optimizer/"))
    }


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
