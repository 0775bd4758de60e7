"""A Report as metrics for Prometheus, in the form that node-exporter's textfile collector reads.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4).
Standard library only, Python 3.9: it travels to the nodes.
"""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from clusterctl.findings import Finding, Report, Status, Verdict

Sample = tuple[Mapping[str, str], float]


def render(report: Report) -> str:
    """Give the report as gauges, each family with its HELP and TYPE."""
    started = datetime.datetime.fromisoformat(report.started_at)
    single = [finding for finding in report.findings if not finding.subject.peer]
    links = [finding for finding in report.findings if finding.subject.peer]
    families: list[tuple[str, str, Iterable[Sample]]] = [
        (
            "clusterctl_info",
            "Version of clusterctl that examined; always 1.",
            [({"version": report.clusterctl_version}, 1)],
        ),
        (
            "clusterctl_ready",
            "Whether the verdict is READY.",
            [({}, float(report.verdict is Verdict.READY))],
        ),
        (
            "clusterctl_check_status",
            "1 for the status that the check has on this subject, 0 for the others.",
            (sample for finding in single for sample in _states(finding)),
        ),
        (
            "clusterctl_link_checks",
            "How many links have this status in this check.",
            _counted(links),
        ),
        (
            "clusterctl_examination_timestamp_seconds",
            "When the examination began, in seconds since 1970.",
            [({}, started.timestamp())],
        ),
        (
            "clusterctl_examination_duration_seconds",
            "How long the examination took.",
            [({}, report.duration_s)],
        ),
    ]
    return "".join(_family(*family) for family in families)


def write(report: Report, path: Path) -> None:
    """Put the metrics in the file's place at once: a collector never reads half of them.

    Makes the folder if it is not there. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(render(report))
        aside.chmod(0o644)
        aside.replace(path)
    finally:
        if aside.exists():
            aside.unlink()


def _states(finding: Finding) -> Iterable[Sample]:
    subject = {"check": finding.check, "node": finding.subject.node}
    if finding.subject.gpu is not None:
        subject["gpu"] = str(finding.subject.gpu)
    for status in Status:
        yield {**subject, "status": status.value}, float(finding.status is status)


def _counted(links: Iterable[Finding]) -> Iterable[Sample]:
    links = list(links)
    counts = Counter((finding.check, finding.status) for finding in links)
    for check in dict.fromkeys(finding.check for finding in links):
        for status in Status:
            yield {"check": check, "status": status.value}, counts[check, status]


def _family(name: str, text: str, samples: Iterable[Sample]) -> str:
    lines = [f"{name}{_labels(labels)} {value:.17g}" for labels, value in samples]
    if not lines:
        return ""
    return "\n".join([f"# HELP {name} {text}", f"# TYPE {name} gauge", *lines, ""])


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
