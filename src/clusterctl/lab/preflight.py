"""Whether this machine can hold a lab; what it lacks is told in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from clusterctl.errors import UserError
from clusterctl.lab import cgroup

TOOLS = {
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "mkfs.ext4": "e2fsprogs",
    "ssh-keygen": "openssh-client",
    "mount": "mount",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
"""Tool -> Debian package."""
BUILD_TOOLS = {"debootstrap": "debootstrap"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_TRIALS = (
    ("network namespaces", "true", "CONFIG_NET_NS, and CAP_SYS_ADMIN if this is a container"),
    ("bridges", "ip link add br0 type bridge", "CONFIG_BRIDGE"),
    ("veth pairs", "ip link add veth0 type veth peer name veth1", "CONFIG_VETH"),
    (
        "rate shaping",
        "tc qdisc add dev veth0 root tbf rate 200mbit burst 256k limit 8m",
        "CONFIG_NET_SCH_TBF",
    ),
    (
        "NAT through nftables",
        "nft 'add table ip t; add chain ip t c { type nat hook postrouting priority 100; };"
        " add rule ip t c ip saddr 198.18.0.0/24 oifname != br0 masquerade'",
        "CONFIG_NFT_MASQ",
    ),
)
"""What is tried in a throwaway network namespace: feature, commands, what the kernel needs."""


def require_root() -> None:
    """Labs are made of namespaces and mounts, which only root may make."""
    if os.geteuid() != 0:
        raise UserError("a lab needs root", "run the same command with sudo")


def require_tools(tools: dict[str, str]) -> None:
    """Every tool must be there; names all the packages that are missing at once."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = sorted({tools[tool] for tool in missing})
        raise UserError(
            f"this machine lacks {', '.join(missing)}", f"apt-get install {' '.join(packages)}"
        )


def require_builder() -> None:
    """What building a node tree needs on top."""
    require_tools(BUILD_TOOLS)
    if not KEYRING.exists():
        raise UserError(
            "Debian's archive keys are not on this machine, so its packages cannot be verified",
            "apt-get install debian-archive-keyring",
        )


def require_kernel() -> None:
    """Try what the lab uses of the kernel, leaving nothing behind."""
    _load("overlay", "loop")
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        raise UserError("this kernel has no overlayfs", "use one with CONFIG_OVERLAY_FS")
    if not Path("/dev/loop-control").exists():
        raise UserError("this machine has no loop devices", "modprobe loop")
    if not cgroup.hierarchies():
        raise UserError("no control groups are mounted", "mount cgroup2 on /sys/fs/cgroup")
    if not all(os.access(each.mountpoint, os.W_OK) for each in cgroup.hierarchies()):
        raise UserError(
            "this machine's control groups are mounted read-only",
            "if it is a container, start it privileged",
        )
    script = "\n".join(
        f"{{ {trial}; }} || exit {10 + i}" for i, (_, trial, _) in enumerate(_TRIALS)
    )
    argv = ["unshare", "--net", "sh", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        feature, _, needs = _TRIALS[max(0, done.returncode - 10)]
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"this kernel has no {feature}: {said}", f"use a kernel with {needs}")


def _load(*modules: str) -> None:
    modprobe = shutil.which("modprobe")
    if modprobe:  # a kernel without modules has them built in, or the checks that follow say so
        subprocess.run([modprobe, "-aq", *modules], capture_output=True, check=False)


def require_host() -> None:
    """All that a lab from a cached tree needs."""
    require_root()
    require_tools(TOOLS)
    require_kernel()
