"""`triptych parity`: networks one after the other, a table for each as it finishes, and the report at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from common.cli.terminal import say
from common.explorer.report import prepare, write_report
from common.parity.backends import Hardware, require
from common.parity.journal import Journal
from common.parity.processes import Workers
from common.parity.report import as_json, print_network, print_verdict
from common.parity.results import Plan, Run, compared_with_cpu
from common.parity.runner import run_parity
from common.specs import get_spec
from common.webgpu import find_adapters


def parity_command(
    console: Console,
    names: Sequence[str],
    plan: Plan,
    *,
    report: Path | None,
    resume: bool,
    command: str,
    progress: Callable[[int, Console], AbstractContextManager[Callable[[str], None]]],
) -> dict[str, Any]:
    """Prove some networks, print what is found, and return the report for programs.

    On a GPU, each network is run on the CPU too, and each backend is compared with itself.

    Args:
        console: for the tables; a quiet one prints none.
        names: of the networks.
        plan: what to run them on.
        report: a folder for the report, and for what is finished meanwhile.
        resume: whether to go on with what is in that folder.
        command: what was typed, for whoever wants to run it again.
        progress: makes a progress bar of so many steps.

    Raises:
        TriptychError: there is no such device, the weights do not fit, the report cannot be written, or there is
            nothing to resume.
    """
    require(plan.hardware)
    if plan.hardware.device == "webgpu":
        say(console, f"WebGPU on {find_adapters().chosen}")
    if report:
        prepare(report)
    journal = Journal(report, plan, resume=resume) if report else None
    able = [backend for backend in plan.backends if not backend.obstacle(plan.hardware.device)]
    on_cpu = (
        replace(plan, backends=able, hardware=Hardware.shared(plan.jobs)) if plan.hardware.device != "cpu" else None
    )
    runs: list[Run] = []
    results = sum(len(plan.runs(get_spec(name))) for name in names) * len(plan.backends) * (2 if on_cpu else 1)
    with (
        progress(results, console) as advance,
        Workers(plan.hardware) as workers,
        Workers(Hardware.shared(plan.jobs)) as workers_on_cpu,
    ):
        try:
            for name in names:
                done = lambda *what, name=name: advance(" ".join((name, *what)))  # noqa: E731
                found = run_parity(get_spec(name), plan, done, workers, journal)
                if on_cpu:
                    pairs = zip(found, run_parity(get_spec(name), on_cpu, done, workers_on_cpu), strict=True)
                    found = [compared_with_cpu(run, before) for run, before in pairs]
                runs += found
                print_network(console, found)
        except KeyboardInterrupt:
            if journal:
                print("triptych: what is finished is kept; go on with --resume", file=sys.stderr)
            raise
    outcome = as_json(runs)
    print_verdict(console, runs)
    if report:
        page = write_report(report, outcome, command)
        say(console, f"Report: {page}")
    return outcome
