"""Prints the comparison of two networks: the differences in groups, the nodes without a counterpart, the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console

from common.cli.terminal import plain_table, say
from common.cli.verdicts import say_verdict
from common.parity.verdicts import CERTIFIED, IDENTICAL
from common.prove.into import PortedInto
from common.prove.results import ProofRun, Side, differences
from common.specs.architecture import shape_text

_SHOWN = 3


def print_pair(console: Console, runs: Sequence[ProofRun]) -> None:
    """Everything that differs between two networks, the same thing once; nothing for other runs."""
    side = next((run.pair for run in sorted(runs, key=lambda run: run.probe != "random") if run.pair), None)
    if side is None:
        return
    say(console, f"Aligned: {side.aligned} of {side.aligned + len(side.only_first)} nodes. {_agreeing(runs)}")
    if side.end_to_end is not None:
        say(console, f"End to end, the outputs differ by at most {side.end_to_end:.2g} of the largest value.")
    for kind, cause, layers, probe in differences(runs):
        ratios = [layer.bound_ratio for layer in layers if layer.bound_ratio is not None]
        far = f", up to {max(ratios):.3g} times the bound" if ratios else ""
        say(
            console,
            "  ",
            (f"{len(layers)} × {kind}", "bold red"),
            f" {'differ' if len(layers) > 1 else 'differs'} on the {probe} probe{far}: {cause}",
        )
        for layer in layers[:_SHOWN]:
            name = f"{layer.name} in {layer.source}" if layer.source else layer.name
            if layer.name in side.counterparts:
                say(console, f"    {name} ↔ {side.counterparts[layer.name]}", style="dim")
        if len(layers) > _SHOWN:
            say(console, f"    and {len(layers) - _SHOWN} more", style="dim")
    for told, number in Counter(side.within.values()).items():
        say(console, f"  Within the bound on these numbers, {number} × {told}", style="yellow")
    for which, nodes in (("first", side.only_first), ("second", side.only_second)):
        for node in nodes:
            say(console, f"  Only in the {which}: {node}", style="yellow")
    for sentence in _of_weights(side):
        say(console, f"Weights: {sentence}.", style="dim")


def _agreeing(runs: Sequence[ProofRun]) -> str:
    """How many nodes agree, on the probe and in the runtime in which fewest do."""
    rows = [result.layers for run in runs for result in run.backends if run.probe == "random" and result.layers]
    if not rows:
        return ""
    fewest = min(sum(layer.verdict in (CERTIFIED, IDENTICAL) for layer in layers) for layers in rows)
    return f"{fewest} of them agree on random numbers, each within its bound."


def _of_weights(side: Side) -> Iterator[str]:
    """What was moved, the same change of layout once."""
    if side.moved is None:
        yield "each has its own"
        return
    changes: dict[str, int] = {}
    for move in side.moved:
        changes[move["change"]] = changes.get(move["change"], 0) + 1
    yield f"{len(side.moved)} tensors moved into the second ({'; '.join(f'{n} × {c}' for c, n in changes.items())})"
    if side.without_place:
        more = f" and {len(side.without_place) - _SHOWN} more" if len(side.without_place) > _SHOWN else ""
        yield f"the second has no place for {', '.join(side.without_place[:_SHOWN])}{more}"


def print_ported(console: Console, ported: PortedInto) -> None:
    """Where every tensor of a checkpoint came from, what was changed on the way, and how the two networks compare."""
    table = plain_table("source", "change", "target", "shape")
    for move in ported.moved.moves:
        table.add_row(move.source, move.change, move.to, shape_text(move.shape))
    console.print(table)
    for name in ported.moved.kept:
        say(console, f"left as in {ported.into}: {name}")
    for sentence in (*ported.moved.without_place, *ported.unfilled):
        say(console, f"left out (--force): {sentence.rstrip(',')}", style="yellow")
    say(console, f"{ported.target}: {len(ported.moved.moves)} tensors moved, read back in another process bit for bit")
    for run in ported.runs:
        for row in run.backends:
            if row.status == "crashed":
                say(console, f"  {row.backend} crashed on the {run.probe} probe: {row.reason}")
    print_pair(console, ported.runs)
    say_verdict(console, ported.verdict)
