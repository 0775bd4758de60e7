"""The wire: what one node is and what one measurement gave, as plain frozen dataclasses.

This module travels to the nodes with the probe and the fabric worker, so it uses the
standard library only and runs under Python 3.9. Units stand in the field names. A value that
could not be read is an :class:`Unread` with the reason, never ``None``, zero or an empty list.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

WIRE_VERSION = 2
"""Raised whenever a field changes its name or its meaning."""

UNLIMITED = -1
"""Stands for "no limit" in resource limits, as in ``resource.RLIM_INFINITY``."""


@dataclass(frozen=True)
class Unread:
    """A value that could not be read.

    ``absent``: the thing is not there (no NVML library, no MPI). ``unsupported``: it is there
    and does not have this property. ``denied``: it needs more privilege. ``failed``: reading
    it went wrong. ``timeout``: it did not answer in time.
    """

    unread: Literal["absent", "unsupported", "denied", "failed", "timeout"]
    why: str


@dataclass(frozen=True)
class System:
    """Operating system and identity of a node."""

    hostname: str
    os_id: str
    os_version: str
    os_name: str
    kernel: str
    architecture: str
    python: str
    boot_id: str
    uptime_s: float
    virtualization: str
    """``none``, or what ``systemd-detect-virt`` says: ``systemd-nspawn``, ``kvm``, ``docker``."""


@dataclass(frozen=True)
class NumaNode:
    """One NUMA node: its CPUs in kernel list form (``0-15,32-47``) and its memory."""

    index: int
    cpus: str
    memory_bytes: int


@dataclass(frozen=True)
class Cpu:
    """Processors of a node."""

    model: str
    sockets: int | Unread
    cores: int | Unread
    threads: int
    governor: str | Unread
    load_1m: float
    numa: list[NumaNode] | Unread


@dataclass(frozen=True)
class Memory:
    """Memory of a node, from ``/proc/meminfo``."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_used_bytes: int


@dataclass(frozen=True)
class Filesystem:
    """One mounted file system. ``free_bytes`` is what an ordinary user may still write."""

    mountpoint: str
    device: str
    fstype: str
    total_bytes: int
    free_bytes: int
    inodes_total: int
    inodes_free: int
    read_only: bool


@dataclass(frozen=True)
class Nic:
    """One network interface and its counters since boot."""

    name: str
    up: bool
    mtu_bytes: int
    speed_bits_per_s: int | Unread
    """Link speed; ``unsupported`` for virtual interfaces, whose figure means nothing."""
    driver: str | Unread
    addresses: list[str]
    """With prefix length, as ``ipaddress.ip_interface`` reads them: ``198.18.0.1/24``."""
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


@dataclass(frozen=True)
class TimeSync:
    """What keeps the node's clock: ``chrony``, ``systemd-timesyncd``, ``ntpd`` or ``none``."""

    service: str
    synchronized: bool | Unread
    offset_s: float | Unread
    """The service's own estimate of how far the clock is from its source."""
    source: str | Unread


@dataclass(frozen=True)
class ResourceLimits:
    """Limits that a new process of this login has, and what the configuration files ask for.

    The two differ where the machine forbids the change (a container without
    CAP_SYS_RESOURCE) or where the login does not pass PAM. ``UNLIMITED`` (-1) is no limit.
    """

    memlock_bytes: int
    nofile: int
    memlock_configured_bytes: int | Unread
    nofile_configured: int | Unread
    may_raise: bool
    """Whether this machine lets root raise hard limits (CAP_SYS_RESOURCE in the bounding set)."""


@dataclass(frozen=True)
class Mpi:
    """An MPI implementation found on the node (``implementation``: ``openmpi``)."""

    implementation: str
    version: str
    mpirun: str
    """Absolute path of its ``mpirun``."""
    launch_daemon: str
    """``orted`` (Open MPI 4) or ``prted`` (Open MPI 5), as an absolute path."""


@dataclass(frozen=True)
class NvidiaDriver:
    """The NVIDIA driver: the loaded module, the one for the next boot, and its libraries."""

    loaded_version: str | Unread
    installed_version: str | Unread
    library_version: str | Unread
    """Of ``libnvidia-ml.so.1``, from the name of the file that it leads to."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML sees it."""

    index: int
    uuid: str
    name: str
    pci_bus_id: str
    memory_total_bytes: int
    temperature_c: int | Unread
    power_w: float | Unread
    ecc_uncorrected_volatile: int | Unread


@dataclass(frozen=True)
class Gpus:
    """GPUs of a node: NVIDIA display controllers on the PCI bus, and those that NVML answers for.

    A GPU that fell off the bus is on neither list; one whose driver is gone is only on PCI.
    """

    pci_count: int | Unread
    driver_version: str | Unread
    nvml: list[Gpu] | Unread
    simulated: bool
    """True when the NVML library says that it is the lab's simulation."""
    lost: dict[str, str] = field(default_factory=dict)
    """Index -> why, for GPUs that NVML counts and that do not even tell what they are."""


@dataclass(frozen=True)
class Names:
    """Which of the cluster's node names this node resolves, and to what (empty: does not).

    Names that the node was not asked for are in neither.
    """

    resolved: dict[str, str]
    reasons: dict[str, str] = field(default_factory=dict)
    """Name -> why it did not resolve."""


@dataclass(frozen=True)
class Promise:
    """Something that a role established on the node, and what is there in its place.

    Kind, and what ``wanted`` and ``found`` hold (``absent`` where the thing is not there at all):

    ``package``        version, or its beginning (empty: any); the installed version
    ``hold``           ``held``; ``held`` or ``not held``
    ``service``        words of ``enabled``, ``active``; systemd's words for the unit
    ``sysctl``         value; value, and `` (read-only)`` after it where root cannot change it
    ``file``           SHA-256, both
    ``module``         version (empty: any); ``KERNEL=VERSION`` for each kernel that can boot, with
                       ``none`` for one that has no such module
    ``module_option``  value, both
    """

    role: str
    kind: str
    name: str
    wanted: str
    variable: str
    """The inventory variable that decides it; empty: the role itself."""
    found: str | Unread


@dataclass(frozen=True)
class Provisioned:
    """What the roles wrote down on the node when they had established it."""

    variables: dict[str, dict[str, str]]
    """Role -> variable as it was applied -> its value as JSON text."""
    promises: list[Promise]


@dataclass(frozen=True)
class NodeFacts:
    """All that the probe read on one node."""

    system: System | Unread
    cpu: Cpu | Unread
    memory: Memory | Unread
    filesystems: list[Filesystem] | Unread
    nics: list[Nic] | Unread
    time_sync: TimeSync | Unread
    limits: ResourceLimits | Unread
    names: Names | Unread
    mpi: Mpi | Unread
    nvidia_driver: NvidiaDriver | Unread
    gpus: Gpus | Unread
    provisioned: Provisioned | Unread
    """``absent``: no role has ever finished here."""
    wire_version: int = WIRE_VERSION


@dataclass(frozen=True)
class ClockOffset:
    """The node's clock minus the controller's.

    Measured by exchanging time stamps over the open SSH channel; the true offset lies within
    ``uncertainty_s``, half the shortest round trip seen (Cristian 1989).
    """

    offset_s: float
    uncertainty_s: float


@dataclass(frozen=True)
class LinkSample:
    """One measurement of one ordered pair of nodes: data flowed from ``source`` to ``target``."""

    source: str
    target: str
    latency_s: float
    """Half of the 10th-percentile round trip of a 1-byte ping-pong."""
    bandwidth_bytes_per_s: float
    """Payload bytes over the time from the first send to the receiver's acknowledgement."""
    bytes_sent: int
    round_index: int
    """0-based round of the schedule; repeats of suspicious pairs follow the last round."""
    segments_sent: int | Unread = Unread("absent", "TCP segments were not counted")
    """TCP segments that ``source`` sent while this direction's bandwidth was measured."""
    segments_retransmitted: int | Unread = Unread("absent", "TCP segments were not counted")
    """How many of them were repetitions: what got lost on the way to ``target``."""


@dataclass(frozen=True)
class AllreduceSample:
    """An allreduce over all ranks at one size.

    ``algbw`` = size/time, ``busbw`` = algbw * 2(n-1)/n (nccl-tests, doc/PERFORMANCE.md).
    """

    size_bytes: int
    ranks: int
    times_s: list[float]
    """Each repetition's time, the slowest rank's."""
    wrong_elements: dict[str, int]
    """Per node: elements of the result that were not the exact expected value. Empty: none."""


@dataclass(frozen=True)
class NetworkCounters:
    """TCP counters of a node over the fabric run (end minus start), from ``/proc/net/snmp``."""

    node: str
    tcp_segments_sent: int
    tcp_segments_retransmitted: int


@dataclass(frozen=True)
class FabricFacts:
    """What one run of the fabric worker gave, or how far it came.

    ``nodes`` took part in rank order. A planned pair or size with no sample is explained by
    ``incomplete`` (empty: the run finished) and, per node, by ``lost``.
    """

    mpi: str
    nodes: list[str]
    links: list[LinkSample]
    allreduce: list[AllreduceSample]
    counters: list[NetworkCounters]
    incomplete: str
    lost: dict[str, str]
    """Node -> why it left the measurement (its daemon never joined, its connection broke)."""


def to_json(value: Any) -> Any:
    """Give a dataclass of this module as plain JSON types."""
    return dataclasses.asdict(value)
