"""Published networks laid beside their counterparts elsewhere: writes docs/gallery.md.

Run it with `.venv/bin/python -m benchmarks.gallery`; it needs torchvision, timm and what `pip install -e '.[prove]'`
brings, downloads no weights, and takes two to eight minutes for each pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from common.prove.models import parse
from common.prove.proof import Request, prove
from common.prove.results import ProofRun, differences

PAIRS = (
    ("timm:legacy_xception", "keras.applications:Xception", "1x3x75x75"),
    ("torchvision:mobilenet_v2", "keras.applications:MobileNetV2", "1x3x96x96"),
    ("torchvision:resnet50", "keras.applications:ResNet50", "1x3x64x64"),
    ("torchvision:convnext_tiny", "keras.applications:ConvNeXtTiny", "1x3x64x64"),
    ("torchvision:efficientnet_b0", "keras.applications:EfficientNetB0", "1x3x64x64"),
    ("torchvision:mobilenet_v3_small", "keras.applications:MobileNetV3Small", "1x3x64x64"),
    ("torchvision:densenet121", "keras.applications:DenseNet121", "1x3x64x64"),
    ("torchvision:resnet50", "timm:resnet50", "1x3x64x64"),
    ("torchvision:convnext_tiny", "timm:convnext_tiny", "1x3x64x64"),
    ("torch_impl:resnet18", "keras_impl:resnet18", "1x3x64x64"),
    ("torchvision:inception_v3", "keras.applications:InceptionV3", "1x3x139x139"),
    ("torchvision:vgg16", "keras.applications:VGG16", "1x3x224x224"),
)
PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"
PACKAGES = ("torch", "torchvision", "timm", "keras")
HEAD = """# Gallery

Some networks are published more than once, by different people in different frameworks. The command
[`triptych prove`](prove.md#two-networks) compares such pairs here. The weights of the first are moved into the second,
and every layer of the second is judged by its counterpart in the first. The weights are seeded, not trained: the
comparison is about the code. A difference is not a mistake, since each network was trained as it is. It matters if you
move weights from one to the other.

*Error ÷ bound* is the largest one among the layers of the row. It is ∞ if a layer that rounds nothing has other values,
or another shape. *End to end* is the largest difference between the logits, divided by the largest logit, with the same
weights and the same input. Trained weights give another number.

`python -m benchmarks.gallery` wrote this page, on random numbers, with {versions}.
"""


def section(first: str, second: str, shape: str, runs: Sequence[ProofRun]) -> Iterator[str]:
    """What is said of a pair."""
    (side,) = (run.pair for run in runs if run.pair)
    yield f"## {first} and {second}: {_verdict(runs)}\n"
    yield f"```text\ntriptych prove {first} {second} --input-shape {shape} --probe random\n```\n"
    aligned = f"{side.aligned} of {side.aligned + len(side.only_first)} nodes of the first have a counterpart"
    moved = f"{len(side.moved or ())} tensors were moved"
    far = "" if side.end_to_end is None else f" End to end: {side.end_to_end:.2g}."
    yield f"{aligned}; {moved}.{far}\n"
    rows = list(_rows(runs))
    if rows:
        yield "| what differs in the second | where | error ÷ bound |\n|---|---|---|"
        yield "\n".join(rows) + "\n"
    for told, number in Counter(side.within.values()).items():
        yield f"Written differently, but within the bound on these numbers, {number} times: {told}.\n"


def _verdict(runs: Sequence[ProofRun]) -> str:
    if all(run.verdict in ("identical", "certified") for run in runs):
        return "the same network"
    return "not the same network" if list(differences(runs)) else "the same, but for its end"


def _rows(runs: Sequence[ProofRun]) -> Iterator[str]:
    (side,) = (run.pair for run in runs if run.pair)
    for kind, cause, layers, _ in differences(runs):
        places = [side.counterparts.get(layer.name, layer.name).partition(" in ")[2] for layer in layers]
        where = places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "")
        ratios = [layer.bound_ratio for layer in layers]
        finite = [ratio for ratio in ratios if ratio is not None]
        far = "∞" if not finite else "> 1e9" if max(finite) > 1e9 else f"{max(finite):.2g}"
        yield f"| {len(layers)} × {kind}: {cause} | {where} | {far} |"
    for which, nodes in (("first", side.only_first), ("second", side.only_second)):
        for node in nodes:
            if node.verdict != "certified" and node.returned:
                yield f"| {node.kind}, only in the {which}: {node.cause} | {node.source or node.name} | – |"


def main() -> None:
    sections = [HEAD.format(versions=", ".join(f"{name} {version(name)}" for name in PACKAGES))]
    for first, second, shape in PAIRS:
        request = Request(("random",), [int(size) for size in shape.split("x")], weights="first")
        runs = [run for run in prove([parse(first), parse(second)], request) if run.pair]
        sections.append("\n".join(section(first, second, shape, runs)))
        PAGE.write_text("\n".join(sections).rstrip() + "\n", encoding="utf-8")
        print(f"{first} {second}: {runs[0].verdict}", flush=True)


if __name__ == "__main__":
    main()
