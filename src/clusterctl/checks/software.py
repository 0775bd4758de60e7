"""Checks of what a node is configured to be: limits and MPI."""

from __future__ import annotations

from collections.abc import Callable

from clusterctl.checks.base import NodeView, check, fail, known, number, ok, skip, warn
from clusterctl.checks.units import size
from clusterctl.facts import UNLIMITED, Unread
from clusterctl.findings import Outcome


@check("node.limits.memlock", "Processes may lock the memory that they need", of=NodeView)
def memlock(node: NodeView) -> Outcome:
    """Compare RLIMIT_MEMLOCK with what the inventory wants."""
    limits = known(node.facts.limits)
    return _limit(node, "base_memlock", limits.memlock_bytes, limits.memlock_configured_bytes, size)


@check("node.limits.nofile", "Processes may open the files that they need", of=NodeView)
def nofile(node: NodeView) -> Outcome:
    """Compare RLIMIT_NOFILE with what the inventory wants."""
    limits = known(node.facts.limits)
    return _limit(node, "base_nofile", limits.nofile, limits.nofile_configured, "{:.0f}".format)


def _limit(
    node: NodeView,
    variable: str,
    effective: int,
    configured: int | Unread,
    text: Callable[[float], str],
) -> Outcome:
    """Judge a limit by its effect, and say where on the way to it the wanted value got lost."""
    if variable not in node.wanted:
        return skip(f"nothing is wanted ({variable} is not set)")
    wanted = _wanted(node.wanted[variable], variable)
    limit = f"{_text(wanted, text)} ({node.source(variable)})"
    seen = f"{_text(effective, text)} is in effect"
    if _reaches(effective, wanted):
        return ok(seen, limit)
    in_files = known(configured)
    if not _reaches(in_files, wanted):
        return fail(
            f"{seen}, and the limits files ask for {_text(in_files, text)}",
            limit,
            f"clusterctl provision --limit {node.name}",
        )
    if not known(node.facts.limits).may_raise:
        return warn(
            f"{seen} although the limits files ask for {_text(in_files, text)}: this machine "
            "forbids root to raise limits (no CAP_SYS_RESOURCE)",
            limit,
            f"on {node.name}: let its container have CAP_SYS_RESOURCE, or raise the limit of what "
            "starts it",
        )
    return fail(
        f"{seen} although the limits files ask for {_text(in_files, text)}: this login does not "
        "pass PAM, or it began before the files were written",
        limit,
        f"on {node.name}: sshd -T | grep -i usepam; grep pam_limits /etc/pam.d/*; then log in anew",
    )


def _wanted(value: object, variable: str) -> float:
    if str(value).strip().lower() in {"unlimited", "infinity", str(UNLIMITED)}:
        return UNLIMITED
    return number(value, variable)


def _reaches(value: float, wanted: float) -> bool:
    return value == UNLIMITED or (wanted != UNLIMITED and value >= wanted)


def _text(value: float, text: Callable[[float], str]) -> str:
    return "unlimited" if value == UNLIMITED else text(value)


@check("node.mpi.version", "The MPI that is wanted is installed", of=NodeView)
def mpi_version(node: NodeView) -> Outcome:
    """Look for an MPI, and compare its version's beginning with the wanted one."""
    wanted = str(node.wanted.get("mpi_version") or "")
    limit = f"version {wanted} ({node.source('mpi_version')})" if wanted else "any MPI"
    mpi = node.facts.mpi
    if isinstance(mpi, Unread) and mpi.unread == "absent":
        if not wanted and not node.peers:
            return skip(
                f"no MPI here, and a single machine with no inventory wants none: {mpi.why}"
            )
        return fail(
            f"no MPI found: {mpi.why}",
            limit,
            f"clusterctl provision --limit {node.name} --tags mpi",
        )
    found = known(mpi)
    seen = f"{found.implementation} {found.version} at {found.mpirun}"
    if wanted and found.version.split(".")[: wanted.count(".") + 1] != wanted.split("."):
        return fail(
            seen,
            limit,
            f"clusterctl provision --limit {node.name} --tags mpi; "
            f"or take another MPI out of the PATH on {node.name}",
        )
    return ok(seen, limit)
