"""Sections on small trees of ``/proc``, ``/sys`` and ``/etc``, for machines unlike this one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterctl.facts import (
    UNLIMITED,
    Cpu,
    Filesystem,
    Memory,
    NodeFacts,
    NumaNode,
    ResourceLimits,
    System,
    Unread,
)
from clusterctl.probe import limits
from clusterctl.probe.disk import read_filesystems
from clusterctl.probe.limits import read_limits
from clusterctl.probe.processor import read_cpu, read_memory
from clusterctl.probe.reading import Request
from clusterctl.probe.system import read_system, virtualization

Read = Callable[..., NodeFacts]
Tree = Callable[..., Path]

SYSTEM = {
    "proc/sys/kernel/hostname": "node7\n",
    "proc/sys/kernel/osrelease": "5.14.0-427.el9.x86_64\n",
    "proc/sys/kernel/random/boot_id": "6c1f0ad8-0000-4000-8000-000000000001\n",
    "proc/uptime": "86400.50 1234.00\n",
    "etc/os-release": 'NAME="Rocky Linux"\nVERSION_ID="9.4"\nID="rocky"\n'
    'PRETTY_NAME="Rocky Linux 9.4 (Blue Onyx)"\n',
}
BARE_CPU = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu vme\n\n"
GUEST_CPU = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu hypervisor\n\n"


def test_system(tree: Tree) -> None:
    system = read_system(Request(root=tree({**SYSTEM, "proc/cpuinfo": BARE_CPU})))
    assert isinstance(system, System)
    assert (system.hostname, system.os_id, system.os_version) == ("node7", "rocky", "9.4")
    assert system.os_name == "Rocky Linux 9.4 (Blue Onyx)"
    assert system.uptime_s == 86400.5
    assert system.virtualization == "none"


def test_what_is_not_there_is_told_with_its_path(read: Read, tree: Tree) -> None:
    facts = read("--root", str(tree({"etc/os-release": "ID=x\n"})))
    for section in (facts.system, facts.cpu, facts.memory, facts.filesystems):
        assert isinstance(section, Unread)
        assert section.unread == "failed"
        assert "No such file or directory" in section.why


DMI = "sys/class/dmi/id"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"run/systemd/container": "systemd-nspawn"}, "systemd-nspawn"),
        ({"proc/1/environ": "PATH=/bin\0container=lxc\0"}, "lxc"),
        ({".dockerenv": "", "proc/cpuinfo": GUEST_CPU}, "docker"),
        ({"run/.containerenv": ""}, "podman"),
        ({"proc/cpuinfo": GUEST_CPU, f"{DMI}/product_name": "KVM"}, "kvm"),
        ({"proc/cpuinfo": GUEST_CPU, f"{DMI}/sys_vendor": "Amazon EC2"}, "amazon"),
        ({"proc/cpuinfo": BARE_CPU, f"{DMI}/sys_vendor": "Amazon EC2"}, "none"),
        ({"proc/cpuinfo": GUEST_CPU, f"{DMI}/sys_vendor": "Google"}, "vm-other"),
        ({"proc/cpuinfo": GUEST_CPU}, "vm-other"),
        ({"sys/hypervisor/type": "xen"}, "xen"),
        ({"proc/cpuinfo": BARE_CPU, f"{DMI}/sys_vendor": "Dell Inc."}, "none"),
        ({"proc/cpuinfo": "processor: 0\nCPU part: 0xd4f\n"}, "none"),
    ],
)
def test_virtualization(tree: Tree, files: dict[str, str], name: str) -> None:
    assert virtualization(tree(files)) == name


def two_sockets() -> dict[str, str]:
    """Two sockets of two cores with two threads each, in two NUMA nodes."""
    system = "sys/devices/system"
    files = {
        f"{system}/cpu/online": "0-7\n",
        "proc/loadavg": "1.50 1.00 0.50 1/200 4242\n",
        "proc/cpuinfo": BARE_CPU,
    }
    for cpu in range(8):
        core, socket = cpu % 4, cpu % 4 // 2
        topology = f"{system}/cpu/cpu{cpu}/topology"
        files[f"{topology}/thread_siblings_list"] = f"{core},{core + 4}\n"
        files[f"{topology}/package_cpus_list"] = f"{2 * socket}-{2 * socket + 1}\n"
        governor = "powersave" if cpu == 5 else "performance"
        files[f"{system}/cpu/cpufreq/policy{cpu}/scaling_governor"] = f"{governor}\n"
    for node in range(2):
        folder = f"{system}/node/node{node}"
        files[f"{folder}/cpulist"] = f"{2 * node}-{2 * node + 1},{2 * node + 4}\n"
        files[f"{folder}/meminfo"] = f"Node {node} MemTotal:       {1024 + node} kB\n"
    return files


def test_cpu(tree: Tree) -> None:
    cpu = read_cpu(Request(root=tree(two_sockets())))
    assert cpu == Cpu(
        model="Intel(R) Xeon(R)",
        sockets=2,
        cores=4,
        threads=8,
        governor="performance,powersave",
        load_1m=1.5,
        numa=[
            NumaNode(index=0, cpus="0-1,4", memory_bytes=1024 * 1024),
            NumaNode(index=1, cpus="2-3,6", memory_bytes=1025 * 1024),
        ],
    )


def test_cpu_without_topology_governor_and_numa(tree: Tree) -> None:
    files = {
        "sys/devices/system/cpu/online": "0,2-3\n",
        "proc/loadavg": "0.00 0.00 0.00 1/2 3\n",
        "proc/cpuinfo": "processor: 0\nCPU implementer: 0x41\nCPU part: 0xd4f\n",
    }
    cpu = read_cpu(Request(root=tree(files)))
    assert isinstance(cpu, Cpu)
    assert cpu.threads == 3
    assert cpu.model == "implementer 0x41 part 0xd4f"
    for value in (cpu.sockets, cpu.cores, cpu.governor, cpu.numa):
        assert isinstance(value, Unread)


def test_memory(tree: Tree) -> None:
    content = "MemTotal: 2048 kB\nMemAvailable: 1024 kB\nSwapTotal: 512 kB\nSwapFree: 500 kB\n"
    memory = read_memory(Request(root=tree({"proc/meminfo": content})))
    assert memory == Memory(2048 * 1024, 1024 * 1024, 512 * 1024, 12 * 1024)


def test_filesystems(tree: Tree) -> None:
    files = {
        "proc/filesystems": "nodev\tproc\nnodev\ttmpfs\nnodev\tnfs4\nnodev\toverlay\n\text4\n",
        "proc/mounts": "proc /proc proc rw 0 0\n"
        "overlay / overlay rw,relatime 0 0\n"
        "tmpfs /run tmpfs rw 0 0\n"
        "/dev/sda1 /etc/hosts ext4 rw 0 0\n"
        "/dev/sda2 /run/host/incoming ext4 ro 0 0\n"
        "/dev/sda1 /data\\040one ext4 ro,relatime 0 0\n"
        "/dev/sda1 /bound ext4 rw 0 0\n"
        "overlay /var/lib/docker/overlay2/1/merged overlay rw 0 0\n"
        "/dev/loop0 /snap/x squashfs ro 0 0\n"
        "filer:/home /home nfs4 rw 0 0\n"
        "/dev/sdz1 /unmounted ext4 rw 0 0\n",
        "data one/file": "",
        "etc/hosts": "",
        "run/host/incoming/file": "",
        "home/file": "",
        "bound/file": "",
    }
    filesystems = read_filesystems(Request(root=tree(files)))
    assert isinstance(filesystems, list)
    seen = {(each.mountpoint, each.fstype, each.read_only) for each in filesystems}
    assert seen == {
        ("/", "overlay", False),
        ("/data one", "ext4", True),
        ("/home", "nfs4", False),
    }
    first: Filesystem = filesystems[0]
    status = os.statvfs("/")
    assert first.total_bytes >= first.free_bytes
    assert status.f_bavail <= status.f_bfree


STATUS = "Name:\tsh\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapBnd:\t{caps}\n"
LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max open files            {nofile}                 524288               files     \n"
    "Max locked memory         {memlock}              unlimited            bytes     \n"
)


def process(uid: int, parent: int, nofile: int, memlock: str, caps: str = "1ffffffffff") -> Any:
    return {
        "status": STATUS.format(uid=uid, parent=parent, caps=caps),
        "limits": LIMITS.format(nofile=nofile, memlock=memlock),
    }


def processes(**found: dict[str, str]) -> dict[str, str]:
    return {
        f"proc/{pid}/{name}": text for pid, each in found.items() for name, text in each.items()
    }


def test_limits_of_root(tree: Tree) -> None:
    files = {
        **processes(self=process(0, 10, 1024, "65536"), **{"10": process(0, 1, 5, "5")}),
        "etc/security/limits.conf": "* - nofile 4096\nroot soft nofile 99 # said last\n",
        "etc/security/limits.d/90-mpi.conf": "*\t-\tmemlock\tunlimited\nroot - memlock 64\n",
    }
    found = read_limits(Request(root=tree(files)))
    assert found == ResourceLimits(
        memlock_bytes=65536,
        nofile=1024,
        memlock_configured_bytes=65536,
        nofile_configured=99,
        may_raise=True,
    )


def test_limits_under_sudo_are_the_login_s(tree: Tree) -> None:
    files = processes(
        self=process(0, 30, 1, "1"),
        **{
            "30": process(0, 20, 2, "2"),
            "20": process(4242, 10, 1024, "unlimited", caps="00000000a80425fb"),
            "10": process(0, 1, 4, "4"),
        },
    )
    files["proc/30/status"] = files["proc/30/status"].replace("Uid:\t0", "Uid:\t4242")  # sudo
    files["etc/security/limits.conf"] = "root - nofile 7\n4242 soft nofile 8\n"
    found = read_limits(Request(root=tree(files)))
    assert isinstance(found, ResourceLimits)
    assert (found.nofile, found.memlock_bytes) == (1024, UNLIMITED)
    assert found.nofile_configured == 8
    assert isinstance(found.memlock_configured_bytes, Unread)
    assert found.memlock_configured_bytes.unread == "absent"
    assert not found.may_raise


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("* soft nofile 1", 1),
        ("* hard nofile 1", None),
        ("* - nofile unlimited", UNLIMITED),
        ("* - nofile infinity", UNLIMITED),
        ("* soft nofile 1\n* soft nofile 2", 2),
        ("4242 soft nofile 1\n* soft nofile 2", 1),
        ("@staff soft nofile 1", None),
        ("root soft nofile 1", None),
        ("# * soft nofile 1", None),
        ("* soft nofile many", None),
        ("* soft nofile", None),
    ],
)
def test_lines_of_limits_conf(tree: Tree, lines: str, expected: int | None) -> None:
    root = tree({"etc/security/limits.conf": lines + "\n"})
    found = limits.configured(root, 4242, "nofile")
    if expected is None:
        assert isinstance(found, Unread)
    else:
        assert found == expected


def test_a_group_s_limit() -> None:
    groups = frozenset({"mpi"})
    assert limits._rank("@mpi", "ann", groups) == limits.GROUP
    assert limits._rank("@mpi", "root", groups) is None
    assert limits._rank("*", "root", groups) is None
    assert limits._rank("root", "root", groups) == limits.USER
