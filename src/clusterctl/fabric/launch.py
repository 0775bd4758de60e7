"""Measures the network between nodes: one MPI run, driven from here, that survives its nodes.

``mpirun`` and its daemons are started over the connections that the controller has. A node that
never joins, hangs or dies in the middle is found by asking every node's supervisor; the run is
started again without it and goes on where it was.
"""

from __future__ import annotations

import functools
import json
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clusterctl.fabric import mpirun, schedule
from clusterctl.fabric.agents import Agents, Member, Message
from clusterctl.fabric.membership import Membership, choose
from clusterctl.facts import AllreduceSample, FabricFacts, LinkSample, Unread

__all__ = ["Member", "measure"]

LAUNCH_S = 15.0
LAUNCH_PER_NODE_S = 0.1
"""How long daemons and workers may take to come up."""

STALL_S = 10.0
"""A measurement that gives no answer for so long makes the controller look for the reason."""

PAIR_LIMIT_S = 30.0
"""A pair whose nodes are both there and that is not measured by then never will be."""

MOST_LAUNCHES = 6
REPETITIONS = 2
"""How often suspicious pairs are measured again."""

ALLREDUCE_BUDGET_S = 0.4
ALLREDUCE_MAX_BYTES = 1 << 24


class BrokenRunError(Exception):
    """The MPI run cannot go on; the next one may."""


class GivenUpError(Exception):
    """No further run would help."""


def measure(
    members: Mapping[str, Member],
    *,
    network: str | None,
    ranks_per_node: int = 1,
    deadline_s: float,
    on_progress: Callable[[str], None],
) -> FabricFacts:
    """Measure every pair of members, then an allreduce over all of them.

    ``network`` is the CIDR that the ranks must talk over (None: the networks in which all
    members have an address). With one member only the allreduce of its ``ranks_per_node`` ranks
    is measured. What a node does wrong is in the result and never raised; nothing is left
    running on the nodes. Ends within ``deadline_s`` plus a few seconds of cleaning up.
    """
    on_progress(f"starting on {len(members)} nodes")
    agents = Agents(members, deadline_s)
    try:
        run = _Measurement(members, agents, network, ranks_per_node, deadline_s, on_progress)
        return run.result()
    finally:
        agents.close()


class _Measurement:
    """The whole measurement, over as many MPI runs as it takes."""

    def __init__(
        self,
        members: Mapping[str, Member],
        agents: Agents,
        network: str | None,
        ranks_per_node: int,
        deadline_s: float,
        on_progress: Callable[[str], None],
    ) -> None:
        self.agents = agents
        self.deadline = time.monotonic() + deadline_s
        self.deadline_s = deadline_s
        self.ranks_per_node = ranks_per_node
        self.on_progress = on_progress
        self.membership: Membership = choose(
            {name: members[name].facts for name in members if name in agents.names},
            {name: str(agents.ready(name).get("address", "")) for name in agents.names},
            network,
        )
        for name, why in self.membership.lost.items():
            agents.lose([name], why)
        self.planned = list(self.membership.addresses)
        self.session: _Session | None = None
        self.launches = 0
        self.mpi = ""
        self.links: list[LinkSample] = []
        self.unmeasured: dict[schedule.Pair, str] = {}
        self.allreduce: list[AllreduceSample] = []

    @property
    def names(self) -> list[str]:
        """Nodes that still take part."""
        return [name for name in self.planned if name not in self.agents.lost]

    def result(self) -> FabricFacts:
        """Do everything; give what came of it."""
        incomplete = ""
        try:
            for index, pairs in self._rounds():
                self._until_done(functools.partial(self._round, index, pairs))
            self._until_done(self._allreduce)
        except GivenUpError as reason:
            incomplete = str(reason)
        if self.session:
            self.session.leave()
        reasons = [incomplete, *self.unmeasured.values()]
        return FabricFacts(
            mpi=self.mpi,
            nodes=self.names,
            links=self.links,
            allreduce=self.allreduce,
            counters=self.agents.counters(),
            incomplete="; ".join(reason for reason in reasons if reason),
            lost=dict(self.agents.lost),
        )

    def _rounds(self) -> Iterator[tuple[int, list[schedule.Pair]]]:
        """Give the planned rounds, then those that are worth repeating."""
        planned = schedule.rounds(self.planned)
        for index, pairs in enumerate(planned):
            self.on_progress(f"measuring links: round {index + 1} of {len(planned)}")
            yield index, pairs
        index = len(planned)
        for _ in range(REPETITIONS):
            for pairs in schedule.repeats(self.links):
                self.on_progress(f"measuring {len(pairs)} of the links again")
                yield index, pairs
                index += 1

    def _until_done(self, step: Callable[[_Session], None]) -> None:
        """Take a step, with new MPI runs where nodes break the old one."""
        while True:
            try:
                if self.session is None:
                    self.session = self._launch()
                step(self.session)
                return
            except BrokenRunError as broken:
                self._find_reason(self.session, str(broken))
                self.session = None

    def _launch(self) -> _Session:
        names = self.names
        if len(names) * self.ranks_per_node < 2:
            raise GivenUpError("fewer than two nodes can take part")
        if self.launches == MOST_LAUNCHES:
            raise GivenUpError(f"given up after {self.launches} MPI runs that broke")
        # The first node that broke a run may have done so as the one that ran mpirun.
        head = self.launches % len(names) if self.launches > 2 else 0
        names = names[head:] + names[:head]
        self.launches += 1
        self.on_progress(f"starting MPI on {len(names)} nodes")
        session = _Session(self, names)
        self.session = session
        session.start()
        self.mpi = f"Open MPI {self.membership.mpi[names[0]].version}"
        return session

    def _round(self, index: int, pairs: Sequence[schedule.Pair], session: _Session) -> None:
        done = {(link.source, link.target) for link in self.links if link.round_index == index}
        pending = [
            pair
            for pair in pairs
            if pair not in done and pair not in self.unmeasured and {*pair} <= {*self.names}
        ]
        if pending:
            for links in session.measure_pairs(pending, index):
                self.links += links

    def _allreduce(self, session: _Session) -> None:
        self.on_progress(f"measuring the allreduce over {len(session.names)} nodes")
        self.allreduce = []
        for sample in session.measure_allreduce():
            self.allreduce.append(sample)

    def _find_reason(self, session: _Session | None, broken: str) -> None:
        """Blame what broke a run, so that the next one does without; clean up after it."""
        before = set(self.agents.lost)
        if session is None:
            return
        doing = session.doing
        self.agents.lose_silent(doing)
        if set(self.agents.lost) == before:
            session.blame()
        if set(self.agents.lost) == before:
            for pair in session.outstanding:
                self.unmeasured[pair] = f"{pair[0]} - {pair[1]}: {broken}"
        self.agents.stop_commands()
        for name in set(self.agents.lost) - before:
            self.on_progress(f"going on without {name}: {self.agents.lost[name]}")
        if time.monotonic() > self.deadline:
            raise GivenUpError(f"not finished within {self.deadline_s:.0f} s ({doing})")
        if self.launches == MOST_LAUNCHES:
            raise GivenUpError(broken)


class _Session:
    """One ``mpirun`` with its daemons and its worker."""

    def __init__(self, measurement: _Measurement, names: Sequence[str]) -> None:
        self.agents = measurement.agents
        self.membership = measurement.membership
        self.ranks_per_node = measurement.ranks_per_node
        self.deadline = measurement.deadline
        self.names = list(names)
        self.head = names[0]
        self.marker = f"@clusterctl-{secrets.token_hex(8)}"
        self.doing = "starting MPI"
        self.outstanding: set[schedule.Pair] = set()
        self.exits: dict[str, int] = {}
        self.nodes: list[str] = []
        """Each rank's node."""
        self._port = 0

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

    def measure_pairs(
        self, pairs: Sequence[schedule.Pair], round_index: int
    ) -> Iterator[tuple[LinkSample, LinkSample]]:
        """Measure disjoint pairs at the same time; give both directions of each as it is done."""
        self.outstanding = set(pairs)
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
            self.outstanding.discard((links[0].source, links[0].target))
            self.outstanding.discard((links[0].target, links[0].source))
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
        """Find the node that broke the run among those that still answer."""
        for name, status in self.exits.items():
            if name != self.head and status != 0 and not self.nodes:
                said = " ".join(self.agents.words(name))
                self.agents.lose([name], f"its MPI daemon ended with status {status}: {said}")
                return
        hostname = mpirun.failed_node("\n".join(self.agents.words(self.head)))
        known_as = {
            name: (self.agents.ready(name).get("hostname"), self.membership.addresses[name])
            for name in self.names
        }
        blamed = [name for name, hosts in known_as.items() if hostname in hosts]
        if len(blamed) == 1:
            self.agents.lose(blamed, f"its measuring process ended while {self.doing}")

    def _run(self, name: str, argv: Sequence[str]) -> None:
        env = {"CLUSTERCTL_NODE": name}
        env |= mpirun.daemon_environment(self.membership.mpi[name])
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
        if "exit" in body:
            self.exits[name] = int(body["exit"])
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
            latency_s = _positive(latency_s)
            return (
                _link(a, b, latency_s, there, round_index),
                _link(b, a, latency_s, back, round_index),
            )
        except (ValueError, TypeError, IndexError):
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
        except (ValueError, TypeError, KeyError):
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


def _listed(pairs: Sequence[schedule.Pair] | set[schedule.Pair]) -> str:
    shown = ", ".join(f"{a} - {b}" for a, b in sorted(pairs)[:3])
    return f"{shown} and {len(pairs) - 3} more pairs" if len(pairs) > 3 else shown
