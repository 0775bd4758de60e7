"""Evidence built by hand, and what each check must say of it.

Run as a program it rewrites the examples on the checks' pages from what the checks say.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clusterctl import checks
from clusterctl.checks import Cell, Check, Evidence, all_checks, judge
from clusterctl.facts import (
    UNLIMITED,
    AllreduceSample,
    ClockOffset,
    Cpu,
    FabricFacts,
    Filesystem,
    Gpu,
    Gpus,
    LinkSample,
    Memory,
    Mpi,
    Names,
    NetworkCounters,
    Nic,
    NodeFacts,
    NvidiaDriver,
    Promise,
    Provisioned,
    ResourceLimits,
    System,
    TimeSync,
    Unread,
)
from clusterctl.findings import Finding, NodeError, NodeExam, Status, Subject

PAGES = Path(checks.__file__).parent / "pages"
CHECKS: dict[str, Check] = {check.id: check for check in all_checks()}
NODES = ("node1", "node2", "node3", "node4")
GIB = 2**30
RATE = 25e6


def filesystem(mountpoint: str, total_gib: float, free_gib: float, **other: Any) -> Filesystem:
    values = {
        "device": "/dev/sda1",
        "fstype": "ext4",
        "inodes_total": 1_000_000,
        "inodes_free": 900_000,
        "read_only": False,
    }
    return Filesystem(
        mountpoint=mountpoint,
        total_bytes=int(total_gib * GIB),
        free_bytes=int(free_gib * GIB),
        **{**values, **other},
    )


def facts(index: int, count: int = 4) -> NodeFacts:
    """A healthy node, node{index} at 198.18.0.{index}."""
    return NodeFacts(
        system=System(
            hostname=f"node{index}",
            os_id="debian",
            os_version="12",
            os_name="Debian GNU/Linux 12 (bookworm)",
            kernel="6.1.0-28-amd64",
            architecture="x86_64",
            python="3.11.2",
            boot_id="0e3c1e0a-0000-4000-8000-000000000000",
            uptime_s=3600.0,
            virtualization="none",
        ),
        cpu=Cpu("Example CPU", 2, 32, 64, "performance", 0.4, []),
        memory=Memory(256 * GIB, 240 * GIB, 0, 0),
        filesystems=[
            filesystem("/", 100, 60),
            filesystem("/dev/shm", 128, 128, device="tmpfs", fstype="tmpfs"),
        ],
        nics=[
            Nic("lo", True, 65536, Unread("unsupported", "virtual"), Unread("unsupported", "-"),
                ["127.0.0.1/8"], 0, 0, 0, 0, 0, 0, 0, 0),
            Nic("eth0", True, 1500, Unread("unsupported", "virtual"), "veth",
                [f"198.18.0.{index}/24"], 10**9, 10**9, 10**6, 10**6, 0, 0, 0, 0),
        ],
        time_sync=TimeSync("chrony", True, 24e-6, "198.18.0.1"),
        limits=ResourceLimits(UNLIMITED, 1048576, UNLIMITED, 1048576, True),
        names=Names({f"node{i}": f"198.18.0.{i}" for i in range(1, count + 1)}),
        mpi=Mpi("openmpi", "4.1.4", "/usr/bin/mpirun", "/usr/bin/orted"),
        nvidia_driver=NvidiaDriver(
            Unread("absent", "no NVIDIA module is loaded"), Unread("absent", "none is installed"),
            Unread("absent", "no library"),
        ),
        gpus=Gpus(0, Unread("absent", "no NVML"), Unread("absent", "no NVML library"), False),
        provisioned=Unread("absent", "no role has ever finished here"),
    )  # fmt: skip


def fabric(
    names: tuple[str, ...] = NODES,
    *,
    sigma: float = 0.01,
    seed: int = 1,
    bandwidth: Callable[[str, str], float] = lambda a, b: RATE,
    latency: Callable[[str, str], float] = lambda a, b: 40e-6,
    loss: Callable[[str, str], float] = lambda a, b: 0.0,
) -> FabricFacts:
    """A measurement of every ordered pair, with relative noise ``sigma`` from a fixed seed."""
    noise = random.Random(seed)
    links = [
        LinkSample(
            source=a,
            target=b,
            latency_s=latency(a, b) * max(0.1, noise.gauss(1, sigma)),
            bandwidth_bytes_per_s=bandwidth(a, b) * max(0.01, noise.gauss(1, sigma)),
            bytes_sent=8 * 2**20,
            round_index=0,
            segments_sent=5800,
            segments_retransmitted=round(5800 * loss(a, b)),
        )
        for a in names
        for b in names
        if a != b
    ]
    sizes = (8, 64 * 1024, 16 * 2**20)
    return FabricFacts(
        mpi="openmpi 4.1.4",
        nodes=list(names),
        links=links,
        allreduce=[
            AllreduceSample(size, len(names), [size / 12e6 + 1e-4] * 3, {}) for size in sizes
        ],
        counters=[NetworkCounters(name, 100_000, 0) for name in names],
        incomplete="",
        lost={},
    )


def slow_node(name: str, share: float) -> Callable[[str, str], float]:
    return lambda a, b: RATE * (share if name in (a, b) else 1.0)


def slow_link(one: str, other: str, share: float) -> Callable[[str, str], float]:
    return lambda a, b: RATE * (share if {a, b} == {one, other} else 1.0)


def lossy_receiver(a: str, b: str) -> float:
    return 0.05 if b == "node3" else 0.0


def lossy_path(a: str, b: str) -> float:
    return 0.05 if {a, b} == {"node2", "node3"} else 0.0


def far_node(a: str, b: str) -> float:
    return 900e-6 if "node3" in (a, b) else 40e-6


def evidence(
    count: int = 4,
    *,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    errors: Mapping[str, NodeError] | None = None,
    clocks: Mapping[str, ClockOffset | Unread] | None = None,
    measured: FabricFacts | Unread | None = None,
    wanted: Mapping[str, Any] | None = None,
) -> Evidence:
    """Healthy nodes, changed where asked: ``changes`` holds, per node, sections to replace."""
    names = tuple(f"node{i}" for i in range(1, count + 1))
    exams = {}
    for index, name in enumerate(names, start=1):
        of_node: NodeFacts | NodeError = (errors or {}).get(name) or replace(
            facts(index, count), **(changes or {}).get(name, {})
        )
        clock = (clocks or {}).get(name, ClockOffset(0.0004 * index, 0.002))
        exams[name] = NodeExam(of_node, clock, 0.8)
    values = dict(wanted or {})
    return Evidence(
        exams=exams,
        fabric=fabric(names) if measured is None else measured,
        wanted=dict.fromkeys(names, values),
    )


HEALTHY = facts(3)
NIC = HEALTHY.nics[1]
LINK = Subject(node="node2", peer="node3")
NODE = Subject(node="node3")
CLUSTER = Subject()
PLANTED = Unread("failed", "planted")


def gpus(on_pci: int, answering: int | None, *, simulated: bool = False) -> dict[str, Any]:
    nvml: Any = (
        Unread("absent", "libnvidia-ml.so.1 is not there")
        if answering is None
        else [
            Gpu(i, f"GPU-{i}", "NVIDIA H100 80GB HBM3", f"0000:0{i}:00.0", 80 * GIB, 35, 70.0, 0)
            for i in range(answering)
        ]
    )
    return {"node3": {"gpus": Gpus(on_pci, "580.65.06", nvml, simulated)}}


def on3(**sections: Any) -> dict[str, Any]:
    return {"node3": sections}


@dataclass(frozen=True)
class Case:
    """One thing that a check must say."""

    check: str
    name: str
    status: Status
    subject: Subject = NODE
    evidence: Evidence = field(default_factory=evidence)
    says: tuple[str, ...] = ()
    """Words that the finding must hold."""
    on_page: bool = False

    def finding(self, other: Evidence | None = None) -> Finding:
        (found,) = judge([Cell(CHECKS[self.check], self.subject)], other or self.evidence)
        return found


PASS, SKIP, WARN, UNKNOWN, FAIL = Status.PASS, Status.SKIP, Status.WARN, Status.UNKNOWN, Status.FAIL
TIMEOUT = NodeError("timeout", "connected, then silence for 30 s", "on node3's console: top, dmesg")
REFUSED = NodeError(
    "unreachable",
    "198.18.0.3 port 22: connection refused",
    "on node3's console: systemctl status ssh",
)
LIMITS = {"base_memlock": "unlimited", "base_nofile": 1048576}
LOW = ResourceLimits(8 * 2**20, 1024, 8 * 2**20, 1024, True)


def limits(**changed: Any) -> Evidence:
    return evidence(changes=on3(limits=replace(LOW, **changed)), wanted=LIMITS)


def site(**doctor_limits: Any) -> dict[str, Any]:
    return {"doctor_limits": doctor_limits}


def promised(
    kind: str, *promises: tuple[str, str, str | Unread], variable: str = "", **sections: Any
) -> Evidence:
    """node3, on which the role nvidia_driver established these (name, wanted, found)."""
    listed = [
        Promise("nvidia_driver", kind, name, wanted, variable, found)
        for name, wanted, found in promises
    ]
    return evidence(changes=on3(provisioned=Provisioned({"nvidia_driver": {}}, listed), **sections))


def applied(
    of_role: Mapping[str, str], wanted: Mapping[str, Any] | None = None, **sections: Any
) -> Evidence:
    """node3, to which the role base applied variables, given as JSON texts."""
    record = Provisioned({"base": dict(of_role)}, [])
    return evidence(changes=on3(provisioned=record, **sections), wanted=wanted)


def versions(loaded: str, installed: str, library: str, **system: Any) -> Evidence:
    """node3 with these versions of the NVIDIA driver; an empty one is absent."""
    values = [v or Unread("absent", "is not there") for v in (loaded, installed, library)]
    return evidence(changes=on3(
        nvidia_driver=NvidiaDriver(*values), system=replace(HEALTHY.system, **system)
    ))  # fmt: skip


CONTAINED = {"system": replace(HEALTHY.system, virtualization="systemd-nspawn")}
UNKNOWN_PROMISE = Unread("failed", "dpkg-query: database is locked")
GONE = Unread("absent", "not installed")

CASES = [
    Case("node.reachable", "healthy", PASS),
    Case("node.reachable", "refused", FAIL, evidence=evidence(errors={"node3": REFUSED}),
         says=("connection refused", "systemctl status ssh"), on_page=True),
    Case("node.reachable", "interrupted", UNKNOWN,
         evidence=evidence(errors={"node3": NodeError("interrupted", "stopped", "run again")})),
    Case("node.clock.offset", "healthy", PASS),
    Case("node.clock.offset", "ahead", FAIL,
         evidence=evidence(clocks={"node3": ClockOffset(12.3, 0.002)}),
         says=("12.3 s ahead of the median of 4 nodes", "on node3"), on_page=True),
    Case("node.clock.offset", "partner of a wrong clock", PASS, Subject(node="node1"),
         evidence(3, clocks={"node3": ClockOffset(12.3, 0.002)})),
    Case("node.clock.offset", "two of four wrong", PASS, Subject(node="node1"),
         evidence(clocks={n: ClockOffset(9.0, 0.002) for n in ("node3", "node4")})),
    Case("node.clock.offset", "the controller is wrong", PASS,
         evidence=evidence(clocks={n: ClockOffset(3600.0, 0.002) for n in NODES}),
         says=("set the controller's clock", "1 h behind them")),
    Case("node.clock.offset", "two nodes, against the controller", FAIL, Subject(node="node2"),
         evidence(2, clocks={"node2": ClockOffset(-2.0, 0.002)}),
         says=("2 s behind the controller's clock",)),
    Case("node.clock.offset", "too uncertain", UNKNOWN,
         evidence=evidence(clocks={"node3": ClockOffset(0.2, 1.0)}), says=("known to within 1 s",)),
    Case("node.clock.offset", "the site's limit", PASS,
         evidence=evidence(clocks={"node3": ClockOffset(12.3, 0.002)},
                           wanted=site(clock_offset_max_s="30")),
         says=("inventory: doctor_limits.clock_offset_max_s",)),
    Case("node.clock.offset", "a limit that is no number", UNKNOWN,
         evidence=evidence(wanted=site(clock_offset_max_s="soon")), says=("'soon'",)),
    Case("node.clock.offset", "unread", UNKNOWN, evidence=evidence(clocks={"node3": PLANTED}),
         says=("planted",)),
    Case("node.clock.sync", "healthy", PASS,
         says=("chrony is synchronised from 198.18.0.1, 24 us",)),
    Case("node.clock.sync", "none", WARN,
         evidence=evidence(changes=on3(time_sync=TimeSync("none", False, PLANTED, PLANTED))),
         says=("no time service", "--limit node3"), on_page=True),
    Case("node.clock.sync", "not synchronised", WARN,
         evidence=evidence(changes=on3(time_sync=TimeSync("chrony", False, PLANTED, PLANTED)))),
    Case("node.clock.sync", "container", SKIP,
         evidence=evidence(changes=on3(
             time_sync=TimeSync("none", False, PLANTED, PLANTED),
             system=replace(HEALTHY.system, virtualization="systemd-nspawn")))),
    Case("node.clock.sync", "unread", UNKNOWN, evidence=evidence(changes=on3(time_sync=PLANTED))),
    Case("node.cpu.load", "healthy", PASS),
    Case("node.cpu.load", "busy", WARN,
         evidence=evidence(changes=on3(cpu=replace(HEALTHY.cpu, load_1m=63.2))),
         says=("load 63.2 on 64 CPUs",), on_page=True),
    Case("node.cpu.load", "container", SKIP,
         evidence=evidence(changes=on3(system=replace(HEALTHY.system, virtualization="docker")))),
    Case("node.cpu.load", "unread", UNKNOWN, evidence=evidence(changes=on3(cpu=PLANTED))),
    Case("node.disk.space", "healthy", PASS),
    Case("node.disk.space", "full", FAIL,
         evidence=evidence(changes=on3(filesystems=[filesystem("/", 100, 0.2)])),
         says=("/ has 205 MiB of 100 GiB free (0.2 %)", "on node3"), on_page=True),
    Case("node.disk.space", "shared memory full", FAIL,
         evidence=evidence(changes=on3(filesystems=[
             filesystem("/", 100, 60), filesystem("/dev/shm", 0.0625, 0, fstype="tmpfs")])),
         says=("/dev/shm has 0 B of 64 MiB free",)),
    Case("node.disk.space", "a small file system that is free", PASS,
         evidence=evidence(changes=on3(filesystems=[
             filesystem("/", 100, 60), filesystem("/dev/shm", 0.0625, 0.0625, fstype="tmpfs")]))),
    Case("node.disk.space", "somebody else's mount", PASS,
         evidence=evidence(changes=on3(filesystems=[
             filesystem("/", 100, 60), filesystem("/mnt/backup", 100, 0)]))),
    Case("node.disk.space", "no inodes", FAIL,
         evidence=evidence(changes=on3(filesystems=[filesystem("/", 100, 60, inodes_free=12)])),
         says=("12 of 1000000 inodes",)),
    Case("node.disk.space", "no inode count (btrfs)", PASS,
         evidence=evidence(changes=on3(filesystems=[
             filesystem("/", 100, 60, inodes_total=0, inodes_free=0)]))),
    Case("node.disk.space", "read-only", FAIL,
         evidence=evidence(changes=on3(filesystems=[filesystem("/", 100, 60, read_only=True)])),
         says=("/ (ext4) is mounted read-only",)),
    Case("node.disk.space", "read-only by nature", PASS,
         evidence=evidence(changes=on3(filesystems=[
             filesystem("/", 1, 0, fstype="squashfs", read_only=True),
             filesystem("/var", 100, 60)]))),
    Case("node.disk.space", "the site's limit", FAIL,
         evidence=evidence(wanted=site(disk_free_min_bytes=80 * GIB)),
         says=("inventory: doctor_limits.disk_free_min_bytes",)),
    Case("node.disk.space", "nothing seen", UNKNOWN,
         evidence=evidence(changes=on3(filesystems=[]))),
    Case("node.disk.space", "unread", UNKNOWN, evidence=evidence(changes=on3(filesystems=PLANTED))),
    Case("node.names.resolve", "healthy", PASS),
    Case("node.names.resolve", "missing", WARN,
         evidence=evidence(changes=on3(names=Names(
             {"node1": "198.18.0.1", "node2": "", "node4": ""},
            {"node2": "Name or service not known"}))),
         says=("node2, node4 (Name or service not known)",), on_page=True),
    Case("node.names.resolve", "none", WARN,
         evidence=evidence(changes=on3(names=Names({"node1": "", "node2": "", "node4": ""}))),
         says=("does not resolve any other node's name",)),
    Case("node.names.resolve", "some asked for", PASS,
         evidence=evidence(changes=on3(names=Names({"node4": "198.18.0.4"}))),
         says=("resolves the 1 asked for of the 3 names",)),
    Case("node.names.resolve", "none asked for", UNKNOWN,
         evidence=evidence(changes=on3(names=Names({})))),
    Case("node.names.resolve", "stale", WARN,
         evidence=evidence(changes=on3(names=Names(
             {**HEALTHY.names.resolved, "node2": "198.18.0.99"}))),
         says=("node2 means 198.18.0.99",)),
    Case("node.names.resolve", "loopback", WARN,
         evidence=evidence(changes=on3(names=Names(
             {**HEALTHY.names.resolved, "node2": "127.0.1.1"}))),
         says=("node2 means 127.0.1.1",)),
    Case("node.names.resolve", "alone", SKIP, Subject(node="node1"), evidence(1)),
    Case("node.names.resolve", "unread", UNKNOWN, evidence=evidence(changes=on3(names=PLANTED))),
    Case("node.limits.memlock", "healthy", PASS, evidence=evidence(wanted=LIMITS)),
    Case("node.limits.memlock", "not configured", FAIL, evidence=limits(),
         says=("8 MiB is in effect", "unlimited", "clusterctl provision --limit node3"),
         on_page=True),
    Case("node.limits.memlock", "forbidden by the machine", WARN,
         evidence=limits(memlock_configured_bytes=UNLIMITED, may_raise=False),
         says=("CAP_SYS_RESOURCE",)),
    Case("node.limits.memlock", "login without PAM", FAIL,
         evidence=limits(memlock_configured_bytes=UNLIMITED), says=("PAM",)),
    Case("node.limits.memlock", "enough bytes", PASS, evidence=evidence(
        changes=on3(limits=LOW), wanted={"base_memlock": "8388608"})),
    Case("node.limits.memlock", "nothing wanted", SKIP),
    Case("node.limits.memlock", "unread", UNKNOWN,
         evidence=evidence(changes=on3(limits=PLANTED), wanted=LIMITS)),
    Case("node.limits.nofile", "healthy", PASS, evidence=evidence(wanted=LIMITS)),
    Case("node.limits.nofile", "not configured", FAIL, evidence=limits(),
         says=("1024 is in effect",), on_page=True),
    Case("node.limits.nofile", "forbidden by the machine", WARN,
         evidence=limits(nofile_configured=1048576, may_raise=False)),
    Case("node.limits.nofile", "nothing wanted", SKIP),
    Case("node.limits.nofile", "unread", UNKNOWN, evidence=limits(nofile_configured=PLANTED)),
    Case("node.mpi.version", "healthy", PASS, evidence=evidence(wanted={"mpi_version": "4.1"})),
    Case("node.mpi.version", "absent", FAIL,
         evidence=evidence(changes=on3(mpi=Unread("absent", "no mpirun in the PATH"))),
         says=("no mpirun", "provision --limit node3 --tags mpi")),
    Case("node.mpi.version", "another", FAIL, evidence=evidence(wanted={"mpi_version": "5.0"}),
         says=("openmpi 4.1.4", "version 5.0"), on_page=True),
    Case("node.mpi.version", "4.10 is not 4.1", FAIL,
         evidence=evidence(changes=on3(mpi=replace(HEALTHY.mpi, version="4.10.0")),
                           wanted={"mpi_version": "4.1"})),
    Case("node.mpi.version", "a single machine", SKIP, Subject(node="node1"),
         evidence(1, changes={"node1": {"mpi": Unread("absent", "no mpirun in the PATH")}})),
    Case("node.mpi.version", "unread", UNKNOWN, evidence=evidence(changes=on3(mpi=PLANTED))),
    Case("node.limits.memlock", "the role's default", FAIL,
         evidence=applied({"base_memlock": '"unlimited"'}, limits=LOW),
         says=("unlimited (as provisioned: base_memlock)",)),
    Case("node.limits.memlock", "the inventory is above the record", PASS,
         evidence=applied({"base_memlock": '"unlimited"'}, {"base_memlock": 8388608}, limits=LOW),
         says=("inventory: base_memlock",)),
    Case("node.limits.memlock", "a record that is no JSON", UNKNOWN,
         evidence=applied({"base_memlock": "unlimited"}), says=("is not JSON",)),
    Case("node.packages.wanted", "as provisioned", PASS, says=("2 packages as provisioned",),
         evidence=promised("package", ("nvidia-driver", "535.247", "1:535.247.01-1~deb12u1"),
                           ("nvidia-smi", "", "535.247.01-1"))),
    Case("node.packages.wanted", "removed", FAIL,
         evidence=promised("package", ("nvidia-smi", "", GONE)), says=("nvidia-smi is not there",)),
    Case("node.packages.wanted", "another version", FAIL, on_page=True,
         evidence=promised("package", ("nvidia-driver", "535.247", "535.261.03-1"),
                           variable="nvidia_driver_version"),
         says=("is 535.261.03-1 instead of 535.247", "inventory: nvidia_driver_version",
               "clusterctl provision --limit node3 --tags nvidia_driver")),
    Case("node.packages.wanted", "4.10 is not 4.1", FAIL,
         evidence=promised("package", ("openmpi-bin", "4.1", "4.10-1"))),
    Case("node.packages.wanted", "many", FAIL, says=("and 3 more",),
         evidence=promised("package", *((f"package{i}", "", GONE) for i in range(9)))),
    Case("node.packages.wanted", "one missing, one unread", FAIL,
         evidence=promised("package", ("a", "", UNKNOWN_PROMISE), ("b", "", GONE))),
    Case("node.packages.wanted", "unread", UNKNOWN, says=("database is locked",),
         evidence=promised("package", ("a", "", UNKNOWN_PROMISE))),
    Case("node.packages.wanted", "a record that others can write", UNKNOWN,
         evidence=evidence(changes=on3(provisioned=PLANTED))),
    Case("node.packages.wanted", "never provisioned", SKIP),
    Case("node.packages.wanted", "nothing of the kind", SKIP, evidence=applied({})),
    Case("node.packages.held", "held", PASS,
         evidence=promised("hold", ("nvidia-driver", "held", "held"))),
    Case("node.packages.held", "lost", FAIL, on_page=True, says=("nvidia-driver is not held",),
         evidence=promised("hold", ("nvidia-driver", "held", "not held"))),
    Case("node.packages.held", "unread", UNKNOWN,
         evidence=promised("hold", ("nvidia-driver", "held", UNKNOWN_PROMISE))),
    Case("node.packages.held", "never provisioned", SKIP),
    Case("node.services.wanted", "as provisioned", PASS,
         evidence=promised("service", ("chrony.service", "enabled active", "enabled active"),
                           ("nvidia-persistenced.service", "enabled", "enabled inactive"))),
    Case("node.services.wanted", "stopped", FAIL, on_page=True,
         evidence=promised("service", ("nvidia-persistenced.service", "enabled active",
                                       "enabled failed")),
         says=("nvidia-persistenced.service is enabled failed instead of enabled active",)),
    Case("node.services.wanted", "disabled", FAIL,
         evidence=promised("service", ("a.service", "enabled active", "disabled active"))),
    Case("node.services.wanted", "gone", FAIL,
         evidence=promised("service", ("a.service", "enabled",
                                       Unread("absent", "there is no such unit")))),
    Case("node.services.wanted", "unread", UNKNOWN,
         evidence=promised("service", ("a.service", "enabled", PLANTED))),
    Case("node.services.wanted", "never provisioned", SKIP),
    Case("node.sysctl.wanted", "as provisioned", PASS,
         evidence=promised("sysctl", ("net.ipv4.tcp_rmem", "4096 87380 16777216",
                                      "4096\t87380\t16777216"))),
    Case("node.sysctl.wanted", "another value", FAIL, on_page=True,
         evidence=promised("sysctl", ("net.core.rmem_max", "16777216", "212992"),
                           variable="base_sysctl"),
         says=("net.core.rmem_max is 212992 instead of 16777216", "inventory: base_sysctl")),
    Case("node.sysctl.wanted", "a container that may not change it", WARN,
         evidence=promised("sysctl", ("vm.max_map_count", "262144", "65530 (read-only)"),
                           **CONTAINED),
         says=("a container may not change", "on node3's host")),
    Case("node.sysctl.wanted", "a container that may", FAIL,
         evidence=promised("sysctl", ("vm.max_map_count", "262144", "65530 (read-only)"),
                           ("net.core.somaxconn", "4096", "128"), **CONTAINED)),
    Case("node.sysctl.wanted", "a container without it", WARN,
         evidence=promised("sysctl", ("vm.x", "1", Unread("absent", "no such parameter")),
                           **CONTAINED)),
    Case("node.sysctl.wanted", "read-only on a machine", FAIL,
         evidence=promised("sysctl", ("vm.x", "1", "0 (read-only)"))),
    Case("node.sysctl.wanted", "unread", UNKNOWN,
         evidence=promised("sysctl", ("vm.x", "1", PLANTED))),
    Case("node.sysctl.wanted", "never provisioned", SKIP),
    Case("node.files.wanted", "as provisioned", PASS,
         evidence=promised("file", ("/etc/chrony/chrony.conf", "5e1f", "5e1f"))),
    Case("node.files.wanted", "changed", FAIL, on_page=True,
         says=("/etc/modprobe.d/nvidia.conf was changed since",),
         evidence=promised("file", ("/etc/modprobe.d/nvidia.conf", "5e1f", "0000"))),
    Case("node.files.wanted", "gone", FAIL,
         evidence=promised("file", ("/etc/x", "5e1f", Unread("absent", "there is no such file")))),
    Case("node.files.wanted", "unread", UNKNOWN,
         evidence=promised("file", ("/etc/x", "5e1f", Unread("denied", "permission denied")))),
    Case("node.files.wanted", "never provisioned", SKIP),
    Case("node.modules.wanted", "as provisioned", PASS,
         evidence=promised("module", ("nvidia-current", "535.247.01",
                                      "6.1.0-28-amd64=535.247.01 6.1.0-30-amd64=535.247.01"),
                           ("nvidia-peermem", "", "6.1.0-30-amd64=unversioned"))),
    Case("node.modules.wanted", "a newer kernel without it", FAIL, on_page=True,
         says=("nvidia-current is missing in 6.1.0-30-amd64",),
         evidence=promised("module", ("nvidia-current", "535.247.01",
                                      "6.1.0-28-amd64=535.247.01 6.1.0-30-amd64=none"))),
    Case("node.modules.wanted", "another version", FAIL,
         says=("nvidia is 550.54.15 in 6.1.0-30-amd64 instead of 535",),
         evidence=promised("module", ("nvidia", "535", "6.1.0-30-amd64=550.54.15"))),
    Case("node.modules.wanted", "no kernel", FAIL,
         evidence=promised("module", ("nvidia", "535", Unread("absent", "no kernel")))),
    Case("node.modules.wanted", "unread", UNKNOWN,
         evidence=promised("module", ("nvidia", "535", PLANTED))),
    Case("node.modules.wanted", "never provisioned", SKIP),
    Case("node.modules.options", "as provisioned", PASS,
         evidence=promised("module_option", ("nvidia NVreg_EnableMSI", "1", "1"),
                           ("nvidia-drm modeset", "1", "Y"))),
    Case("node.modules.options", "another", FAIL, on_page=True,
         evidence=promised("module_option", ("nvidia NVreg_EnableGpuFirmware", "0", "1")),
         says=("nvidia NVreg_EnableGpuFirmware is 1 instead of 0",)),
    Case("node.modules.options", "not set", FAIL,
         evidence=promised("module_option", ("nvidia NVreg_EnableGpuFirmware", "0",
                                             Unread("absent", "nothing sets it")))),
    Case("node.modules.options", "unread", UNKNOWN,
         evidence=promised("module_option", ("nvidia NVreg_EnableGpuFirmware", "0", PLANTED))),
    Case("node.modules.options", "never provisioned", SKIP),
    Case("node.provision.current", "the same", PASS, says=("3 variables as applied",),
         evidence=applied(
             {"base_nofile": "1048576", "base_manage_hosts": "true", "base_ntp_servers": '["a"]'},
             {"base_nofile": "1048576", "base_manage_hosts": "yes", "base_ntp_servers": ["a"]})),
    Case("node.provision.current", "asked for since", FAIL, on_page=True,
         evidence=applied({"base_nofile": "1048576", "base_memlock": '"unlimited"'},
                          {"base_nofile": 2097152, "base_memlock": "unlimited"}),
         says=("base_nofile is 2097152, and base applied 1048576", "--tags base")),
    Case("node.provision.current", "nothing and the empty text", PASS,
         evidence=applied({"base_ntp_local_server": '""'}, {"base_ntp_local_server": None})),
    Case("node.provision.current", "what only a play knows", SKIP,
         evidence=applied({"base_address": '"198.18.0.3"'}, {"base_address": "{{ x }}"})),
    Case("node.provision.current", "a secret", SKIP,
         evidence=applied({"base_key": '"x"'}, {"base_key": object()})),
    Case("node.provision.current", "defaults alone", SKIP,
         evidence=applied({"base_nofile": "1048576"})),
    Case("node.provision.current", "never provisioned", SKIP),
    Case("node.provision.current", "unread", UNKNOWN,
         evidence=evidence(changes=on3(provisioned=PLANTED), wanted=LIMITS)),
    Case("node.gpu.driver", "one version", PASS,
         evidence=versions("535.247.01", "535.247.01", "535.247.01")),
    Case("node.gpu.driver", "built, not loaded", PASS,
         evidence=versions("", "535.247.01", "535.247.01")),
    Case("node.gpu.driver", "upgraded and not rebooted", FAIL, on_page=True,
         evidence=versions("535.216.01", "535.247.01", "535.247.01"),
         says=("loaded module 535.216.01, installed", "drain node3, then reboot")),
    Case("node.gpu.driver", "libraries upgraded alone", FAIL,
         evidence=versions("535.216.01", "535.216.01", "535.247.01"),
         says=("clusterctl provision --limit node3 --tags nvidia_driver",)),
    Case("node.gpu.driver", "libraries left behind, nothing loaded", FAIL,
         evidence=versions("", "535.247.01", "535.216.01")),
    Case("node.gpu.driver", "gone at the next boot", FAIL,
         evidence=versions("535.247.01", "", "535.247.01"), says=("the next boot comes without",)),
    Case("node.gpu.driver", "the host's module in a container", PASS,
         evidence=versions("550.54.15", "", "550.54.15", virtualization="docker")),
    Case("node.gpu.driver", "a container that builds another", PASS,
         evidence=versions("550.54.15", "535.247.01", "535.247.01",
                           virtualization="systemd-nspawn")),
    Case("node.gpu.driver", "a container with libraries of another", FAIL,
         evidence=versions("550.54.15", "", "535.247.01", virtualization="docker")),
    Case("node.gpu.driver", "none", SKIP),
    Case("node.gpu.driver", "unread", UNKNOWN, evidence=evidence(changes=on3(
        nvidia_driver=NvidiaDriver("535.247.01", PLANTED, "535.247.01")))),
    Case("node.gpu.count", "healthy", PASS,
         evidence=evidence(changes=gpus(8, 8), wanted={"gpu_count": 8})),
    Case("node.gpu.count", "simulated", PASS, says=("(simulated)",),
         evidence=evidence(changes=gpus(8, 8, simulated=True), wanted={"gpu_count": 8})),
    Case("node.gpu.count", "none expected, none found", SKIP, says=("not set",)),
    Case("node.gpu.count", "none expected and not said", PASS,
         evidence=evidence(changes=gpus(8, 8))),
    Case("node.gpu.count", "more than expected", WARN,
         evidence=evidence(changes=gpus(8, 8), wanted={"gpu_count": 4})),
    Case("node.gpu.count", "off the bus", FAIL, says=("7 on PCI, 7 answer NVML", "fell off"),
         evidence=evidence(changes=gpus(7, 7), wanted={"gpu_count": 8}), on_page=True),
    Case("node.gpu.count", "one does not start", FAIL, says=("8 on PCI, 7 answer NVML",),
         evidence=evidence(changes=gpus(8, 7), wanted={"gpu_count": 8})),
    Case("node.gpu.count", "counted and mute", FAIL, says=("GPU 5: GPU is lost",),
         evidence=evidence(wanted={"gpu_count": 8}, changes=on3(gpus=replace(
             gpus(8, 8)["node3"]["gpus"], lost={"5": "GPU is lost"})))),
    Case("node.gpu.count", "no driver", FAIL, says=("driver is not installed",),
         evidence=evidence(changes=gpus(8, None), wanted={"gpu_count": 8})),
    Case("node.gpu.count", "no driver, count not said", FAIL,
         evidence=evidence(changes=gpus(8, None))),
    Case("node.gpu.count", "expected and nothing there", FAIL,
         evidence=evidence(wanted={"gpu_count": 8}),
         says=("0 on PCI", "8 GPUs (inventory: gpu_count)")),
    Case("node.gpu.count", "unread", UNKNOWN, evidence=evidence(changes=on3(gpus=PLANTED))),
    Case("node.nic.errors", "healthy", PASS),
    Case("node.nic.errors", "errors", WARN,
         evidence=evidence(changes=on3(nics=[replace(NIC, rx_errors=4200)])),
         says=("eth0 has 4200 receive errors in 1000000 packets",), on_page=True),
    Case("node.nic.errors", "a few", PASS,
         evidence=evidence(changes=on3(nics=[replace(NIC, rx_errors=90)]))),
    Case("node.nic.errors", "dropped, unknown protocols", PASS,
         evidence=evidence(changes=on3(nics=[replace(NIC, rx_dropped=5000)]))),
    Case("node.nic.errors", "dropped, many", WARN,
         evidence=evidence(changes=on3(nics=[replace(NIC, rx_dropped=50_000)]))),
    Case("node.nic.errors", "unread", UNKNOWN, evidence=evidence(changes=on3(nics=PLANTED))),
    Case("node.network.bandwidth", "healthy", PASS),
    Case("node.network.bandwidth", "slow", FAIL, on_page=True,
         evidence=evidence(measured=fabric(bandwidth=slow_node("node3", 0.24))),
         says=("sends 6", "receives 6", "all 3 partners", "eth0", "on node3")),
    Case("node.network.bandwidth", "partner of a slow node", PASS, Subject(node="node1"),
         evidence(measured=fabric(bandwidth=slow_node("node3", 0.24)))),
    Case("node.network.bandwidth", "end of a slow path", PASS,
         evidence=evidence(measured=fabric(bandwidth=slow_link("node2", "node3", 0.24)))),
    Case("node.network.bandwidth", "slow sender", FAIL,
         evidence=evidence(measured=fabric(
             bandwidth=lambda a, b: RATE * (0.5 if a == "node3" else 1)))),
    Case("node.network.bandwidth", "below the site's figure", FAIL,
         evidence=evidence(wanted=site(link_bandwidth_min_bytes_per_s=100e6)),
         says=("100 MB/s = 0.8 Gbit/s",)),
    Case("node.network.bandwidth", "noise", UNKNOWN, Subject(node="node5"),
         evidence(8, measured=fabric(tuple(f"node{i}" for i in range(1, 9)), sigma=0.3, seed=0,
                                     bandwidth=slow_node("node5", 0.6))),
         says=("cannot be told from noise",)),
    Case("node.network.bandwidth", "two nodes", SKIP, Subject(node="node2"), evidence(2)),
    Case("node.network.bandwidth", "alone", SKIP, Subject(node="node1"), evidence(1)),
    Case("node.network.bandwidth", "only one partner left", UNKNOWN,
         evidence=evidence(3, errors={"node1": TIMEOUT}, measured=fabric(("node2", "node3")))),
    Case("node.network.bandwidth", "lost on the way", UNKNOWN, says=("its daemon never joined",),
         evidence=evidence(measured=replace(
             fabric(("node1", "node2", "node4")), lost={"node3": "its daemon never joined"}))),
    Case("node.network.bandwidth", "unread", UNKNOWN, evidence=evidence(measured=PLANTED)),
    Case("node.network.latency", "healthy", PASS),
    Case("node.network.latency", "slow", WARN, on_page=True,
         evidence=evidence(measured=fabric(latency=far_node))),
    Case("node.network.latency", "partner", PASS, Subject(node="node1"),
         evidence(measured=fabric(latency=far_node))),
    Case("node.network.latency", "unread", UNKNOWN, evidence=evidence(measured=PLANTED)),
    Case("node.network.loss", "healthy", PASS),
    Case("node.network.loss", "lossy receiver", FAIL, on_page=True,
         evidence=evidence(measured=fabric(loss=lossy_receiver)),
         says=("0 % of what it sent was lost, and 5 % of what was sent to it",)),
    Case("node.network.loss", "partner of a lossy receiver", PASS, Subject(node="node1"),
         evidence(measured=fabric(loss=lossy_receiver))),
    Case("node.network.loss", "end of a lossy path", PASS,
         evidence=evidence(measured=fabric(loss=lossy_path))),
    Case("node.network.loss", "all lose alike, a little", WARN,
         evidence=evidence(measured=fabric(loss=lambda a, b: 0.01)),
         says=("its peers lose as much",)),
    Case("node.network.loss", "all lose alike, a lot", FAIL,
         evidence=evidence(measured=fabric(loss=lambda a, b: 0.05))),
    Case("node.network.loss", "unread", UNKNOWN, evidence=evidence(measured=PLANTED)),
    Case("link.bandwidth", "healthy", PASS, LINK),
    Case("link.bandwidth", "slow path", FAIL, LINK, on_page=True,
         evidence=evidence(measured=fabric(bandwidth=slow_link("node2", "node3", 0.24))),
         says=("from node2 to node3", "neither end", "on node2: tracepath -n node3")),
    Case("link.bandwidth", "a slow end", PASS, LINK,
         evidence(measured=fabric(bandwidth=slow_node("node3", 0.24))),
         says=("as much as node3 reaches with any partner",)),
    Case("link.bandwidth", "an end that loses packets", PASS, LINK,
         evidence(measured=fabric(bandwidth=slow_link("node2", "node3", 0.4), loss=lossy_receiver)),
         says=("node3 loses packets",)),
    Case("link.bandwidth", "two nodes", SKIP, Subject(node="node1", peer="node2"), evidence(2)),
    Case("link.bandwidth", "two nodes, too slow for the site", FAIL,
         Subject(node="node1", peer="node2"),
         evidence(2, wanted=site(link_bandwidth_min_bytes_per_s=100e6))),
    Case("link.bandwidth", "two nodes, fast enough", PASS, Subject(node="node1", peer="node2"),
         evidence(2, wanted=site(link_bandwidth_min_bytes_per_s=20e6))),
    Case("link.bandwidth", "an end unreachable", UNKNOWN, LINK,
         evidence(errors={"node3": TIMEOUT}, measured=fabric(("node1", "node2", "node4"))),
         says=("node3 is unreachable",)),
    Case("link.bandwidth", "not reached in time", UNKNOWN, LINK,
         evidence(measured=replace(fabric(), incomplete="deadline of 60 s", links=[
             s for s in fabric().links if {s.source, s.target} != {"node2", "node3"}])),
         says=("not measured from node2 to node3 (deadline of 60 s)",)),
    Case("link.bandwidth", "does not apply", SKIP, LINK,
         evidence(measured=Unread("unsupported", "not asked for"))),
    Case("link.bandwidth", "unread", UNKNOWN, LINK, evidence(measured=PLANTED)),
    Case("link.latency", "healthy", PASS, LINK),
    Case("link.latency", "a detour", WARN, LINK, on_page=True,
         evidence=evidence(measured=fabric(
             latency=lambda a, b: 9e-3 if {a, b} == {"node2", "node3"} else 40e-6))),
    Case("link.latency", "a slow end", PASS, LINK,
         evidence(measured=fabric(latency=lambda a, b: 9e-3 if "node3" in (a, b) else 40e-6))),
    Case("link.latency", "above the site's figure", FAIL, LINK,
         evidence(wanted=site(link_latency_max_s=20e-6)), says=("at most 20 us",)),
    Case("link.latency", "unread", UNKNOWN, LINK, evidence(measured=PLANTED)),
    Case("link.loss", "healthy", PASS, LINK),
    Case("link.loss", "a lossy path", FAIL, LINK, on_page=True,
         evidence=evidence(measured=fabric(loss=lossy_path))),
    Case("link.loss", "a lossy end", PASS, LINK,
         evidence(measured=fabric(loss=lossy_receiver)),
         says=("node3 loses with others too",)),
    Case("link.loss", "two nodes", FAIL, Subject(node="node1", peer="node2"),
         evidence(2, measured=fabric(("node1", "node2"), loss=lambda a, b: 0.05))),
    Case("link.loss", "not over TCP", SKIP, LINK,
         evidence(measured=replace(fabric(), links=[
             replace(sample, segments_sent=40) for sample in fabric().links]))),
    Case("link.loss", "unread", UNKNOWN, LINK, evidence(measured=PLANTED)),
    Case("cluster.mpi.same", "healthy", PASS, CLUSTER),
    Case("cluster.mpi.same", "another generation", FAIL, CLUSTER, on_page=True,
         evidence=evidence(changes=on3(mpi=replace(HEALTHY.mpi, version="5.0.8"))),
         says=("openmpi 4.1.4 on node1, node2, node4; openmpi 5.0.8 on node3",)),
    Case("cluster.mpi.same", "another patch", WARN, CLUSTER,
         evidence(changes=on3(mpi=replace(HEALTHY.mpi, version="4.1.6")))),
    Case("cluster.mpi.same", "alone", SKIP, CLUSTER, evidence(1)),
    Case("cluster.mpi.same", "unread", UNKNOWN, CLUSTER, evidence(changes=on3(mpi=PLANTED))),
    Case("cluster.allreduce.correct", "healthy", PASS, CLUSTER),
    Case("cluster.allreduce.correct", "wrong", FAIL, CLUSTER, on_page=True, says=("17 on node3",),
         evidence=evidence(measured=replace(
             fabric(), allreduce=[AllreduceSample(2**20, 4, [0.1], {"node3": 17})]))),
    Case("cluster.allreduce.correct", "a node was not there", UNKNOWN, CLUSTER,
         evidence(errors={"node3": TIMEOUT}, measured=fabric(("node1", "node2", "node4"))),
         says=("node3 took no part",)),
    Case("cluster.allreduce.correct", "ended early", UNKNOWN, CLUSTER,
         evidence(measured=replace(fabric(), incomplete="deadline of 60 s"))),
    Case("cluster.allreduce.correct", "nothing measured", UNKNOWN, CLUSTER,
         evidence(measured=replace(fabric(), allreduce=[], incomplete="deadline of 60 s")),
         says=("deadline of 60 s",)),
    Case("cluster.allreduce.correct", "unread", UNKNOWN, CLUSTER, evidence(measured=PLANTED)),
    Case("cluster.allreduce.bandwidth", "fast enough", PASS, CLUSTER,
         evidence(wanted=site(allreduce_busbw_min_bytes_per_s=10e6))),
    Case("cluster.allreduce.bandwidth", "too slow", FAIL, CLUSTER, on_page=True,
         evidence=evidence(wanted=site(allreduce_busbw_min_bytes_per_s=20e6)),
         says=("busbw 18 MB/s = 0.144 Gbit/s", "at 16 MiB over 4 ranks")),
    Case("cluster.allreduce.bandwidth", "no limit set", SKIP, CLUSTER, says=("busbw 18 MB/s",)),
    Case("cluster.allreduce.bandwidth", "unread", UNKNOWN, CLUSTER, evidence(measured=PLANTED)),
]  # fmt: skip

_EXAMPLE = re.compile(r"(?<=## What you see\n\n)```text\n.*?\n```", re.DOTALL)


def example(check_id: str) -> str:
    """The block that stands under "What you see" on the check's page."""
    (case,) = [case for case in CASES if case.check == check_id and case.on_page]
    finding = case.finding()
    lines = [
        f"{finding.status.value.upper():<8}{finding.subject}  {finding.check}",
        f"        seen    {finding.evidence}",
        f"        limit   {finding.limit}",
        f"        do      {finding.remedy}",
    ]
    return "\n".join(["```text", *lines, "```"])


def with_example(check_id: str, page: str) -> str:
    return _EXAMPLE.sub(lambda _: example(check_id), page, count=1)


if __name__ == "__main__":
    for check_id in CHECKS:
        path = PAGES / f"{check_id}.md"
        path.write_text(with_example(check_id, path.read_text()))
