"""The controller itself as a node: the same processes without SSH."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import subprocess
from collections.abc import Sequence
from typing import IO

from clusterctl.inventory import Node
from clusterctl.ssh.base import failure
from clusterctl.ssh.launch import await_start, prepare
from clusterctl.ssh.process import CHUNK_BYTES, PipedProcess, Runner

KILL_GRACE_S = 2.0


class LocalPipes:
    """The streams of a child process in a session of its own."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        if not (self._child.stdin and self._child.stdout and self._child.stderr):
            raise AssertionError("Popen gives all three pipes")
        self._stdin = self._child.stdin
        self._outputs = (self._child.stdout, self._child.stderr)
        self._open = {stream.fileno() for stream in self._outputs}
        for stream in (self._stdin, *self._outputs):
            os.set_blocking(stream.fileno(), False)

    def wait_readable(self, timeout_s: float) -> None:
        """Wait for output or its end."""
        poll = select.poll()
        for fd in self._open:
            poll.register(fd, select.POLLIN)
        if self._open:
            poll.poll(timeout_s * 1000)

    def receive(self) -> tuple[bytes, bytes, bool]:
        """Read once from each stream that has something."""
        out, err = (self._read(stream) for stream in self._outputs)
        return out, err, not self._open

    def send(self, data: memoryview) -> int:
        """Write what fits into the pipe."""
        try:
            return os.write(self._stdin.fileno(), data)
        except BlockingIOError:
            return 0
        except ValueError:
            raise BrokenPipeError("standard input is closed") from None

    def close_stdin(self) -> None:
        """End the standard input."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def exit_status(self, timeout_s: float) -> int | None:
        """Wait for the child."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End the child's process group, gently first, and close the streams."""
        self.close_stdin()
        if self._child.poll() is None:
            self._signal(signal.SIGTERM)
            self.exit_status(KILL_GRACE_S)
            self._signal(signal.SIGKILL)  # the rest of the group too, whatever it ignores
            self.exit_status(KILL_GRACE_S)
        for stream in self._outputs:
            stream.close()
        self._open.clear()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)

    def _read(self, stream: IO[bytes]) -> bytes:
        """Give what is there; at the end of the stream, remember that."""
        if stream.closed or stream.fileno() not in self._open:
            return b""
        try:
            data = os.read(stream.fileno(), CHUNK_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._open.discard(stream.fileno())
        return data


class LocalConnection(Runner):
    """Runs commands on this machine."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._pipes: list[LocalPipes] = []

    def start(self, argv: Sequence[str], *, become: bool = False) -> PipedProcess:
        """Start a command here."""
        user = self.node.become if become else None
        if user is not None and user.user == pwd.getpwuid(os.geteuid()).pw_name:
            user = None
        launch = prepare(argv, user)
        try:
            pipes = LocalPipes(launch.argv)
        except OSError as error:
            kind = "become" if user is not None else "protocol"
            why = f"{launch.argv[0]} does not start: {error.strerror}"
            raise failure(kind, why, f"install {launch.argv[0]}") from None
        self._pipes.append(pipes)
        process = PipedProcess(pipes, argv[0])
        await_start(process, launch, self.node)
        return process

    def close(self) -> None:
        """End what still runs."""
        for pipes in self._pipes:
            pipes.kill()
