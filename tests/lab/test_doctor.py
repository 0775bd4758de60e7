"""The examination of real nodes: READY when they are, and each fault on its own node alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterctl.lab.faults import FAULTS

Report = dict[str, Any]
CLUSTERCTL = str(Path(sys.executable).with_name("clusterctl"))
CULPRIT = "node3"


class Doctor:
    """Runs ``clusterctl doctor`` on an inventory, with its state in a folder of its own."""

    def __init__(self, inventory: Path, state: Path) -> None:
        self.inventory = inventory
        self.environment = os.environ | {"XDG_STATE_HOME": str(state)}
        self.json = state / "report.json"

    def start(self, *options: str) -> subprocess.Popen[str]:
        self.json.unlink(missing_ok=True)
        return subprocess.Popen(
            [CLUSTERCTL, "doctor", "-i", self.inventory, "--json", self.json, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def run(self, *options: str) -> tuple[int, str, Report]:
        process = self.start(*options)
        out, err = process.communicate(timeout=240)
        assert self.json.exists(), err
        return process.returncode, out, json.loads(self.json.read_text())

    def interrupt(
        self, when: Callable[[str], bool], act: Callable[[int], object]
    ) -> tuple[int, str]:
        """Act on the running doctor, by its process id, at the first line of progress that fits."""
        process = self.start()
        assert process.stderr is not None
        for line in process.stderr:
            if when(line):
                act(process.pid)
                break
        out, _ = process.communicate(timeout=240)
        return process.returncode, out


@pytest.fixture
def doctor(provisioned: Any, tmp_path: Path) -> Doctor:
    return Doctor(provisioned.inventory, tmp_path)


def broken(report: Report) -> set[tuple[str, str | None]]:
    """Give (check, node) of what failed."""
    return {(f["check"], f["subject"]["node"]) for f in report["findings"] if f["status"] == "fail"}


def strays(lab: Any, node: str) -> str:
    """Give processes on the node that are ours, whoever started them."""
    return str(lab.root(node, "pgrep -af '[c]lusterctl|[m]pirun|[o]rted'", check=False))


def test_healthy_nodes_are_ready(doctor: Doctor) -> None:
    code, out, report = doctor.run()
    assert code == 0, out
    assert out.splitlines()[-1] == "READY"
    assert report["verdict"] == "READY"
    pairs = {(s["source"], s["target"]) for s in report["fabric"]["links"]}
    assert len(pairs) == 12
    assert not any(s["wrong_elements"] for s in report["fabric"]["allreduce"])


def test_a_second_look_costs_nothing_new_on_the_nodes(doctor: Doctor, provisioned: Any) -> None:
    doctor.run("--level", "quick")
    listing = "find /var/tmp -maxdepth 1 -name '.clusterctl*' | sort"
    before = provisioned.root("node1", listing)
    doctor.run("--level", "quick")
    assert provisioned.root("node1", listing) == before


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS.values() if not f.needs], ids=lambda fault: fault.name
)
def test_each_fault_is_named_and_its_node_alone(
    fault: Any, doctor: Doctor, provisioned: Any
) -> None:
    provisioned.cli("fault", "add", CULPRIT, fault.name)
    code, out, report = doctor.run()
    provisioned.cli("fault", "clear")
    assert code == 1, out
    assert (fault.caught_by, CULPRIT) in broken(report)
    assert {node for _, node in broken(report)} == {CULPRIT}, out
    verdict = out.splitlines()[-1]
    assert verdict.startswith("NOT READY")
    assert CULPRIT in verdict
    assert not any(f"node{i}" in verdict for i in (1, 2, 4))
    looked_at = [f["subject"]["node"] for f in report["findings"] if f["check"] == "node.reachable"]
    assert looked_at == ["node1", "node2", "node3", "node4"]


def test_undone_faults_leave_the_nodes_ready(doctor: Doctor) -> None:
    code, out, _ = doctor.run()
    assert code == 0, out


def test_a_node_that_freezes_in_the_middle_costs_its_own_verdict(
    doctor: Doctor, provisioned: Any
) -> None:
    code, out = doctor.interrupt(
        lambda line: "round 1" in line,
        lambda _pid: provisioned.cli("fault", "add", CULPRIT, "node-frozen"),
    )
    provisioned.cli("fault", "clear")
    report = json.loads(doctor.json.read_text())
    assert code in (1, 3), out
    unknown = {f["subject"]["node"] for f in report["findings"] if f["status"] == "unknown"}
    assert CULPRIT in unknown | {node for _, node in broken(report)}
    assert {node for _, node in broken(report)} <= {CULPRIT, None}, out
    measured = {(s["source"], s["target"]) for s in report["fabric"]["links"]}
    assert {("node1", "node2"), ("node1", "node4"), ("node2", "node4")} <= measured
    assert report["fabric"]["lost"].keys() == {CULPRIT}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["examining", "starting MPI", "round 2", "allreduce"])
def test_a_signal_ends_it_and_leaves_nothing(
    number: signal.Signals, step: str, doctor: Doctor, provisioned: Any
) -> None:
    code, out = doctor.interrupt(lambda line: step in line, lambda pid: os.kill(pid, number))
    assert code == 128 + number, out
    assert json.loads(doctor.json.read_text())["interrupted_by_signal"] == number
    eventually_empty(lambda: "".join(strays(provisioned, f"node{i}") for i in range(1, 5)))


@pytest.mark.parametrize("step", ["examining", "starting MPI", "round 2"])
def test_killed_it_leaves_nothing_either(step: str, doctor: Doctor, provisioned: Any) -> None:
    doctor.interrupt(lambda line: step in line, lambda pid: os.kill(pid, signal.SIGKILL))
    eventually_empty(lambda: "".join(strays(provisioned, f"node{i}") for i in range(1, 5)))


def eventually_empty(look: Callable[[], str]) -> None:
    until = time.monotonic() + 20
    while (found := look()) and time.monotonic() < until:
        time.sleep(0.5)
    assert found == ""


@pytest.fixture
def edited(provisioned: Any, tmp_path: Path) -> Callable[[dict[str, Any]], Doctor]:
    """Give a doctor on the lab's inventory with more variables for all nodes."""

    def edit(variables: dict[str, Any]) -> Doctor:
        inventory = tmp_path / "hosts.yml"
        hosts = yaml.safe_load(provisioned.inventory.read_text())
        hosts["all"].setdefault("vars", {}).update(variables)
        inventory.write_text(yaml.safe_dump(hosts))
        return Doctor(inventory, tmp_path)

    return edit


def test_expected_gpus_that_are_not_there_fail(edited: Callable[..., Doctor]) -> None:
    code, _, report = edited({"gpu_count": 2}).run("--level", "quick")
    assert code == 1
    assert broken(report) == {("node.gpu.count", f"node{i}") for i in range(1, 5)}


def test_a_limit_of_the_inventory_holds(edited: Callable[..., Doctor]) -> None:
    limits = {"doctor_limits": {"link_bandwidth_min_bytes_per_s": 1e9}}
    code, _, report = edited(limits).run()
    assert code == 1
    assert {check for check, _ in broken(report)} <= {"link.bandwidth", "node.network.bandwidth"}
    assert any("doctor_limits" in f["limit"] for f in report["findings"] if f["status"] == "fail")


def test_another_wanted_mpi_fails(edited: Callable[..., Doctor]) -> None:
    code, _, report = edited({"mpi_version": "9.9"}).run("--level", "quick")
    assert code == 1
    assert ("node.mpi.version", "node1") in broken(report)


def test_drift_made_by_hand_is_named(doctor: Doctor, provisioned: Any) -> None:
    provisioned.root("node2", "mv /usr/bin/mpirun.openmpi /usr/bin/mpirun.hidden")
    code, _, report = doctor.run("--level", "quick")
    provisioned.root("node2", "mv /usr/bin/mpirun.hidden /usr/bin/mpirun.openmpi")
    assert code == 1
    assert broken(report) == {("node.mpi.version", "node2")}
