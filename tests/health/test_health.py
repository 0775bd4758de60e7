"""The node's own health check, from what travels, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clusterctl.facts import NodeFacts, Unread
from clusterctl.findings import Finding, Report, Status, Subject
from clusterctl.health import slurm
from clusterctl.health.examine import own_checks, read_facts
from clusterctl.health_bundle import build
from clusterctl.probe.__main__ import SECTIONS
from clusterctl.probe.reading import Request

LAUNCH = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from clusterctl.health.main import main
sys.exit(main())
"""


@pytest.fixture(scope="session")
def travelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked bundle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        built = build(os.uname().machine)
        assert build(os.uname().machine) == built
    folder = tmp_path_factory.mktemp("health")
    with tarfile.open(built["archive"]) as archive:
        archive.extractall(folder, filter="data")
    return folder


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(travelling: Path, tmp_path: Path) -> Run:
    """Run it with options, with what the inventory wants."""

    def _run(
        *options: str, wanted: Mapping[str, Any] | str | None = None, python: str = sys.executable
    ) -> subprocess.CompletedProcess[str]:
        document = tmp_path / "health.json"
        if wanted is not None:
            text = (
                wanted if isinstance(wanted, str) else json.dumps({"node": "n7", "wanted": wanted})
            )
            document.write_text(text)
        argv = [python, "-I", "-c", LAUNCH, str(travelling), "--wanted", str(document)]
        return subprocess.run(
            [*argv, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    return _run


def statuses(path: Path) -> dict[str, str]:
    """Check -> status, as the metrics say."""
    return {
        sample.labels["check"]: sample.labels["status"]
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
        if sample.name == "clusterctl_check_status" and sample.value == 1
    }


def test_a_node_that_lacks_what_is_wanted(run: Run, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics" / "clusterctl.prom"
    wanted = {"gpu_count": 8, "doctor_limits": {"disk_free_min_bytes": 1}}
    done = run("--prometheus", str(metrics), wanted=wanted)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "FAIL    node.gpu.count" in done.stdout
    assert done.stdout.splitlines()[-1] == "NOT READY"
    found = statuses(metrics)
    assert set(found) == {check.id for check in own_checks()}
    assert found["node.gpu.count"] == "fail"
    assert found["node.disk.space"] == "pass"
    # What only others can tell is left to the doctor, and is no reason to be NOT READY.
    assert found["node.clock.offset"] == "skip"
    assert found["node.names.resolve"] == "skip"
    assert "unknown" not in found.values(), found


def test_without_an_inventory_the_record_counts_alone(run: Run, every_python: str) -> None:
    done = run(python=every_python)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "READY"


@pytest.mark.parametrize("text", ["{", "[]", '{"node": "n7"}', '{"node": "n7", "wanted": []}'])
def test_a_wanted_state_that_is_none(run: Run, text: str) -> None:
    done = run(wanted=text)
    assert done.returncode == 2
    assert "health.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_metrics_that_cannot_be_written(run: Run) -> None:
    done = run("--prometheus", "/proc/clusterctl/x.prom", wanted={})
    assert done.returncode == 2
    assert "READY" in done.stdout
    assert "Traceback" not in done.stderr


def test_every_section_is_read_as_it_is() -> None:
    facts = read_facts(Request(deadline_s=20))
    assert isinstance(facts, NodeFacts)
    assert not isinstance(facts.system, Unread)
    assert facts.system.hostname == os.uname().nodename


def test_a_section_that_hangs_costs_itself() -> None:
    def hangs(_request: Request) -> None:
        import time

        time.sleep(60)

    def raises(_request: Request) -> None:
        raise ValueError("planted")

    sections = {**SECTIONS, "cpu": hangs, "memory": raises}
    facts = read_facts(Request(deadline_s=3), sections)
    assert isinstance(facts.cpu, Unread)
    assert facts.cpu.unread == "timeout"
    assert facts.memory == Unread("failed", "ValueError: planted")
    assert not isinstance(facts.system, Unread)


SCONTROL = """\
#!/bin/sh
echo "$@" >> {calls}
case "$1 $2" in
  "show node") cat {answer} ;;
  *) [ -z "{fails}" ] || {{ echo "Invalid user id" >&2; exit 1; }} ;;
esac
"""


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A Slurm that knows this node in some state: tests/lab has a real one."""
    calls = tmp_path / "calls"

    def _scontrol(state: str, reason: str = "", *, fails: str = "") -> Callable[[], list[str]]:
        host = os.uname().nodename.partition(".")[0]
        tail = f" Reason={reason} [root@2026-01-01T00:00:00]" if reason else ""
        line = f"NodeName=gpu7 Arch=x86_64 NodeHostName={host} State={state} CPUs=1{tail}\n"
        (tmp_path / "answer").write_text(line)
        program = tmp_path / "scontrol"
        program.write_text(SCONTROL.format(calls=calls, answer=tmp_path / "answer", fails=fails))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return lambda: [c for c in calls.read_text().splitlines() if c.startswith("update")]

    return _scontrol


def examined(*found: tuple[str, Status, str]) -> Report:
    findings = [Finding(check, "t", Subject("gpu7"), s, seen) for check, s, seen in found]
    nothing = Unread("unsupported", "-")
    return Report(findings, {}, nothing, "-", "2026-01-01T00:00:00+00:00", 1.0, "0")


HEALTHY = examined(("node.reachable", Status.PASS, "answered"))
BROKEN = examined(
    ("node.reachable", Status.PASS, "answered"),
    ("node.disk.space", Status.FAIL, "/ has 0 B\nof 'a' = [b] \x1b[2J free"),
    ("node.gpu.count", Status.FAIL, "x" * 500),
)
UNDETERMINED = examined(("node.cpu.load", Status.UNKNOWN, "?"), ("node.x", Status.PASS, "y"))


def test_a_node_that_fails_is_drained(scontrol: Callable[..., Any]) -> None:
    calls = scontrol("IDLE")
    assert slurm.act(BROKEN).startswith("drained gpu7: clusterctl: node.disk.space / has 0 B of")
    (call,) = calls()
    assert call.startswith("update NodeName=gpu7 State=DRAIN Reason=clusterctl: node.disk.space")
    reason = call.partition("Reason=")[2]
    assert len(reason) <= slurm.REASON_LIMIT
    assert reason.isprintable()
    assert not set("'\"[]=") & set(reason)


@pytest.mark.parametrize(
    ("state", "reason", "report", "call"),
    [
        ("IDLE+DRAIN", "clusterctl: node.disk.space full", HEALTHY, "State=RESUME"),
        ("IDLE+DRAIN", "disk was changed (bob)", HEALTHY, ""),
        ("IDLE+DRAIN", "clusterctl provision", HEALTHY, ""),
        ("DOWN", "clusterctl: node.disk.space full", HEALTHY, ""),
        ("IDLE", "", HEALTHY, ""),
        ("IDLE+DRAIN", "disk was changed (bob)", BROKEN, ""),
        ("DOWN", "Not responding", BROKEN, ""),
        ("MIXED", "", BROKEN, "State=DRAIN"),
        ("IDLE", slurm.reason_of(BROKEN), BROKEN, "State=DRAIN"),
        ("IDLE+DRAIN", "clusterctl: node.gpu.count 7", BROKEN, "State=DRAIN"),
        ("IDLE", "", UNDETERMINED, ""),
        ("IDLE+DRAIN", "clusterctl: node.disk.space full", UNDETERMINED, ""),
    ],
)
def test_what_is_done(
    scontrol: Callable[..., Any], state: str, reason: str, report: Report, call: str
) -> None:
    calls = scontrol(state, reason)
    slurm.act(report)
    assert [c.split()[2] for c in calls()] == ([call] if call else [])


def test_the_same_reason_is_not_set_again(scontrol: Callable[..., Any]) -> None:
    reason = slurm.reason_of(BROKEN)
    calls = scontrol("IDLE+DRAIN", reason)
    assert slurm.act(BROKEN) == ""
    assert calls() == []


def test_a_slurm_that_refuses(scontrol: Callable[..., Any]) -> None:
    scontrol("IDLE", fails="yes")
    with pytest.raises(slurm.SlurmError, match="Invalid user id"):
        slurm.act(BROKEN)


def test_a_name_that_slurm_does_not_know(scontrol: Callable[..., Any], tmp_path: Path) -> None:
    scontrol("IDLE")
    (tmp_path / "answer").write_text("NodeName=other NodeHostName=other State=IDLE\n")
    with pytest.raises(slurm.SlurmError, match="knows no node"):
        slurm.act(BROKEN)


def test_slurmd_says_the_name(scontrol: Callable[..., Any], monkeypatch: Any) -> None:
    calls = scontrol("IDLE")
    monkeypatch.setenv("SLURMD_NODENAME", "gpu8")
    slurm.act(BROKEN)
    assert "NodeName=gpu8" in calls()[0]


def test_a_slurm_that_is_not_there_is_said(run: Run) -> None:
    done = run("--slurm", wanted={})
    assert done.returncode == 2
    assert "there is no scontrol here" in done.stdout
