"""The forward pass of our networks, against that of torchvision and of keras.applications.

Run it with `.venv/bin/python -m benchmarks.forward [RUNS]`. It prints medians of interleaved runs and their ratios, for
one image and for eight, and those of our export in ONNX Runtime. No weights are trained: the time does not depend on
them. Threads that wait sleep, since one library's would slow down the next.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

os.environ |= {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from benchmarks.measuring import in_turn, table

TORCHVISION = {
    "alexnet_owt": "alexnet",
    "vgg16": "vgg16",
    "googlenet_bn": "googlenet",
    "resnet50_v1_5": "resnet50",
    "densenet121": "densenet121",
}
KERAS = {"vgg16": "VGG16", "resnet50": "ResNet50", "densenet121": "DenseNet121"}
BATCHES = (1, 8)

Ways = dict[str, Callable[[], object]]


def images_of(batch: int) -> np.ndarray:
    """(N, 3, 224, 224)."""
    return np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)


def in_torch(architecture: str, batch: int, folder: Path) -> Ways:
    """Our module and our export, and torchvision's module if that is installed."""
    import onnxruntime
    import torch

    import torch_impl
    from common.prove.models import load, parse

    image = images_of(batch)
    tensor = torch.from_numpy(image)
    ours = torch_impl.build(architecture).eval()
    torch_impl.export_onnx(ours, folder / "ours.onnx")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(folder / "ours.onnx", options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image}

    def way(model: torch.nn.Module) -> Callable[[], object]:
        return torch.inference_mode()(lambda: model(tensor))

    ways: Ways = {"ours": way(ours), "onnx": lambda: session.run(None, feed)}
    if importlib.util.find_spec("torchvision"):
        ways["peer"] = way(load(parse(f"torchvision:{TORCHVISION[architecture]}")).eval())
    return ways


def in_keras(architecture: str, batch: int) -> Ways:
    """Our model and that of keras.applications, both as `predict` runs them."""
    import keras

    import keras_impl

    image = np.ascontiguousarray(images_of(batch).transpose(0, 2, 3, 1))
    ours = keras_impl.build(architecture)
    peer = getattr(keras.applications, KERAS[architecture])(weights=None, classifier_activation=None)
    return {"ours": lambda: ours.predict_on_batch(image), "peer": lambda: peer.predict_on_batch(image)}


def rows(peers: dict[str, str], ways_of: Callable[[str, int], Ways], runs: int) -> Iterator[tuple[str, ...]]:
    """Milliseconds of the peer and of ours, then each of ours ÷ the peer."""
    for architecture in peers:
        for batch in BATCHES:
            found = in_turn(ways_of(architecture, batch), max(runs // batch, 3))
            peer = found.pop("peer", None)
            ratios = ["–" if peer is None else f"{seconds / peer:.2f}" for seconds in found.values()]
            told = "not installed" if peer is None else f"{peer * 1e3:.1f}"
            yield f"{architecture}, batch {batch}", told, f"{found['ours'] * 1e3:.1f}", *ratios


def main() -> None:
    """Print a table for each library."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    with tempfile.TemporaryDirectory() as name:
        found = rows(TORCHVISION, lambda architecture, batch: in_torch(architecture, batch, Path(name)), runs)
        headings = (
            "PyTorch",
            "torchvision, ms",
            "ours, ms",
            "ours ÷ torchvision",
            "our export ÷ torchvision",
        )
        print(table(headings, found), end="\n\n", flush=True)
    headings = "Keras", "keras.applications, ms", "ours, ms", "ours ÷ keras.applications"
    print(table(headings, rows(KERAS, in_keras, runs)))


if __name__ == "__main__":
    main()
