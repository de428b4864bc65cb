"""The command line. Frameworks are imported only by the commands that run them, and only where they do."""

from __future__ import annotations

import json as json_module
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from common.errors import TriptychError
from common.files import os_error_sentence
from common.specs import CATALOGUE, get_spec, list_architectures, nearest
from common.terminal import plain_table, progress_bar, say, standard_error, standard_output

if TYPE_CHECKING:
    from rich.console import Console

    from common.onnx_graph import ExportOptions

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The classic convolutional networks in Keras, PyTorch and TensorFlow 1 style, and the proof that they agree.",
)

DIFFERENCE_FOUND, NOT_CARRIED_OUT, INTERRUPTED = 1, 2, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

# What a weights file may leave open, for the commands that read one.
Arch = Annotated[str | None, typer.Option(help="The architecture, where the file's content does not say.")]
Entry = Annotated[str | None, typer.Option(help="Which of several collections of tensors in the file.")]
Prefix = Annotated[str | None, typer.Option(help="What stands in front of the names in the file.")]
Rename = Annotated[list[str] | None, typer.Option(help="OLD=NEW, a tensor or a layer; may be repeated.")]
Ignore = Annotated[list[str] | None, typer.Option(help="A pattern of tensors to leave out; may be repeated.")]
Rounding = Annotated[bool, typer.Option("--round", help="Round float64 to float32; the report says what it cost.")]
Force = Annotated[bool, typer.Option("--force", help="With --arch: take the weights of another network for its own.")]
Preparation = Annotated[
    str | None, typer.Option(help="How photographs are prepared: torchvision, caffe, keras-torch, keras-tf, or JSON.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Tell all of what is wrong, however long it is.")]

LONGEST_MESSAGE = 400
"""Characters of what standard error is told without `--verbose`."""


class Framework(StrEnum):
    """The implementations."""

    TORCH = "torch"
    KERAS = "keras"
    TF1 = "tf1"


class ElementType(StrEnum):
    """What an export's numbers can be."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class LRNForm(StrEnum):
    """How an export writes local response normalisation."""

    NODE = "node"
    NODES = "nodes"


class PortTarget(StrEnum):
    """What weights can be ported to."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    KERAS = "keras"
    TF1 = "tf1"
    ONNX = "onnx"


def _complete(incomplete: str) -> list[str]:
    """What the shell offers for the name of a network."""
    return [name for name in CATALOGUE if name.startswith(incomplete)]


def _print_json(report: Any) -> None:
    print(json_module.dumps(report, indent=2, ensure_ascii=False))


@app.command("list")
def list_command(
    pattern: Annotated[
        str, typer.Argument(help="A shell-style pattern, such as 'alexnet*'.", autocompletion=_complete)
    ] = "*",
    json: Json = False,
) -> None:
    """List the architectures: family, input, parameters, paper."""
    names = _matching([pattern])
    specs = [get_spec(name) for name in names]
    if json:
        from common.show import summary

        _print_json([summary(spec) for spec in specs])
        return
    from common.show import shape_text

    table = plain_table("architecture", "family", "input")
    table.add_column("parameters", justify="right")
    table.add_column("paper")
    for spec in specs:
        table.add_row(spec.name, spec.family, shape_text(spec.input_shape), f"{spec.parameter_count:,}", spec.paper)
    standard_output().print(table)


def _matching(patterns: list[str]) -> list[str]:
    """The architectures that match any of the patterns, in catalogue order."""
    found = set()
    for pattern in patterns:
        matches = list_architectures(pattern)
        if not matches:
            raise TriptychError(f"no architecture matches {pattern!r}; {nearest(pattern, CATALOGUE)}")
        found.update(matches)
    return [name for name in CATALOGUE if name in found]


@app.command()
def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ARCH|FILE",
            help="A name that `triptych list` prints, or a file of weights or ONNX.",
            autocompletion=_complete,
        ),
    ],
    framework: Annotated[
        Framework | None, typer.Option(help="Build it and print this framework's own summary instead.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show a network's layers: name, operation, output shape, parameters, multiply-adds."""
    from common import show as descriptions

    if framework:
        found = descriptions.of_framework(get_spec(what), framework.value)
    elif what not in CATALOGUE and any(Path(name).exists() for name in (what, f"{what}.index")):
        found = descriptions.of_file(Path(what))
    elif what.endswith(".onnx"):
        raise TriptychError(f"there is no file {what}")
    else:
        found = descriptions.of_architecture(get_spec(what))
    if json:
        _print_json(found.content)
    else:
        found.print(standard_output())


@app.command()
def compare(
    architecture: Annotated[str, typer.Argument(help="A name that `triptych list` prints.", autocompletion=_complete)],
    layer: Annotated[str, typer.Argument(help="A layer, by the name that any of the frameworks has for it.")],
    json: Json = False,
) -> None:
    """Print the three ways of writing one layer, side by side."""
    from common.explorer import compare as comparison

    spec = get_spec(architecture)
    fact, ways = comparison.compare(spec, layer)
    if json:
        _print_json(comparison.as_json(spec, fact, ways))
    else:
        comparison.print_comparison(standard_output(width=160), spec, fact, ways)


@app.command()
def explore(
    out: Annotated[Path, typer.Option(help="The folder to write the pages into.")] = Path("explorer"),
    report: Annotated[
        Path | None,
        typer.Option(help="What `triptych parity --report` or `--json` wrote, to show beside the networks."),
    ] = None,
) -> None:
    """Write the pages that show every network in three columns of source; open index.html in a browser."""
    from common.explorer.results import read_report
    from common.explorer.site import write_site

    results = read_report(report) if report else None
    with _progress(len(CATALOGUE), standard_output()) as advance:
        index = write_site(out, report=results, on_page=advance)
    say(standard_output(), f"{index}: {len(CATALOGUE)} networks")


@app.command()
def parity(
    architectures: Annotated[
        list[str] | None, typer.Argument(help="Names or patterns; all if none is given.", autocompletion=_complete)
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="A backend; may be repeated. All installed by default.")
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(help="exact, random, photo (the default); tiny, huge, subnormal; deployed; or an image file."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Canonical safetensors for the random and photo probes.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or webgpu.")] = "cpu",
    every_path: Annotated[
        bool,
        typer.Option("--every-path", help="Each backend once for every set of kernels that this CPU can be held to."),
    ] = False,
    precision: Annotated[str, typer.Option(help="fp32 or, on a GPU, tf32.")] = "fp32",
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images in a batch; 2 by default, 1 with --gradients but on exact."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the probes and of the weights.")] = 0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Backends that run at the same time, each with its share of the cores.")
    ] = 2,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a backend may take for one probe.")] = 600,
    report: Annotated[
        Path | None, typer.Option(help="A folder for the outcome as a page, as JSON and as JUnit's XML.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --report: go on where a run into that folder was interrupted.")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of probes, train for so many steps.")] = None,
    gradients: Annotated[bool, typer.Option("--gradients", help="Compare the backward pass instead.")] = False,
    plot: Annotated[Path | None, typer.Option(help="With --steps: a folder for a picture of each divergence.")] = None,
    json: Json = False,
) -> None:
    """Run networks in every backend and prove that they compute the same function."""
    from common.images import read_photograph
    from common.parity.backends import Hardware, on_every_path, select_differentiable, select_for, select_trainable
    from common.parity.command import parity_command
    from common.parity.gradients import USUAL_FOR_GRADIENTS, check_differentiable
    from common.parity.results import Plan
    from common.probes import PROBES, USUAL
    from common.weights import read_weights_file

    for name in probe or ():
        if name not in PROBES and not Path(name).is_file():
            raise TriptychError(f"there is no probe and no image {name!r}; probes are {', '.join(PROBES)}")
        if name not in PROBES:
            read_photograph(name)
    names = _matching(architectures or ["*"])
    if steps is None and plot:
        raise TriptychError("--plot draws how trajectories part; say how long they are with --steps")
    if steps is not None:
        if gradients or probe or weights or batch or report or every_path or device != "cpu":
            others = "--gradients, --probe, --weights, --batch, --report, --every-path or --device"
            raise TriptychError(f"--steps takes no {others}; leave these out")
        from common.parity.trajectory_report import trajectory_command

        found = trajectory_command(
            standard_error() if json else standard_output(),
            names,
            select_trainable(backend),
            steps=steps,
            seed=seed,
            timeout=timeout,
            plots=plot,
            progress=_progress,
        )
        _finish(found, json)
    if weights and len(names) > 1:
        raise TriptychError(f"--weights {weights} belongs to one network, but {len(names)} match; name the one")
    if gradients and device == "webgpu":
        raise TriptychError("WebGPU runs exports, which have no backward pass; leave out --gradients or --device")
    if gradients and precision != "fp32":
        raise TriptychError(f"gradients are held to the bounds of fp32, not of {precision}; leave out --precision")
    for name in probe or () if gradients else ():
        check_differentiable(name)
    backends = select_differentiable(backend) if gradients else select_for(device, backend)
    plan = Plan(
        backends=on_every_path(backends, device) if every_path else backends,
        probes=probe or (USUAL_FOR_GRADIENTS if gradients else USUAL),
        gradients=gradients,
        weights=read_weights_file(weights) if weights else None,
        seed=seed,
        batch=batch,
        hardware=Hardware.shared(jobs, device, precision),
        jobs=jobs,
        timeout=timeout,
        required=bool(backend),
    )
    if resume and not report:
        raise TriptychError("--resume goes on with the results in a report's folder; name it with --report")
    outcome = parity_command(
        standard_error(quiet=True) if json else standard_output(),
        names,
        plan,
        report=report,
        resume=resume,
        command=shlex.join(["triptych", *sys.argv[1:]]),
        progress=_progress,
    )
    _finish(outcome, json)


@app.command()
def prove(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="FILE.onnx, FILE.keras; FILE.py:NAME, which is run; package.module:NAME, timm:NAME, torchvision:NAME.",
        ),
    ],
    probe: Annotated[list[str] | None, typer.Option(help="exact, random: both by default; may be repeated.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="What a Python model takes, such as 1x3x224x224.")] = None,
    given: Annotated[
        list[str] | None, typer.Option("--input", help="NAME=FILE.npy, an input of the random probe; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and inputs.")] = 0,
    json: Json = False,
) -> None:
    """Prove a model of your own: every node of it, in everything that runs it, within its rounding bound of float64."""
    from common.prove.command import check_probes, prove_command, read_inputs, read_shape
    from common.prove.models import parse
    from common.prove.proof import PROBES, Request

    names = [parse(text) for text in models]
    request = Request(
        probes=check_probes(probe or PROBES), shape=read_shape(input_shape), inputs=read_inputs(given or ()), seed=seed
    )
    console = standard_error(quiet=True) if json else standard_output()
    report = prove_command(console, names, request, progress=_progress)
    if json:
        _print_json(report)
    raise typer.Exit(DIFFERENCE_FOUND if report["verdict"] in ("diverged", "incomplete") else 0)


def _finish(report: dict[str, Any], json: bool) -> NoReturn:
    """End a command whose report has a verdict, with the status that goes with it."""
    if json:
        _print_json(report)
    statuses = {row["status"] for run in report["runs"] for row in run["backends"]}
    if report["verdict"] == "incomplete" and "crashed" not in statuses:
        raise typer.Exit(NOT_CARRIED_OUT)
    raise typer.Exit(DIFFERENCE_FOUND if report["verdict"] in ("diverged", "incomplete") else 0)


@contextmanager
def _progress(total: int, console: Console) -> Iterator[Callable[[str], None]]:
    """A progress bar on a terminal: below what `console` prints if that is one, else on standard error."""
    with progress_bar(console if console.is_terminal and not console.quiet else standard_error()) as bars:
        task = bars.add_task("starting", total=total)
        yield lambda what: bars.update(task, advance=1, description=f"{what} done")


@app.command()
def export(
    what: Annotated[
        str, typer.Argument(metavar="ARCH|PATTERN|FILE", help="A name, a pattern such as 'vgg*', or a file of weights.")
    ],
    source: Annotated[Framework, typer.Option("--from", help="Whose model to trace.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write; for a pattern, the folder for NAME.onnx.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weights of any format that port reads; seeded ones if not given.")
    ] = None,
    output: Annotated[
        list[str] | None, typer.Option(help="logits, aux1 or aux2; may be repeated. The logits by default.")
    ] = None,
    softmax: Annotated[bool, typer.Option("--softmax", help="End in probabilities instead of logits.")] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="Fix the number of images.")] = None,
    dtype: Annotated[
        ElementType, typer.Option(help="Of the image, the weights and all between.")
    ] = ElementType.FLOAT32,
    lrn: Annotated[
        LRNForm | None,
        typer.Option(help="LRN as one node, or as the six it consists of: faster, and the default in float32."),
    ] = None,
    fold: Annotated[bool, typer.Option("--fold", help="Fold batch normalisations into convolutions.")] = False,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Put the weights into a file of their own, OUT.data.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Export networks to ONNX by tracing one framework's own model."""
    from common.onnx_graph import ExportOptions

    form = lrn.value if lrn else None
    options = ExportOptions(tuple(output or ("logits",)), softmax, batch, dtype.value, fold, external_data, lrn=form)
    if Path(what).is_file() or (what not in CATALOGUE and Path(f"{what}.index").is_file()):
        if weights:
            raise TriptychError(f"{what} is a file of weights itself; name an architecture, or leave --weights out")
        jobs: list[tuple[str | None, Path | None, Path]] = [(None, Path(what), out)]
    else:
        names = _matching([what])
        several = len(names) > 1 or what not in CATALOGUE
        if weights and several:
            raise TriptychError(f"--weights {weights} belongs to one network, but {what!r} is a pattern; name the one")
        if several and out.exists() and not out.is_dir():
            raise TriptychError(f"{what!r} is a pattern, so --out must be a folder, and {out} is a file")
        if several:
            out.mkdir(parents=True, exist_ok=True)
        jobs = [(name, weights, out / f"{name}.onnx" if several else out) for name in names]
    written = []
    with _progress(len(jobs), standard_error()) as advance:
        for name, file, path in jobs:
            written.append(_export_one(source, name, file, path, options))
            advance(written[-1]["architecture"])
            if not json:
                say(standard_output(), "{path}: {architecture} from {source}, {bytes:,} bytes".format(**written[-1]))
                for note in written[-1]["notes"]:
                    say(standard_output(), f"note: {note}")
    if json:
        _print_json(written)


def _export_one(
    source: Framework, architecture: str | None, weights: Path | None, path: Path, options: ExportOptions
) -> dict[str, Any]:
    """Build, load and export one network; what was written."""
    from dataclasses import replace

    from common.frameworks import import_implementation
    from common.porting.formats import read_source
    from common.porting.matching import understand
    from common.weights import random_weights

    notes: tuple[str, ...] = ()
    if weights:
        network = understand(read_source(weights), architecture)
        spec, values, notes = network.spec, network.weights, network.notes
        options = replace(options, preprocessing=network.preprocessing, prepared=network.preprocessing is not None)
    else:
        spec, values = get_spec(architecture or ""), random_weights(architecture or "")
    implementation = import_implementation(source.value)
    model = implementation.build(spec.name, num_classes=spec.num_classes)
    implementation.load_weights(model, values)
    implementation.export_onnx(model, path, options)
    data = path.with_name(f"{path.name}.data")
    size = path.stat().st_size + (data.stat().st_size if options.external_data else 0)
    return {
        "path": str(path),
        "architecture": spec.name,
        "source": source.value,
        "bytes": size,
        "notes": list(notes),
    }


@app.command()
def probe(
    architecture: Annotated[str, typer.Argument(help="A name that `triptych list` prints.", autocompletion=_complete)],
    out: Annotated[Path, typer.Option(help="The folder to write, which must not exist.")],
    source: Annotated[
        Framework | None,
        typer.Option("--from", help="Whose model to export; the first one installed if not given."),
    ] = None,
    json: Json = False,
) -> None:
    """Write the exact probe of a network for whoever runs it elsewhere: ONNX file, inputs, right answers, hashes."""
    spec = get_spec(architecture)
    from common.probes.portable import write_probe

    written = write_probe(spec, out, source.value if source else None)
    if json:
        _print_json(written)
        return
    text = "{out}: {layers} layers of {architecture} from {source}, {bytes:,} bytes, ".format(**written)
    compared = {True: "as published", False: "not as published", None: "which is not published"}[written["published"]]
    say(standard_output(), f"{text}{compared}")


class Augmentation(StrEnum):
    """What is done to training pictures at random."""

    NONE = "none"
    CROP = "crop"
    FLIP = "flip"
    COLOUR = "colour"


class BadFiles(StrEnum):
    """What is done about images that cannot be read."""

    REFUSE = "refuse"
    SKIP = "skip"


@app.command()
def train(
    architecture: Annotated[str, typer.Argument(help="A name that `triptych list` prints.")],
    framework: Annotated[Framework, typer.Option("--with", help="Whose idiom.")],
    data: Annotated[
        Path | None, typer.Option(help="IDX files or a folder of images for each class; scikit-learn's digits if not.")
    ] = None,
    finetune: Annotated[Path | None, typer.Option(help="Weights to start from, of any format that port reads.")] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="A layer that starts anew when fine-tuning; may be repeated.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Logits; as many as the data have if not given.")
    ] = None,
    image_size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH; the network's own if not given.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Times that all pictures are seen.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="At first.")] = 0.01,
    milestone: Annotated[
        list[int] | None,
        typer.Option(help="After this many epochs divide the rate by 10; may be repeated. By default at 2/3 and 8/9."),
    ] = None,
    momentum: Annotated[float, typer.Option(help="AlexNet's by default.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Of the kernels; AlexNet's by default.")] = 5e-4,
    dropout: Annotated[bool, typer.Option(help="Drop where the network does.")] = True,
    augment: Annotated[
        list[Augmentation] | None, typer.Option(help="AlexNet's; may be repeated; crop if not given.")
    ] = None,
    bad_files: Annotated[BadFiles, typer.Option(help="Images that cannot be read.")] = BadFiles.REFUSE,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="The folder of the run; a new one in runs if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run was interrupted.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a network in one framework's own idiom; checkpoints, weights and a plot go to a folder."""
    from common.training.command import train_command
    from common.training.recipe import Recipe

    recipe = Recipe(
        epochs=epochs,
        batch_size=batch,
        learning_rate=learning_rate,
        milestones=tuple(milestone) if milestone else None,
        momentum=momentum,
        weight_decay=weight_decay,
        dropout=dropout,
        augment=tuple(sorted({choice.value for choice in augment or [Augmentation.CROP]} - {Augmentation.NONE})),
        seed=seed,
    )
    report = train_command(
        standard_error() if json else standard_output(),
        architecture,
        framework.value,
        recipe,
        data=data,
        bad_files=bad_files.value,
        finetune=finetune,
        skip=skip or (),
        num_classes=num_classes,
        image_size=_size(image_size) if image_size else None,
        device=device,
        out=out,
        resume=resume,
    )
    if json:
        _print_json(report)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise TriptychError(f"--image-size is {text!r}, expected HEIGHTxWIDTH such as 224x224")
    return int(height), int(width)


@app.command()
def port(
    source: Annotated[
        Path, typer.Argument(help="Weights: .npy, .npz, safetensors, .pth, .keras, .h5, ONNX, Caffe, TF1.")
    ],
    to: Annotated[PortTarget, typer.Option(help="What to write.")],
    out: Annotated[Path, typer.Option(help="The file to write; for tf1, the checkpoint's prefix.")],
    arch: Arch = None,
    names: Annotated[str | None, typer.Option(help="torchvision: a state dict with torchvision's names.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="A layer to leave initialised; may be repeated.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Logits, if not as many as in the file.")] = None,
    entry: Entry = None,
    prefix: Prefix = None,
    rename: Rename = None,
    ignore: Ignore = None,
    rounding: Rounding = False,
    force: Force = False,
    preprocessing: Preparation = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Write without proof; the file says so.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Port weights from one format to another, and prove that nothing was lost."""
    from common.porting.port import port as port_weights
    from common.porting.reading import Reading
    from common.porting.report import print_report
    from common.porting.targets import Target

    with _progress(3, standard_error()) as advance:
        report = port_weights(
            source,
            Target(to.value, out, names),
            architecture=arch,
            skip=skip or (),
            num_classes=num_classes,
            reading=Reading(entry, prefix, tuple(rename or ()), tuple(ignore or ()), rounding, force, preprocessing),
            verify=not no_verify,
            on_progress=advance,
        )
    if json:
        _print_json(report.as_json())
    else:
        print_report(standard_output(), report)


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    weights: Annotated[Path, typer.Option(help="Weights in any format that `triptych port` reads.")],
    arch: Arch = None,
    backend: Annotated[str, typer.Option(help="What to compute in.")] = "torch",
    labels: Annotated[
        Path | None, typer.Option(help="The names of the classes, one a line; those in the weights' file if not given.")
    ] = None,
    entry: Entry = None,
    prefix: Prefix = None,
    rename: Rename = None,
    ignore: Ignore = None,
    rounding: Rounding = False,
    force: Force = False,
    preprocessing: Preparation = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what is in photographs: the five likeliest classes of each."""
    from dataclasses import asdict

    from common.parity.backends import select
    from common.porting.classify import classify as classify_images
    from common.porting.classify import own_labels, read_labels, understand_weights
    from common.porting.preparation import known_preparation
    from common.porting.reading import Reading

    (chosen,) = select([backend])
    reading = Reading(entry, prefix, tuple(rename or ()), tuple(ignore or ()), rounding, force, preprocessing)
    network = understand_weights(weights, arch, reading)
    names = read_labels(labels, network.spec) if labels else own_labels(network)
    recipe = known_preparation(network.preprocessing, weights)
    answers = classify_images(images, network, chosen, names)
    if json:
        _print_json(
            {
                "architecture": network.spec.name,
                "backend": chosen.name,
                "preprocessing": asdict(recipe),
                "notes": list(network.notes),
                "images": [
                    {"path": str(path), "classes": [asdict(guess) for guess in guesses]}
                    for path, guesses in zip(images, answers, strict=True)
                ],
            }
        )
        return
    console = standard_output()
    for note in network.notes:
        say(console, f"note: {note}")
    for path, guesses in zip(images, answers, strict=True):
        say(console, f"{path}: {network.spec.name} in {chosen.name}")
        for guess in guesses:
            label = f"  {guess.label}" if guess.label else ""
            say(console, f"{guess.probability:8.2%}  class {guess.number}{label}")


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, on what machine, and how to get what is missing."""
    from common.parity.backends import BACKENDS
    from common.parity.environment import describe
    from common.parity.kernels import kernels_by_default
    from common.webgpu import describe_adapters

    found = describe() | {"webgpu": describe_adapters()}
    found["backends"] = {
        backend.name: backend.how_to_install if backend.missing else "ready" for backend in BACKENDS.values()
    }
    if json:
        _print_json(found | {"kernels": kernels_by_default()})
        return
    _print_facts(found)
    _print_facts({"kernels": kernels_by_default()})  # which takes the frameworks seconds to tell


def _print_facts(found: dict[str, Any]) -> None:
    from rich.text import Text

    table = plain_table("", "", "", show_header=False)
    for heading, content in found.items():
        rows = content.items() if isinstance(content, dict) else [("", str(content))]
        for number, (name, value) in enumerate(rows):
            table.add_row("" if number else Text(heading, style="bold"), name, str(value))
    standard_output().print(table)


def _told(message: str) -> str:
    """A message, in full where `--verbose` asks for it or it is short."""
    more = " … (--verbose tells the rest)"
    if len(message) <= LONGEST_MESSAGE or "--verbose" in sys.argv:
        return message
    return message[: LONGEST_MESSAGE - len(more)] + more


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and status 2."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        app()
    except TriptychError as error:
        print(_told(f"triptych: {error}"), file=sys.stderr)
        sys.exit(NOT_CARRIED_OUT)
    except OSError as error:
        print(f"triptych: cannot write the answer: {os_error_sentence(error)}", file=sys.stderr)
        sys.exit(NOT_CARRIED_OUT)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("triptych: interrupted; nothing half-done was left behind", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
