"""Ctrl-C, and SIGTERM like it: a KeyboardInterrupt, but not in the middle of an import.

Some libraries swallow an interrupt while they are imported, and stay without half of what they have: NumPy without
`ndarray`. Imports take seconds, so the first interrupt waits until they have ended. A second one does not wait.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 10.0
"""Seconds that an interrupt waits at most: what a user has us import may do more than define things."""

_CLOCK = getattr(signal, "SIGALRM", None)
"""The signal that a clock gives. Windows has none: there an interrupt comes at once."""

_AGAIN = 0.02
"""Seconds after which an interrupt that waits looks whether it can come."""


@contextmanager
def interrupts() -> Iterator[None]:
    """Handle both signals so inside. Where Ctrl-C is ignored (a shell's background job), it stays so."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    numbers = [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]
    before = {number: signal.signal(number, _Interrupt()) for number in numbers}
    try:
        yield
    finally:
        _look_again(None)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Interrupt:
    """The handler of a signal. While the signal waits, the handler is called again by the clock, or by somebody who
    does not want to wait."""

    def __init__(self) -> None:
        self.until: float | None = None
        """When it stops waiting; None if it does not wait."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, now = self.until is None, time.monotonic()
        until = self.until or now + PATIENCE
        if _CLOCK and _importing(frame) and now < until and (first or number == _CLOCK):
            self.until = until
            _look_again(self)
            return
        self.until = None
        _look_again(None)
        raise KeyboardInterrupt


def _look_again(handler: _Interrupt | None) -> None:
    """Have the clock call a handler soon, or nobody."""
    if _CLOCK is not None:
        if handler:
            signal.signal(_CLOCK, handler)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN if handler else 0)


def _importing(frame: FrameType | None) -> bool:
    """Whether an import statement runs there."""
    while frame is not None:
        code = frame.f_code
        if (code.co_filename, code.co_name) == ("<frozen importlib._bootstrap>", "_find_and_load"):
            return True
        frame = frame.f_back
    return False
