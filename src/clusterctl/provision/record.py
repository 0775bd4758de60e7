"""The record of every run: ``runs/ID`` in the user's state folder.

``run.json`` says what was asked for and what came of it, ``events.jsonl`` holds every event,
``runner.log`` what ansible-runner said outside of them. A ``lock`` file exists while the run
does: one that nobody holds belongs to a run that was killed.
"""

from __future__ import annotations

import fcntl
import json
import platform
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from clusterctl.errors import UserError
from clusterctl.provision.cleanup import sweep
from clusterctl.provision.progress import NodeProgress, Progress
from clusterctl.provision.run import Request
from clusterctl.state import state_folder

_KEPT_RUNS = 50
_LEFT_OUT = ("stdout", "start_line", "end_line", "runner_ident", "pid")


class Record:
    """The record of a run that is under way."""

    def __init__(self, request: Request, scratch: Path) -> None:
        self._started = datetime.now(UTC)
        self.id = f"{self._started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.folder = runs_folder() / self.id
        self.folder.mkdir(mode=0o700)
        self._lock = _locked(self.folder / "lock")
        self._events = (self.folder / "events.jsonl").open("w", encoding="utf-8")
        self._content: dict[str, Any] = {
            "id": self.id,
            "state": "running",
            "started_at": self._started.isoformat(),
            "scratch": str(scratch),
            "inventory": request.inventory,
            "playbook": str(request.playbook),
            "options": {
                "limit": request.limit,
                "tags": request.tags,
                "check": request.check,
                "diff": request.diff,
            },
            "versions": {
                "clusterctl": version("clusterctl"),
                "ansible-core": version("ansible-core"),
                "ansible-runner": version("ansible-runner"),
                "python": platform.python_version(),
            },
        }
        _write(self.folder, self._content)

    @property
    def log(self) -> Path:
        """Where ansible-runner's own words go."""
        return self.folder / "runner.log"

    def event(self, event: Mapping[str, Any]) -> None:
        """Keep one event, without the text that Ansible would have printed for it."""
        kept = {key: value for key, value in event.items() if key not in _LEFT_OUT}
        self._events.write(json.dumps(kept) + "\n")

    def close(self, progress: Progress, state: str, exit_code: int) -> None:
        """Keep what came of the run. ``state``: ``done``, ``failed`` or ``interrupted``."""
        ended = datetime.now(UTC)
        self._content |= {
            "state": state,
            "exit_code": exit_code,
            "ended_at": ended.isoformat(),
            "duration_s": round((ended - self._started).total_seconds(), 3),
            "nodes": {node.name: _result(node) for node in progress.nodes.values()},
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
            content = _read(lock.parent)
            sweep(lock.parent.name, Path(content.get("scratch") or lock.parent / "none"))
            _write(lock.parent, content | {"state": "killed"})
            lock.unlink()
    ended = [run for run in sorted(runs_folder().iterdir()) if not (run / "lock").exists()]
    for run in ended[:-_KEPT_RUNS]:
        shutil.rmtree(run, ignore_errors=True)


def _result(node: NodeProgress) -> dict[str, Any]:
    return {
        "ok": node.ok,
        "changes": [asdict(change) for change in node.changes],
        "failure": asdict(node.failure) if node.failure else None,
        "interrupted_in": {"role": node.role, "task": node.task} if node.busy else None,
        "duration_s": round(node.duration_s, 3),
    }


def _locked(path: Path, *, create: bool = True) -> IO[str]:
    file = path.open("w" if create else "r+")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _read(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}  # killed before it was written
    return content


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    aside = folder / "run.json.new"
    aside.write_text(json.dumps(content, indent=2) + "\n")
    aside.replace(folder / "run.json")
