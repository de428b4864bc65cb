"""A process that interrupts its own run at one line of the runner after another: a chosen function's, or all.

What comes at a bad moment once in a thousand runs comes there each time. The process says of each line how the run
ended, and what it left behind.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType

import psutil

from common import get_spec
from common.parity import processes, runner
from common.parity.networks import plan_for
from common.process import template

Line = tuple[str, str, int]
"""A file, a function and a number."""

CLEANING_UP = "__exit__", "kill"
"""Functions whose work is lost if they are interrupted. Workers and their folder end with the process then."""


def run(interrupted_before: Line | None = None) -> list[Line]:
    """Prove a network, up to a line if one is given; the lines that its first thread reaches."""
    reached: dict[Line, None] = {}

    def on_line(frame: FrameType, event: str, _: object) -> object:
        line = Path(frame.f_code.co_filename).name, frame.f_code.co_name, frame.f_lineno
        if event == "line" and line not in reached:
            reached[line] = None
            if line == interrupted_before:
                raise KeyboardInterrupt
        return on_line

    files = runner.__file__, processes.__file__
    sys.settrace(lambda frame, *_: on_line if frame.f_code.co_filename in files else None)
    try:
        plan = plan_for(["lenet_caffe"], backends=["torch", "onnx-torch"], probes=["exact"])
        runner.run_parity(get_spec("lenet_caffe"), plan)
    finally:
        sys.settrace(None)
    return list(reached)


def there() -> set[str]:
    """Processes, threads and files that belong to this process."""
    processes = {f"{child.name()} {child.pid}" for child in psutil.Process().children(recursive=True)}
    return processes | {thread.name for thread in threading.enumerate()} | set(os.listdir(tempfile.gettempdir()))


def main() -> None:
    template.ANEW = 0
    lines = run()
    before = there()  # templates, and what libraries keep
    for line in lines:
        if line[1] in CLEANING_UP or line[1] not in (sys.argv[1:] or [line[1]]):
            continue
        try:
            run(line)
            end = "finished"
        except KeyboardInterrupt:
            end = "interrupted"
        print(json.dumps([line, end, sorted(there() - before)]), flush=True)


if __name__ == "__main__":
    main()
