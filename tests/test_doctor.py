"""This machine examined alone: no SSH, two ranks of whatever MPI is there."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def doctor(*args: str, state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clusterctl", "doctor", *args],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_STATE_HOME": str(state)},
        timeout=120,
    )


def test_this_machine(tmp_path: Path) -> None:
    done = doctor("--json", "-", state=tmp_path)
    assert done.stderr.endswith("\n") or done.stderr == ""
    report = json.loads(done.stdout)
    found = {f["check"]: f for f in report["findings"]}
    name = socket.gethostname()
    assert found["node.reachable"]["status"] == "pass"
    assert found["node.reachable"]["subject"] == {"node": name}
    assert found["node.gpu.count"]["status"] == "skip"
    assert found["cluster.allreduce.correct"]["status"] == "pass"
    assert report["fabric"]["allreduce"][-1]["ranks"] == 2
    assert report["nodes"][name]["facts"]["system"]["hostname"] == name


def test_quick_measures_no_fabric(tmp_path: Path) -> None:
    report = json.loads(doctor("--level", "quick", "--json", "-", state=tmp_path).stdout)
    assert not any(f["check"].startswith("cluster.allreduce") for f in report["findings"])
    assert report["fabric"]["unread"]


def test_the_last_report_is_kept(tmp_path: Path) -> None:
    doctor("--level", "quick", state=tmp_path)
    last = json.loads((tmp_path / "clusterctl" / "doctor" / "last.json").read_text())
    assert last["verdict"] in ("READY", "NOT READY")


def test_interrupted_says_so_and_keeps_what_was_measured(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterctl", "doctor"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path)},
    )
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in out.splitlines()[-1]
    last = tmp_path / "clusterctl" / "doctor" / "last.json"
    assert str(last) in err
    assert json.loads(last.read_text())["interrupted_by_signal"] == 2
