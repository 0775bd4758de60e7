"""A control group per node, in every hierarchy of this machine (v1, hybrid and v2).

Nodes that shared one would see each other's processes in their services. Each node's group holds
``keeper`` (what starts the node again when it reboots) and ``machine`` (systemd-nspawn and all
that runs in it).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clusterctl.errors import UserError
from clusterctl.lab.spec import LabSpec, NodeSpec

TOP = "clusterctl-lab"


@dataclass(frozen=True)
class Hierarchy:
    """One mounted control group hierarchy. ``kind``: ``cgroup2`` or ``cgroup`` (v1)."""

    mountpoint: Path
    kind: str
    options: tuple[str, ...]


def hierarchies(mountinfo: str | None = None) -> list[Hierarchy]:
    """List the hierarchies, the unified one first."""
    text = mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text()
    found = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            path = Path(before.split()[4])
            found[path] = Hierarchy(path, kind, tuple(options.split(",")))
    return sorted(found.values(), key=lambda hierarchy: hierarchy.kind != "cgroup2")


def folders(spec: LabSpec, node: NodeSpec) -> list[Path]:
    """The node's folder in each hierarchy, the unified one first."""
    return [each.mountpoint / TOP / spec.name / node.name for each in hierarchies()]


def create(spec: LabSpec, node: NodeSpec) -> list[Path]:
    """Make the node's groups and give their folders."""
    for hierarchy in hierarchies():
        folder = hierarchy.mountpoint
        for part in (TOP, spec.name, node.name):
            _delegate(hierarchy, folder)
            folder = folder / part
            _make(hierarchy, folder)
        _delegate(hierarchy, folder)
        _make(hierarchy, folder / "keeper")
        _make(hierarchy, folder / "machine")
    return folders(spec, node)


def _delegate(hierarchy: Hierarchy, folder: Path) -> None:
    """Hand the controllers of a v2 group on to its children, those that it may hand on."""
    if hierarchy.kind != "cgroup2":
        return
    for controller in (folder / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _make(hierarchy: Hierarchy, folder: Path) -> None:
    """Make a group; a v1 cpuset takes no process before it has CPUs and memory."""
    folder.mkdir(exist_ok=True)
    if "cpuset" in hierarchy.options:
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not (folder / name).read_text().strip():
                (folder / name).write_text((folder.parent / name).read_text())


def pids(folder: Path) -> Iterator[int]:
    """All processes of a group and the groups below it; a group that vanishes has none."""
    for path, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            yield from map(int, (Path(path) / "cgroup.procs").read_text().split())


def freeze(spec: LabSpec, node: NodeSpec, frozen: bool) -> None:
    """Stop or continue all processes of the node."""
    for folder in folders(spec, node):
        if (folder / "machine/cgroup.freeze").exists():
            (folder / "machine/cgroup.freeze").write_text(str(int(frozen)))
            return
        if (folder / "machine/freezer.state").exists():
            (folder / "machine/freezer.state").write_text("FROZEN" if frozen else "THAWED")
            return
    if frozen:
        raise UserError("this kernel has no cgroup freezer", "use a kernel with CONFIG_CGROUPS v2")


def kill(spec: LabSpec, nodes: list[NodeSpec], deadline_s: float = 20) -> None:
    """End every process of the nodes at once and remove their groups."""
    every = [folder for node in nodes for folder in folders(spec, node) if folder.is_dir()]
    if not every:
        return
    for node in nodes:
        freeze(spec, node, frozen=False)
    deadline = time.monotonic() + deadline_s
    while left := {pid for folder in every for pid in pids(folder)}:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise UserError(f"processes of the lab do not end: {sorted(left)[:10]}")
        time.sleep(0.02)
    for folder in every:
        remove(folder)


def close_lab(spec: LabSpec) -> None:
    """Remove the lab's groups, which hold no process any more."""
    for hierarchy in hierarchies():
        top = hierarchy.mountpoint / TOP
        remove(top / spec.name)
        with contextlib.suppress(OSError):  # absent, or another lab is still in it
            top.rmdir()


def remove(folder: Path) -> None:
    """Remove an empty group with the groups below it."""
    for path, _, _ in os.walk(folder, topdown=False):
        for attempt in range(100):
            try:
                Path(path).rmdir()
                break
            except OSError:  # the kernel still counts a process that has just died
                if attempt == 99:
                    raise
                time.sleep(0.01)
