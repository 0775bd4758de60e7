"""Network interfaces, and the names of the peers as this node resolves them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

from clusterctl.facts import Names, Nic, Unread
from clusterctl.probe.reading import Request, text_or


def read_nics(request: Request) -> list[Nic]:
    """Read every network interface of this network namespace.

    ``/sys`` may be another namespace's: a container sees the host's interfaces there, some under
    the same names. So it is asked only for the hardware of an interface with the same address.
    """
    import psutil

    addresses = psutil.net_if_addrs()
    counters = psutil.net_io_counters(pernic=True, nowrap=False)
    folder = request.root / "sys/class/net"
    nics = []
    for name, state in sorted(psutil.net_if_stats().items()):
        own = addresses.get(name, [])
        device = _device(folder / name, own)
        count = counters[name]
        nic = Nic(
            name=name,
            up=state.isup,
            mtu_bytes=state.mtu,
            speed_bits_per_s=_speed(device, state),
            driver=_driver(device),
            addresses=_addresses(own),
            rx_bytes=count.bytes_recv,
            tx_bytes=count.bytes_sent,
            rx_packets=count.packets_recv,
            tx_packets=count.packets_sent,
            rx_errors=count.errin,
            tx_errors=count.errout,
            rx_dropped=count.dropin,
            tx_dropped=count.dropout,
        )
        nics.append(nic)
    return nics


NAME_SERVICE_NAMES = 3
"""How many names a node asks its name service for, one after the other. The controller gives each
node's list from another start, so that every name is asked for by some nodes, and a thousand
nodes that know none do not ask a million times, nor all at once: name servers drop bursts."""

NAME_SERVICE_DEADLINE_S = 2.0
"""A name service that is gone takes many seconds a name, and so it would when a job starts."""


def read_names(request: Request) -> Names:
    """Resolve the peers' names: all that stand in the hosts file, and some of the others.

    Names that were not asked for are left out.
    """
    names = list(dict.fromkeys(request.names))
    written = _hosts_file(request)
    others = [name for name in names if name not in written][:NAME_SERVICE_NAMES]
    asked = [name for name in names if name in written] + others
    answers: dict[str, tuple[str, str]] = {}

    def resolve() -> None:
        for name in asked:
            answers[name] = _resolve(name)

    deadline_s = min(NAME_SERVICE_DEADLINE_S, request.deadline_s * 0.8)
    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(deadline_s)
    silent = ("", f"no answer within {deadline_s:g} seconds")
    known = {name: answers.get(name, silent) for name in asked}
    return Names(
        resolved={name: address for name, (address, _) in known.items()},
        reasons={name: why for name, (_, why) in known.items() if why},
    )


def _resolve(name: str) -> tuple[str, str]:
    """Give the name's address, or why there is none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        return str(found[0][4][0]), ""
    except (OSError, UnicodeError) as error:
        return "", str(getattr(error, "strerror", "") or error)


def _hosts_file(request: Request) -> set[str]:
    lines = text_or(request.root / "etc/hosts", "").splitlines()
    return {name for line in lines for name in line.split("#")[0].split()[1:]}


def _device(path: Path, addresses: list[Any]) -> Path | None:
    """Find the device behind an interface; virtual interfaces have none."""
    hardware = [each.address for each in addresses if each.family == socket.AF_PACKET]
    same = hardware and text_or(path / "address", "").startswith(hardware[0])
    return path / "device" if same and (path / "device").exists() else None


def _speed(device: Path | None, state: Any) -> int | Unread:
    if device is None:
        return Unread("unsupported", "a virtual interface has no speed of its own")
    if not state.isup:
        return Unread("absent", "the link is down")
    if not state.speed:
        return Unread("unsupported", "the driver gives no speed")
    return int(state.speed) * 1_000_000


def _driver(device: Path | None) -> str | Unread:
    if device is None:
        return Unread("unsupported", "a virtual interface has no driver of its own")
    try:
        return (device / "driver").readlink().name
    except FileNotFoundError:
        return Unread("absent", f"{device}: no driver")


def _addresses(found: list[Any]) -> list[str]:
    return [
        f"{each.address}/{_prefix_length(each.family, each.netmask)}"
        for each in found
        if each.family in (socket.AF_INET, socket.AF_INET6) and each.netmask
    ]


def _prefix_length(family: int, netmask: str) -> int:
    return bin(int.from_bytes(socket.inet_pton(family, netmask), "big")).count("1")
