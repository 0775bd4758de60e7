"""One MPI run: ``mpirun``, its daemons on the other nodes, and orders to its worker."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clusterctl.fabric import mpirun
from clusterctl.fabric.agents import Agents, Message
from clusterctl.fabric.membership import Membership
from clusterctl.fabric.schedule import Pair
from clusterctl.facts import AllreduceSample, LinkSample, Unread

LAUNCH_S = 10.0
LAUNCH_PER_NODE_S = 0.2
"""How long daemons and workers may take to come up."""

STALL_S = 4.0
"""A measurement that gives no answer for so long makes the controller look for the reason."""

PAIR_LIMIT_S = 20.0
"""A pair whose nodes are both there and that is not measured by then never will be."""

ALLREDUCE_BUDGET_S = 0.25
ALLREDUCE_MAX_BYTES = 1 << 24


class BrokenRunError(Exception):
    """The MPI run cannot go on; the next one may."""


class Session:
    """One ``mpirun`` with its daemons and its worker."""

    def __init__(
        self,
        agents: Agents,
        membership: Membership,
        names: Sequence[str],
        *,
        ranks_per_node: int,
        deadline: float,
    ) -> None:
        self.agents = agents
        self.membership = membership
        self.names = list(names)
        self.ranks_per_node = ranks_per_node
        self.deadline = deadline
        self.head = names[0]
        self.marker = f"@clusterctl-{secrets.token_hex(8)}"
        self.doing = "starting MPI"
        self.outstanding: set[Pair] = set()
        self.round_index = -1
        self.exits: dict[str, int] = {}
        self.nodes: list[str] = []
        """Each rank's node."""
        self.mpi = ""
        self.daemons_port = 0
        """Where daemons report to ``mpirun``."""

    def start(self) -> None:
        """Start ``mpirun`` and its daemons; returns when all ranks are there."""
        names = [self.membership.addresses[name] for name in self.names]
        argv = mpirun.command(
            self.membership.mpi[self.head],
            names,
            ranks_per_node=self.ranks_per_node,
            networks=self.membership.networks,
            as_root=self.agents.ready(self.head).get("uid") == 0,
            rdma=all(self.agents.ready(name).get("rdma") is True for name in self.names),
            marker=self.marker,
        )
        self._run(self.head, argv)
        limit_s = LAUNCH_S + LAUNCH_PER_NODE_S * len(self.names)
        answer = self._answer("nodes", limit_s)
        nodes = answer["nodes"]
        expected = sorted(name for name in self.names for _ in range(self.ranks_per_node))
        if not isinstance(nodes, list) or sorted(map(str, nodes)) != expected:
            raise BrokenRunError(f"ranks came up on {nodes!r:.200}")
        self.nodes = nodes
        self.mpi = mpirun.library_version(str(answer.get("mpi")))

    def measure_pairs(
        self, pairs: Sequence[Pair], round_index: int
    ) -> Iterator[tuple[LinkSample, LinkSample]]:
        """Measure disjoint pairs at the same time; give both directions of each as it is done."""
        self.outstanding = set(pairs)
        self.round_index = round_index
        self.doing = f"measuring {_listed(pairs)}"
        ranks = [[self.nodes.index(a), self.nodes.index(b)] for a, b in pairs]
        self._order({"pairs": ranks})
        until = time.monotonic() + PAIR_LIMIT_S
        while True:
            answer = self._answer("pair", until - time.monotonic(), or_key="round")
            if "round" in answer:
                if self.outstanding:
                    raise BrokenRunError("the worker left pairs out")
                return
            links = self._links(answer["pair"], round_index)
            self.outstanding -= {(link.source, link.target) for link in links}
            self.doing = f"measuring {_listed(self.outstanding)}"
            yield links

    def measure_allreduce(self) -> Iterator[AllreduceSample]:
        """Measure the allreduce over all ranks, size by size."""
        self.doing = "measuring the allreduce"
        self.outstanding = set()
        self._order(
            {"allreduce": {"budget_s": ALLREDUCE_BUDGET_S, "max_bytes": ALLREDUCE_MAX_BYTES}}
        )
        while True:
            answer = self._answer("allreduce", PAIR_LIMIT_S, or_key="swept")
            if "swept" in answer:
                return
            yield self._allreduce(answer["allreduce"])

    def leave(self) -> None:
        """Let the ranks finish, so that MPI cleans up after itself."""
        self._order({"end": True})
        until = time.monotonic() + 3
        while self.head not in self.exits and time.monotonic() < until:
            message = self.agents.message(until - time.monotonic())
            if message is None:
                if self.head in self.agents.lost:
                    return
                continue
            self._note(message)

    def blame(self) -> None:
        """Find the node that broke the run among those that still answer, and give it up."""
        if not self.nodes:
            for name, status in self.exits.items():
                if name != self.head and status != 0:
                    said = " ".join(self.agents.words(name)[-6:])
                    why = f"its MPI daemon ended with status {status}: {said}"
                    self.agents.lose([name], why)
                    return
            self._blame_unconnected()
            return
        hostname = mpirun.failed_node("\n".join(self.agents.words(self.head)))
        known_as = {
            name: (self.agents.ready(name).get("hostname"), self.membership.addresses[name])
            for name in self.names
        }
        blamed = [name for name, hosts in known_as.items() if hostname in hosts]
        if len(blamed) == 1:
            self.agents.lose(blamed, f"its measuring process ended while {self.doing}")

    def _blame_unconnected(self) -> None:
        if not self.daemons_port or self.head in self.exits:
            return
        address = f"{self.membership.addresses[self.head]}:{self.daemons_port}"
        peers = self.agents.peers()
        others = [name for name in self.names if name != self.head and name in peers]
        cut_off = [name for name in others if address not in peers[name]]
        if cut_off == others and len(others) > 1:
            self.agents.lose([self.head], f"no other node can connect to {address}")
        else:
            why = f"its MPI daemon cannot connect to {self.head} at {address}; is it a firewall?"
            self.agents.lose(cut_off, why)

    def _run(self, name: str, argv: Sequence[str]) -> None:
        env = {"CLUSTERCTL_NODE": name}
        env |= mpirun.environment(self.membership.mpi[name], self.agents.folder)
        self.agents.tell(name, {"run": list(argv), "env": env})

    def _order(self, order: Mapping[str, Any]) -> None:
        self.agents.tell(self.head, {"input": json.dumps(order)})

    def _answer(self, key: str, limit_s: float, or_key: str = "") -> dict[str, Any]:
        """Wait for the worker's answer that has ``key`` or ``or_key``."""
        limit = time.monotonic() + limit_s
        quiet = time.monotonic() + min(STALL_S, limit_s)
        while True:
            lost = [name for name in self.names if name in self.agents.lost]
            if lost:
                raise BrokenRunError(f"{', '.join(lost)} was lost while {self.doing}")
            until = min(limit, quiet, self.deadline)
            message = self.agents.message(until - time.monotonic())
            if message is not None:
                answer = self._note(message)
                if answer is not None and (key in answer or or_key in answer):
                    return answer
            elif time.monotonic() >= min(limit, self.deadline):
                raise BrokenRunError(f"no answer in time while {self.doing}")
            elif time.monotonic() >= quiet:
                if self.agents.lose_silent(self.doing):
                    continue
                quiet = time.monotonic() + STALL_S
            if self.head in self.exits:
                raise BrokenRunError(self._last_words())

    def _note(self, message: Message) -> dict[str, Any] | None:
        """Handle a message; give the worker's answer if it is one."""
        name, body = message.node, message.body
        if isinstance(body.get("exit"), int):
            self.exits[name] = body["exit"]
            if name != self.head and not self.nodes:
                raise BrokenRunError(f"the MPI daemon of {name} ended")
        elif "err" in body:
            self.agents.remember(name, str(body["err"]))
        elif "out" in body:
            line = str(body["out"])
            if name == self.head and line.startswith(self.marker + "{"):
                return _decoded(line[len(self.marker) :])
            daemon = mpirun.handed_back(line, self.marker) if name == self.head else None
            if daemon:
                self.daemons_port = mpirun.reporting_port(daemon[1]) or self.daemons_port
                self._start_daemon(*daemon)
            else:
                self.agents.remember(name, line)
        return None

    def _start_daemon(self, address: str, arguments: list[str]) -> None:
        for name in self.names:
            if self.membership.addresses[name] == address and name != self.head:
                self._run(name, [self.membership.mpi[name].launch_daemon, *arguments])

    def _last_words(self) -> str:
        status = self.exits[self.head]
        said = " ".join(self.agents.words(self.head)[-6:])
        return f"mpirun on {self.head} ended with status {status} while {self.doing}: {said}"

    def _links(self, answer: Any, round_index: int) -> tuple[LinkSample, LinkSample]:
        try:
            low, high, latency_s, there, back = answer
            a, b = self._node(low), self._node(high)
            if not self.outstanding & {(a, b), (b, a)}:
                raise ValueError("nobody asked for this pair")
            latency_s = _positive(latency_s)
            return (
                _link(a, b, latency_s, there, round_index),
                _link(b, a, latency_s, back, round_index),
            )
        except (ValueError, TypeError, OverflowError):
            raise BrokenRunError(f"the worker's answer makes no sense: {answer!r:.200}") from None

    def _node(self, rank: Any) -> str:
        if isinstance(rank, int) and 0 <= rank < len(self.nodes):
            return self.nodes[rank]
        raise ValueError(rank)

    def _allreduce(self, answer: Any) -> AllreduceSample:
        try:
            wrong: dict[str, int] = {}
            for node, count in zip(self.nodes, answer["wrong"], strict=True):
                if int(count) > 0:
                    wrong[node] = wrong.get(node, 0) + int(count)
            return AllreduceSample(
                size_bytes=int(_positive(answer["size_bytes"])),
                ranks=len(self.nodes),
                times_s=[_positive(time_s) for time_s in answer["times_s"]],
                wrong_elements=wrong,
            )
        except (ValueError, TypeError, KeyError, OverflowError):
            raise BrokenRunError(f"the worker's answer makes no sense: {answer!r:.200}") from None


def _link(source: str, target: str, latency_s: float, stream: Any, round_index: int) -> LinkSample:
    rate, count, segments = stream
    uncounted = Unread("unsupported", "the node does not count TCP segments")
    sent, again = segments if segments is not None else (uncounted, uncounted)
    return LinkSample(
        source=source,
        target=target,
        latency_s=latency_s,
        bandwidth_bytes_per_s=_positive(rate),
        bytes_sent=int(_positive(count)),
        round_index=round_index,
        segments_sent=sent if isinstance(sent, Unread) else int(sent),
        segments_retransmitted=again if isinstance(again, Unread) else int(again),
    )


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(value)
    return number


def _decoded(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _listed(pairs: Sequence[Pair] | set[Pair]) -> str:
    shown = ", ".join(f"{a} - {b}" for a, b in sorted(pairs)[:3])
    return f"{shown} and {len(pairs) - 3} more pairs" if len(pairs) > 3 else shown
