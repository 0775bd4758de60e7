"""Examining real nodes: over SSH, as root through sudo, with a name service that is gone."""

from __future__ import annotations

import ipaddress
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clusterctl import inventory
from clusterctl.examination import examine_node
from clusterctl.facts import ClockOffset, Names, NodeFacts, ResourceLimits, System
from clusterctl.findings import NodeExam
from clusterctl.inventory import Cluster, Node
from clusterctl.probe.network import NAME_SERVICE_NAMES
from clusterctl.ssh import connect, fan_out

CONTROLLER = """
import sys, time
from clusterctl import inventory, payload
from clusterctl.ssh import connect
node = inventory.load(sys.argv[1]).nodes[0]
arguments = ["--nonce", sys.argv[2], "--names", "a.invalid,b.invalid"]
probe = payload.start(connect(node), payload.PROBE, "clusterctl.probe", arguments, become=True)
print(probe.read_line(30).decode(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def cluster(lab: Any) -> Cluster:
    return inventory.load(lab.inventory)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.nodes[0]


def examine(node: Node, names: tuple[str, ...] = (), timeout_s: float = 60) -> NodeExam:
    connection = connect(node)
    try:
        return examine_node(connection, names, timeout_s=timeout_s)
    finally:
        connection.close()


def facts_of(exam: NodeExam) -> NodeFacts:
    assert isinstance(exam.facts, NodeFacts), exam.facts
    return exam.facts


def test_every_node_is_examined(cluster: Cluster) -> None:
    exams = fan_out(cluster.nodes, examine, deadline_s=120)
    assert exams.keys() == {node.name for node in cluster.nodes}
    for node in cluster.nodes:
        exam = exams[node.name]
        assert isinstance(exam, NodeExam)
        facts = facts_of(exam)
        assert isinstance(facts.system, System)
        assert facts.system.hostname == node.name
        assert facts.system.virtualization == "systemd-nspawn"
        assert isinstance(exam.clock, ClockOffset)
        assert abs(exam.clock.offset_s) <= exam.clock.uncertainty_s  # one clock for all
        assert isinstance(facts.nics, list)
        addresses = [address for nic in facts.nics for address in nic.addresses]
        assert node.host in [str(ipaddress.ip_interface(address).ip) for address in addresses]
        assert {nic.name for nic in facts.nics} == {"eth0", "lo"}  # and none of the host's
        assert isinstance(facts.filesystems, list)
        assert "/" in [filesystem.mountpoint for filesystem in facts.filesystems]


def test_limits_are_the_login_s_and_not_root_s(node: Node, lab: Any) -> None:
    path = "/etc/security/limits.d/zz-examination.conf"
    lab.root(node.name, f"printf '%s - nofile %s\\n' {node.user} 777 root 888 >{path}")
    try:
        found = facts_of(examine(node)).limits
    finally:
        lab.root(node.name, f"rm {path}")
    assert isinstance(found, ResourceLimits)
    assert (found.nofile, found.nofile_configured) == (777, 777)


def test_a_dead_name_service_costs_its_names_only(node: Node, lab: Any) -> None:
    lab.root(
        node.name, "cp /etc/resolv.conf /run/kept.conf; echo nameserver 192.0.2.1 >/etc/resolv.conf"
    )
    try:
        names = tuple(f"host{number}.example" for number in range(64))
        facts = facts_of(examine(node, ("localhost", *names), timeout_s=8))
    finally:
        lab.root(node.name, "cat /run/kept.conf >/etc/resolv.conf; rm /run/kept.conf")
    assert isinstance(facts.names, Names)
    assert facts.names.resolved["localhost"] in ("127.0.0.1", "::1")
    assert facts.names.reasons.keys() == set(names[:NAME_SERVICE_NAMES])
    assert isinstance(facts.system, System)


def test_a_killed_controller_leaves_nothing(lab: Any, node: Node, tmp_path: Path) -> None:
    nonce = tmp_path.name.replace("_", "")
    controller = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(lab.inventory), nonce], stdout=subprocess.PIPE
    )
    assert controller.stdout is not None
    assert controller.stdout.readline().decode().split() == ["clusterctl-hello", nonce]
    # The pattern in brackets does not find itself.
    find = f"grep -l '[{nonce[0]}]{nonce[1:]}' /proc/[0-9]*/cmdline 2>/dev/null || true"
    assert lab.root(node.name, find).strip()
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    controller.stdout.close()
    end = time.monotonic() + 30
    while lab.root(node.name, find).strip() and time.monotonic() < end:
        time.sleep(0.1)
    assert lab.root(node.name, find).strip() == ""
