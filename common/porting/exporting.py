"""Exports a network to ONNX, with weights from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from common.implementations import import_implementation
from common.onnx.options import ExportOptions
from common.porting.formats import read_source
from common.porting.matching import understand
from common.specs import get_spec
from common.specs.seeded import random_weights


def export_network(
    architecture: str | None, weights: Path | None, framework: str, path: Path, options: ExportOptions
) -> dict[str, Any]:
    """Build a network, load its weights and export it.

    Args:
        architecture: a name; None if the weights say it.
        weights: a file of any format that can be ported; None for weights drawn from a seed.
        framework: the framework whose model is exported.
        path: the file to write.
        options: the options of the export.

    Returns:
        What was written, for programs: `path`, `architecture`, `source` (the framework), `bytes`, `notes`.

    Raises:
        TriptychError: there is no such network, the weights cannot be read, or the file cannot be written.
    """
    notes: tuple[str, ...] = ()
    if weights:
        network = understand(read_source(weights), architecture)
        spec, values, notes = network.spec, network.weights, network.notes
        options = replace(options, preprocessing=network.preprocessing, prepared=network.preprocessing is not None)
    else:
        spec, values = get_spec(architecture or ""), random_weights(architecture or "")
    implementation = import_implementation(framework)
    model = implementation.build(spec.name, num_classes=spec.num_classes)
    implementation.load_weights(model, values)
    implementation.export_onnx(model, path, options)
    data = path.with_name(f"{path.name}.data")
    size = path.stat().st_size + (data.stat().st_size if options.external_data else 0)
    return {
        "path": str(path),
        "architecture": spec.name,
        "source": framework,
        "bytes": size,
        "notes": list(notes),
    }
