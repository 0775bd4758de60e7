"""Operating system, identity, and whether this is a machine, a virtual one or a container."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from clusterctl.facts import System
from clusterctl.probe.reading import Request, fields, text, text_or

HYPERVISORS = (
    # (what DMI says of vendor or product, the name systemd-detect-virt gives it)
    ("KVM", "kvm"),
    ("OpenStack", "kvm"),
    ("KubeVirt", "kvm"),
    ("Amazon EC2", "amazon"),
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VMW", "vmware"),
    ("innotek GmbH", "oracle"),
    ("VirtualBox", "oracle"),
    ("Xen", "xen"),
    ("Bochs", "bochs"),
    ("Parallels", "parallels"),
    ("BHYVE", "bhyve"),
    ("Hyper-V", "microsoft"),
    ("Microsoft Corporation", "microsoft"),
    ("Apple Virtualization", "apple"),
    ("Google Compute Engine", "google"),
)
"""After systemd's table (src/basic/virt.c, ``detect_vm_dmi_vendor``, systemd 252)."""


def read_system(request: Request) -> System:
    """Read what this node runs."""
    root = request.root
    release = _os_release(root)
    return System(
        hostname=text(root / "proc/sys/kernel/hostname"),
        os_id=release.get("ID", "linux"),
        os_version=release.get("VERSION_ID", ""),
        os_name=release.get("PRETTY_NAME", release.get("NAME", "Linux")),
        kernel=text(root / "proc/sys/kernel/osrelease"),
        architecture=os.uname().machine,
        python=".".join(str(part) for part in sys.version_info[:3]),
        boot_id=text(root / "proc/sys/kernel/random/boot_id"),
        uptime_s=float(text(root / "proc/uptime").split()[0]),
        virtualization=virtualization(root),
    )


def virtualization(root: Path) -> str:
    """Name the container or hypervisor that this node is in; ``none`` for a machine.

    A container comes first, as in ``systemd-detect-virt``: it is the innermost.
    """
    return _container(root) or _hypervisor(root) or "none"


def _os_release(root: Path) -> dict[str, str]:
    content = text_or(root / "etc/os-release", "") or text_or(root / "usr/lib/os-release", "")
    return {key: value.strip("\"'") for key, value in fields(content, "=").items()}


def _container(root: Path) -> str:
    for path in ("run/systemd/container", "run/host/container-manager"):
        name = text_or(root / path, "")
        if name:
            return name
    for variable in text_or(root / "proc/1/environ", "").split("\0"):
        if variable.startswith("container="):
            return variable.partition("=")[2] or "container-other"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".dockerenv").exists():
        return "docker"
    return "wsl" if "Microsoft" in text_or(root / "proc/sys/kernel/osrelease", "") else ""


def _hypervisor(root: Path) -> str:
    hypervisor = text_or(root / "sys/hypervisor/type", "")
    if hypervisor:
        return hypervisor
    # On x86 a guest's CPU says so. DMI alone is no proof: Amazon's bare machines carry its name.
    cpu = fields(text_or(root / "proc/cpuinfo", "").partition("\n\n")[0])
    if "flags" in cpu and "hypervisor" not in cpu["flags"].split():
        return ""
    identity = " ".join(
        text_or(root / "sys/class/dmi/id" / name, "")
        for name in ("product_name", "sys_vendor", "board_vendor", "bios_vendor")
    )
    for mark, name in HYPERVISORS:
        if mark in identity:
            return name
    return "vm-other" if "flags" in cpu else ""
