"""Processors, NUMA nodes and memory."""

from __future__ import annotations

import re
from pathlib import Path

from clusterctl.facts import Cpu, Memory, NumaNode, Unread
from clusterctl.probe.reading import Request, cpu_list_length, fields, text, text_or


def read_cpu(request: Request) -> Cpu:
    """Read the processors that are online."""
    system = request.root / "sys/devices/system"
    online = text(system / "cpu/online")
    return Cpu(
        model=_model(request.root),
        sockets=_groups(system / "cpu", "package_cpus_list", "core_siblings_list"),
        cores=_groups(system / "cpu", "core_cpus_list", "thread_siblings_list"),
        threads=cpu_list_length(online),
        governor=_governor(system / "cpu/cpufreq"),
        load_1m=float(text(request.root / "proc/loadavg").split()[0]),
        numa=_numa(system / "node"),
    )


def read_memory(request: Request) -> Memory:
    """Read ``/proc/meminfo``."""
    info = fields(text(request.root / "proc/meminfo"))
    swap_total = _kilobytes(info["SwapTotal"])
    return Memory(
        total_bytes=_kilobytes(info["MemTotal"]),
        available_bytes=_kilobytes(info["MemAvailable"]),
        swap_total_bytes=swap_total,
        swap_used_bytes=swap_total - _kilobytes(info["SwapFree"]),
    )


def _kilobytes(value: str) -> int:
    return int(value.split()[0]) * 1024


def _model(root: Path) -> str:
    # The kernel makes this file as it is read, one CPU after the other: the first is enough.
    cpu = fields(text(root / "proc/cpuinfo", 8192))
    if "model name" in cpu:
        return cpu["model name"]
    if "CPU part" in cpu:  # Arm gives numbers only
        return f"implementer {cpu.get('CPU implementer', '?')} part {cpu['CPU part']}"
    return cpu.get("cpu", "unknown")


def _groups(cpus: Path, *names: str) -> int | Unread:
    """Count the different sets of CPUs that a topology file gives; its name changed in Linux 5."""
    sets = set()
    for folder in cpus.glob("cpu[0-9]*"):
        for name in names:
            members = text_or(folder / "topology" / name, "")
            if members:
                sets.add(members)
                break
    return len(sets) or Unread("absent", f"{cpus}: no topology")


def _governor(cpufreq: Path) -> str | Unread:
    governors = {text(path) for path in cpufreq.glob("policy*/scaling_governor")}
    if not governors:
        return Unread("unsupported", "the kernel does not steer the frequency of these CPUs")
    return ",".join(sorted(governors))


def _numa(nodes: Path) -> list[NumaNode] | Unread:
    result = []
    for folder in nodes.glob("node[0-9]*"):
        total = re.search(r"MemTotal:\s+(\d+) kB", text(folder / "meminfo"))
        result.append(
            NumaNode(
                index=int(folder.name[4:]),
                cpus=text(folder / "cpulist"),
                memory_bytes=int(total[1]) * 1024 if total else 0,
            )
        )
    if not result:
        return Unread("absent", f"{nodes}: a kernel without NUMA")
    return sorted(result, key=lambda node: node.index)
