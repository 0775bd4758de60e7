"""Look at a node before anything is done to it: what it is, and what would make a run fail there.

One round trip gives what the roles ask of a node, so that Ansible's ``setup`` is not needed, and
every problem at once, each with what to do about it.
"""

from __future__ import annotations

import base64
import fcntl
import os
import platform
import re
import shutil
import struct
import sys
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: preflight
short_description: Look at a node before anything is done to it
description:
  - Returns the facts that the roles use, and C(node) with what is on the node.
  - Fails with every problem and its remedy.
options:
  now_s:
    description: The controller's clock, in seconds since 1970.
    type: float
    required: true
  clock_max_s:
    description: How far the node's clock may be from it.
    type: float
    default: 60
  free_min_bytes:
    description: Room that a file system must have, by the path that lies on it.
    type: dict
    default: {}
  gpu_count:
    description: GPUs that the inventory says the node has.
    type: int
    default: 0
  hca_count:
    description: InfiniBand and RoCE adapters that the inventory says the node has.
    type: int
    default: 0
  driver:
    description: Whether the NVIDIA driver is to be installed; V(auto) where a GPU is.
    type: str
    default: auto
  driver_source:
    description: Where the NVIDIA driver is to come from.
    type: str
    default: distro
"""

SUPPORTED = {
    ("debian", "12"),
    ("debian", "13"),
    ("ubuntu", "22.04"),
    ("ubuntu", "24.04"),
    ("rocky", "9"),
    ("rocky", "10"),
    ("rhel", "9"),
    ("rhel", "10"),
    ("almalinux", "9"),
    ("almalinux", "10"),
}
"""ID of os-release, and as much of VERSION_ID as matters."""

DISTRIBUTIONS = {
    "debian": ("Debian", "Debian"),
    "ubuntu": ("Ubuntu", "Debian"),
    "rocky": ("Rocky", "RedHat"),
    "rhel": ("RedHat", "RedHat"),
    "almalinux": ("AlmaLinux", "RedHat"),
}
"""ID of os-release -> Ansible's distribution and os_family."""

NVIDIA, MELLANOX = "0x10de", "0x15b3"
GPU_CLASSES = ("0x0300", "0x0302")
NVSWITCH_CLASS = "0x0680"
HCA_CLASSES = ("0x0200", "0x0207")
"""PCI classes after the PCI ID repository: Ethernet and InfiniBand controllers, bridges (other)."""

FIRST_WITH_OPEN_MODULES = 0x1E00
"""Device id of the first Turing. NVIDIA's ids grow with the generations: GV100, the last Volta, is
0x1d81 and more (PCI ID repository)."""
FIRST_WITHOUT_PROPRIETARY = 0x2900
GRACE_HOPPER = (0x2342, 0x2348)
"""Device ids of the first Blackwell (GB100) and of GH200. Which modules drive what: NVIDIA Driver
Installation Guide, "Kernel Modules"."""

LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/lib/rpm/.rpm.lock",
)

SOURCES = (
    "etc/apt/sources.list",
    "etc/apt/sources.list.d/*.list",
    "etc/apt/sources.list.d/*.sources",
    "etc/yum.repos.d/*.repo",
)
CUDA_REPOSITORY = "developer.download.nvidia.com/compute/cuda/repos"
OURS = "clusterctl-"
"""How the names of the files begin that provisioning writes beside those of the distribution."""

KEYRINGS = ("etc/apt/trusted.gpg", "etc/apt/trusted.gpg.d/*", "etc/apt/keyrings/*")
REVOKED = bytes.fromhex("F60F4B3D7FA2AF80")
"""Id of the key that NVIDIA signed its CUDA repositories with until April 2022 and revoked then
(NVIDIA/cuda-repo-management issue 4); a key names itself in its own signature."""


class Problem(str):
    """What is wrong and what to do, as one text of two lines."""

    def __new__(cls, what: str, remedy: str) -> Problem:
        """Make it."""
        return super().__new__(cls, f"{what}\n  {remedy}")


class Node:
    """The node, read below ``root`` (``/`` but for tests)."""

    def __init__(self, root: str = "/") -> None:
        self.root = Path(root)
        self.release = self._release()

    def text(self, path: str) -> str:
        """Read a small file; empty where it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def _release(self) -> dict[str, str]:
        lines = (self.text("etc/os-release") or self.text("usr/lib/os-release")).splitlines()
        pairs = (line.partition("=") for line in lines)
        return {key: value.strip("\"'") for key, _, value in pairs}

    @property
    def distribution(self) -> tuple[str, str]:
        """ID of os-release, and the version that packages depend on."""
        name, version = self.release.get("ID", "linux"), self.release.get("VERSION_ID", "")
        return name, version if name == "ubuntu" else version.partition(".")[0]

    def facts(self) -> dict[str, object]:
        """Give the facts that roles use, under Ansible's own names."""
        name, version = self.distribution
        distribution, family = DISTRIBUTIONS.get(name, (name.capitalize(), name.capitalize()))
        return {
            "distribution": distribution,
            "distribution_version": version,
            "distribution_major_version": version.partition(".")[0],
            "distribution_release": self.release.get("VERSION_CODENAME", ""),
            "os_family": family,
            "architecture": platform.machine(),
            "hostname": platform.node().partition(".")[0],
            "python": {"executable": sys.executable},
            "pkg_mgr": "apt" if family == "Debian" else "dnf",
        }

    def pci(self, vendor: str, classes: tuple[str, ...]) -> int:
        """Count PCI devices of a vendor whose class begins with one of ``classes``."""
        return sum(
            self.text(f"{device}/vendor") == vendor
            and self.text(f"{device}/class").startswith(classes)
            for device in self.root.glob("sys/bus/pci/devices/*")
        )

    def gpu_flavours(self) -> list[str]:
        """Give the kinds of kernel modules that drive every GPU here."""
        ids = [
            int(self.text(f"{device}/device"), 16)
            for device in self.root.glob("sys/bus/pci/devices/*")
            if self.text(f"{device}/vendor") == NVIDIA
            and self.text(f"{device}/class").startswith(GPU_CLASSES)
        ]
        new = [each >= FIRST_WITHOUT_PROPRIETARY or each in GRACE_HOPPER for each in ids]
        old = [each < FIRST_WITH_OPEN_MODULES for each in ids]
        return ([] if any(old) else ["open"]) + ([] if any(new) else ["proprietary"])

    def nvlink5(self) -> bool:
        """Whether NVLink switches of the fifth generation are managed through adapters of here.

        They are no devices of NVIDIA on the PCI bus: an adapter's vital product data names it as
        their manager (as NVIDIA/gpu-driver-container looks for it).
        """
        return any(
            b"SW_MNG" in path.read_bytes()
            for path in self.root.glob("sys/class/infiniband/*/device/vpd")
        )

    def container(self) -> str:
        """Name the kind of container that this is; empty for a machine, real or virtual."""
        environment = self.text("proc/1/environ").split("\0")
        named = [line.partition("=")[2] for line in environment if line.startswith("container=")]
        return self.text("run/systemd/container") or (named[0] if named else "")

    def kernels(self) -> list[str]:
        """Name the kernels that can boot; in a container without any, those with headers."""
        folders = sorted((self.root / "lib/modules").glob("*"))
        whole = [folder.name for folder in folders if (folder / "kernel").is_dir()]
        return whole or [folder.name for folder in folders if (folder / "build").exists()]

    def packages_broken(self) -> bool:
        """Whether dpkg holds a package that is neither installed nor removed in full."""
        states = (
            line.split()[-1]
            for line in self.text("var/lib/dpkg/status").splitlines()
            if line.startswith("Status: ")
        )
        # What dpkg had begun when it was killed waits there; apt refuses to work then.
        journal = any((self.root / "var/lib/dpkg/updates").glob("[0-9]*"))
        return journal or any(
            state not in ("installed", "not-installed", "config-files") for state in states
        )

    def foreign_sources(self) -> list[str]:
        """Name the files, not ours, that enable NVIDIA's CUDA repository."""
        files = sorted(path for pattern in SOURCES for path in self.root.glob(pattern))
        return [
            f"/{path.relative_to(self.root)}"
            for path in files
            if not path.name.startswith(OURS) and _enables(self.text(str(path)), CUDA_REPOSITORY)
        ]

    def revoked_keys(self) -> list[str]:
        """Name the keyrings of apt that hold NVIDIA's revoked key."""
        files = sorted(path for pattern in KEYRINGS for path in self.root.glob(pattern))
        return [
            f"/{path.relative_to(self.root)}"
            for path in files
            if path.is_file() and REVOKED in _binary(path.read_bytes())
        ]

    def read_only(self) -> list[str]:
        """Name the folders that packages write to and that are mounted read-only."""
        places = ((path, self.root / path[1:]) for path in ("/", "/usr", "/etc", "/var"))
        return [
            path
            for path, place in places
            if place.exists() and os.statvfs(place).f_flag & os.ST_RDONLY
        ]

    def lock_holders(self) -> list[str]:
        """Name the processes that hold a lock of apt or dpkg."""
        return sorted({holder for path in LOCKS if (holder := self._holder(path))})

    def _holder(self, path: str) -> str:
        try:
            with (self.root / path.lstrip("/")).open("rb") as file:
                found = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack("hhqqi4x", 1, 0, 0, 0, 0))
        except OSError:
            return ""
        kind, _whence, _start, _length, pid = struct.unpack("hhqqi4x", found)
        if kind == fcntl.F_UNLCK:
            return ""
        return f"{self.text(f'proc/{pid}/comm') or 'a process'} (pid {pid})"

    def secure_boot(self) -> bool:
        """Whether the firmware refuses modules and kernels that nobody signed."""
        variables = list(self.root.glob("sys/firmware/efi/efivars/SecureBoot-*"))
        return any(path.read_bytes()[-1:] == b"\x01" for path in variables)

    def state(self) -> dict[str, object]:
        """Give what is on the node."""
        gpus = self.pci(NVIDIA, GPU_CLASSES)
        return {
            "gpus": gpus,
            "gpu_flavours": self.gpu_flavours(),
            "nvswitches": self.pci(NVIDIA, (NVSWITCH_CLASS,)),
            "nvlink5": bool(gpus) and self.nvlink5(),
            "hcas": self.pci(MELLANOX, HCA_CLASSES),
            "infiniband": len(list(self.root.glob("sys/class/infiniband/*"))),
            "container": self.container(),
            "kernels": self.kernels(),
            "kernel": platform.release(),
            "secure_boot": self.secure_boot(),
            "packages_broken": self.packages_broken(),
            "reboot_required": (self.root / "run/reboot-required").exists(),
            "nvidia_loaded": self.text("sys/module/nvidia/version"),
            "nouveau_loaded": (self.root / "sys/module/nouveau").is_dir(),
            "driver_runfile": (self.root / "usr/bin/nvidia-uninstall").exists(),
            "slurmd": bool(shutil.which("slurmd", path="/usr/sbin:/usr/bin:/usr/local/sbin")),
        }


def problems(node: Node, wanted: dict[str, object], state: dict[str, object]) -> list[Problem]:
    """Find everything that would make the run fail on this node, or end in the wrong state."""
    found = []
    if node.distribution not in SUPPORTED:
        name = node.release.get("PRETTY_NAME", "This system")
        found.append(
            Problem(
                f"{name} is not supported",
                "the roles know Debian 12 and 13, Ubuntu 22.04 and 24.04, Rocky and RHEL 9 and 10",
            )
        )
    if os.geteuid() != 0:
        found.append(
            Problem(
                "tasks do not run as root here",
                "set ansible_become: true for this node, or log in as root",
            )
        )
    if not (node.root / "run/systemd/system").is_dir():
        found.append(Problem("systemd is not running", "boot the node with systemd as its init"))
    found += _disk(node, wanted["free_min_bytes"])
    ahead_s = time.time() - wanted["now_s"]
    if abs(ahead_s) > wanted["clock_max_s"]:
        way = "ahead of" if ahead_s > 0 else "behind"
        found.append(
            Problem(
                f"the clock is {abs(ahead_s):.0f} s {way} the controller's: package signatures "
                "and certificates would not be valid",
                "set it (timedatectl set-time, or chronyc makestep where chrony runs), run again",
            )
        )
    for path in node.read_only():
        found.append(
            Problem(
                f"{path} is mounted read-only",
                "look in dmesg for errors of the disk; mount -o remount,rw when it is sound",
            )
        )
    for kind, vendor, there in (("gpu", "10de", state["gpus"]), ("hca", "15b3", state["hcas"])):
        if there < wanted[f"{kind}_count"]:
            found.append(
                Problem(
                    f"the inventory says {kind}_count: {wanted[f'{kind}_count']}, and "
                    f"{there or 'none'} is on the bus",
                    f"look at the machine (lspci -d {vendor}:, dmesg), or correct {kind}_count",
                )
            )
    enabled = wanted["driver"].lower()
    if enabled == "true" or (enabled == "auto" and state["gpus"]):
        found += _driver(node, wanted["driver_source"], state)
    return found


def _driver(node: Node, source: str, state: dict[str, object]) -> list[Problem]:
    """Find what would not let the driver be installed, or another one than was asked for."""
    found = []
    if state["driver_runfile"]:
        what = "a driver from NVIDIA's own installer (.run) is here, and packages would mix with it"
        found.append(Problem(what, "nvidia-uninstall --silent, then provision"))
    if not state["gpu_flavours"]:
        what = "GPUs older than Turing and newer than Hopper are in one machine: no driver has both"
        found.append(Problem(what, "take one kind out"))
    if source != "mirror":
        found += [
            Problem(
                f"{path} adds NVIDIA's repository: its packages would mix with those asked for",
                f"apt-get purge cuda-keyring; rm -f {path}; with nvidia_driver_source: vendor "
                "provisioning adds the repository itself",
            )
            for path in node.foreign_sources()
        ]
    found += [
        Problem(
            f"{path} trusts the key 7fa2af80, which NVIDIA revoked in 2022",
            f"apt-key del 7fa2af80, or rm {path}",
        )
        for path in node.revoked_keys()
    ]
    return found


def _enables(sources: str, address: str) -> bool:
    """Whether a file of sources of apt or dnf has an entry with this address that is in use."""
    stanzas = re.split(r"\n\s*\n|\n(?=\[)|\n(?=deb)", sources)
    used = (
        "\n".join(line for line in stanza.splitlines() if not line.lstrip().startswith("#"))
        for stanza in stanzas
    )
    off = re.compile(r"^enabled\s*[=:]\s*(0|no|false)\b", re.IGNORECASE | re.MULTILINE)
    return any(address in stanza and not off.search(stanza) for stanza in used)


def _binary(keyring: bytes) -> bytes:
    """Give a keyring without its armor."""
    blocks = re.findall(rb"-----BEGIN PGP[^\n]*(.*?)-----END PGP", keyring, re.DOTALL)
    bodies = (block.partition(b"\n\n")[2].partition(b"\n=")[0] for block in blocks)
    try:
        return b"".join(base64.b64decode(body) for body in bodies) if blocks else keyring
    except ValueError:  # not a key: apt will say so
        return keyring


def _disk(node: Node, free_min_bytes: dict[str, int]) -> list[Problem]:
    found = []
    for path, least in free_min_bytes.items():
        where = node.root / path.lstrip("/")
        if not where.exists():
            continue
        free = shutil.disk_usage(where).free
        if free < int(least):
            found.append(
                Problem(
                    f"{path} has {free / 1e9:.2f} GB free, of {int(least) / 1e9:.2f} GB needed",
                    f"free some: du -xh {path} | sort -h | tail; apt-get clean",
                )
            )
    return found


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "now_s": {"type": "float", "required": True},
            "clock_max_s": {"type": "float", "default": 60},
            "free_min_bytes": {"type": "dict", "default": {}},
            "gpu_count": {"type": "int", "default": 0},
            "hca_count": {"type": "int", "default": 0},
            "driver": {"type": "str", "default": "auto"},
            "driver_source": {"type": "str", "default": "distro"},
        },
        supports_check_mode=True,
    )
    node = Node()
    state = node.state()
    found = problems(node, module.params, state)
    facts = {**node.facts(), "node": state}
    if found:
        module.fail_json(msg="\n".join(found), ansible_facts=facts)
    holders = node.lock_holders()
    notes = [f"waits for {', '.join(holders)}, which holds apt's lock"] if holders else []
    module.exit_json(ansible_facts=facts, notes=notes)


if __name__ == "__main__":
    main()
