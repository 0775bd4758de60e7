"""Keeps what runs on a node for a measurement from outliving its use.

``python -m clusterctl.fabric.supervise FOLDER DEADLINE_S`` is started over SSH. It starts
commands for the controller, passes their lines on, and ends all of their descendants, those
that made themselves daemons included, when it is told to, when its standard input closes (the
controller is gone, however it went) and at the deadline. It runs under Python 3.9 with the
standard library alone.

Both directions carry one JSON object a line. From the controller::

    {"run": [argv...], "env": {...}}  start a command with FOLDER as its TMPDIR
    {"input": "text"}                 a line for the standard input of the latest command
    {"ping": n}                       answered by {"pong": n, "tcp": [sent, retransmitted],
                                      "peers": ["address:port"...]}
    {"stop": n}                       end everything that was started; {"stopped": n}

To the controller: ``{"ready": {...}}`` first, then ``{"out": line}`` and ``{"err": line}`` of
the commands, ``{"exit": status}`` when one ends, and the answers above.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

TCP_ESTABLISHED = "01"

MOST_PEERS = 10000

LINE_LIMIT_BYTES = 1 << 16
"""Longer output lines are cut: the controller's memory is not the command's to fill."""


class EndedError(Exception):
    """A signal or the deadline asked for the end."""


class Supervisor:
    """One node's commands, and the end of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.selector = selectors.DefaultSelector()
        self.buffers: dict[int, bytes] = {}
        self.kinds: dict[int, str] = {}
        self.commands: dict[int, subprocess.Popen[bytes]] = {}
        self.latest: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Answer the controller until it is gone."""
        self._watch(0, "controller")
        self._tell({"ready": describe()})
        while self._pass_on(0.1):
            self._notice_exits()

    def end_all(self) -> None:
        """Kill every descendant and remove what they left in the folder."""
        kill_descendants()
        self.commands.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pass_on(self, timeout_s: float) -> bool:
        """Handle what can be read; False when the controller is gone."""
        going_on = [self._read(key.fd) for key, _ in self.selector.select(timeout_s)]
        return all(going_on)

    def _watch(self, fd: int, kind: str) -> None:
        self.buffers[fd] = b""
        self.kinds[fd] = kind
        self.selector.register(fd, selectors.EVENT_READ)

    def _read(self, fd: int) -> bool:
        kind = self.kinds[fd]
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            self.selector.unregister(fd)
            if kind != "controller":
                os.close(fd)
            return kind != "controller"
        *lines, rest = (self.buffers[fd] + chunk).split(b"\n")
        if kind != "controller" and len(rest) > LINE_LIMIT_BYTES:
            lines.append(rest)
            rest = b""
        self.buffers[fd] = rest
        for line in lines:
            if kind == "controller":
                self._obey(json.loads(line))
            else:
                self._tell({kind: line[:LINE_LIMIT_BYTES].decode(errors="replace")})
        return True

    def _obey(self, order: dict[str, Any]) -> None:
        if "run" in order:
            self._run(order["run"], order.get("env", {}))
        elif "input" in order:
            self._input(order["input"])
        elif "ping" in order:
            self._tell({"pong": order["ping"], "tcp": tcp_segments(), "peers": tcp_peers()})
        elif "stop" in order:
            self.end_all()
            self._tell({"stopped": order["stop"]})

    def _run(self, argv: list[str], env: dict[str, str]) -> None:
        try:
            own_folder(self.folder)
            command = subprocess.Popen(
                argv,
                cwd="/",
                env={**os.environ, **environment(), **env, "TMPDIR": str(self.folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            self._tell({"err": f"{error.filename}: {error.strerror}"})
            self._tell({"exit": 127})
            return
        self.commands[command.pid] = self.latest = command
        for stream, kind in ((command.stdout, "out"), (command.stderr, "err")):
            if stream is not None:
                self._watch(os.dup(stream.fileno()), kind)
                stream.close()

    def _input(self, text: str) -> None:
        stream = self.latest.stdin if self.latest else None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.write(text.encode() + b"\n")
                stream.flush()

    def _notice_exits(self) -> None:
        for pid, status in reap():
            command = self.commands.pop(pid, None)
            if command is not None:
                command.returncode = status
                self._pass_on(0)  # its last words come before its end
                self._tell({"exit": status})

    @staticmethod
    def _tell(message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def environment() -> dict[str, str]:
    """Give the variables with which a command's shell finds this very Python and package."""
    here = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [here, *(entry for entry in inherited if entry and entry != here)]
    return {"CLUSTERCTL_PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(path)}


def own_folder(folder: Path) -> None:
    """Make the folder, private; one that somebody else made is refused."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        status = folder.lstat()
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            raise


def describe() -> dict[str, Any]:
    """Say what the controller has to know of this node to start MPI on it."""
    ssh = os.environ.get("SSH_CONNECTION", "").split()
    return {
        "uid": os.getuid(),
        "hostname": os.uname().nodename,
        "address": ssh[2] if len(ssh) == 4 else "",
        "rdma": bool(list(Path("/sys/class/infiniband").glob("*/ports/*"))),
        "tcp": tcp_segments(),
    }


def tcp_segments() -> list[int] | None:
    """Give [sent, retransmitted] TCP segments of this network namespace since boot."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        names, values = (
            line.split()
            for line in Path("/proc/net/snmp").read_text().splitlines()
            if line.startswith("Tcp:")
        )
        row = dict(zip(names, values))
        return [int(row["OutSegs"]), int(row["RetransSegs"])]
    return None


def tcp_peers() -> list[str]:
    """Give the far ends of this node's IPv4 connections, as ``address:port``."""
    found = set()
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            remote, state = line.split()[2:4]
            if state == TCP_ESTABLISHED:
                address, port = remote.split(":")
                packed = int(address, 16).to_bytes(4, sys.byteorder)
                found.add(f"{socket.inet_ntoa(packed)}:{int(port, 16)}")
    return sorted(found)[:MOST_PEERS]


def die_with_parent() -> None:
    """Make the kernel kill this process should the supervisor itself be killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init's."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants() -> list[int]:
    """Give the process ids below this process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The command name, in parentheses, may hold anything: look behind its end.
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def kill_descendants() -> None:
    """Kill what is below this process until nothing is."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        below = descendants()
        if not below:
            return
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for _ in reap():
            pass
        time.sleep(0.005)


def reap() -> Iterator[tuple[int, int]]:
    """Collect children that ended, adopted ones too: (process id, exit status)."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def end(number: int, _frame: FrameType | None) -> None:
    """Interrupt whatever is being done, a write that nobody reads included."""
    raise EndedError(number)


def main() -> None:
    """Run until the controller is gone; see the module's text."""
    become_subreaper()
    ends = (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    for number in ends:
        signal.signal(number, end)
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
    supervisor = Supervisor(Path(sys.argv[1]))
    try:
        supervisor.serve()
    except (EndedError, OSError):
        pass  # OSError: standard output is closed, so the controller is gone
    finally:
        for number in ends:
            signal.signal(number, signal.SIG_IGN)
        supervisor.end_all()
    os._exit(0)  # nothing is left to flush, and flushing to a closed pipe would complain


if __name__ == "__main__":
    main()
