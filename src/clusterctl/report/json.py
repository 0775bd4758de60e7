"""A Report as JSON, for CI and for other programs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from clusterctl.findings import Finding, Report, Subject


def render(report: Report) -> str:
    """Give the report as indented JSON with ``verdict`` and ``findings`` first."""
    document = {
        "report_version": report.report_version,
        "clusterctl_version": report.clusterctl_version,
        "verdict": report.verdict.value,
        "exit_code": int(report.exit_code),
        "interrupted_by_signal": report.interrupted_by_signal,
        "simulated": report.simulated,
        "inventory": report.inventory,
        "started_at": report.started_at,
        "duration_s": round(report.duration_s, 3),
        "findings": [_finding(finding) for finding in report.findings],
        "nodes": {name: dataclasses.asdict(exam) for name, exam in report.nodes.items()},
        "fabric": dataclasses.asdict(report.fabric),
    }
    return json.dumps(document, indent=2, ensure_ascii=True) + "\n"


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "title": finding.title,
        "subject": _subject(finding.subject),
        "status": finding.status.value,
        "evidence": finding.evidence,
        "limit": finding.limit,
        "remedy": finding.remedy,
    }


def _subject(subject: Subject) -> dict[str, str | int | None]:
    """Give ``node`` (null for the cluster), and ``gpu`` or ``peer`` where they apply."""
    found: dict[str, str | int | None] = {"node": subject.node or None}
    if subject.gpu is not None:
        found["gpu"] = subject.gpu
    if subject.peer:
        found["peer"] = subject.peer
    return found
