"""A process at the other end of three byte streams: lines, deadlines, limits."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from clusterctl.ssh.base import Completed, NodeFailure, failure, printable

WRITE_TIMEOUT_S = 30.0
STDERR_KEPT_BYTES = 8192
CHUNK_BYTES = 1 << 16
READ_AHEAD_BYTES = 4 << 20
FLOOD_STEP = "run it by hand on the node and see what it prints"


class Pipes(Protocol):
    """The streams of one process, none of which ever blocks."""

    def wait_readable(self, timeout_s: float) -> None:
        """Return when there is something to receive, or after the timeout."""

    def receive(self) -> tuple[bytes, bytes, bool]:
        """Give what arrived on stdout and stderr, and whether both have ended."""

    def send(self, data: memoryview) -> int:
        """Give how many bytes could be handed over; OSError when the other end is gone."""

    def close_stdin(self) -> None:
        """End the standard input."""

    def exit_status(self, timeout_s: float) -> int | None:
        """Give the exit status, None when there is none in time; OSError: lost."""

    def kill(self) -> None:
        """End the process."""


class PipedProcess:
    """A :class:`clusterctl.ssh.base.Process` over :class:`Pipes`."""

    def __init__(self, pipes: Pipes, what: str) -> None:
        self._pipes = pipes
        self._what = what
        self._out = bytearray()
        self._err = bytearray()
        self._ended = False
        self._pumping = threading.Lock()

    def write(self, data: bytes) -> None:
        """Send data; takes in what the process says meanwhile, so that neither waits for ever."""
        deadline = time.monotonic() + WRITE_TIMEOUT_S
        view = memoryview(data)
        while view:
            try:
                sent = self._pipes.send(view[:CHUNK_BYTES])
            except OSError:
                raise self._lost() from None
            view = view[sent:]
            if sent:
                continue
            if time.monotonic() > deadline:
                raise failure(
                    "timeout",
                    f"{self._what} took no input for {WRITE_TIMEOUT_S:.0f} s",
                    "look at the node's load and at the network to it",
                )
            self.pump(0.01)

    def close_stdin(self) -> None:
        """End the standard input."""
        self._pipes.close_stdin()

    def read_line(self, timeout_s: float, limit_bytes: int = 1 << 20) -> bytes:
        r"""Give the next line of output without its ``\n``."""
        deadline = time.monotonic() + timeout_s
        searched = 0
        while True:
            end = self._out.find(b"\n", searched)
            searched = len(self._out)
            if end > limit_bytes or (end < 0 and searched > limit_bytes):
                raise failure(
                    "protocol",
                    f"{self._what} sent a line of more than {limit_bytes} bytes",
                    FLOOD_STEP,
                )
            if end >= 0:
                return self._cut(end)
            if self._ended:
                raise self._lost()
            self._pump_until(deadline, timeout_s)

    def read(self, timeout_s: float) -> bytes:
        """Give the next bytes of output, as they come; empty: it has ended."""
        deadline = time.monotonic() + timeout_s
        while not self._out and not self._ended:
            self._pump_until(deadline, timeout_s)
        data = bytes(self._out)
        self._out.clear()
        return data

    def wait(self, timeout_s: float) -> int:
        """Drop the rest of the output and give the exit status; negative: a signal."""
        deadline = time.monotonic() + timeout_s
        while not self._ended:
            self._out.clear()
            self._pump_until(deadline, timeout_s)
        return self._exit_status(deadline, timeout_s)

    def complete(self, timeout_s: float, limit_bytes: int) -> Completed:
        """Take all of the output and the exit status."""
        deadline = time.monotonic() + timeout_s
        while not self._ended:
            if len(self._out) > limit_bytes:
                raise failure(
                    "protocol",
                    f"{self._what} sent more than {limit_bytes} bytes",
                    FLOOD_STEP,
                )
            self._pump_until(deadline, timeout_s)
        status = self._exit_status(deadline, timeout_s)
        return Completed(status, bytes(self._out), bytes(self._err))

    def stderr_tail(self) -> str:
        """Give the last kilobytes of standard error, safe to show."""
        return printable(bytes(self._err)).strip()

    def kill(self) -> None:
        """End the process."""
        self._pipes.kill()

    def take_stderr(self, text: bytes) -> bool:
        """Say whether standard error holds ``text``, and forget it up to there."""
        end = self._err.find(text)
        if end < 0:
            return False
        del self._err[: end + len(text)]
        return True

    def take_line(self) -> bytes | None:
        """Give a line that is already here, or None."""
        end = self._out.find(b"\n")
        return self._cut(end) if end >= 0 else None

    @property
    def ended(self) -> bool:
        """Whether both of its output streams have ended."""
        return self._ended

    def pump(self, timeout_s: float) -> None:
        """Take in what the process sent, waiting for something up to the timeout."""
        if not self._pumping.acquire(blocking=False):
            # Another thread reads already; what it takes in serves this one as well.
            if self._pumping.acquire(timeout=timeout_s):
                self._pumping.release()
            return
        try:
            if len(self._out) > READ_AHEAD_BYTES:
                time.sleep(min(timeout_s, 0.01))
                return
            self._pipes.wait_readable(timeout_s)
            out, err, self._ended = self._pipes.receive()
            self._out += out
            self._err += err
            del self._err[:-STDERR_KEPT_BYTES]
        finally:
            self._pumping.release()

    def _pump_until(self, deadline: float, timeout_s: float) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise failure(
                "timeout",
                f"{self._what} said nothing for {timeout_s:g} s",
                "log in to the node and look at its load, its disks and its kernel log",
            )
        self.pump(min(remaining, 1.0))

    def _exit_status(self, deadline: float, timeout_s: float) -> int:
        try:
            status = self._pipes.exit_status(max(0.0, deadline - time.monotonic()))
        except OSError:
            raise self._lost() from None
        if status is None:
            raise failure(
                "timeout",
                f"{self._what} did not end within {timeout_s:g} s",
                "log in to the node and look at its load, its disks and its kernel log",
            )
        return status

    def broken(self) -> NodeFailure | None:
        """Give the failure if it is the connection that ended, and not the process."""
        try:
            self._pipes.exit_status(0.5)
        except OSError as error:
            why = f"the connection broke while {self._what} ran: {error}"
            return failure("lost", why, "see whether the node is up, and run again")
        return None

    def _cut(self, end: int) -> bytes:
        line = bytes(self._out[:end])
        del self._out[: end + 1]
        return line

    def _lost(self) -> NodeFailure:
        if (broken := self.broken()) is not None:
            return broken
        status = self._pipes.exit_status(0)
        said = f": {self.stderr_tail()[-500:]}" if self._err else ""
        ending = "ended its output" if status is None else f"ended with status {status}"
        return failure("lost", f"{self._what} {ending}{said}", "run it by hand on the node")


class Runner(ABC):
    """Gives a connection that can start commands the means to run them to their end."""

    @abstractmethod
    def start(self, argv: Sequence[str], *, become: bool = False) -> PipedProcess:
        """Start a command; its arguments arrive as they are, no shell looks at them."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        become: bool = False,
        timeout_s: float = 30,
        limit_bytes: int = 1 << 20,
    ) -> Completed:
        """Run a command to its end. More output than the limit is a ``protocol`` failure."""
        deadline = time.monotonic() + timeout_s
        process = self.start(argv, become=become)
        try:
            process.write(stdin)
            process.close_stdin()
            return process.complete(max(0.0, deadline - time.monotonic()), limit_bytes)
        finally:
            process.kill()
