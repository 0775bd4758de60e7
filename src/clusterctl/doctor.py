"""The examination: plan every cell, look, measure, judge. Prints nothing."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from clusterctl.checks import (
    LIMITS,
    Check,
    Evidence,
    Level,
    all_checks,
    judge,
    plan,
    unknown_limits,
)
from clusterctl.errors import UserError
from clusterctl.examination import examine_node
from clusterctl.fabric.launch import Member, measure
from clusterctl.facts import FabricFacts, NodeFacts, Unread
from clusterctl.findings import NodeError, NodeExam, Report
from clusterctl.interruption import Interrupted, heed
from clusterctl.inventory import Cluster, Node
from clusterctl.ssh import Connection, connect, fan_out

CONNECT_TIMEOUT_S = 10
EXAMINE_TIMEOUT_S = 30
FABRIC_BASE_S = 60
FABRIC_PER_NODE_S = 3


class Observer(Protocol):
    """Who wants to know how far the examination is."""

    def examining(self, names: Sequence[str]) -> None:
        """Say that these nodes are being reached and examined."""

    def examined(self, name: str, exam: NodeExam) -> None:
        """Say that one node answered, or that it will not."""

    def measuring(self, message: str) -> None:
        """Say what the fabric measurement is doing."""


@dataclass
class _Progress:
    """What is known so far; kept apart so that an interrupt does not lose it."""

    exams: dict[str, NodeExam] = field(default_factory=dict)
    connections: dict[str, Connection] = field(default_factory=dict)
    fabric: FabricFacts | Unread = field(
        default_factory=lambda: Unread("failed", "the network was not measured")
    )

    def keep(self, fabric: FabricFacts) -> None:
        """Keep what is measured so far."""
        self.fabric = fabric


def examine(cluster: Cluster, observer: Observer, level: Level = Level.STANDARD) -> Report:
    """Examine every node of the cluster, and from ``standard`` on the network between them.

    A node's trouble is that node's finding and never an exception. On :class:`Interrupted` the
    report holds what was measured until then and says so. Raises :class:`UserError` for a limit
    in the inventory that no check knows: it would judge nothing.
    """
    started = time.time()
    checks = [check for check in all_checks() if check.level <= level]
    cells = plan([node.name for node in cluster.nodes], checks)
    wanted = {node.name: node.wanted for node in cluster.nodes}
    _refuse_unknown_limits(wanted)
    progress = _Progress()
    signal_number = 0
    with ExitStack() as stack:
        stack.callback(_close, progress)
        try:
            _examine_nodes(cluster, progress, observer)
            if _needs_fabric(checks):
                progress.fabric = _measure_fabric(cluster, progress, observer)
            heed()
        except Interrupted as interrupt:
            signal_number = interrupt.signal_number
    exams = {node.name: progress.exams.get(node.name, _unexamined()) for node in cluster.nodes}
    evidence = Evidence(exams=exams, fabric=progress.fabric, wanted=wanted)
    return Report(
        findings=judge(cells, evidence),
        nodes=exams,
        fabric=progress.fabric,
        inventory=cluster.source,
        started_at=datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat("T", "seconds"),
        duration_s=time.time() - started,
        clusterctl_version=version("clusterctl"),
        interrupted_by_signal=signal_number,
        simulated=_simulated(exams),
    )


def _refuse_unknown_limits(wanted: Mapping[str, Mapping[str, Any]]) -> None:
    for name, variables in wanted.items():
        if not isinstance(variables.get("doctor_limits") or {}, Mapping):
            raise UserError(
                f"doctor_limits of {name} is not a dictionary",
                f"write it as one in the inventory; the limits are {', '.join(LIMITS)}",
            )
    unknown = unknown_limits(wanted)
    if unknown:
        raise UserError(
            f"no check knows doctor_limits.{', doctor_limits.'.join(unknown)}",
            f"correct it in the inventory; the limits are {', '.join(LIMITS)}",
        )


def _examine_nodes(cluster: Cluster, progress: _Progress, observer: Observer) -> None:
    names = [node.name for node in cluster.nodes]
    observer.examining(names)
    # A site's own MPI comes first; the one beside this interpreter is the PyPI package.
    mpi_paths = [str(Path(sys.executable).parent)]

    def work(node: Node) -> NodeExam:
        connection = connect(node, timeout_s=CONNECT_TIMEOUT_S)
        progress.connections[node.name] = connection
        return examine_node(
            connection,
            _from(node.name, names),
            timeout_s=EXAMINE_TIMEOUT_S,
            mpi_paths=mpi_paths if node.local else (),
        )

    def done(name: str, result: NodeExam | NodeError) -> None:
        if isinstance(result, NodeError):
            result = NodeExam(facts=result, clock=Unread("failed", result.why), duration_s=0.0)
        progress.exams[name] = result
        observer.examined(name, result)

    fan_out(cluster.nodes, work, deadline_s=CONNECT_TIMEOUT_S + EXAMINE_TIMEOUT_S + 5, on_done=done)


def _from(name: str, names: list[str]) -> list[str]:
    """Give the names from this one on, around the end."""
    at = names.index(name)
    return names[at:] + names[:at]


def _needs_fabric(checks: Sequence[Check]) -> bool:
    return any(check.level >= Level.STANDARD for check in checks)


def _measure_fabric(
    cluster: Cluster, progress: _Progress, observer: Observer
) -> FabricFacts | Unread:
    members = {
        name: Member(connection=progress.connections[name], facts=exam.facts)
        for name, exam in progress.exams.items()
        if isinstance(exam.facts, NodeFacts) and not isinstance(exam.facts.mpi, Unread)
    }
    if not members:
        return Unread("absent", "no node that answered has an MPI")
    alone = len(cluster.nodes) == 1
    if len(members) == 1 and not alone:
        return Unread("absent", f"only {next(iter(members))} answered and has an MPI")
    return measure(
        members,
        network=_fabric_network(cluster),
        ranks_per_node=2 if alone else 1,
        deadline_s=FABRIC_BASE_S + FABRIC_PER_NODE_S * len(members),
        on_progress=observer.measuring,
        on_facts=progress.keep,
    )


def _fabric_network(cluster: Cluster) -> str | None:
    networks = {str(node.wanted.get("fabric_network") or "") for node in cluster.nodes} - {""}
    return networks.pop() if len(networks) == 1 else None


def _unexamined() -> NodeExam:
    error = NodeError("interrupted", "the examination was stopped before it answered", "run again")
    return NodeExam(facts=error, clock=Unread("failed", error.why), duration_s=0.0)


def _simulated(exams: Mapping[str, NodeExam]) -> list[str]:
    nodes = [
        name
        for name, exam in exams.items()
        if isinstance(exam.facts, NodeFacts)
        and not isinstance(exam.facts.gpus, Unread)
        and exam.facts.gpus.simulated
    ]
    return [f"GPUs of {', '.join(nodes)}"] if nodes else []


def _close(progress: _Progress) -> None:
    for connection in list(progress.connections.values()):
        connection.close()
