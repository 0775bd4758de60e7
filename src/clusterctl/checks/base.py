"""What a check is, what it is given, and what it may answer."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from clusterctl.checks.culprit import Network
from clusterctl.facts import ClockOffset, FabricFacts, NodeFacts, Unread
from clusterctl.findings import NodeError, NodeExam, Outcome, Status, Subject

T = TypeVar("T")


class Scope(enum.Enum):
    """What one cell of a check is about; the beginning of its id."""

    NODE = "node"
    LINK = "link"
    CLUSTER = "cluster"


class Level(enum.IntEnum):
    """How much a check asks for: facts alone, the fabric measured as well, or long tests."""

    QUICK = 1
    STANDARD = 2
    DEEP = 3


class UnjudgedError(Exception):
    """Ends a check that cannot answer: carries the outcome, ``unknown`` or ``skip``."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.evidence)
        self.outcome = outcome


def known(value: T | Unread, *, skip: tuple[str, ...] = ()) -> T:
    """Give the value, or end the check with the probe's own reason.

    The check ends as ``unknown``; as ``skip`` for the kinds of :class:`Unread` in ``skip``, by
    which it says that such a value means "does not apply".
    """
    if isinstance(value, Unread):
        status = Status.SKIP if value.unread in skip else Status.UNKNOWN
        raise UnjudgedError(Outcome(status, f"{value.why} ({value.unread})"))
    return value


def ok(evidence: str, limit: str = "") -> Outcome:
    """Say that the subject is as it should be."""
    return Outcome(Status.PASS, evidence, limit)


def fail(evidence: str, limit: str, remedy: str) -> Outcome:
    """Say that the subject must not be trusted."""
    return Outcome(Status.FAIL, evidence, limit, remedy)


def warn(evidence: str, limit: str, remedy: str) -> Outcome:
    """Say that something is worth a look and no reason to wait."""
    return Outcome(Status.WARN, evidence, limit, remedy)


def skip(why: str) -> Outcome:
    """Say that the check does not apply to the subject."""
    return Outcome(Status.SKIP, why)


def unknown(why: str, remedy: str = "") -> Outcome:
    """Say that the check applies and could not be answered."""
    return Outcome(Status.UNKNOWN, why, remedy=remedy)


LIMITS = {
    "allreduce_busbw_min_bytes_per_s": "least busbw of the allreduce at its largest size",
    "clock_offset_max_s": "how far a node's clock may be from the others'",
    "disk_free_min_bytes": "least room on the file systems that every run writes to",
    "link_bandwidth_deficit_max": "share that may be missing to what a link's ends can",
    "link_bandwidth_min_bytes_per_s": "least bandwidth of every node and link, each way",
    "link_latency_max_s": "longest one-way latency of a link",
    "link_loss_max": "share of TCP segments that may be sent again on a link",
    "loss_max": "share of TCP segments that may be sent again at a node",
    "node_bandwidth_deficit_max": "share that may be missing to the median node's bandwidth",
}
"""What ``doctor_limits`` may hold in the inventory."""


def unknown_limits(wanted: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name what stands under ``doctor_limits`` and is no limit: a slip that would judge nothing."""
    found = {
        str(key)
        for variables in wanted.values()
        if isinstance(limits := variables.get("doctor_limits"), Mapping)
        for key in limits
    }
    return sorted(found - set(LIMITS))


@dataclass(frozen=True)
class Evidence:
    """Everything that was learned, and what the inventory wants of each node."""

    exams: Mapping[str, NodeExam]
    fabric: FabricFacts | Unread
    wanted: Mapping[str, Mapping[str, Any]]

    @cached_property
    def names(self) -> list[str]:
        """Every node of the inventory, in its order, whether it answered or not."""
        return list(dict.fromkeys([*self.wanted, *self.exams]))

    @cached_property
    def answered(self) -> dict[str, NodeFacts]:
        """Facts of every node that gave any."""
        return {n: e.facts for n, e in self.exams.items() if isinstance(e.facts, NodeFacts)}

    @cached_property
    def network(self) -> Network | Unread:
        """The measured links, split into what their ends and what their paths explain."""
        if isinstance(self.fabric, Unread):
            return self.fabric
        return Network.from_samples(self.fabric.links)

    def limit(self, key: str, *names: str, lowest: bool = False) -> float | None:
        """Give ``doctor_limits.KEY`` as wanted for these nodes; None where the site sets none.

        Where they differ, the highest counts, or the lowest when asked for.
        """
        found = [value for name in names if (value := self._limit(key, name)) is not None]
        return (min if lowest else max)(found, default=None)

    def _limit(self, key: str, name: str) -> float | None:
        if key not in LIMITS:
            raise LookupError(f"{key} is not among LIMITS")
        limits = self.wanted.get(name, {}).get("doctor_limits") or {}
        if not isinstance(limits, Mapping):
            raise UnjudgedError(unknown("inventory: doctor_limits is not a dictionary"))
        if key not in limits:
            return None
        return number(limits[key], f"doctor_limits.{key}")


def number(value: Any, name: str) -> float:
    """Read a number that the inventory gives, as a number or as its text."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise UnjudgedError(
            unknown(f"inventory: {name} is {value!r}, which is not a number")
        ) from None


def source(key: str, site: float | None) -> str:
    """Say where a limit comes from: the site's inventory, or this program."""
    return "default" if site is None else f"inventory: doctor_limits.{key}"


@dataclass(frozen=True)
class NodeView:
    """What a check of a node is given."""

    name: str
    evidence: Evidence

    @property
    def exam(self) -> NodeExam:
        """The node's examination, also when it gave only an error."""
        if self.name not in self.evidence.exams:
            raise UnjudgedError(unknown("not examined: nobody looked at this node"))
        return self.evidence.exams[self.name]

    @property
    def facts(self) -> NodeFacts:
        """The node's facts; ends the check when it gave none."""
        return _facts(self.exam, "node")

    @property
    def clock(self) -> ClockOffset:
        """How far the node's clock is from the controller's; ends the check when unknown."""
        _ = self.facts
        return known(self.exam.clock, skip=("unsupported",))

    @property
    def wanted(self) -> Mapping[str, Any]:
        """What the node should be: the variables that provision applied, the inventory's over them.

        Ends the check when the node's record of them could not be read.
        """
        return {**self._applied, **self.evidence.wanted.get(self.name, {})}

    def source(self, variable: str) -> str:
        """Say where a wanted value comes from: the site's inventory, or a role's default."""
        inventory = variable in self.evidence.wanted.get(self.name, {})
        return f"inventory: {variable}" if inventory else f"as provisioned: {variable}"

    @property
    def _applied(self) -> dict[str, Any]:
        provisioned = self.facts.provisioned
        if isinstance(provisioned, Unread) and provisioned.unread == "absent":
            return {}
        texts = {
            k: v for of_role in known(provisioned).variables.values() for k, v in of_role.items()
        }
        try:
            return {name: json.loads(text) for name, text in texts.items()}
        except ValueError:
            raise UnjudgedError(unknown("the node's record of its variables is not JSON")) from None

    @property
    def peers(self) -> list[str]:
        """Every other node of the inventory, whether it answered or not."""
        return [name for name in self.evidence.names if name != self.name]

    @property
    def contained(self) -> bool:
        """Whether the node is a container, which shows and shares parts of its host."""
        return known(self.facts.system).virtualization in CONTAINERS

    def network(self) -> Network:
        """Give the measured network; ends the check when it was not measured on this node."""
        _ = self.facts
        return _measured_network(self.evidence, self.name)

    def limit(self, key: str) -> float | None:
        """Give ``doctor_limits.KEY``, or None when the inventory sets none."""
        return self.evidence.limit(key, self.name)


@dataclass(frozen=True)
class LinkView:
    """What a check of the path between two nodes is given."""

    a: str
    b: str
    evidence: Evidence

    def network(self) -> Network:
        """Give the measured network; ends the check when it was not measured on both ends."""
        return _measured_network(self.evidence, self.a, self.b)

    def limit(self, key: str, *, lowest: bool = False) -> float | None:
        """Give ``doctor_limits.KEY``: the stricter of the two ends'."""
        return self.evidence.limit(key, self.a, self.b, lowest=lowest)


CONTAINERS = frozenset(
    {
        "container-other",
        "docker",
        "lxc",
        "lxc-libvirt",
        "openvz",
        "podman",
        "pouch",
        "proot",
        "rkt",
        "systemd-nspawn",
        "wsl",
    }
)
"""What systemd-detect-virt(1) calls containers."""


def _facts(exam: NodeExam, subject: str) -> NodeFacts:
    if isinstance(exam.facts, NodeError):
        stopped = exam.facts.kind == "interrupted"
        why = "the run was interrupted" if stopped else f"{subject} is unreachable"
        raise UnjudgedError(unknown(f"not examined: {why}"))
    return exam.facts


def _measured_network(evidence: Evidence, *names: str) -> Network:
    if len(evidence.names) == 1:
        raise UnjudgedError(skip("a single machine has no network between nodes"))
    for name in names:
        if name in evidence.exams:
            _facts(evidence.exams[name], name)
    network = known(evidence.network, skip=("unsupported",))
    assert not isinstance(evidence.fabric, Unread)  # noqa: S101 - for mypy: network is known
    for name in names:
        if name in evidence.fabric.lost:
            raise UnjudgedError(
                unknown(f"{name} left the measurement: {evidence.fabric.lost[name]}")
            )
        if name not in evidence.fabric.nodes:
            raise UnjudgedError(unknown(f"{name} took no part in the measurement"))
    return network


@dataclass(frozen=True)
class Check:
    """A question with one answer for each of its subjects. A value: see :func:`check`."""

    id: str
    title: str
    """The healthy state, as a statement."""
    scope: Scope
    level: Level
    severity: Status
    """The most that this check may say: ``fail`` or ``warn``."""
    function: Callable[[Any], Outcome]

    def __call__(self, subject: Subject, evidence: Evidence) -> Outcome:
        """Answer for one subject; what the function raises to end itself is its answer."""
        view: NodeView | LinkView | Evidence
        if self.scope is Scope.NODE:
            view = NodeView(subject.node, evidence)
        elif self.scope is Scope.LINK:
            view = LinkView(subject.node, subject.peer, evidence)
        else:
            view = evidence
        try:
            outcome = self.function(view)
        except UnjudgedError as end:
            return end.outcome
        if outcome.status is Status.FAIL and self.severity is Status.WARN:
            return warn(outcome.evidence, outcome.limit, outcome.remedy)
        return outcome


V = TypeVar("V", NodeView, LinkView, Evidence)

_SCOPES: Mapping[type, Scope] = {
    NodeView: Scope.NODE,
    LinkView: Scope.LINK,
    Evidence: Scope.CLUSTER,
}


def check(
    id: str,  # noqa: A002 - what users call it
    title: str,
    *,
    of: type[V],
    level: Level = Level.QUICK,
    severity: Status = Status.FAIL,
) -> Callable[[Callable[[V], Outcome]], Check]:
    """Make a :class:`Check` of a function; ``of``, what the function is given, is its scope."""

    def make(function: Callable[[V], Outcome]) -> Check:
        return Check(id, title, _SCOPES[of], level, severity, function)

    return make
