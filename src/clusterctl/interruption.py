"""The wish to stop that a signal brings, heeded only where nothing is left half done.

An exception out of a signal handler can come between the taking of a lock and the beginning of the
block that releases it: paramiko's locks then stay taken, and closing the connections waits for
ever. So the main thread is interrupted only while it waits for results, and elsewhere when it
comes to its next wait.
"""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_pending = 0
_waiting = False


class Interrupted(BaseException):
    """A signal asked the examination to stop; what was measured so far is still reported.

    A BaseException, like KeyboardInterrupt, so that nothing on the way takes it for a failure.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into Interrupted; a second SIGINT ends us at once."""
    global _pending
    before = {n: signal.signal(n, _note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _pending = 0
        for number, old in before.items():
            signal.signal(number, old)


def heed() -> None:
    """Raise :class:`Interrupted` if a signal came since."""
    if _pending:
        raise Interrupted(_pending)


def wait_for(results: queue.SimpleQueue[T], timeout_s: float) -> T:
    """Give the next result; ``queue.Empty``: none in time. The place to be interrupted at."""
    global _waiting
    _waiting = True
    try:
        heed()
        return results.get(timeout=max(0.0, timeout_s))
    finally:
        _waiting = False


def _note(number: int, _frame: FrameType | None) -> None:
    global _pending
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _pending = number
    if _waiting:
        raise Interrupted(number)
