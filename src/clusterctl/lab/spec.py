"""What a lab is: its name, its nodes, their rate and faults; where its files are; its lock."""

from __future__ import annotations

import dataclasses
import fcntl
import ipaddress
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clusterctl.errors import UserError

CACHE = Path("/var/cache/clusterctl/lab")
"""Outlives every lab: node trees, downloaded packages, the lock."""
STATE = Path("/var/lib/clusterctl/lab")
"""Lasts as long as the lab: what it is, its keys, its nodes' disks."""
RUNTIME = Path("/run/clusterctl/lab")
"""Lasts as long as the nodes run: mount points, consoles."""

BENCHMARK_NETWORK = ipaddress.IPv4Network("198.18.0.0/15")
"""Set aside for benchmarks of network devices (RFC 2544), so it collides with nobody's LAN."""
LAB_PREFIX = 24
MAX_NODES = 200
GATEWAY_HOST = 254
DEFAULT_NIC_BITS_PER_S = 200_000_000
"""Low enough that the wire is the bottleneck and not the CPUs that all nodes share."""

_UNITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def parse_rate(text: str) -> int | None:
    """Give ``200mbit`` in bits per second; ``unshaped`` and ``none`` are None."""
    if text in ("unshaped", "none"):
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", text.lower())
    if not match or float(match[1]) * _UNITS[match[2]] < 8000:
        raise UserError(f"{text!r} is not a rate", "give one like 200mbit, 1gbit or unshaped")
    return int(float(match[1]) * _UNITS[match[2]])


def format_rate(bits_per_s: int | None) -> str:
    """Write a rate as :func:`parse_rate` reads it."""
    if bits_per_s is None:
        return "unshaped"
    for unit, factor in reversed(_UNITS.items()):
        if bits_per_s >= factor:
            return f"{bits_per_s / factor:g}{unit}"
    return f"{bits_per_s / 1000:g}kbit"


@dataclass(frozen=True)
class NodeSpec:
    """One node of a lab. ``layers`` are the read-only trees that it boots from, topmost first."""

    number: int
    release: str
    layers: tuple[str, ...] = ()
    faults: dict[str, str] = field(default_factory=dict)
    """Fault -> its value."""

    @property
    def name(self) -> str:
        """Host name: node1, node2, ..."""
        return f"node{self.number}"


@dataclass(frozen=True)
class LabSpec:
    """A lab. ``index`` numbers the labs of this machine and gives each its own network."""

    name: str
    index: int
    nic_bits_per_s: int | None
    nodes: tuple[NodeSpec, ...]

    @property
    def tag(self) -> str:
        """Prefix of everything that this lab puts into the kernel: bridge, veths, namespaces."""
        return f"clab{self.index}"

    @property
    def state(self) -> Path:
        """Folder of the lab's lasting files."""
        return STATE / self.name

    @property
    def inventory(self) -> Path:
        """The lab's Ansible inventory."""
        return self.state / "hosts.yml"

    @property
    def key(self) -> Path:
        """The private key that logs in to every node."""
        return self.state / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The nodes' host keys."""
        return self.state / "known_hosts"

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The lab's own network."""
        base = int(BENCHMARK_NETWORK.network_address) + (self.index << 32 - LAB_PREFIX)
        return ipaddress.IPv4Network((base, LAB_PREFIX))

    @property
    def gateway(self) -> str:
        """This machine's address in the lab."""
        return str(self.network.network_address + GATEWAY_HOST)

    def address(self, node: NodeSpec) -> str:
        """The node's address."""
        return str(self.network.network_address + node.number)

    def port(self, node: NodeSpec) -> str:
        """Name of the node's namespace, of its port on the bridge, and of its machine."""
        return f"{self.tag}n{node.number}"

    def image(self, node: NodeSpec) -> Path:
        """The node's disk."""
        return self.state / f"{node.name}.img"

    def runtime(self, node: NodeSpec) -> Path:
        """Folder of the node's mount points and console."""
        return RUNTIME / self.name / node.name

    def rate(self, node: NodeSpec) -> int | None:
        """What the node's NIC carries, in bits per second: the lab's rate, or its slow link's."""
        slow = node.faults.get("slow-link")
        return parse_rate(slow) if slow else self.nic_bits_per_s

    def node(self, name: str) -> NodeSpec:
        """Find a node by name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UserError(
            f"lab {self.name!r} has no node {name!r}",
            f"its nodes are node1 to node{len(self.nodes)}",
        )

    def with_node(self, changed: NodeSpec) -> LabSpec:
        """The same lab with one node replaced."""
        nodes = tuple(changed if node.number == changed.number else node for node in self.nodes)
        return dataclasses.replace(self, nodes=nodes)

    def save(self) -> None:
        """Write the lab down, all at once."""
        self.state.mkdir(parents=True, exist_ok=True)
        aside = self.state / ".lab.json"
        aside.write_text(json.dumps(dataclasses.asdict(self), indent=1))
        aside.replace(self.state / "lab.json")


def check_name(name: str) -> str:
    """Give the name back if a lab may be called that."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be a lab's name", "use small letters, digits and hyphens, up to 31"
        )
    return name


def load(name: str) -> LabSpec | None:
    """Read a lab; None when there is none of that name."""
    path = STATE / check_name(name) / "lab.json"
    if not path.exists():
        return None
    stored = json.loads(path.read_text())
    nodes = tuple(
        NodeSpec(node["number"], node["release"], tuple(node["layers"]), node["faults"])
        for node in stored["nodes"]
    )
    return LabSpec(stored["name"], stored["index"], stored["nic_bits_per_s"], nodes)


def load_all() -> list[LabSpec]:
    """Read every lab of this machine."""
    paths = sorted(STATE.glob("*/lab.json"))
    return [spec for path in paths if (spec := load(path.parent.name))]


def require(name: str) -> LabSpec:
    """Read a lab that must be there."""
    spec = load(name)
    if spec is None:
        option = "" if name == "lab" else f" --name {name}"
        raise UserError(f"lab {name!r} is not up", f"clusterctl lab up{option}")
    return spec


def remove_files(name: str) -> None:
    """Remove all that a lab has on disk, and the folders that held nothing else."""
    shutil.rmtree(RUNTIME / name, ignore_errors=True)
    shutil.rmtree(STATE / name, ignore_errors=True)
    for folder in (RUNTIME, RUNTIME.parent, STATE, STATE.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def locked(say: Callable[[str], None]) -> Iterator[None]:
    """Let one command at a time change labs; a killed one's lock goes with its process."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another lab command to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def owner() -> tuple[int, int]:
    """Who called, through sudo or not: the lab's key has to be readable to them."""
    uid = os.environ.get("SUDO_UID", "")
    gid = os.environ.get("SUDO_GID", "")
    return (int(uid), int(gid)) if uid.isdigit() and gid.isdigit() else (os.getuid(), os.getgid())
