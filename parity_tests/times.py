"""Says how much processor time each test took, its processes included: `make times`.

Time on the clock depends on what else the machine does; this hardly. What a fixture takes counts for the first test
that asks for it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from common.process.template import Copy

SLOWEST = 30
TIMES = "processor seconds"


def _used() -> float:
    """Seconds of this process and of those that it has waited for, or a template for it."""
    return sum(os.times()[:4]) + Copy.taken


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.stash[_BEGUN] = _used()
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> None:
    """The time so far goes with each report, from xdist's processes too; that of the teardown is the whole."""
    item.user_properties = [(TIMES, _used() - item.stash[_BEGUN])]


_BEGUN = pytest.StashKey[float]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    taken: Counter[str] = Counter()
    for report in terminalreporter.getreports(""):
        if report.when == "teardown":
            taken[report.nodeid] += dict(report.user_properties)[TIMES]
    files: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for name, seconds in taken.items():
        files[name.partition("::")[0]] += seconds
        tests[name.partition("[")[0]] += seconds
    for title, counted in (
        ("files", files),
        ("tests with all their parameters", tests),
        ("single tests", taken),
    ):
        terminalreporter.section(f"{TIMES}, {title}")
        for name, seconds in counted.most_common(SLOWEST):
            terminalreporter.write_line(f"{seconds:8.1f}  {name}")
    terminalreporter.write_line(f"{taken.total():8.1f}  in all")
