"""What the doctor says: findings, the report that holds them, and the verdict."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from clusterctl.facts import ClockOffset, FabricFacts, NodeFacts, Unread

REPORT_VERSION = 1


class _Word(str, enum.Enum):
    """An enumeration whose members are their texts: enum.StrEnum is younger than nodes' Pythons."""

    __str__ = str.__str__


class Status(_Word):
    """Outcome of one check on one subject, in order of gravity from ``pass`` to ``fail``."""

    PASS = "pass"  # noqa: S105 - the word, not a password
    SKIP = "skip"
    WARN = "warn"
    UNKNOWN = "unknown"
    FAIL = "fail"


class Verdict(_Word):
    """Whether the cluster may be trusted with a training run."""

    READY = "READY"
    NOT_READY = "NOT READY"


class ExitCode(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNKNOWN = 3
    BUG = 4
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass(frozen=True, order=True)
class Subject:
    """What a finding is about: a node, one of its GPUs, its link to a peer, or the cluster ("")."""

    node: str = ""
    gpu: int | None = None
    peer: str = ""

    def __str__(self) -> str:
        """Give ``node3``, ``node3 gpu 2``, ``node3 - node5`` or ``cluster``."""
        if self.gpu is not None:
            return f"{self.node} gpu {self.gpu}"
        if self.peer:
            return f"{self.node} - {self.peer}"
        return self.node or "cluster"


@dataclass(frozen=True)
class Outcome:
    """What a check says of one subject: what was seen, what it should be, what to do."""

    status: Status
    evidence: str
    limit: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Finding:
    """An outcome with the check and the subject it belongs to."""

    check: str
    title: str
    subject: Subject
    status: Status
    evidence: str
    limit: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class NodeError:
    """Why a node gave no answer: a value, since one node's trouble is not the run's.

    ``kind``: ``unreachable`` (no TCP, no name), ``host-key``, ``auth``, ``become``, ``timeout``
    (connected, then silence), ``python`` (none new enough), ``disk`` (no room for the probe),
    ``protocol`` (the answer was not one), ``lost`` (the connection broke).
    """

    kind: str
    why: str
    next_step: str


@dataclass(frozen=True)
class NodeExam:
    """What the doctor learned of one node."""

    facts: NodeFacts | NodeError
    clock: ClockOffset | Unread
    duration_s: float


@dataclass(frozen=True)
class Report:
    """The whole result of an examination; the only input of every renderer."""

    findings: list[Finding]
    nodes: dict[str, NodeExam]
    fabric: FabricFacts | Unread
    inventory: str
    started_at: str
    """ISO 8601, UTC."""
    duration_s: float
    clusterctl_version: str
    interrupted_by_signal: int = 0
    """The signal that ended the examination early; 0: it came to its end."""
    simulated: list[str] = field(default_factory=list)
    """What in this report was simulated, in words; empty for real machines."""
    report_version: int = REPORT_VERSION

    @property
    def verdict(self) -> Verdict:
        """READY, or not."""
        return Verdict.NOT_READY if self.interrupted_by_signal else verdict(self.findings)

    @property
    def exit_code(self) -> ExitCode:
        """Exit code that says the same as the verdict."""
        if self.interrupted_by_signal:
            return ExitCode(128 + self.interrupted_by_signal)
        statuses = {finding.status for finding in self.findings}
        if Status.FAIL in statuses:
            return ExitCode.FAILED
        return ExitCode.UNKNOWN if self.verdict is Verdict.NOT_READY else ExitCode.OK


def verdict(findings: Iterable[Finding]) -> Verdict:
    """READY needs at least one pass, no fail and no unknown: nothing looked at is not health."""
    statuses = {finding.status for finding in findings}
    bad = statuses & {Status.FAIL, Status.UNKNOWN}
    return Verdict.READY if Status.PASS in statuses and not bad else Verdict.NOT_READY
