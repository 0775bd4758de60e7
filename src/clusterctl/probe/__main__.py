"""``python -m clusterctl.probe --nonce N``: read this node while answering the controller.

On standard output, one line each::

    clusterctl-hello NONCE               at once
    clusterctl-clock NONCE N SECONDS     the answer to a line "clock N" on standard input
    clusterctl-facts NONCE JSON          when every section has answered or run out of time

The sections run in children, so that clock lines are answered at once in the meantime. It ends
at a line ``bye``, at the end of standard input (the controller is gone), or after
:data:`LIFETIME_S`, and takes all that it started along.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

from clusterctl.facts import WIRE_VERSION
from clusterctl.probe.disk import read_filesystems
from clusterctl.probe.gpu import read_driver, read_gpus
from clusterctl.probe.isolate import Child
from clusterctl.probe.limits import read_limits
from clusterctl.probe.mpi import read_mpi
from clusterctl.probe.network import read_names, read_nics
from clusterctl.probe.processor import read_cpu, read_memory
from clusterctl.probe.promises import read_promises
from clusterctl.probe.reading import Request
from clusterctl.probe.system import read_system
from clusterctl.probe.timesync import read_time_sync

LIFETIME_S = 60
INPUT_LINE_LIMIT_BYTES = 256

SECTIONS: Mapping[str, Callable[[Request], Any]] = {
    "system": read_system,
    "cpu": read_cpu,
    "memory": read_memory,
    "filesystems": read_filesystems,
    "nics": read_nics,
    "time_sync": read_time_sync,
    "limits": read_limits,
    "names": read_names,
    "mpi": read_mpi,
    "nvidia_driver": read_driver,
    "gpus": read_gpus,
    "provisioned": read_promises,
}
"""Field of NodeFacts -> what reads it."""


class Probe:
    """The sections at work, and the controller's channel."""

    def __init__(self, nonce: str, children: Sequence[Child]) -> None:
        self.nonce = nonce
        self.working = {child.fd: child for child in children}
        self.answers: dict[str, str] = {}
        self._input = b""

    def serve(self) -> None:
        """Answer until the controller says bye or is gone."""
        poll = select.poll()
        for fd in (0, *self.working):
            poll.register(fd, select.POLLIN)
        self.say("hello")
        while True:
            for fd, _ in poll.poll(self._patience_ms()):
                if fd == 0:
                    if not self._listen():
                        return
                elif fd in self.working:
                    answer = self.working[fd].read()
                    if answer is not None:
                        poll.unregister(fd)
                        self._done(fd, answer)
            for fd, child in list(self.working.items()):
                if child.deadline <= time.monotonic():
                    poll.unregister(fd)
                    self._done(fd, child.expire())

    def say(self, kind: str, *words: str) -> None:
        """Write one line to the controller."""
        line = " ".join((f"clusterctl-{kind}", self.nonce, *words)).encode("ascii") + b"\n"
        while line:
            line = line[os.write(1, line) :]

    def end(self) -> None:
        """Kill the sections that still run."""
        for child in self.working.values():
            child.kill()

    def _patience_ms(self) -> int | None:
        if not self.working:
            return None
        next_deadline = min(child.deadline for child in self.working.values())
        return max(0, int((next_deadline - time.monotonic()) * 1000) + 1)

    def _listen(self) -> bool:
        """Answer what the controller wrote; False when it wants or needs nothing more."""
        data = os.read(0, 4096)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            words = line.decode("ascii", "replace").split()
            if words == ["bye"]:
                return False
            if len(words) == 2 and words[0] == "clock":
                self.say("clock", words[1], repr(time.time()))
        return bool(data) and len(self._input) <= INPUT_LINE_LIMIT_BYTES

    def _done(self, fd: int, answer: str) -> None:
        child = self.working.pop(fd)
        child.kill()
        self.answers[child.name] = answer
        if not self.working:
            facts = [f"{json.dumps(name)}:{value}" for name, value in sorted(self.answers.items())]
            self.say("facts", "{" + ",".join([*facts, f'"wire_version":{WIRE_VERSION}']) + "}")


def run(
    nonce: str,
    request: Request,
    sections: Mapping[str, Callable[[Request], Any]] = SECTIONS,
) -> None:
    """Read this node and serve the controller until it is done."""
    signal.alarm(LIFETIME_S)
    probe = Probe(
        nonce,
        [
            Child(name, functools.partial(section, request), request.deadline_s)
            for name, section in sections.items()
        ],
    )
    try:
        probe.serve()
    except BrokenPipeError:
        pass  # the controller is gone
    finally:
        probe.end()


def parse(argv: Sequence[str]) -> tuple[str, Request]:
    """Read the command line; only the controller writes it, so there is no help text."""
    nonce, root, names, deadline_s = "-", "/", "", "10"
    mpi_paths = []
    for option, value in zip(argv[::2], argv[1::2]):
        if option == "--nonce":
            nonce = value
        elif option == "--root":
            root = value
        elif option == "--names":
            names = value
        elif option == "--deadline":
            deadline_s = value
        elif option == "--mpi-path":
            mpi_paths.append(value)
        else:
            raise SystemExit(f"clusterctl.probe: unknown option {option}")
    return nonce, Request(
        root=Path(root),
        names=tuple(filter(None, names.split(","))),
        mpi_paths=tuple(mpi_paths),
        deadline_s=float(deadline_s),
    )


if __name__ == "__main__":
    run(*parse(sys.argv[1:]))
