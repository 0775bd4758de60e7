"""The metrics, as Prometheus' own parser reads them."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clusterctl.facts import Unread
from clusterctl.findings import Finding, Report, Status, Subject
from clusterctl.report import prometheus

ODD = 'node "3"\\\nwith {odd} name'


def finding(check: str, status: Status, subject: Subject) -> Finding:
    return Finding(check, "All is well", subject, status, "seen")


REPORT = Report(
    findings=[
        finding("node.disk.space", Status.FAIL, Subject("node1")),
        finding("node.disk.space", Status.PASS, Subject(ODD)),
        finding("gpu.ecc", Status.WARN, Subject("node1", gpu=7)),
        finding("link.loss", Status.PASS, Subject("node1", peer="node2")),
        finding("link.loss", Status.PASS, Subject("node1", peer="node3")),
        finding("link.loss", Status.UNKNOWN, Subject("node2", peer="node3")),
        finding("cluster.mpi.same", Status.SKIP, Subject()),
    ],
    nodes={},
    fabric=Unread("unsupported", "not asked for"),
    inventory="hosts.yml",
    started_at="2026-01-01T00:00:00+00:00",
    duration_s=2.5,
    clusterctl_version="0.1.0",
)


def read(report: Report) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Metric -> labels -> value; every family must be a gauge that says what it is."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(prometheus.render(report)):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            key = frozenset(sample.labels.items())
            assert key not in found.setdefault(sample.name, {}), sample
            found[sample.name][key] = sample.value
    return found


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


def test_verdict_and_times() -> None:
    metrics = read(REPORT)
    assert metrics["clusterctl_ready"] == {labels(): 0.0}
    assert metrics["clusterctl_examination_duration_seconds"] == {labels(): 2.5}
    assert metrics["clusterctl_examination_timestamp_seconds"] == {labels(): 1767225600.0}
    assert metrics["clusterctl_info"] == {labels(version="0.1.0"): 1.0}
    healthy = replace(REPORT, findings=REPORT.findings[1:3])
    assert read(healthy)["clusterctl_ready"] == {labels(): 1.0}


def test_each_finding_has_exactly_one_status() -> None:
    states = read(REPORT)["clusterctl_check_status"]
    assert states[labels(check="node.disk.space", node="node1", status="fail")] == 1
    assert states[labels(check="node.disk.space", node="node1", status="pass")] == 0
    assert states[labels(check="node.disk.space", node=ODD, status="pass")] == 1
    assert states[labels(check="gpu.ecc", node="node1", gpu="7", status="warn")] == 1
    assert states[labels(check="cluster.mpi.same", node="", status="skip")] == 1
    assert sum(states.values()) == 4
    assert len(states) == 4 * len(Status)


def test_links_are_counted() -> None:
    counts = read(REPORT)["clusterctl_link_checks"]
    assert counts[labels(check="link.loss", status="pass")] == 2
    assert counts[labels(check="link.loss", status="unknown")] == 1
    assert counts[labels(check="link.loss", status="fail")] == 0
    assert "clusterctl_link_checks" not in read(replace(REPORT, findings=REPORT.findings[:1]))


def test_the_file_is_put_in_place_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "clusterctl.prom"
    prometheus.write(REPORT, path)
    assert path.read_text() == prometheus.render(REPORT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        prometheus.write(replace(REPORT, duration_s=9.0), path)
    assert [entry.name for entry in path.parent.iterdir()] == ["clusterctl.prom"]
    assert path.read_text() == prometheus.render(REPORT)
