"""Nodes that examine themselves: metrics from a timer, and Slurm that drains and resumes by it.

This module has a lab of its own, since Slurm stays on its nodes. The tests build on each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm
from prometheus_client.parser import text_string_to_metric_families

METRICS = "/var/lib/prometheus/node-exporter/clusterctl.prom"
FAILING, WELL = "node2", "node1"


Provision = Callable[..., str]


@pytest.fixture(scope="module")
def nodes(own_lab: Callable[..., Any]) -> Any:
    return own_lab("health-test", "--nodes", "2")


@pytest.fixture(scope="module")
def provision(nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Provision:
    """Provision what the nodes need to be healthy, and their health check."""

    def edit(everything: dict[str, Any]) -> None:
        limits = {"disk_free_min_bytes": 2**20}
        everything["vars"] |= {"healthcheck_interval_s": 20, "doctor_limits": limits}

    inventory = nodes.edited(tmp_path_factory.mktemp("inventory"), edit)
    return lambda *options: str(
        nodes.provision("--tags", "base,healthcheck", *options, inventory=inventory)
    )


def metrics(lab: Any, node: str) -> dict[str, Any]:
    """Give the verdict, the time, and check -> status, as the node's file says."""
    found: dict[str, Any] = {"checks": {}}
    for family in text_string_to_metric_families(lab.root(node, f"cat {METRICS}") + "\n"):
        for sample in family.samples:
            if sample.name == "clusterctl_check_status" and sample.value == 1:
                found["checks"][sample.labels["check"]] = sample.labels["status"]
            else:
                found[sample.name] = sample.value
    return found


def eventually(is_so: Callable[[], object], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.5)


def test_a_plan_changes_nothing(nodes: Any, provision: Provision) -> None:
    plan = provision("--check")
    assert "Write its service, its timer" in plan
    assert "No such file" in nodes.root(WELL, "ls /usr/local/lib/clusterctl 2>&1", check=False)


def test_a_timer_writes_metrics(nodes: Any, provision: Provision) -> None:
    provision()
    before = metrics(nodes, WELL)
    assert before["clusterctl_ready"] == 1
    assert before["checks"]["node.packages.wanted"] == "pass"
    assert before["checks"]["node.disk.space"] == "pass"
    stamp = "clusterctl_examination_timestamp_seconds"
    eventually(lambda: metrics(nodes, WELL)[stamp] > before[stamp])
    assert nodes.root(WELL, "systemctl --failed --no-legend", check=False).strip() == ""


def test_a_second_run_changes_nothing(provision: Provision) -> None:
    assert "Nothing to change" in provision()


def test_the_doctor_knows_what_was_set_up(nodes: Any, provision: Provision, tmp_path: Path) -> None:
    nodes.root(WELL, "systemctl stop clusterctl-health.timer")
    file = tmp_path / "doctor.prom"
    doctor = ("doctor", "-i", str(nodes.inventory), "--level", "quick")
    done = nodes.clusterctl(*doctor, "--prometheus", str(file))
    assert done.returncode == 1
    assert "clusterctl-health.timer is enabled inactive" in " ".join(done.stdout.split())
    labels = f'{{check="node.services.wanted",node="{WELL}",status="fail"}} 1'
    assert f"clusterctl_check_status{labels}" in file.read_text()
    provision()
    assert "node.services.wanted" not in nodes.clusterctl(*doctor).stdout


def test_a_failing_node_says_so(nodes: Any) -> None:
    nodes.cli("fault", "add", FAILING, "file-edited")
    eventually(lambda: metrics(nodes, FAILING)["clusterctl_ready"] == 0)
    assert metrics(nodes, FAILING)["checks"]["node.files.wanted"] == "fail"
    nodes.cli("fault", "clear")
    eventually(lambda: metrics(nodes, FAILING)["clusterctl_ready"] == 1)


@pytest.fixture(scope="module")
def cluster(nodes: Any, provision: Provision) -> slurm.Slurm:
    """Slurm on both nodes, provisioned after it came."""
    found = slurm.set_up(nodes, [WELL, FAILING])
    out = provision()
    assert "Set it as Slurm's health check" in out
    return found


def test_slurm_drains_a_node_that_fails_and_resumes_it(nodes: Any, cluster: slurm.Slurm) -> None:
    assert "clusterctl-health-slurm" in cluster.run("scontrol show config")
    nodes.cli("fault", "add", FAILING, "file-edited")
    cluster.wait(FAILING, lambda state: "DRAIN" in state)
    assert cluster.reason(FAILING).startswith("clusterctl: node.files.wanted")
    assert "DRAIN" not in cluster.state(WELL)
    nodes.cli("fault", "clear")
    cluster.wait(FAILING, lambda state: state == "IDLE")
    assert cluster.run("srun -N2 hostname").split() in (["node1", "node2"], ["node2", "node1"])


def test_what_somebody_else_drained_stays_drained(cluster: slurm.Slurm, nodes: Any) -> None:
    cluster.drain(FAILING, "memory is being changed")
    nodes.root(FAILING, "/usr/local/sbin/clusterctl-health-slurm")
    assert "DRAIN" in cluster.state(FAILING)
    nodes.cli("fault", "add", FAILING, "file-edited")
    nodes.root(FAILING, "/usr/local/sbin/clusterctl-health-slurm", check=False)
    assert cluster.reason(FAILING) == "memory is being changed"
    nodes.cli("fault", "clear")
    cluster.resume(FAILING)


def test_a_health_check_of_the_sites_own_is_kept(
    nodes: Any, cluster: slurm.Slurm, provision: Provision
) -> None:
    conf = "/etc/slurm/slurm.conf"
    nodes.root(WELL, f"sed -i '/^# BEGIN health/,/^# END health/d' {conf}")
    nodes.root(WELL, f"echo HealthCheckProgram=/usr/sbin/nhc >> {conf}")
    assert "Slurm runs another health check, which is kept" in provision()
    assert "clusterctl-health" not in nodes.root(WELL, f"cat {conf}")


def test_without_clusterctl_on_the_controller_it_is_skipped_with_a_note(
    nodes: Any, tmp_path: Path
) -> None:
    playbook = Path(__file__).parents[2] / "playbooks" / "provision.yml"
    argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", nodes.inventory, playbook]
    argv += ["--tags", "healthcheck"]
    (tmp_path / "clusterctl").mkdir()  # comes before the real one, and has nothing in it
    (tmp_path / "clusterctl" / "__init__.py").touch()
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(playbook.with_name("ansible.cfg")),
            "PYTHONPATH": str(tmp_path),
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped: the nodes' own health check is built by clusterctl" in done.stdout
    assert "No module named clusterctl.health_bundle" in done.stdout
