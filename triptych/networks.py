"""The networks of the catalogue and foreign weights, as Python functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.porting.matching import Network
    from common.porting.port import Report
    from common.weights import Weights


def build(
    architecture: str,
    framework: str = "torch",
    *,
    weights: Weights | None = None,
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Any:
    """Build a network: an `nn.Module`, a Keras model or a `tf.compat.v1.Session`, in evaluation mode.

    Args:
        architecture: a name that `list_architectures` gives.
        framework: `torch`, `keras` or `tf1`.
        weights: float32 arrays in the canonical layout, by name, such as `conv1/weight`, (out, in, height, width); the
            framework's own initialisation if not given.
        num_classes: the number of logits; the paper's by default.
        image_size: (height, width) in pixels; the paper's by default.

    Raises:
        TriptychError: there is no such network or framework, or the weights do not fit.
    """
    from common.implementations import import_implementation

    implementation = import_implementation(framework)
    model = implementation.build(architecture, num_classes=num_classes, image_size=image_size)
    if weights is not None:
        implementation.load_weights(model, weights)
    return model


def load(path: str | Path, architecture: str | None = None, **reading: Any) -> Network:
    """Read a file of weights of any format that can be ported; it is read as data, and never run.

    Args:
        path: the file; of a TensorFlow checkpoint, the prefix.
        architecture: the network, where the file's content does not say.
        reading: what else the file does not say: the fields of `common.porting.reading.Reading`, such as `entry`.

    Returns:
        The network in it: its `weights` in the canonical layout, its `spec`, its `preprocessing`, and `notes`.

    Raises:
        TriptychError: it cannot be read, or has no network of the catalogue in it.
    """
    from common.porting.formats import read_source
    from common.porting.matching import understand
    from common.porting.reading import Reading

    return understand(read_source(path), architecture, reading=Reading(**reading))


def export(
    architecture: str,
    path: str | Path,
    framework: str = "torch",
    *,
    weights: str | Path | None = None,
    **options: Any,
) -> None:
    """Export a network to ONNX by tracing one framework's own model.

    Args:
        architecture: a name that `list_architectures` gives.
        path: the ONNX file to write.
        framework: `torch`, `keras` or `tf1`.
        weights: a file of any format that can be ported; drawn from a seed by default.
        options: the fields of `ExportOptions`, such as `batch=1` or `softmax=True`.

    Raises:
        TriptychError: there is no such network or framework, the weights cannot be read, or the file cannot be written.
    """
    from common.onnx.options import ExportOptions
    from common.porting.exporting import export_network

    export_network(
        architecture, None if weights is None else Path(weights), framework, Path(path), ExportOptions(**options)
    )


def port(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    architecture: str | None = None,
    names: str | None = None,
    skip: Collection[str] = (),
    num_classes: int | None = None,
    verify: bool = True,
    **reading: Any,
) -> Report:
    """Port weights from one format to another, and prove that nothing was lost.

    Args:
        source: a file of any format that can be ported.
        out: the file to write; for `tf1`, the checkpoint's prefix.
        to: `safetensors`, `torch`, `keras`, `tf1` or `onnx`.
        architecture: the network, where the source's content does not say.
        names: `torchvision` for a state dict with torchvision's names.
        skip: layers to leave at a seeded initialisation.
        num_classes: the number of logits, if not the source's.
        verify: whether to prove it.
        reading: as for `load`.

    Raises:
        TriptychError: the source cannot be read, the target cannot be written, or the proof fails.
    """
    from common.porting.port import port as port_weights
    from common.porting.reading import Reading
    from common.porting.targets import Target

    return port_weights(
        Path(source),
        Target(to, Path(out), names),
        architecture=architecture,
        skip=skip,
        num_classes=num_classes,
        reading=Reading(**reading),
        verify=verify,
    )


def parity(architectures: str | Sequence[str] = "*", **options: Any) -> dict[str, Any]:
    """Run networks in every backend, and prove that they compute the same function.

    Args:
        architectures: a name, or several, or patterns such as `lenet*`.
        options: those of `common.parity.networks.plan_for`: `backends=["torch", "tf1"]`, `probes=["exact"]`, `weights`,
            `device`, `every_path`, `precision`, `batch`, `seed`, `jobs`, `timeout`, `gradients`, `dask`.

    Returns:
        What `triptych parity --json` prints: `verdict`, `environment`, and `runs` with every backend and layer.

    Raises:
        TriptychError: what is asked for is not there, or does not go together.
    """
    from common.parity.networks import plan_for, prove_networks
    from common.parity.outcome import as_json
    from common.specs import matching

    names = matching([architectures] if isinstance(architectures, str) else architectures)
    return as_json(prove_networks(names, plan_for(names, **options)))
