"""The record of every run: ``runs/ID`` in the user's state folder.

``run.json`` says who asked for what and what came of it, ``wanted.json`` what the inventory asked
of each node, ``events.jsonl`` holds every event, ``runner.log`` what ansible-runner said outside
of them. A ``lock`` file exists while the run does: one that nobody holds belongs to a run that was
killed, and what came of that one is read off its events.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import pwd
import secrets
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from clusterctl.errors import UserError
from clusterctl.provision import wanted as wanted_state
from clusterctl.provision.cleanup import sweep
from clusterctl.provision.playbooks import last_play
from clusterctl.provision.progress import NodeProgress, Progress
from clusterctl.provision.run import Request
from clusterctl.provision.wanted import Wanted
from clusterctl.state import state_folder

RECORD_VERSION = 2
"""Format of ``run.json``; records of another are left alone."""

_KEPT_RUNS = 50
_LEFT_OUT = ("stdout", "start_line", "end_line", "runner_ident", "pid")
_NO_OPTIONS = ("inventory", "playbook", "done", "become_password")


class Record:
    """The record of a run that is under way."""

    def __init__(
        self, request: Request, scratch: Path, wanted: Wanted, resumes: str | None = None
    ) -> None:
        """Begin it. ``resumes`` is the id of the run that this one goes on with."""
        self._started = datetime.now(UTC)
        self.id = f"{self._started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.folder = runs_folder() / self.id
        self.folder.mkdir(mode=0o700)
        self._lock = _locked(self.folder / "lock")
        self._events = (self.folder / "events.jsonl").open("w", encoding="utf-8")
        options = asdict(request)
        self._content: dict[str, Any] = {
            "record_version": RECORD_VERSION,
            "id": self.id,
            "state": "running",
            "started_at": self._started.isoformat(timespec="seconds"),
            "user": _user(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "scratch": str(scratch),
            "inventory": request.inventory,
            "wanted_digest": wanted_state.digest(wanted),
            "playbook": str(request.playbook),
            "last_play": last_play(request.playbook),
            "options": {name: options[name] for name in options if name not in _NO_OPTIONS},
            "resumes": resumes,
            "done_before": request.done,
            "targets": list(wanted),
            "versions": {
                "clusterctl": version("clusterctl"),
                "ansible-core": version("ansible-core"),
                "ansible-runner": version("ansible-runner"),
                "python": platform.python_version(),
            },
        }
        (self.folder / "wanted.json").write_text(json.dumps(wanted, indent=1) + "\n")
        _write(self.folder, self._content)

    @property
    def log(self) -> Path:
        """Where ansible-runner's own words go."""
        return self.folder / "runner.log"

    @property
    def holder(self) -> dict[str, object]:
        """Say whose run this is, for those who find its inventory locked."""
        return {name: self._content[name] for name in ("user", "host", "pid")} | {
            "since": self._content["started_at"],
            "run": self.id,
        }

    def event(self, event: Mapping[str, Any]) -> None:
        """Keep one event at once, without the text that Ansible would have printed for it."""
        kept = {key: value for key, value in event.items() if key not in _LEFT_OUT}
        self._events.write(json.dumps(kept) + "\n")
        self._events.flush()

    def close(self, progress: Progress, state: str, exit_code: int) -> None:
        """Keep what came of the run. ``state``: ``done``, ``failed`` or ``interrupted``."""
        ended = datetime.now(UTC)
        self._content |= {
            "state": state,
            "exit_code": exit_code,
            "ended_at": ended.isoformat(timespec="seconds"),
            "duration_s": round((ended - self._started).total_seconds(), 3),
            "nodes": results(progress),
            "messages": progress.messages,
        }
        self._events.close()
        _write(self.folder, self._content)
        (self.folder / "lock").unlink()
        self._lock.close()


def runs_folder() -> Path:
    """Give the folder of all records, made if need be and readable by its owner alone."""
    folder = state_folder() / "runs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the record of this run: {error}",
            "set XDG_STATE_HOME to a folder that you may write to",
        ) from error
    return folder


def tidy() -> None:
    """End what killed runs left on this machine, and drop the oldest records."""
    for lock in runs_folder().glob("*/lock"):
        with suppress(BlockingIOError, FileNotFoundError), _locked(lock, create=False):
            content = read(lock.parent)
            sweep(lock.parent.name, Path(content.get("scratch") or lock.parent / "none"))
            nodes = results(replay(lock.parent, content))
            _write(lock.parent, content | {"state": "killed", "nodes": nodes})
            lock.unlink()
    ended = [run for run in sorted(runs_folder().iterdir()) if not (run / "lock").exists()]
    for run in ended[:-_KEPT_RUNS]:
        shutil.rmtree(run, ignore_errors=True)


def read(folder: Path) -> dict[str, Any]:
    """Give what ``run.json`` holds; nothing when the run was killed before it was written."""
    try:
        content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return content


def replay(folder: Path, content: Mapping[str, Any]) -> Progress:
    """Give a run's progress from its events, as far as they go."""
    progress = Progress(content.get("targets", ()), content.get("last_play", ""))
    with suppress(FileNotFoundError), (folder / "events.jsonl").open(encoding="utf-8") as events:
        for line in events:
            with suppress(ValueError):  # the last line of a killed run may be cut off
                progress.take(json.loads(line))
    return progress


def results(progress: Progress) -> dict[str, dict[str, Any]]:
    """Give what came of each node, as ``run.json`` says it."""
    return {
        node.name: {
            "state": _state(node, finished=progress.finished),
            "ok": node.ok,
            "changes": [asdict(change) for change in node.changes],
            "failure": asdict(node.failure) if node.failure else None,
            "unfinished": node.unfinished,
            "interrupted_in": {"role": node.role, "task": node.task} if node.busy else None,
            "roles_done": node.roles_done,
            "notes": [asdict(note) for note in node.notes],
            "versions": node.versions,
            "duration_s": round(node.duration_s, 3),
        }
        for node in progress.nodes.values()
    }


def _state(node: NodeProgress, *, finished: bool) -> str:
    if node.failure:
        return "unreachable" if node.failure.unreachable else "failed"
    if node.unfinished:
        return "stopped"
    return "done" if finished else "interrupted"


def _user() -> str:
    """Name who started the run, also where that one became root with sudo."""
    return os.environ.get("SUDO_USER", "") or pwd.getpwuid(os.getuid()).pw_name


def _locked(path: Path, *, create: bool = True) -> IO[str]:
    file = path.open("w" if create else "r+")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    aside = folder / "run.json.new"
    aside.write_text(json.dumps(content, indent=2) + "\n")
    aside.replace(folder / "run.json")
