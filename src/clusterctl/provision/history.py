"""Past runs: which there were, what each did, and what it changed over those before it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterctl.errors import UserError
from clusterctl.provision import record
from clusterctl.provision.progress import Progress
from clusterctl.provision.wanted import Wanted


@dataclass(frozen=True)
class PastRun:
    """The record of one run; ``content`` is its ``run.json``."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The run's id, which begins with the time that it began at (UTC)."""
        return self.folder.name

    @property
    def state(self) -> str:
        """``running``, ``done``, ``failed``, ``interrupted`` or ``killed``."""
        state = str(self.content.get("state", "killed"))
        return "killed" if state == "running" and not _is_held(self.folder / "lock") else state

    @property
    def check(self) -> bool:
        """Whether the run only said what it would change."""
        return bool(self.content.get("options", {}).get("check"))

    @property
    def nodes(self) -> Mapping[str, Mapping[str, Any]]:
        """What came of each node; empty for a run that goes on."""
        nodes: Mapping[str, Mapping[str, Any]] = self.content.get("nodes", {})
        return nodes

    @property
    def wanted(self) -> Wanted:
        """What the inventory asked of each node then."""
        try:
            wanted: Wanted = json.loads((self.folder / "wanted.json").read_text())
        except (OSError, ValueError):
            return {}
        return wanted

    def progress(self) -> Progress:
        """Give all that happened, from the run's events."""
        return record.replay(self.folder, self.content)


def runs(inventory: str | None = None) -> list[PastRun]:
    """Give all runs, of one inventory (its real path) or of any, the oldest first."""
    found = (
        PastRun(folder, record.read(folder)) for folder in sorted(record.runs_folder().iterdir())
    )
    return [
        run
        for run in found
        if run.content.get("record_version") == record.RECORD_VERSION
        and (inventory is None or run.content["inventory"] == inventory)
    ]


def find(prefix: str | None) -> PastRun:
    """Give the run whose id begins so; without a prefix, the last one."""
    known = runs()
    if not known:
        raise UserError("there is no record of any run yet", "clusterctl provision -i INVENTORY")
    found = [run for run in known if run.id.startswith(prefix or known[-1].id)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} runs begin with {prefix}" if found else f"there is no run {prefix}"
    raise UserError(what, "clusterctl provision history lists them")


def before(run: PastRun) -> list[PastRun]:
    """Give the runs on the same inventory that came earlier and were no plan, the oldest first."""
    return [
        other for other in runs(run.content["inventory"]) if other.id < run.id and not other.check
    ]


def known_versions(earlier: list[PastRun]) -> dict[str, dict[str, str]]:
    """Give node -> package -> the version that the last of the runs which named it found."""
    known: dict[str, dict[str, str]] = {}
    for run in earlier:
        for node, result in run.nodes.items():
            known.setdefault(node, {}).update(result.get("versions", {}))
    return known


def _is_held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
