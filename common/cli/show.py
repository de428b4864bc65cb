"""`triptych show`: describes a network, or a file of weights or ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.cli.app import Framework, Json, Verbose, app, complete, print_json
from common.cli.terminal import plain_table, say, standard_output
from common.errors import TriptychError, argument
from common.specs import CATALOGUE, get_spec
from common.specs.architecture import Architecture, Layer, shape_text

if TYPE_CHECKING:
    from rich.console import Console


@app.command()
def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ARCH|FILE",
            help="A network, by a name that `triptych list` prints, or a file of weights or ONNX.",
            autocompletion=complete,
        ),
    ],
    framework: Annotated[
        Framework | None, typer.Option(help="Build the network and print this framework's own summary.")
    ] = None,
    filters: Annotated[
        bool, typer.Option("--filters", help="Draw the filters of the file's first convolution.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show a network's layers: name, operation, output shape, parameters, multiply-adds."""
    is_file = what not in CATALOGUE and any(Path(name).exists() for name in (what, f"{what}.index"))
    if framework and filters:
        raise TriptychError(f"{argument('filters')} is for files; leave out {argument('framework')}")
    if framework:
        found = of_framework(get_spec(what), framework.value)
    elif filters:
        found = of_filters(Path(what), is_file)
    elif is_file:
        found = of_file(Path(what))
    elif what.endswith(".onnx"):
        raise TriptychError(f"there is no file {what}")
    else:
        found = of_architecture(get_spec(what))
    if json:
        print_json(found.content)
    else:
        found.print(standard_output())


@dataclass(frozen=True)
class Description:
    """What there is to say."""

    content: dict[str, Any]
    """For programs."""
    print: Callable[[Console], None]
    """For people."""


def of_architecture(spec: Architecture) -> Description:
    """Its layers, with the shape of each output, parameters and multiply-adds."""
    rows = [_layer_row(spec, layer) for layer in spec.layers]
    title = f"{spec.name}: {spec.title}, input {shape_text(spec.input_shape)}"
    total = f"{spec.parameter_count:,} parameters, {spec.multiply_adds:,} multiply-adds"
    content = {**summary(spec), "outputs": spec.outputs, "layers": rows}
    return Description(content, partial(_print_layers, title=title, rows=rows, total=total))


def of_framework(spec: Architecture, framework: str) -> Description:
    """What Keras, PyTorch or TensorFlow 1 itself says of the network."""
    from common.explorer.summary import summarise

    text = summarise(framework, spec.name)
    content = {"architecture": spec.name, "framework": framework, "summary": text}
    return Description(content, lambda console: print(text.rstrip()))


def of_file(path: Path) -> Description:
    """The layers of an ONNX file, as the file itself has them, or the tensors of another.

    Raises:
        TriptychError: it cannot be read.
    """
    from common.cli.tensors import print_file
    from common.porting.description import describe_file
    from common.porting.formats import is_onnx

    if path.is_file() and is_onnx(path):
        return _of_onnx(path)
    content = describe_file(path)
    return Description(content, partial(print_file, description=content))


def of_filters(path: Path, is_file: bool) -> Description:
    """The filters of the first convolution in a file.

    Raises:
        TriptychError: it is no file, cannot be read, or has none.
    """
    if str(path) in CATALOGUE:
        raise TriptychError(f"{path} is a network without weights; {argument('filters')} is for files")
    if not is_file:
        raise TriptychError(f"there is no file {path}; give the path of a file of weights or ONNX")
    from common.cli.filters import filters_of_file, print_filters

    content, filters, counted = filters_of_file(path)
    return Description(content, partial(print_filters, path=path, filters=filters, counted=counted))


def _of_onnx(path: Path) -> Description:
    from common.onnx.summary import read_summary

    found = read_summary(path)
    said = "".join(f"\n{key}: {value}" for key, value in sorted(found.metadata.items()))
    values = (f"{name} {shape_text(shape)}" for name, shape in (*found.inputs.items(), *found.outputs.items()))
    rows = [
        {"name": layer.name, "operation": layer.operator, "output": layer.output, "parameters": layer.parameters}
        for layer in found.layers
    ]
    title = f"{path}: {', '.join(values)}{said}"
    total = f"{sum(layer.parameters for layer in found.layers):,} parameters, operators {found.opset}"
    content = {"path": str(path), **asdict(found)}
    return Description(content, partial(_print_layers, title=title, rows=rows, total=total))


def summary(spec: Architecture) -> dict[str, Any]:
    """A network in a few words, for programs."""
    return {
        "name": spec.name,
        "family": spec.family,
        "title": spec.title,
        "year": spec.year,
        "paper": spec.paper,
        "input": spec.input_shape,
        "parameters": spec.parameter_count,
        "multiply_adds": spec.multiply_adds,
    }


def _layer_row(spec: Architecture, layer: Layer) -> dict[str, Any]:
    inputs = spec.input_shapes(layer)
    return {
        "name": layer.name,
        "operation": layer.operation.kind,
        "inputs": layer.inputs,
        "output": spec.shapes[layer.name],
        "parameters": sum(map(prod, layer.operation.parameter_shapes(*inputs).values())),
        "multiply_adds": layer.operation.multiply_adds(*inputs),
    }


def _print_layers(console: Console, *, title: str, rows: list[dict[str, Any]], total: str) -> None:
    table = plain_table("layer", "operation", "output")
    numbers = [name for name in ("parameters", "multiply_adds") if rows and name in rows[0]]
    for name in numbers:
        table.add_column(name.replace("_", "-"), justify="right")
    for row in rows:
        counts = (f"{row[name]:,}" if row[name] else "" for name in numbers)
        table.add_row(row["name"], row["operation"], shape_text(row["output"]), *counts)
    say(console, title)
    console.print(table)
    say(console, total)
