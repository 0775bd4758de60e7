"""Resource limits: those in effect for this login, and those that the files ask for."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from clusterctl.facts import UNLIMITED, ResourceLimits, Unread
from clusterctl.probe.reading import Request, fields, text

CAP_SYS_RESOURCE = 24
NO_LIMIT = frozenset({"unlimited", "infinity", "-1"})
USER, GROUP, WILDCARD = 0, 1, 2
"""How closely a line of limits.conf names somebody: the closest counts, then the latest."""


def read_limits(request: Request) -> ResourceLimits:
    """Read the soft limits, since those are what a program meets."""
    process = login_process(request.root / "proc")
    effective = text(process / "limits")
    status = fields(text(process / "status"))
    uid = int(status["Uid"].split()[0])
    return ResourceLimits(
        memlock_bytes=_soft(effective, "Max locked memory"),
        nofile=_soft(effective, "Max open files"),
        memlock_configured_bytes=configured(request.root, uid, "memlock", unit=1024),
        nofile_configured=configured(request.root, uid, "nofile"),
        may_raise=bool(int(status["CapBnd"], 16) >> CAP_SYS_RESOURCE & 1),
    )


def login_process(proc: Path) -> Path:
    """Find whose limits count: this process, or under sudo the user's own that called it.

    Jobs run as the user who logs in, while sudo's session may bring root's limits.
    """
    own = proc / "self"
    process = own
    while True:
        status = fields(text(process / "status"))
        if "0" not in status["Uid"].split():  # sudo's own process is in part still the user's
            return process
        parent = status["PPid"]
        if int(parent) <= 1:
            return own
        process = proc / parent


def configured(root: Path, uid: int, item: str, unit: int = 1) -> int | Unread:
    """Give the soft limit that pam_limits takes from its files, after limits.conf(5)."""
    user, groups = _identity(uid)
    best: tuple[int, str] | None = None
    try:
        for domain, kind, name, value in _lines(root / "etc/security"):
            rank = _rank(domain, user, groups)
            if name != item or kind not in ("soft", "-") or rank is None:
                continue
            if best is None or rank <= best[0]:
                best = (rank, value)
    except PermissionError as error:
        return Unread("denied", f"{error.filename}: {error.strerror}")
    if best is None:
        return Unread("absent", f"no line in /etc/security sets {item} for {user}")
    if best[1] in NO_LIMIT:
        return UNLIMITED
    if not best[1].isdecimal():
        return Unread("failed", f"/etc/security: {item} {best[1]} is not a number")
    return int(best[1]) * unit


def _rank(domain: str, user: str, groups: frozenset[str]) -> int | None:
    if domain == user:
        return USER
    if user == "root":  # limits.conf(5): groups and wildcards are not applied to root
        return None
    if domain.startswith("@"):
        return GROUP if domain[1:] in groups else None
    return WILDCARD if domain == "*" else None


def _identity(uid: int) -> tuple[str, frozenset[str]]:
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return str(uid), frozenset()
    member_of = set(os.getgrouplist(account.pw_name, account.pw_gid))
    return account.pw_name, frozenset(
        group.gr_name for group in grp.getgrall() if group.gr_gid in member_of
    )


def _lines(folder: Path) -> Iterator[list[str]]:
    for path in (folder / "limits.conf", *sorted(folder.glob("limits.d/*.conf"))):
        try:
            content = text(path)
        except FileNotFoundError:
            continue
        for line in content.splitlines():
            words = line.partition("#")[0].split()
            if len(words) == 4:
                yield words


def _soft(limits: str, name: str) -> int:
    for line in limits.splitlines():
        if line.startswith(name):
            soft = line[len(name) :].split()[0]
            return UNLIMITED if soft in NO_LIMIT else int(soft)
    raise ValueError(f"/proc/PID/limits has no line {name}")
