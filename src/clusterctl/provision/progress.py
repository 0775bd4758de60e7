"""Ansible's events as the state of every node, and as the news worth telling."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")
_MESSAGE_LIMIT_CHARS = 4000


@dataclass(frozen=True)
class Change:
    """A task that changed a node, or would in check mode."""

    role: str
    task: str


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
class RoleDone:
    """News: a node is through with a role."""

    node: str
    role: str
    changes: tuple[Change, ...]
    duration_s: float


@dataclass(frozen=True)
class Diff:
    """News: what a task changes in a file, as a unified diff."""

    node: str
    task: str
    text: str


News = RoleDone | Diff | Failure


@dataclass
class NodeProgress:
    """One node: what it does, and what came of it."""

    name: str
    role: str = ""
    task: str = ""
    busy: bool = False
    """A task is under way on the node."""
    ok: int = 0
    """Tasks that found everything as wanted."""
    changes: list[Change] = field(default_factory=list)
    failure: Failure | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    roles_done: set[str] = field(default_factory=set)
    _role_started_at: datetime | None = None
    _role_first_change: int = 0

    @property
    def duration_s(self) -> float:
        """Seconds from the node's first task to the end of its last."""
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return (self.ended_at - self.started_at).total_seconds()

    def enter(self, role: str, task: str, at: datetime | None) -> RoleDone | None:
        """Begin a task; give the news that the role before it is done, when it is another."""
        done = self.leave() if role != self.role else None
        if role != self.role:
            self.role, self._role_started_at = role, at
            self._role_first_change = len(self.changes)
        self.task, self.busy = task, True
        self.started_at = self.started_at or at
        return done

    def leave(self) -> RoleDone | None:
        """Give the news of the role that ends; a role come back to is news only if it changed."""
        role, changes = self.role, tuple(self.changes[self._role_first_change :])
        if not role or (role in self.roles_done and not changes):
            return None
        self.roles_done.add(role)
        began, ended = self._role_started_at, self.ended_at
        seconds = (ended - began).total_seconds() if began and ended else 0.0
        return RoleDone(self.name, role, changes, seconds)


class Progress:
    """The state of a run. Feed it every event with :meth:`take`."""

    def __init__(self, names: Iterable[str]) -> None:
        self.nodes = {name: NodeProgress(name) for name in names}
        self.messages: list[str] = []
        """What Ansible said outside of any task: why it cannot read a file, for instance."""
        self.finished = False
        """Whether Ansible came to its own end."""
        # A result's own "role" is wrong where nodes run on without waiting for each other: a task
        # outside of any role then carries the role of another node's task.
        self._roles: dict[str, str] = {}

    def take(self, event: Mapping[str, Any]) -> list[News]:
        """Update the nodes by one event of ansible-runner; give what is worth telling."""
        kind, data = event.get("event", ""), event.get("event_data") or {}
        if kind in {"verbose", "error", "warning", "system_warning"}:
            self._say(str(event.get("stdout", "")))
        elif kind == "playbook_on_task_start":
            self._roles[data.get("task_uuid", "")] = data.get("role") or ""
        elif kind == "playbook_on_stats":
            return self._end(data)
        node = self.nodes.get(data.get("host", ""))
        if node is None:
            return []
        if kind == "runner_on_start":
            # A role's arguments are looked at even where the role itself is not asked for.
            looks = str(data.get("task_action", "")).endswith("validate_argument_spec")
            role = node.role if looks else self._role(data)
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
    def interrupted(self) -> list[NodeProgress]:
        """Nodes in the middle of a task. After a stopped run: their state is not known."""
        return [node for node in self.nodes.values() if node.busy]

    def _result(self, node: NodeProgress, kind: str, data: Mapping[str, Any]) -> list[News]:
        result = data.get("res") or {}
        role, task = self._role(data), data.get("task", "")
        node.busy = False
        node.ended_at = _time(data, "end") or node.ended_at
        if kind == "runner_on_ok":
            if result.get("changed"):
                node.changes.append(Change(role, printable(task)))
                return _diffs(node.name, printable(task), result)
            node.ok += 1
        elif kind in {"runner_on_failed", "runner_on_unreachable"} and not data.get(
            "ignore_errors"
        ):
            node.failure = Failure(
                node=node.name,
                role=role,
                task=printable(task),
                path=data.get("task_path", ""),
                message=_message(result),
                unreachable=kind == "runner_on_unreachable",
            )
            return [node.failure]
        return []

    def _end(self, stats: Mapping[str, Any]) -> list[News]:
        self.finished = True
        news: list[News] = []
        for node in self.nodes.values():
            node.busy = False
            failed = stats.get("failures", {}).get(node.name) or stats.get("dark", {}).get(
                node.name
            )
            if node.name not in stats.get("processed", {}):
                message = "Ansible ran no task on this node"
                node.failure = Failure(node.name, "", "", "", message)
                news.append(node.failure)
            elif not failed:
                node.failure = None  # a rescue block took care of it
                done = node.leave()
                news += [done] if done else []
        return news

    def _role(self, data: Mapping[str, Any]) -> str:
        return self._roles.get(data.get("task_uuid", ""), "")

    def _say(self, text: str) -> None:
        text = printable(_ESCAPE_SEQUENCE.sub("", text)).strip()
        if text:
            self.messages.append(text)


_RESULTS = {"runner_on_ok", "runner_on_failed", "runner_on_unreachable", "runner_on_skipped"}


def printable(text: str) -> str:
    """Give the text with every control character escaped, but for line ends and tabs."""
    text = text.replace("\r\n", "\n")
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _message(result: Mapping[str, Any]) -> str:
    """Give what a failed task says of itself, the most telling parts that it has."""
    parts = [str(error) for error in result.get("argument_errors", ())]
    if not parts:
        parts = [str(item["msg"]) for item in result.get("results", ()) if item.get("failed")]
    if not parts:
        parts = [str(result.get("msg") or result.get("censored") or "")]
    outputs = (str(result.get(stream) or "").strip() for stream in ("stderr", "stdout"))
    parts += [next((text for text in outputs if text and text not in parts[-1]), "")]
    text = printable("\n".join(part for part in parts if part)).strip()
    return text[:_MESSAGE_LIMIT_CHARS] or "the task gives no reason"


def _diffs(node: str, task: str, result: Mapping[str, Any]) -> list[News]:
    """Give what a changed result says of a file's text; Ansible adds it on ``--diff`` only."""
    path = str((result.get("invocation") or {}).get("dest") or result.get("dest") or "")
    found = result.get("diff") or []
    pieces = [piece for piece in (found if isinstance(found, list) else [found]) if piece]
    text = printable("".join(_unified(piece, path) for piece in pieces)).strip("\n")
    return [Diff(node, task, text)] if text else []


def _unified(piece: Mapping[str, Any], path: str) -> str:
    if "prepared" in piece:
        return str(piece["prepared"])
    before, after = piece.get("before", ""), piece.get("after", "")
    if not isinstance(before, str) or not isinstance(after, str):
        return ""  # attributes of a file, not its text
    name = path or str(piece.get("before_header", ""))
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")
    return "".join(line + "\n" for line in lines)


def _time(source: Mapping[str, Any], key: str) -> datetime | None:
    try:
        return datetime.fromisoformat(source[key])
    except (KeyError, TypeError, ValueError):
        return None
