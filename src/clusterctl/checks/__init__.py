"""Judges: pure functions from facts to outcomes. They read nothing and print nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from clusterctl.checks import cluster, gpu, link, network, node, software, wanted
from clusterctl.checks.base import (
    LIMITS,
    Check,
    Evidence,
    Level,
    Scope,
    check,
    known,
    unknown,
    unknown_limits,
)
from clusterctl.findings import Finding, Outcome, Subject

__all__ = [
    "LIMITS",
    "Cell",
    "Check",
    "Evidence",
    "Level",
    "Scope",
    "all_checks",
    "check",
    "judge",
    "known",
    "plan",
    "unknown_limits",
]

_MODULES = (node, software, wanted, gpu, network, link, cluster)


@dataclass(frozen=True)
class Cell:
    """One check on one subject: ends with exactly one finding."""

    check: Check
    subject: Subject


def all_checks() -> tuple[Check, ...]:
    """Every check there is, in the order of the modules that hold them."""
    return tuple(
        value for module in _MODULES for value in vars(module).values() if isinstance(value, Check)
    )


def plan(names: Sequence[str], checks: Sequence[Check]) -> list[Cell]:
    """List every cell before anything runs: what stays silent is then seen to be silent."""
    return [Cell(check, subject) for check in checks for subject in _subjects(names, check.scope)]


def judge(cells: Sequence[Cell], evidence: Evidence) -> list[Finding]:
    """Give exactly one finding for each cell, whatever the evidence lacks."""
    return [_finding(cell, evidence) for cell in cells]


def _subjects(names: Sequence[str], scope: Scope) -> Iterator[Subject]:
    if scope is Scope.NODE:
        yield from (Subject(node=name) for name in names)
    elif scope is Scope.LINK:
        yield from (Subject(node=a, peer=b) for a, b in combinations(names, 2))
    else:
        yield Subject()


def _finding(cell: Cell, evidence: Evidence) -> Finding:
    outcome = _outcome(cell, evidence)
    return Finding(
        check=cell.check.id,
        title=cell.check.title,
        subject=cell.subject,
        status=outcome.status,
        evidence=outcome.evidence,
        limit=outcome.limit,
        remedy=outcome.remedy,
    )


def _outcome(cell: Cell, evidence: Evidence) -> Outcome:
    try:
        return cell.check(cell.subject, evidence)
    except Exception as error:  # noqa: BLE001 - the check runner: one bug must cost one cell
        return unknown(
            f"the check itself failed: {type(error).__name__}: {error}",
            "this is a bug in clusterctl: report it with the JSON report attached",
        )
