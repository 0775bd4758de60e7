"""The supervisors on all nodes as one: orders go to each, their messages come in one queue."""

from __future__ import annotations

import itertools
import json
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clusterctl import payload
from clusterctl.errors import UserError
from clusterctl.facts import NetworkCounters, NodeFacts, Unread
from clusterctl.findings import NodeError
from clusterctl.interruption import wait_for
from clusterctl.ssh import Connection, NodeFailure, Process, fan_out, printable

START_TIMEOUT_S = 30
ANSWER_TIMEOUT_S = 4
"""A supervisor does nothing but answer; one that is silent for so long is stuck."""

GRACE_S = 30
"""How much later than the controller the supervisors give up."""


@dataclass(frozen=True)
class Member:
    """A node that may take part: its open connection and what the probe read there."""

    connection: Connection
    facts: NodeFacts


@dataclass(frozen=True)
class Message:
    """One message of a node's supervisor; ``body`` has the shapes that supervise.py lists."""

    node: str
    body: Mapping[str, Any]


@dataclass
class _Agent:
    process: Process
    ready: Mapping[str, Any]
    tcp: list[int] | None
    words: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    """Its commands' last lines that are no answers, for error messages."""


class Agents:
    """A supervisor on every node that could start one; the others are in ``lost``."""

    def __init__(self, members: Mapping[str, Member], deadline_s: float) -> None:
        self.lost: dict[str, str] = {}
        self._messages: queue.SimpleQueue[Message | tuple[str, NodeError]] = queue.SimpleQueue()
        self._agents: dict[str, _Agent] = {}
        self._tickets = itertools.count()
        self.folder = f"/dev/shm/clusterctl-{secrets.token_hex(6)}"  # noqa: S108 - made 0700, checked
        """Where commands put their files, on every node."""
        args = [self.folder, str(deadline_s + GRACE_S)]
        payloads = self._payloads(members)
        started = fan_out(
            [members[name].connection.node for name in payloads],
            lambda node: _start(members[node.name].connection, payloads[node.name], args),
            deadline_s=min(deadline_s, START_TIMEOUT_S + 5),
        )
        for name, result in started.items():
            if isinstance(result, NodeError):
                self.lost[name] = result.why
            else:
                self._agents[name] = result
                threading.Thread(target=self._listen, args=(name, result), daemon=True).start()

    @property
    def names(self) -> list[str]:
        """Nodes whose supervisor is still there."""
        return [name for name in self._agents if name not in self.lost]

    def ready(self, name: str) -> Mapping[str, Any]:
        """Give what a node's supervisor said of the node."""
        return self._agents[name].ready

    def tell(self, name: str, order: Mapping[str, Any]) -> None:
        """Send an order; a node that cannot take it is lost."""
        try:
            self._agents[name].process.write(json.dumps(order).encode() + b"\n")
        except NodeFailure as failure:
            self.lost.setdefault(name, failure.error.why)

    def message(self, timeout_s: float) -> Message | None:
        """Wait for the next message; None: there was none, or a node was lost meanwhile."""
        try:
            found = wait_for(self._messages, timeout_s)
        except queue.Empty:
            return None
        if isinstance(found, Message):
            return found
        name, error = found
        self.lost.setdefault(name, error.why)
        return None

    def remember(self, name: str, words: str) -> None:
        """Keep a line for error messages."""
        if words.strip():
            self._agents[name].words.append(printable(words)[:500])

    def words(self, name: str) -> list[str]:
        """Give a node's last lines that were no answers."""
        return list(self._agents[name].words)

    def ask_all(self, verb: str, answer: str) -> dict[str, Message]:
        """Give one order to all and collect the answers of those that give one in time."""
        ticket = next(self._tickets)
        asked = self.names
        for name in asked:
            self.tell(name, {verb: ticket})
        answers: dict[str, Message] = {}
        until = time.monotonic() + ANSWER_TIMEOUT_S
        while time.monotonic() < until and any(
            name not in answers and name not in self.lost for name in asked
        ):
            message = self.message(until - time.monotonic())
            if message is None:
                continue
            if message.body.get(answer) == ticket:
                answers[message.node] = message
            elif "err" in message.body:
                self.remember(message.node, str(message.body["err"]))
        return answers

    def lose(self, names: Iterable[str], why: str) -> None:
        """Give nodes up."""
        for name in names:
            self.lost.setdefault(name, why)

    def lose_silent(self, doing: str) -> list[str]:
        """Find the nodes whose supervisor does not answer and give them up."""
        asked = self.names
        answered = self.ask_all("ping", "pong")
        self.lose(
            (name for name in asked if name not in answered),
            f"stopped answering while {doing} (no answer within {ANSWER_TIMEOUT_S} s)",
        )
        return [name for name in asked if name in self.lost]

    def stop_commands(self) -> None:
        """End everything that was started on the nodes."""
        self.ask_all("stop", "stopped")

    def counters(self) -> list[NetworkCounters]:
        """Give the TCP segments of each node since the supervisors started."""
        answers = self.ask_all("ping", "pong")
        counted = []
        for name, message in answers.items():
            before, after = self._agents[name].tcp, _tcp(message.body)
            if before and after:
                counted.append(NetworkCounters(name, after[0] - before[0], after[1] - before[1]))
        return counted

    def peers(self) -> dict[str, list[str]]:
        """Give what each node has TCP connections to, as ``address:port``."""
        found = {}
        for name, answer in self.ask_all("ping", "pong").items():
            peers = answer.body.get("peers")
            found[name] = list(map(str, peers)) if isinstance(peers, list) else []
        return found

    def close(self) -> None:
        """End the supervisors, and with them what they started."""
        for agent in self._agents.values():
            agent.process.kill()

    def _payloads(self, members: Mapping[str, Member]) -> dict[str, payload.Payload]:
        """Get what each node needs, one after the other since some may have to be downloaded."""
        found = {}
        for name, member in members.items():
            system = member.facts.system
            if isinstance(system, Unread):
                self.lost[name] = f"its Python is not known: {system.why}"
                continue
            try:
                found[name] = payload.fabric(system.python, system.architecture)
            except UserError as error:
                self.lost[name] = f"{error.message}; {error.next_step}"
        return found

    def _listen(self, name: str, agent: _Agent) -> None:
        try:
            while True:
                body = json.loads(agent.process.read_line(86400))
                if isinstance(body, dict):
                    self._messages.put(Message(name, body))
        except NodeFailure as failure:
            error = failure.error
            self._messages.put((name, NodeError(error.kind, f"was lost: {error.why}", "")))
        except ValueError:
            error = NodeError("protocol", "its supervisor sent something else than JSON", "")
            self._messages.put((name, error))


def _start(connection: Connection, what: payload.Payload, args: list[str]) -> _Agent:
    process = payload.start(
        connection, what, "clusterctl.fabric.supervise", args, timeout_s=START_TIMEOUT_S
    )
    try:
        ready = json.loads(process.read_line(START_TIMEOUT_S))["ready"]
        return _Agent(process, dict(ready), _tcp(ready))
    except (ValueError, TypeError, KeyError, AttributeError):
        process.kill()
        raise NodeFailure(
            NodeError("protocol", "its supervisor did not start properly", "")
        ) from None


def _tcp(body: Mapping[str, Any]) -> list[int] | None:
    counted = body.get("tcp")
    if isinstance(counted, list) and len(counted) == 2 and all(isinstance(n, int) for n in counted):
        return counted
    return None
