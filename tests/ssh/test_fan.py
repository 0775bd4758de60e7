from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from clusterctl.findings import NodeError
from clusterctl.inventory import Node
from clusterctl.ssh import NodeFailure, connect, fan_out

Sshd = Any
"""See conftest.py."""


def named(count: int) -> list[Node]:
    return [Node(f"n{index}", "localhost", local=True) for index in range(count)]


def test_no_nodes() -> None:
    assert fan_out([], lambda node: 1, deadline_s=1) == {}


def test_results_keep_the_order_of_the_nodes() -> None:
    seen: list[str] = []
    results = fan_out(
        named(4),
        lambda node: time.sleep(0.04 * (4 - int(node.name[1]))) or node.name,
        deadline_s=5,
        on_done=lambda name, result: seen.append(name),
    )
    assert list(results) == ["n0", "n1", "n2", "n3"]
    assert sorted(seen) == list(results)


def test_all_run_at_once() -> None:
    together = threading.Barrier(64, timeout=20)
    results = fan_out(named(64), lambda node: together.wait() >= 0, deadline_s=20)
    assert all(result is True for result in results.values())


def test_limit_of_open_files_is_raised_for_many_nodes() -> None:
    script = (
        "import resource as r; from clusterctl.ssh import fan_out; "
        "from clusterctl.inventory import Node; "
        "fan_out([Node(str(n), 'x') for n in range(100)], lambda node: 1, deadline_s=9); "
        "print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    command = ["sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh", sys.executable, "-c", script]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    assert int(shown) > 1000


def test_trouble_is_one_nodes() -> None:
    def work(node: Node) -> str:
        if node.name == "n1":
            raise NodeFailure(NodeError("disk", "full", "free some"))
        return "fine"

    results = fan_out(named(3), work, deadline_s=5)
    assert results == {"n0": "fine", "n1": NodeError("disk", "full", "free some"), "n2": "fine"}


def test_a_bug_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        fan_out(named(2), lambda node: 1 // 0, deadline_s=5)


def test_deadline_closes_what_the_work_opened(sshd: Sshd) -> None:
    ended = threading.Event()

    def work(node: Node) -> bytes:
        if node.name == "quick":
            return b""
        try:
            return connect(node).start(["cat"]).read_line(60)
        finally:
            ended.set()

    nodes = [replace(sshd.node, name="quick"), replace(sshd.node, name="slow")]
    results = fan_out(nodes, work, deadline_s=3)
    assert results["quick"] == b""
    assert isinstance(results["slow"], NodeError)
    assert results["slow"].kind == "timeout"
    assert ended.wait(10)


def test_what_is_opened_after_the_deadline_is_closed() -> None:
    outcome: list[str] = []
    passed = threading.Event()

    def work(node: Node) -> None:
        passed.wait(10)
        try:
            connect(node)
        except NodeFailure as trouble:
            outcome.append(trouble.error.kind)

    fan_out(named(1), work, deadline_s=0.1)
    passed.set()
    for _ in range(500):
        if outcome:
            break
        time.sleep(0.01)
    assert outcome == ["timeout"]


def test_interrupt_ends_the_wait_and_closes(sshd: Sshd) -> None:
    ended = threading.Event()

    def work(node: Node) -> bytes:
        process = connect(node).start(["cat"])
        os.kill(os.getpid(), signal.SIGINT)
        try:
            return process.read_line(60)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        fan_out([sshd.node], work, deadline_s=60)
    assert ended.wait(10)


def test_many_nodes_with_some_broken(sshd: Sshd, new_sshd: Callable[..., Sshd]) -> None:
    frozen = new_sshd()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        nodes = [replace(sshd.node, name=f"good{index}") for index in range(24)]
        nodes += [
            replace(sshd.node, name=f"silent{index}", port=silent.getsockname()[1])
            for index in range(8)
        ]
        nodes.append(replace(frozen.node, name="unknown", ssh_args=sshd.node.ssh_args))
        results = fan_out(
            nodes, lambda node: connect(node, timeout_s=3).run(["echo", node.name]), deadline_s=30
        )
    for name, result in results.items():
        if name.startswith("good"):
            assert not isinstance(result, NodeError), (name, result)
            assert result.stdout.decode() == f"{name}\n"
        else:
            assert isinstance(result, NodeError)
            assert result.kind == ("timeout" if name.startswith("silent") else "host-key")
