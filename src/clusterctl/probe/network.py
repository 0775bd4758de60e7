"""Network interfaces, and the names of the peers as this node resolves them."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from clusterctl.facts import Names, Nic, Unread
from clusterctl.probe.reading import Request, text, text_or

IFF_UP = 1
COUNTERS = ("bytes", "packets", "errors", "dropped")


def read_nics(request: Request) -> list[Nic]:
    """Read every network interface."""
    folder = request.root / "sys/class/net"
    addresses = _addresses()
    return [
        _nic(path, addresses.get(path.name, []))
        for path in sorted(folder.iterdir())
        if (path / "mtu").exists()  # bonding_masters is a file beside the interfaces
    ]


def read_names(request: Request) -> Names:
    """Resolve every peer's name at once, and wait for all of them together.

    A name service that is gone answers nothing for many seconds a name.
    """
    deadline_s = request.deadline_s * 0.8
    answers: dict[str, tuple[str, str]] = {}

    def resolve(name: str) -> None:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            answers[name] = (str(found[0][4][0]), "")
        except (OSError, UnicodeError) as error:
            answers[name] = ("", str(getattr(error, "strerror", "") or error))

    threads = [
        threading.Thread(target=resolve, args=(name,), daemon=True)
        for name in dict.fromkeys(request.names)
    ]
    end = time.monotonic() + deadline_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    silent = ("", f"no answer within {deadline_s:g} seconds")
    known = {name: answers.get(name, silent) for name in request.names}
    return Names(
        resolved={name: address for name, (address, _) in known.items()},
        reasons={name: why for name, (_, why) in known.items() if why},
    )


def _nic(path: Path, addresses: list[str]) -> Nic:
    up = _is_up(path)
    counters = {
        f"{direction}_{counter}": int(text(path / f"statistics/{direction}_{counter}"))
        for direction in ("rx", "tx")
        for counter in COUNTERS
    }
    return Nic(
        name=path.name,
        up=up,
        mtu_bytes=int(text(path / "mtu")),
        speed_bits_per_s=_speed(path, up),
        driver=_driver(path),
        addresses=addresses,
        **counters,
    )


def _is_up(path: Path) -> bool:
    state = text_or(path / "operstate", "unknown")
    if state == "unknown":  # drivers that do not tell, and lo
        return bool(int(text(path / "flags"), 16) & IFF_UP)
    return state == "up"


def _speed(path: Path, up: bool) -> int | Unread:
    if not (path / "device").exists():
        return Unread("unsupported", "a virtual interface has no speed of its own")
    if not up:
        return Unread("absent", "the link is down")
    megabits = text_or(path / "speed", "-1")
    if int(megabits) <= 0:
        return Unread("unsupported", "the driver gives no speed")
    return int(megabits) * 1_000_000


def _driver(path: Path) -> str | Unread:
    try:
        return (path / "device/driver").readlink().name
    except FileNotFoundError:
        return Unread("unsupported", "a virtual interface has no driver of its own")


def _addresses() -> dict[str, list[str]]:
    import psutil

    families = {socket.AF_INET, socket.AF_INET6}
    return {
        name: [
            f"{address.address}/{_prefix_length(address.family, address.netmask)}"
            for address in found
            if address.family in families and address.netmask
        ]
        for name, found in psutil.net_if_addrs().items()
    }


def _prefix_length(family: int, netmask: str) -> int:
    return bin(int.from_bytes(socket.inet_pton(family, netmask), "big")).count("1")
