"""What keeps this node's clock, asked of each service in turn: the one that answers runs."""

from __future__ import annotations

from clusterctl.facts import TimeSync, Unread
from clusterctl.probe.reading import Request, command, fields, find_command

LOCAL_REFERENCE = "7F7F0101"
"""What chrony follows as a server that has no source itself (``local``, chrony.conf(5))."""

NOTHING = Unread("absent", "no time service answers")


def read_time_sync(request: Request) -> TimeSync:
    """Ask chrony, systemd-timesyncd and ntpd."""
    return (
        _chrony()
        or _timesyncd(request)
        or _ntpd()
        or TimeSync(service="none", synchronized=NOTHING, offset_s=NOTHING, source=NOTHING)
    )


def _chrony() -> TimeSync | None:
    chronyc = find_command("chronyc")
    if chronyc is None:
        return None
    try:
        output = command(chronyc, "-n", "-c", "tracking")
    except TimeoutError as error:
        silent = Unread("timeout", str(error))
        return TimeSync(service="chrony", synchronized=silent, offset_s=silent, source=silent)
    if output.exit_status != 0:
        return None
    columns = output.stdout.strip().split(",")
    synchronized = columns[13] != "Not synchronised"
    unsynchronized = Unread("absent", "chrony has no source that it trusts")
    return TimeSync(
        service="chrony",
        synchronized=synchronized,
        # chronyc gives the correction to be made: positive when the clock is behind.
        offset_s=0.0 - float(columns[4]) if synchronized else unsynchronized,
        source=_chrony_source(*columns[:2]) if synchronized else unsynchronized,
    )


def _chrony_source(reference: str, address: str) -> str:
    return address or ("its own clock" if reference == LOCAL_REFERENCE else reference)


def _timesyncd(request: Request) -> TimeSync | None:
    runtime = request.root / "run/systemd/timesync"
    if not runtime.is_dir():  # the service's own folder, there while it runs
        return None
    synchronized = (runtime / "synchronized").exists()
    untold = Unread("unsupported", "systemd-timesyncd publishes no offset")
    return TimeSync(
        service="systemd-timesyncd",
        synchronized=synchronized,
        offset_s=untold,
        source=_timesyncd_server(),
    )


def _timesyncd_server() -> str | Unread:
    timedatectl = find_command("timedatectl")
    if timedatectl is None:
        return Unread("absent", "no timedatectl")
    try:
        output = command(timedatectl, "show-timesync", "--property=ServerName")
    except TimeoutError as error:
        return Unread("timeout", str(error))
    server = fields(output.stdout, "=").get("ServerName", "")
    return server or Unread("failed", f"timedatectl: {output.complaint}")


def _ntpd() -> TimeSync | None:
    ntpq = find_command("ntpq")
    if ntpq is None:
        return None
    try:
        output = command(ntpq, "-n", "-c", "rv 0 leap,offset,refid")
    except TimeoutError:
        return None
    values = fields(output.stdout.replace(",", "\n"), "=")
    if "offset" not in values:
        return None
    synchronized = values.get("leap", "11") not in ("11", "3")
    return TimeSync(
        service="ntpd",
        synchronized=synchronized,
        # ntpd gives milliseconds, source minus clock.
        offset_s=-float(values["offset"]) / 1000,
        source=values.get("refid") or Unread("failed", "ntpq gave no reference"),
    )
