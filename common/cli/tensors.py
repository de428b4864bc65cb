"""Prints the report of a port, and the tensors of a weights file."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from common.cli.terminal import plain_table, say
from common.porting.port import Report
from common.specs.architecture import shape_text

DIGITS = 16
"""Of each digest that the table shows; `--json` has them whole."""


def print_report(console: Console, report: Report) -> None:
    """Where every tensor came from and went, what was changed on the way, and what was proved."""
    table = plain_table("source", "shape", "change", "target", f"SHA-256 ({DIGITS} digits)")
    for tensor in report.tensors:
        shape = shape_text(tensor["source_shape"])
        cost = f" (rounded, ≤ {tensor['error']:.1e})" if tensor["error"] else ""
        table.add_row(
            tensor["source"] or "–", shape, f"{tensor['change']}{cost}", tensor["target"], tensor["sha256"][:DIGITS]
        )
    console.print(table)
    known = f", {report.known_as}" if report.known_as else ""
    lines = [
        f"{report.source}: {report.format}, {report.convention} names, {report.architecture}"
        f" with {report.num_classes} classes{known}",
        f"SHA-256 {report.source_sha256}",
        f"preprocessing: {_recipe(report.preprocessing)}",
        *(f"note: {note}" for note in report.notes),
        _rounding(report),
        f"{report.target}: {report.kind}, {len(report.tensors)} tensors; {_proved(report)}",
    ]
    for line in lines:
        say(console, line)


def _rounding(report: Report) -> str:
    changed = [tensor for tensor in report.tensors if tensor["error"]]
    if not changed:
        made = sum(tensor["source"] is None for tensor in report.tensors)
        others = f" except the {made} that it does not have" if made else ""
        return f"every tensor is the source's, bit for bit{others}"
    worst = max(tensor["error"] for tensor in changed)
    count = f"{len(changed)} of {len(report.tensors)}"
    return f"{count} tensors had to be computed, rounded by at most {worst:.1e} of a value; the others are bit for bit"


def _proved(report: Report) -> str:
    proof = report.proof
    if proof is None:
        return "not verified (--no-verify)"
    ratio = "∞" if proof.bound_ratio is None else f"{proof.bound_ratio:.3g}"
    return (
        f"read back in another process, {proof.tensors} tensors equal bit by bit; "
        f"on a photograph, in {proof.framework}: {proof.verdict}, error ÷ bound {ratio}"
    )


def print_file(console: Console, description: dict[str, Any]) -> None:
    """What `describe_file` found."""
    known = f", {description['known_as']}" if description["known_as"] else ""
    lines = [
        f"{description['path']}: {description['format']}{known}",
        f"SHA-256 {description['sha256']}",
        f"architecture: {description['architecture'] or 'not recognised'}",
    ]
    if "preprocessing" in description:
        lines.append(f"preprocessing: {_recipe(description['preprocessing'])}")
    lines += [
        f"{key}: {text}"
        for key, text in sorted(description["metadata"].items())
        if key not in ("architecture", "preprocessing")
    ]
    lines += [f"note: {note}" for note in description["notes"]]
    table = plain_table("tensor", "shape", "dtype")
    for tensor in description["tensors"]:
        table.add_row(tensor["name"], shape_text(tensor["shape"]), tensor["dtype"])
    for line in lines:
        say(console, line)
    console.print(table)


def _recipe(preprocessing: dict[str, Any] | None) -> str:
    if preprocessing is None:
        return "unknown"
    return "{channels}, (pixel − {mean}) / {scale}".format(**preprocessing)
