"""A connection over SSH: a channel a process, none of whose calls may block for ever."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import paramiko

from clusterctl.inventory import Node
from clusterctl.ssh import launch
from clusterctl.ssh.base import failure
from clusterctl.ssh.process import CHUNK_BYTES, PipedProcess, Runner

CALL_TIMEOUT_S = 30.0
KEEPALIVE_S = 15
GONE = (OSError, EOFError, paramiko.SSHException)
"""What paramiko raises when the other end is gone."""


class _Link(Protocol):
    def close(self) -> None: ...


class Watchdog:
    """Calls back when a guarded call takes too long: some of paramiko's have no timeout."""

    def __init__(self) -> None:
        self._guarded: dict[object, tuple[float, Callable[[], None]]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def guard(self, on_timeout: Callable[[], None]) -> Iterator[None]:
        """Call ``on_timeout`` unless the block ends within :data:`CALL_TIMEOUT_S`."""
        token = object()
        with self._changed:
            self._guarded[token] = (time.monotonic() + CALL_TIMEOUT_S, on_timeout)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._guarded.pop(token, None)

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._guarded)
                now = time.monotonic()
                late = [token for token, (when, _) in self._guarded.items() if when <= now]
                calls = [self._guarded.pop(token)[1] for token in late]
            for call in calls:
                call()
            time.sleep(0.25)


_watchdog = Watchdog()


class ChannelPipes:
    """The streams of one process at the other end of an SSH channel."""

    def __init__(self, channel: paramiko.Channel, give_up: Callable[[], None]) -> None:
        self._channel = channel
        self._give_up = give_up
        channel.settimeout(0.0)
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)

    def wait_readable(self, timeout_s: float) -> None:
        """Wait for output or its end."""
        if not self._channel.closed:
            self._poll.poll(timeout_s * 1000)

    def receive(self) -> tuple[bytes, bytes, bool]:
        """Read once from both streams."""
        out, out_ended = _take(self._channel.recv)
        err, err_ended = _take(self._channel.recv_stderr)
        return out, err, out_ended and err_ended

    def send(self, data: memoryview) -> int:
        """Hand over what the window allows."""
        try:
            with _watchdog.guard(self._give_up):
                sent: int = self._channel.send(bytes(data))
        except TimeoutError:
            return 0
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionError(str(error)) from None
        if sent == 0:
            raise BrokenPipeError("the channel is closed")
        return sent

    def close_stdin(self) -> None:
        """End the standard input."""
        with contextlib.suppress(*GONE), _watchdog.guard(self._give_up):
            self._channel.shutdown_write()

    def exit_status(self, timeout_s: float) -> int | None:
        """Wait for the exit status; -1 when a signal ended the process."""
        if not self._channel.status_event.wait(timeout_s):
            return None
        transport = self._channel.get_transport()
        if self._channel.exit_status == -1 and not transport.is_active():
            raise ConnectionError(str(transport.get_exception() or "closed by the other end"))
        return self._channel.exit_status

    def kill(self) -> None:
        """Close the channel: the process sees the end of its streams."""
        with contextlib.suppress(*GONE), _watchdog.guard(self._give_up):
            self._channel.close()


def _take(receive: Callable[[int], bytes]) -> tuple[bytes, bool]:
    try:
        data = receive(CHUNK_BYTES)
    except TimeoutError:
        return b"", False
    return data, not data


class SshConnection(Runner):
    """An authenticated SSH connection."""

    def __init__(self, node: Node, transport: paramiko.Transport, link: _Link) -> None:
        self.node = node
        self._transport = transport
        self._link = link
        transport.set_keepalive(KEEPALIVE_S)  # without traffic a dead peer stays unnoticed

    def start(self, argv: Sequence[str], *, become: bool = False) -> PipedProcess:
        """Start a command on the node."""
        user = self.node.become if become else None
        if user is not None and user.user == self._transport.get_username():
            user = None  # as Ansible: no escalation to oneself
        prepared = launch.prepare(argv, user)
        pipes = ChannelPipes(self._open(), self.close)
        process = PipedProcess(pipes, f"{argv[0]} on {self.node.name}")
        process.write(launch.line(prepared.argv))
        launch.await_start(process, prepared, self.node)
        return process

    def close(self) -> None:
        """End the connection, and the proxy that carries it."""
        self._link.close()

    def _open(self) -> paramiko.Channel:
        try:
            with _watchdog.guard(self.close):
                channel = self._transport.open_session(timeout=CALL_TIMEOUT_S)
                channel.exec_command(launch.RECEIVER)
        except GONE as error:
            if self._transport.is_active():
                raise failure(
                    "protocol",
                    f"{self.node.name} opened no further session: {error}",
                    "see MaxSessions and the log of the node's sshd",
                ) from None
            raise failure(
                "lost",
                f"the connection to {self.node.name} is gone: {error}",
                "see whether the node is up, and run again",
            ) from None
        return channel
