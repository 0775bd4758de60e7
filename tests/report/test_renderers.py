"""What people and machines read of a report."""

import io
import json

import pytest
from rich.console import Console

from clusterctl.facts import AllreduceSample, FabricFacts, LinkSample, Unread
from clusterctl.findings import Finding, NodeError, NodeExam, Report, Status, Subject
from clusterctl.report import json as json_report
from clusterctl.report import terminal

SLOW = Finding(
    "node.network.bandwidth",
    "The node's network is as fast as its peers'",
    Subject("node3"),
    Status.FAIL,
    "sends 5.9 MB/s, the others 24.8 MB/s",
    "20 % below its peers (default)",
    "on node3: ethtool eth0",
)


def finding(check: str, status: Status, node: str = "", peer: str = "", said: str = "") -> Finding:
    return Finding(check, "All is well", Subject(node, None, peer), status, said or "seen")


def report(
    *findings: Finding, names: tuple[str, ...] = ("node1", "node2"), **more: object
) -> Report:
    exam = NodeExam(NodeError("timeout", "silent", "look"), Unread("failed", "silent"), 1.0)
    fabric = FabricFacts(
        mpi="openmpi 4.1.4",
        nodes=list(names),
        links=[LinkSample("node1", "node2", 5e-5, 24.5e6, 1 << 20, 0)],
        allreduce=[AllreduceSample(1 << 20, 2, [0.1, 0.1], {})],
        counters=[],
        incomplete="",
        lost={},
    )
    return Report(
        findings=list(findings),
        nodes=dict.fromkeys(names, exam),
        fabric=fabric,
        inventory="hosts.yml",
        started_at="2026-01-01T00:00:00+00:00",
        duration_s=2.5,
        clusterctl_version="0.1.0",
        **more,
    )


def printed(found: Report, *, verbose: bool = False, width: int = 120) -> str:
    out = io.StringIO()
    terminal.render(found, Console(file=out, width=width, highlight=False), verbose=verbose)
    return out.getvalue()


def test_what_is_wrong_comes_first_and_the_verdict_last() -> None:
    text = printed(report(finding("a.b", Status.PASS, "node1"), SLOW))
    assert text.startswith("FAIL    node3  node.network.bandwidth\n")
    assert "ethtool eth0" in text
    assert text.rstrip().splitlines()[-1] == "NOT READY  node3 (node.network.bandwidth)"


def test_ready_is_the_last_word() -> None:
    text = printed(report(finding("a.b", Status.PASS, "node1")))
    assert text.rstrip().splitlines()[-1] == "READY"


def test_the_same_trouble_of_many_nodes_is_one_block() -> None:
    lost = [finding("a.b", Status.FAIL, f"node{i}", said=f"node{i} is silent") for i in range(1, 9)]
    text = printed(report(*lost))
    assert text.count("FAIL ") == 1
    assert "node[1-8]" in text


def test_links_with_one_reason_are_folded() -> None:
    links = [finding("link.x", Status.UNKNOWN, "node1", f"node{i}") for i in (2, 3)]
    assert "2 links of node[1-3]" in printed(report(*links))


def test_measured_figures_are_shown() -> None:
    text = printed(report(finding("a.b", Status.PASS, "node1")))
    assert "median 24.5 MB/s; latency median 50 us" in text
    assert "algbw 10.5 MB/s, busbw 10.5 MB/s, every element right" in text


def test_what_a_node_sent_cannot_drive_the_terminal() -> None:
    text = printed(report(finding("a.b", Status.FAIL, "node1", said="\x1b[2J[red]gone[/red]\x07")))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]gone[/red]" in text


def test_passes_are_shown_when_asked_for() -> None:
    good = report(finding("a.b", Status.PASS, "node1"))
    assert "PASS" not in printed(good)
    assert "PASS" in printed(good, verbose=True)


def test_simulation_is_said_beside_the_verdict() -> None:
    text = printed(report(finding("a.b", Status.PASS, "node1"), simulated=["GPUs of node1"]))
    assert text.rstrip().endswith("READY  [simulated: GPUs of node1]")


def test_json_holds_the_verdict_and_each_subject() -> None:
    link = finding("link.x", Status.PASS, "node1", "node2")
    document = json.loads(json_report.render(report(SLOW, link, finding("c.d", Status.SKIP))))
    assert document["verdict"] == "NOT READY"
    assert document["exit_code"] == 1
    subjects = [f["subject"] for f in document["findings"]]
    assert subjects == [{"node": "node3"}, {"node": "node1", "peer": "node2"}, {"node": None}]
    wanted = {"check", "title", "subject", "status", "evidence", "limit", "remedy"}
    assert set(document["findings"][0]) == wanted


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["node1", "node2", "node10"], "node[1-2,10]"),
        (["10.0.0.7", "10.0.0.8"], "10.0.0.[7-8]"),
        (["a[1", "b"], "a[1, b"),
    ],
)
def test_fold(names: list[str], folded: str) -> None:
    assert terminal.fold(names) == folded
