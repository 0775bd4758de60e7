"""Measures the network between nodes: one MPI run, driven from here, that survives its nodes.

``mpirun`` and its daemons are started over the connections that the controller has. A node that
never joins, hangs or dies in the middle is found by asking every node's supervisor; the run is
started again without it and goes on where it was.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from clusterctl.fabric import schedule
from clusterctl.fabric.agents import Agents, Member
from clusterctl.fabric.membership import Membership, choose
from clusterctl.fabric.session import BrokenRunError, Session
from clusterctl.facts import AllreduceSample, FabricFacts, LinkSample, NetworkCounters

__all__ = ["Member", "measure"]

MOST_LAUNCHES = 12
MOST_UNEXPLAINED = 2
"""How often MPI may fail to start, or an allreduce to end, without a node to blame."""

REPETITIONS = 3
"""How often suspicious pairs are measured again."""


class GivenUpError(Exception):
    """No further run would help."""


def measure(
    members: Mapping[str, Member],
    *,
    network: str | None,
    ranks_per_node: int = 1,
    deadline_s: float,
    on_progress: Callable[[str], None],
    on_facts: Callable[[FabricFacts], None] = lambda _: None,
) -> FabricFacts:
    """Measure every pair of members, then an allreduce over all of them.

    ``network`` is the CIDR that the ranks must talk over (None: the networks in which all
    members have an address). With one member only the allreduce of its ``ranks_per_node`` ranks
    is measured. What a node does wrong is in the result and never raised; nothing is left
    running on the nodes. ``on_facts`` gets what is known after every round, for those who may be
    interrupted. Ends within ``deadline_s`` plus a few seconds of cleaning up.
    """
    on_progress(f"starting on {len(members)} nodes")
    agents = Agents(members, deadline_s)
    try:
        run = _Measurement(members, agents, network, ranks_per_node, deadline_s, on_progress)
        return run.result(on_facts)
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
        self.session: Session | None = None
        self.launches = 0
        self.unexplained = 0
        self.one_by_one: set[int] = set()
        """Rounds in which pairs take turns, to tell which of them breaks the run."""
        self.mpi = ""
        self.links: list[LinkSample] = []
        self.unmeasured: dict[schedule.Pair, str] = {}
        self.allreduce: list[AllreduceSample] = []

    @property
    def names(self) -> list[str]:
        """Nodes that still take part."""
        return [name for name in self.planned if name not in self.agents.lost]

    def result(self, on_facts: Callable[[FabricFacts], None]) -> FabricFacts:
        """Do everything; give what came of it."""
        incomplete = ""
        try:
            for index, pairs in self._rounds():
                self._until_done(functools.partial(self._round, index, pairs))
                on_facts(self._facts("interrupted", []))
            self._until_done(self._allreduce)
        except GivenUpError as reason:
            incomplete = str(reason)
        if self.session:
            self.session.leave()
        counters = self.agents.counters()
        self.agents.stop_commands()
        return self._facts(incomplete, counters)

    def _facts(self, incomplete: str, counters: list[NetworkCounters]) -> FabricFacts:
        reasons = [incomplete, *self.unmeasured.values()]
        return FabricFacts(
            mpi=self.mpi,
            nodes=self.names,
            links=list(self.links),
            allreduce=list(self.allreduce),
            counters=counters,
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

    def _until_done(self, step: Callable[[Session], None]) -> None:
        """Take a step, with new MPI runs where nodes break the old one."""
        while True:
            try:
                if self.session is None:
                    self.session = self._launch()
                step(self.session)
                return
            except BrokenRunError as broken:
                session, self.session = self.session, None
                if session is not None:
                    self._learn(session, str(broken))

    def _launch(self) -> Session:
        names = self.names
        if len(names) * self.ranks_per_node < 2:
            raise GivenUpError("fewer than two nodes can take part")
        if self.launches == MOST_LAUNCHES:
            raise GivenUpError(f"given up after {self.launches} MPI runs that broke")
        head = self.unexplained % len(names)  # it may be mpirun's own node that is at fault
        names = names[head:] + names[:head]
        self.launches += 1
        self.on_progress(f"starting MPI on {len(names)} nodes")
        session = Session(
            self.agents,
            self.membership,
            names,
            ranks_per_node=self.ranks_per_node,
            deadline=self.deadline,
        )
        self.session = session
        session.start()
        self.mpi = session.mpi
        return session

    def _round(self, index: int, pairs: Sequence[schedule.Pair], session: Session) -> None:
        done = {(link.source, link.target) for link in self.links if link.round_index == index}
        pending = [
            pair
            for pair in pairs
            if pair not in done and pair not in self.unmeasured and {*pair} <= {*self.names}
        ]
        together = [[pair] for pair in pending] if index in self.one_by_one else [pending]
        for part in filter(None, together):
            for links in session.measure_pairs(part, index):
                self.links += links

    def _allreduce(self, session: Session) -> None:
        self.on_progress(f"measuring the allreduce over {len(session.names)} nodes")
        self.allreduce = []
        for sample in session.measure_allreduce():
            self.allreduce.append(sample)

    def _learn(self, session: Session, broken: str) -> None:
        """Find what broke a run, so that the next one does without it; clean up after it."""
        known = {name for name in self.planned if name not in session.names}
        self.agents.lose_silent(session.doing)
        if set(self.names) == set(session.names):
            session.blame()
        if set(self.names) == set(session.names):
            self._suspect(session, broken)
        self.agents.stop_commands()
        for name in self.planned:
            if name in self.agents.lost and name not in known:
                self.on_progress(f"going on without {name}: {self.agents.lost[name]}")
        if time.monotonic() > self.deadline:
            raise GivenUpError(f"not finished within {self.deadline_s:.0f} s ({session.doing})")
        if self.launches == MOST_LAUNCHES or self.unexplained == MOST_UNEXPLAINED:
            raise GivenUpError(broken)

    def _suspect(self, session: Session, broken: str) -> None:
        """All nodes are well and yet the run broke: narrow it down to a pair."""
        if len(session.outstanding) > 1:
            self.one_by_one.add(session.round_index)
        elif session.outstanding:
            pair = session.outstanding.pop()
            self.unmeasured[pair] = f"{pair[0]} - {pair[1]}: {broken}"
            for name in pair:
                partners = sorted({*itertools.chain(*(p for p in self.unmeasured if name in p))})
                if len(partners) > 2:
                    partners.remove(name)
                    self.agents.lose([name], f"nothing comes through with {', '.join(partners)}")
                    self.unmeasured = {p: w for p, w in self.unmeasured.items() if name not in p}
        elif self.unmeasured:
            raise GivenUpError(f"{broken}, which needs every pair of nodes")
        else:
            self.unexplained += 1
