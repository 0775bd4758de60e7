"""Runs a function in a forked child with a deadline, so that its trouble stays its own.

A call into a driver may hang, raise or crash. Here it costs one value: the child's answer
becomes an :class:`~clusterctl.facts.Unread` with what is known of the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from dataclasses import is_dataclass
from typing import Any, Callable

from clusterctl.facts import Unread, to_json

ANSWER_LIMIT_BYTES = 512 * 1024
PR_SET_PDEATHSIG = 1

_NOTE, _ANSWER = b"#", b"="

try:
    import ctypes

    _prctl: Any = ctypes.CDLL(None).prctl
except (ImportError, OSError, AttributeError):  # a Python built without libffi
    _prctl = None

_to_parent: int | None = None


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it is gone."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def note(doing: str) -> None:
    """Tell the parent what is about to be done; it says so if this child hangs or dies there."""
    if _to_parent is not None:
        line = doing.encode("ascii", "backslashreplace")[:200].replace(b"\n", b" ")
        os.write(_to_parent, _NOTE + line + b"\n")


class Child:
    """One function at work in a process of its own.

    ``fd`` becomes readable when there is something to :meth:`read`. The child leads a process
    group of its own unless ``in_group`` is true, so that :meth:`kill` takes everything that it
    started along.
    """

    def __init__(
        self, name: str, function: Callable[[], Any], deadline_s: float, *, in_group: bool = False
    ) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self.deadline = time.monotonic() + deadline_s
        self._in_group = in_group
        self._received = b""
        self._doing = ""
        self.fd, to_parent = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _work(function, parent, to_parent, in_group=in_group)
        os.close(to_parent)
        if not in_group:
            # The child does the same: whoever comes first, the group exists when it is needed.
            with contextlib.suppress(OSError):
                os.setpgid(self.pid, self.pid)

    def read(self) -> str | None:
        """Take what the child sent: its answer as JSON once it is whole, until then None."""
        data = os.read(self.fd, 1 << 16)
        self._received += data
        while b"\n" in self._received:
            line, _, self._received = self._received.partition(b"\n")
            if line.startswith(_ANSWER):
                return line[1:].decode("ascii", "replace")
            self._doing = line[1:].decode("ascii", "replace")
        if not data:
            return self._unread("failed", f"{self._what()}: {self._death()}")
        if len(self._received) > ANSWER_LIMIT_BYTES:
            return self._unread("failed", f"{self.name}: more than {ANSWER_LIMIT_BYTES} bytes")
        return None

    def expire(self) -> str:
        """Give the answer of a child whose deadline has passed."""
        return self._unread(
            "timeout", f"{self._what()}: no answer within {self.deadline_s:g} seconds"
        )

    def kill(self) -> None:
        """End the child and all that it started. Never waits: a call in a driver may not end."""
        with contextlib.suppress(OSError):
            if self._in_group:
                os.kill(self.pid, signal.SIGKILL)
            else:
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.close(self.fd)
        with contextlib.suppress(OSError):
            os.waitpid(self.pid, os.WNOHANG)

    def _what(self) -> str:
        return self._doing or self.name

    def _death(self) -> str:
        # It closed its pipe, so it is ending; a driver may still hold it up, hence no plain wait.
        for _ in range(100):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid and os.WIFSIGNALED(status):
                return f"the process reading it was killed by {_signal_name(os.WTERMSIG(status))}"
            if pid:
                return f"the process reading it ended with status {os.WEXITSTATUS(status)}"
            time.sleep(0.002)
        return "the process reading it closed its channel"

    @staticmethod
    def _unread(kind: Any, why: str) -> str:
        return json.dumps(to_json(Unread(kind, why)))


def apart(name: str, function: Callable[[], Any], deadline_s: float) -> Any:
    """Run the function in a child and wait: its value as plain JSON types, or an Unread."""
    child = Child(name, function, deadline_s, in_group=True)
    try:
        answer = None
        while answer is None:
            left = child.deadline - time.monotonic()
            ready = left > 0 and select.select([child.fd], [], [], left)[0]
            answer = child.read() if ready else child.expire()
    finally:
        child.kill()
    value = json.loads(answer)
    if isinstance(value, dict) and value.keys() == {"unread", "why"}:
        return Unread(**value)
    return value


def _work(
    function: Callable[[], Any], parent: int, to_parent: int, *, in_group: bool
) -> None:  # never returns
    global _to_parent
    try:
        if not in_group:
            os.setpgid(0, 0)
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        signal.alarm(0)
        _to_parent = to_parent
        # Standard input and output belong to the protocol: neither is for a library's use.
        devnull = os.open(os.devnull, os.O_RDWR)
        os.dup2(devnull, 0)
        os.dup2(2, 1)
        line = _ANSWER + json.dumps(_plain(_guarded(function))).encode("ascii") + b"\n"
        while line:
            line = line[os.write(to_parent, line) :]
        os._exit(0)
    finally:
        os._exit(1)


def _guarded(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except PermissionError as error:
        return Unread("denied", _describe(error))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is this value's reason
        return Unread("failed", _describe(error))


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"[:500]
    return f"{type(error).__name__}: {error}"[:500]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
