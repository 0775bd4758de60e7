"""Settings of this machine that a lab needs, and their way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from clusterctl.lab import spec as specs

PROC = Path("/proc/sys")
MINIMA = {
    "net/ipv4/ip_forward": 1,
    # Each node's systemd takes several of these, and all nodes' root is one user to the kernel.
    "fs/inotify/max_user_instances": 8192,
    "fs/inotify/max_user_watches": 524288,
    # One table for all namespaces: every node that talks to every other needs an entry for each.
    "net/ipv4/neigh/default/gc_thresh2": 32768,
    "net/ipv4/neigh/default/gc_thresh3": 65536,
}
"""Setting -> the least value that labs of any size get along with."""

_RECORD = specs.STATE / "settings-before.json"


def prepare(say: Callable[[str], None]) -> None:
    """Raise what is too low, and note what it was before it changes."""
    before = _recorded()
    low = {name: value for name in MINIMA if (value := _read(name)) < MINIMA[name]}
    if not low:
        return
    _RECORD.write_text(json.dumps(low | before))
    for name in low:
        (PROC / name).write_text(str(MINIMA[name]))
    names = ", ".join(name.replace("/", ".") for name in low)
    say(f"raised {names} on this machine, until the last lab goes down")


def restore() -> None:
    """Give every setting the value that it had, unless somebody has set another since."""
    for name, value in _recorded().items():
        if name in MINIMA and _read(name) == MINIMA[name]:
            (PROC / name).write_text(str(value))
    _RECORD.unlink(missing_ok=True)


def _recorded() -> dict[str, int]:
    return json.loads(_RECORD.read_text()) if _RECORD.exists() else {}


def _read(name: str) -> int:
    return int((PROC / name).read_text())
