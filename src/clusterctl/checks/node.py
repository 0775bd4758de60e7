"""Checks of one node's system: is it there, is its time right, is there room."""

from __future__ import annotations

from pathlib import PurePosixPath

from clusterctl.checks.base import NodeView, check, fail, known, ok, skip, source, unknown, warn
from clusterctl.checks.units import number_of, percent, seconds, size
from clusterctl.facts import ClockOffset, Filesystem, Unread
from clusterctl.findings import NodeError, Outcome, Status

CLOCK_OFFSET_MAX_S = 0.5
"""Default of ``doctor_limits.clock_offset_max_s``."""

NEEDED_PATHS = ("/", "/tmp", "/var", "/dev/shm", "/home")  # noqa: S108 - names, nothing is opened
"""What a training run writes to before it writes to its own storage."""

FREE_MIN_SHARE = 0.05
FREE_MIN_BYTES = 2**30
"""A file system needs the smaller of the two free."""

INODES_FREE_MIN = 1000

READ_ONLY_BY_NATURE = frozenset({"cramfs", "erofs", "iso9660", "squashfs"})


@check("node.reachable", "The node answers", of=NodeView)
def reachable(node: NodeView) -> Outcome:
    """Ask whether it was reached, let us in, and gave an answer that was understood."""
    error = node.exam.facts
    if not isinstance(error, NodeError):
        return ok(f"answered in {seconds(node.exam.duration_s)}")
    if error.kind == "interrupted":
        return unknown(error.why, error.next_step)
    return fail(
        f"{error.kind}: {error.why}", "every node of the inventory answers", error.next_step
    )


@check("node.clock.offset", "The node's clock agrees with the others", of=NodeView)
def clock_offset(node: NodeView) -> Outcome:
    """Compare with the median of the nodes, or with the controller when there are too few."""
    clock = node.clock
    site = node.limit("clock_offset_max_s")
    most = CLOCK_OFFSET_MAX_S if site is None else site
    reference, against = _reference_clock(node)
    offset = clock.offset_s - reference.offset_s
    doubt = clock.uncertainty_s + reference.uncertainty_s
    limit = f"at most {seconds(most)} from {against} ({source('clock_offset_max_s', site)})"
    side = "ahead of" if offset > 0 else "behind"
    seen = f"{seconds(abs(offset))} {side} {against}, known to within {seconds(doubt)}"
    if abs(offset) - doubt > most:
        return fail(
            seen,
            limit,
            f"on {node.name}: chronyc makestep (or: systemctl restart systemd-timesyncd), "
            "then timedatectl",
        )
    if abs(offset) + doubt > most:
        return unknown(seen, f"run again when {node.name} and its connection are less busy")
    if abs(reference.offset_s) - reference.uncertainty_s > most:
        way = "behind" if reference.offset_s > 0 else "ahead of"
        seen += (
            f"; the nodes agree, and this controller's clock is "
            f"{seconds(abs(reference.offset_s))} {way} them: set the controller's clock"
        )
    return ok(seen, limit)


def _reference_clock(node: NodeView) -> tuple[ClockOffset, str]:
    """Give the clock to compare with: a single wrong one, the controller's too, cannot be it."""
    clocks = [
        exam.clock
        for exam in node.evidence.exams.values()
        if isinstance(exam.clock, ClockOffset) and not isinstance(exam.facts, NodeError)
    ]
    if len(clocks) < 3:
        return ClockOffset(0.0, 0.0), "the controller's clock"
    clocks.sort(key=lambda clock: clock.offset_s)
    # Of the two middle ones of an even number the controller's opinion decides.
    middle = clocks[(len(clocks) - 1) // 2], clocks[len(clocks) // 2]
    return min(middle, key=lambda clock: abs(clock.offset_s)), f"the median of {len(clocks)} nodes"


@check("node.clock.sync", "A service keeps the node's clock", of=NodeView, severity=Status.WARN)
def clock_sync(node: NodeView) -> Outcome:
    """Ask the time service; an offset that is right today drifts where nothing corrects it."""
    sync = known(node.facts.time_sync)
    limit = "a time service runs and says that it is synchronised"
    if sync.service == "none":
        if node.contained:
            return skip("a container's clock is its host's, and no service runs here")
        return warn(
            "no time service runs",
            limit,
            f"clusterctl provision --limit {node.name} (installs chrony)",
        )
    if not known(sync.synchronized):
        return warn(
            f"{sync.service} runs and is not synchronised",
            limit,
            f"on {node.name}: chronyc sources -v (or: timedatectl timesync-status); "
            "just after a start this takes up to a minute",
        )
    source = "" if isinstance(sync.source, Unread) else f" from {sync.source}"
    away = "" if isinstance(sync.offset_s, Unread) else f", {seconds(abs(sync.offset_s))} away"
    return ok(f"{sync.service} is synchronised{source}{away}", limit)


@check("node.cpu.load", "Nothing else keeps the CPUs busy", of=NodeView, severity=Status.WARN)
def cpu_load(node: NodeView) -> Outcome:
    """Notice another job: it takes what the measurements, and the training, need."""
    if node.contained:
        return skip("a container sees its host's load average")
    cpu = known(node.facts.cpu)
    limit = f"a one-minute load of at most {cpu.threads / 2:g}: half of {cpu.threads} CPUs"
    seen = f"load {cpu.load_1m:.1f} on {cpu.threads} CPUs"
    if cpu.load_1m > cpu.threads / 2:
        return warn(
            seen, limit, f"on {node.name}: ps -eo pcpu,user,pid,etime,args --sort=-pcpu | head"
        )
    return ok(seen, limit)


@check("node.disk.space", "File systems have room and can be written", of=NodeView)
def disk_space(node: NodeView) -> Outcome:
    """Look at the file systems that hold what every run writes to."""
    site = node.limit("disk_free_min_bytes")
    needed = _file_systems(known(node.facts.filesystems))
    if not needed:
        return unknown("no file system that holds / is among those that were read")
    trouble = [text for fs in needed if (text := _trouble(fs, site))]
    limit = (
        f"at least {size(site)} free (inventory: doctor_limits.disk_free_min_bytes)"
        if site is not None
        else f"at least {percent(FREE_MIN_SHARE)} or {size(FREE_MIN_BYTES)} free, the smaller"
    ) + f"; {INODES_FREE_MIN} free inodes; writable"
    if trouble:
        worst = next(fs.mountpoint for fs in needed if _trouble(fs, site))
        return fail(
            "; ".join(trouble),
            limit,
            f"on {node.name}: du -xh --max-depth=2 {worst} | sort -h | tail; "
            "if it is read-only: dmesg | grep -i -e 'I/O error' -e remount",
        )
    least = min(needed, key=lambda fs: fs.free_bytes)
    return ok(f"{number_of(len(needed), 'file system')}; least free: {_room(least)}", limit)


def _file_systems(mounted: list[Filesystem]) -> list[Filesystem]:
    """Give the file systems that hold the needed paths, each once."""
    at = {fs.mountpoint: fs for fs in mounted}
    holding = {}
    for path in NEEDED_PATHS:
        for place in (PurePosixPath(path), *PurePosixPath(path).parents):
            if fs := at.get(str(place)):
                holding[fs.mountpoint] = fs
                break
    return list(holding.values()) if "/" in at else []


def _trouble(fs: Filesystem, site: float | None) -> str:
    if fs.fstype in READ_ONLY_BY_NATURE:
        return ""
    if fs.read_only:
        return f"{fs.mountpoint} ({fs.fstype}) is mounted read-only"
    least = min(FREE_MIN_SHARE * fs.total_bytes, FREE_MIN_BYTES)
    if site is not None and fs.fstype != "tmpfs":
        least = site
    if fs.free_bytes < least:
        return _room(fs)
    if fs.inodes_total > 0 and fs.inodes_free < min(INODES_FREE_MIN, fs.inodes_total):
        return f"{fs.mountpoint} has {fs.inodes_free} of {fs.inodes_total} inodes free"
    return ""


def _room(fs: Filesystem) -> str:
    share = fs.free_bytes / fs.total_bytes if fs.total_bytes else 0.0
    return (
        f"{fs.mountpoint} has {size(fs.free_bytes)} of {size(fs.total_bytes)} free "
        f"({percent(share)})"
    )


@check(
    "node.names.resolve",
    "The node finds the others by name",
    of=NodeView,
    severity=Status.WARN,
)
def names_resolve(node: NodeView) -> Outcome:
    """Look at what each of the inventory's names means on this node."""
    if not node.peers:
        return skip("a single machine has no other nodes to find")
    names = known(node.facts.names)
    resolved = names.resolved
    asked = [name for name in node.peers if name in resolved]
    if not asked:
        return unknown("no name of another node was asked for")
    missing = [name for name in asked if not resolved[name]]
    wrong = [
        f"{name} means {address}, which is not {name}'s address"
        for name in node.peers
        if (address := resolved.get(name)) and not _is_address_of(node, name, address)
    ]
    limit = "every node's name resolves to one of its addresses"
    if not missing and not wrong:
        some = "all" if asked == node.peers else f"the {len(asked)} asked for of the"
        return ok(f"resolves {some} {len(node.peers)} names of the other nodes", limit)
    why = next((f" ({names.reasons[name]})" for name in missing if name in names.reasons), "")
    which = "any other node's name" if missing == asked else ", ".join(missing)
    unresolved = [f"does not resolve {which}{why}"] if missing else []
    return warn(
        "; ".join(unresolved + wrong),
        limit,
        f"clusterctl provision --limit {node.name} (writes /etc/hosts), or the site's DNS; "
        f"on {node.name}: getent hosts {(missing or node.peers)[0]}",
    )


def _is_address_of(node: NodeView, name: str, address: str) -> bool:
    """Say whether the address may be that node's: only a contradiction counts as no."""
    if address.startswith("127.") or address == "::1":
        return False
    facts = node.evidence.answered.get(name)
    if facts is None:
        return True
    own = {a.split("/")[0] for nic in known(facts.nics) for a in nic.addresses}
    return not own or address in own
