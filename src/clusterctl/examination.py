"""Examines one node over an open connection: the probe's facts, and the clock's offset."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from clusterctl import payload
from clusterctl.decode import LINE_LIMIT_BYTES, node_facts, show
from clusterctl.facts import ClockOffset, NodeFacts, Unread
from clusterctl.findings import NodeError, NodeExam
from clusterctl.ssh import Connection, NodeFailure, Process, failure

CLOCK_EXCHANGES = 5
CLOCK_GOOD_ENOUGH_S = 0.001
"""An uncertainty that no better one is looked for."""

SECTION_DEADLINE_S = 10.0
"""What one section of the probe may take, if the whole examination has twice that time."""


def examine_node(
    connection: Connection,
    peer_names: Sequence[str],
    *,
    timeout_s: float,
    mpi_paths: Sequence[str] = (),
) -> NodeExam:
    """Run the probe on the node, with become if the inventory asks for it, and read its answer.

    ``peer_names`` are the names that the node should resolve; ``mpi_paths`` are folders to look
    for an MPI in when the node has none of its own. What goes wrong on the node is a value of the
    result, never an exception.
    """
    started = time.monotonic()
    facts: NodeFacts | NodeError
    clock: ClockOffset | Unread = Unread("failed", "the node did not answer")
    try:
        talk = _start(connection, peer_names, timeout_s, mpi_paths)
        try:
            clock = _measure_clock(talk)
            facts = node_facts(talk.facts())
            talk.process.write(b"bye\n")
        except NodeFailure as error:
            facts = _with_last_words(error.error, talk.process)
        finally:
            talk.process.kill()
    except NodeFailure as error:
        facts = error.error
    return NodeExam(facts=facts, clock=clock, duration_s=time.monotonic() - started)


@dataclass
class _Talk:
    """The channel to a probe: its lines by their kind, whatever their order."""

    process: Process
    nonce: str
    deadline: float
    _facts: bytes | None = None

    def say(self, line: str) -> None:
        self.process.write(line.encode("ascii") + b"\n")

    def expect(self, kind: str) -> bytes:
        """Give what follows the marker of the next line of this kind."""
        while True:
            found, rest = self._read()
            if found == kind:
                return rest
            if found != "facts" or self._facts is not None:
                raise _not_ours(f"a line of kind {found} in the place of {kind}")
            self._facts = rest

    def facts(self) -> bytes:
        return self.expect("facts") if self._facts is None else self._facts

    def _read(self) -> tuple[str, bytes]:
        remaining = max(0.0, self.deadline - time.monotonic())
        line = self.process.read_line(remaining, LINE_LIMIT_BYTES)
        marker, _, rest = line.partition(b" ")
        nonce, _, rest = rest.partition(b" ")
        if not marker.startswith(b"clusterctl-") or nonce != self.nonce.encode():
            raise _not_ours(line[:80].decode("ascii", "backslashreplace"))
        return marker[len(b"clusterctl-") :].decode("ascii", "replace"), rest


def _start(
    connection: Connection, peer_names: Sequence[str], timeout_s: float, mpi_paths: Sequence[str]
) -> _Talk:
    deadline = time.monotonic() + timeout_s
    nonce = secrets.token_hex(8)
    section_deadline_s = min(SECTION_DEADLINE_S, timeout_s / 2)
    arguments = ["--nonce", nonce, "--deadline", f"{section_deadline_s:g}"]
    arguments += ["--names", ",".join(peer_names)]
    for path in mpi_paths:
        arguments += ["--mpi-path", path]
    process = payload.start(
        connection,
        payload.PROBE,
        "clusterctl.probe",
        arguments,
        become=connection.node.become is not None,
        timeout_s=timeout_s,
    )
    return _Talk(process, nonce, deadline)


def _measure_clock(talk: _Talk) -> ClockOffset:
    """Exchange time stamps while the sections run; the shortest round trip knows best.

    Cristian's algorithm (Distributed Computing 3, 1989): the node read its clock somewhere between
    our sending and our receiving.
    """
    talk.expect("hello")
    best: ClockOffset | None = None
    for number in range(CLOCK_EXCHANGES):
        sent = time.time()
        begin = time.perf_counter()
        talk.say(f"clock {number}")
        answer = talk.expect("clock")
        uncertainty_s = (time.perf_counter() - begin) / 2
        if best is None or uncertainty_s < best.uncertainty_s:
            offset_s = _node_time(answer, number) - (sent + uncertainty_s)
            best = ClockOffset(offset_s=offset_s, uncertainty_s=uncertainty_s)
        if best.uncertainty_s <= CLOCK_GOOD_ENOUGH_S:
            break
    assert best is not None  # noqa: S101 - there is at least one exchange
    return best


def _node_time(answer: bytes, number: int) -> float:
    echoed, _, stamp = answer.partition(b" ")
    try:
        node_time = float(stamp)
    except ValueError:
        node_time = math.nan
    if echoed != str(number).encode() or not abs(node_time) < 1e12:
        raise _not_ours(answer[:80].decode("ascii", "backslashreplace"))
    return node_time


def _not_ours(seen: str) -> NodeFailure:
    return failure(
        "protocol",
        f"the node's answer is not the probe's: {show(seen)}",
        "run it again; if it stays, look at what else runs in this login's sessions",
    )


def _with_last_words(error: NodeError, process: Process) -> NodeError:
    words = process.stderr_tail().strip()
    if error.kind != "lost" or not words:
        return error
    return NodeError(error.kind, f"{error.why}; {words.splitlines()[-1][:200]}", error.next_step)
