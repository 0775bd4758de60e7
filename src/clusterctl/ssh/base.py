"""What a connection to a node and a process on it are, whatever carries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from clusterctl.findings import NodeError
from clusterctl.inventory import Node


class NodeFailure(Exception):  # noqa: N818 - a node's, not a program's, error
    """One node's work cannot go on; raised inside that node's work only."""

    def __init__(self, error: NodeError) -> None:
        super().__init__(error.why)
        self.error = error


def failure(kind: str, why: str, next_step: str) -> NodeFailure:
    """Give a :class:`NodeFailure` ready to be raised."""
    return NodeFailure(NodeError(kind, why, next_step))


def printable(text: bytes | str) -> str:
    """Make what a node said safe to show: control characters are escaped, newlines are kept."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return "".join(
        char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text
    )


@dataclass(frozen=True)
class Completed:
    """A command that ended."""

    exit_status: int
    stdout: bytes
    stderr: bytes


class Process(Protocol):
    """One running command on a node. One thread at a time may read, another may write."""

    def write(self, data: bytes) -> None:
        """Send data to its standard input; never blocks for ever."""

    def close_stdin(self) -> None:
        """End its standard input."""

    def read_line(self, timeout_s: float, limit_bytes: int = 1 << 20) -> bytes:
        r"""Give its next line of output without the ``\n``.

        Raises :class:`NodeFailure`: ``timeout``, ``lost`` (it ended, or the connection broke) or
        ``protocol`` (the line is longer than the limit).
        """

    def read(self, timeout_s: float) -> bytes:
        """Give the next bytes of its output, as they come; empty: it has ended.

        Raises :class:`NodeFailure`: ``timeout``.
        """

    def wait(self, timeout_s: float) -> int:
        """Drop its further output and give its exit status; negative: a signal ended it."""

    def stderr_tail(self) -> str:
        """Give the last kilobytes of its standard error, safe to show."""

    def kill(self) -> None:
        """End it: close the channel, or kill the local process group."""


class Connection(Protocol):
    """One open session to a node; several threads may start processes on it."""

    @property
    def node(self) -> Node:
        """Say where it leads."""

    def start(self, argv: Sequence[str], *, become: bool = False) -> Process:
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

    def close(self) -> None:
        """End the session and what runs in it."""
