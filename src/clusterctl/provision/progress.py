"""Ansible's events as the state of every node, and as the news worth telling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from clusterctl.provision import results
from clusterctl.provision.results import printable

REBOOT_TASK = "Reboot"
"""The task that restarts a node; in check mode, that says that it would."""

STOP_TASK = "See that the run may go on"
"""The task before every role that fails when the run is to end there (``--max-failures``)."""


@dataclass(frozen=True)
class Change:
    """A task that changed a node, or would in check mode."""

    role: str
    task: str
    detail: str = ""
    """What exactly, where the task says so: the packages, the reason of a reboot."""
    at: str = field(default="", compare=False)
    """When it ended: ISO 8601, UTC."""

    @property
    def is_reboot(self) -> bool:
        """Whether the change is that the node restarts."""
        return self.task == REBOOT_TASK


@dataclass(frozen=True)
class Failure:
    """A task that failed on a node, and where it is written."""

    node: str
    role: str
    task: str
    path: str
    """``file:line`` of the task; empty when the play never came to one."""
    message: str
    unreachable: bool = False


@dataclass(frozen=True)
class Note:
    """What a role says of a node besides changes: that a source has no package for it, say."""

    role: str
    text: str


@dataclass(frozen=True)
class Timing:
    """How long a task took on a node."""

    node: str
    role: str
    task: str
    duration_s: float


@dataclass(frozen=True)
class RoleDone:
    """News: a node is through with a role."""

    node: str
    role: str
    changes: tuple[Change, ...]
    duration_s: float
    skipped: bool = False
    """The role had nothing to do on this node, and looked at nothing there."""


@dataclass(frozen=True)
class Rebooted:
    """News: a node has restarted, or would in check mode."""

    node: str
    reason: str


@dataclass(frozen=True)
class Diff:
    """What a task changes in files, as a unified diff."""

    role: str
    task: str
    text: str


News = RoleDone | Rebooted | Failure


@dataclass
class NodeProgress:
    """One node: what it does, and what came of it."""

    name: str
    play: str = ""
    role: str = ""
    task: str = ""
    busy: bool = False
    """A task is under way on the node."""
    ok: int = 0
    """Tasks that found everything as wanted."""
    changes: list[Change] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    """Version of each package that the roles say they established."""
    failure: Failure | None = None
    unfinished: str = ""
    """Why the node ended before its last role although nothing failed on it."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    roles_done: list[str] = field(default_factory=list)
    _role_started_at: datetime | None = None
    _role_first_change: int = 0
    _role_looked: bool = False
    _told: set[str] = field(default_factory=set)

    @property
    def duration_s(self) -> float:
        """Seconds from the node's first task to the end of its last."""
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return (self.ended_at - self.started_at).total_seconds()

    def enter(self, role: str, task: str, at: datetime | None) -> RoleDone | None:
        """Begin a task; give the news that the role before it is done, when it is another."""
        done = None
        if role != self.role:
            done = self.leave()
            self.role, self._role_started_at = role, at
            self._role_first_change, self._role_looked = len(self.changes), False
            if role in self.roles_done:
                self.roles_done.remove(role)  # it has come back to it: a handler, a last proof
        self.task, self.busy = task, True
        self.started_at = self.started_at or at
        return done

    def leave(self) -> RoleDone | None:
        """Give the news of the role that ends; a role come back to is news only if it changed."""
        role, changes = self.role, tuple(self.changes[self._role_first_change :])
        # A node that goes on to another role has survived its failure: a rescue block's doing.
        self.failure = None
        if not role:
            return None
        self.roles_done.append(role)
        if role in self._told and not changes:
            return None
        self._told.add(role)
        began, ended = self._role_started_at, self.ended_at
        seconds = (ended - began).total_seconds() if began and ended else 0.0
        return RoleDone(self.name, role, changes, seconds, skipped=not self._role_looked)

    def result(self, role: str, action: str, *, changed: bool) -> None:
        """Count a result that is no failure."""
        self.ok += not changed
        if role == self.role and (changed or action not in _LOOKS_AT_NO_NODE):
            self._role_looked = True


class Progress:
    """The state of a run. Feed it every event with :meth:`take`."""

    def __init__(self, names: Iterable[str], last_play: str = "") -> None:
        """Begin with every node unheard of. ``last_play``: name of the playbook's last play."""
        self._last_play = last_play
        self.nodes = {name: NodeProgress(name) for name in names}
        self.messages: list[str] = []
        """What Ansible said outside of any task: why it cannot read a file, for instance."""
        self.timings: list[Timing] = []
        self.diffs: dict[Diff, list[str]] = {}
        """Each diff, and the nodes that it is on."""
        self.play = ""
        """The play under way; its name is that of all its batches."""
        self.finished = False
        """Whether Ansible came to its own end."""
        # A result's own "role" is wrong where nodes run on without waiting for each other: a task
        # outside of any role then carries the role of another node's task.
        self._roles: dict[str, str] = {}

    def take(self, event: Mapping[str, Any]) -> list[News]:
        """Update the nodes by one event of ansible-runner; give what is worth telling."""
        kind, data = event.get("event", ""), event.get("event_data") or {}
        if kind in {"verbose", "error", "warning", "system_warning"}:
            text = results.plain(str(event.get("stdout", "")))
            self.messages += [text] if text else []
        elif kind == "playbook_on_play_start":
            self.play = data.get("play", "")
        elif kind == "playbook_on_task_start":
            self._roles[data.get("task_uuid", "")] = data.get("role") or ""
        elif kind == "playbook_on_stats":
            return self._end(data)
        node = self.nodes.get(data.get("host", ""))
        if node is None:
            return []
        if kind == "runner_on_start":
            node.play = self.play
            # A role's arguments are looked at even where the role itself is not asked for.
            role = node.role if _action(data) == "validate_argument_spec" else self._role(data)
            done = node.enter(role, data.get("task", ""), _time(event, "created"))
            return [done] if done else []
        if kind in _RESULTS:
            return self._result(node, kind, data)
        return []

    @property
    def failures(self) -> list[Failure]:
        """Every node's failure; a node that was never heard of has one too."""
        return [node.failure for node in self.nodes.values() if node.failure]

    @property
    def unfinished(self) -> list[NodeProgress]:
        """Nodes that ended early although nothing failed on them."""
        return [node for node in self.nodes.values() if node.unfinished]

    @property
    def interrupted(self) -> list[NodeProgress]:
        """Nodes in the middle of a task. After a stopped run: their state is not known."""
        return [node for node in self.nodes.values() if node.busy]

    def _result(self, node: NodeProgress, kind: str, data: Mapping[str, Any]) -> list[News]:
        role, task = self._role(data), printable(data.get("task", ""))
        start, end = _time(data, "start"), _time(data, "end")
        node.busy = False
        node.ended_at = end or node.ended_at
        if kind == "runner_on_skipped":
            return []
        if start and end:
            self.timings.append(Timing(node.name, role, task, (end - start).total_seconds()))
        if kind == "runner_on_ok":
            if diff := results.diff_text(data.get("res") or {}):
                self.diffs.setdefault(Diff(role, task, diff), []).append(node.name)
            return _succeed(node, role, task, data)
        if data.get("ignore_errors") and kind == "runner_on_failed":
            return []
        return _fail(node, role, task, data, unreachable=kind == "runner_on_unreachable")

    def _end(self, stats: Mapping[str, Any]) -> list[News]:
        self.finished = True
        news: list[News] = []
        bad = {**(stats.get("failures") or {}), **(stats.get("dark") or {})}
        processed = stats.get("processed") or {}
        reasons = [node.unfinished for node in self.unfinished]
        not_begun = reasons[0] if reasons else "not begun, because other nodes failed"
        last_play = self._last_play or self.play
        for node in self.nodes.values():
            node.busy = False
            if node.name not in processed:
                node.failure = Failure(node.name, "", "", "", "Ansible ran no task on this node")
                news.append(node.failure)
            elif bad.get(node.name):
                continue
            elif node.play != last_play:
                node.unfinished = not_begun
            else:
                done = node.leave()
                news += [done] if done else []
        return news

    def _role(self, data: Mapping[str, Any]) -> str:
        return self._roles.get(data.get("task_uuid", ""), "")


_RESULTS = {"runner_on_ok", "runner_on_failed", "runner_on_unreachable", "runner_on_skipped"}

_LOOKS_AT_NO_NODE = {
    "assert",
    "debug",
    "include_role",
    "include_tasks",
    "include_vars",
    "set_fact",
    "validate_argument_spec",
}


def _succeed(node: NodeProgress, role: str, task: str, data: Mapping[str, Any]) -> list[News]:
    result, action = data.get("res") or {}, _action(data)
    changed = bool(result.get("changed"))
    node.result(role, action, changed=changed)
    if action == "promise":
        node.versions.update(results.versions(result))
    if not changed:
        if action == "debug":
            notes = (Note(role, text) for text in results.messages(result))
            node.notes += [note for note in notes if note not in node.notes]
        return []
    detail = "; ".join(results.messages(result)) if action == "debug" else ""
    if task == REBOOT_TASK:
        detail = detail.removeprefix("would reboot: ")
    node.changes.append(Change(role, task, detail, at=str(data.get("end") or "")))
    if task == REBOOT_TASK:
        return [Rebooted(node.name, detail)]
    return []


def _fail(
    node: NodeProgress, role: str, task: str, data: Mapping[str, Any], *, unreachable: bool
) -> list[News]:
    message = results.failure_message(data.get("res") or {})
    if task == STOP_TASK and not unreachable:
        node.unfinished = message.replace("stopped: ", "stopped because ", 1)
        return []
    node.failure = Failure(
        node=node.name,
        role=role,
        task=task,
        path=data.get("task_path", ""),
        message=message,
        unreachable=unreachable,
    )
    return [node.failure]


def _action(data: Mapping[str, Any]) -> str:
    """Give a task's module or action without its collection."""
    return str(data.get("task_action") or "").rpartition(".")[2]


def _time(source: Mapping[str, Any], key: str) -> datetime | None:
    try:
        return datetime.fromisoformat(source[key])
    except (KeyError, TypeError, ValueError):
        return None
