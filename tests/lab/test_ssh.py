"""Logging in, escalating and starting the payload on real nodes."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusterctl import inventory, payload
from clusterctl.inventory import Become, Cluster, Node, Secret
from clusterctl.payload import Bundle
from clusterctl.ssh import Connection, NodeFailure, connect, fan_out

PASSWORD = "Planted-Secret-0815"
WHERE = Bundle({"where.py": b"import os\nprint(__file__, os.geteuid(), flush=True)\n"})


@pytest.fixture(scope="module")
def cluster(lab_session: Any) -> Cluster:
    return inventory.load(lab_session.inventory)


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Node:
    return cluster.nodes[0]


@pytest.fixture(scope="module")
def root(node: Node) -> Iterator[Callable[[str], str]]:
    """Run a shell script as root on the node."""
    connection = connect(node)

    def run(script: str) -> str:
        done = connection.run(["sh", "-c", script], become=True, timeout_s=60)
        assert done.exit_status == 0, done
        return done.stdout.decode()

    yield run
    connection.close()


@pytest.fixture(scope="module")
def user(node: Node, root: Callable[[str], str]) -> Iterator[Node]:
    """The node as a user who logs in with a password and has to give it to sudo."""
    name = f"t{secrets.token_hex(3)}"
    root(
        f"useradd -m -s /bin/bash {name}; echo {name}:{PASSWORD} | chpasswd;"
        f"echo '{name} ALL=(ALL) ALL' >/etc/sudoers.d/{name};"
        f"echo 'echo noise; printf more' >>/home/{name}/.bashrc;"
        # Debian's skeleton returns early for shells that are not interactive.
        f"sed -i '1i echo noise; printf more' /home/{name}/.bashrc"
    )
    yield replace(
        node,
        user=name,
        private_key_file=None,
        ssh_args=(*node.ssh_args, "-o", "IdentityFile=none"),
        password=Secret(PASSWORD),
        become=Become(password=Secret(PASSWORD)),
    )
    root(f"rm /etc/sudoers.d/{name}; userdel -rf {name} 2>/dev/null; true")


def error_of(call: Callable[[], object]) -> Any:
    with pytest.raises(NodeFailure) as caught:
        call()
    assert PASSWORD not in repr(caught.value.error)
    return caught.value.error


def where(connection: Connection) -> tuple[str, str]:
    """Give the folder that the payload runs from under become, and as whom."""
    process = payload.start(connection, lambda _: WHERE, "where", [], become=True)
    file, euid = process.read_line(20).decode().split()
    assert process.wait(20) == 0
    return str(Path(file).parent.parent), euid


def test_password_for_the_login_and_for_sudo(user: Node) -> None:
    connection = connect(user)
    assert connection.run(["id", "-un"]).stdout.decode().strip() == user.user
    done = connection.run(["sh", "-c", "id -un; cat"], stdin=b"input", become=True)
    assert done.stdout == b"root\ninput"
    connection.close()


def test_password_is_in_no_process_list_of_the_node(user: Node, root: Callable[[str], str]) -> None:
    connection = connect(user)
    process = connection.start(["sleep", "33"], become=True)
    seen = root("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; true")
    process.kill()
    assert "33" in seen.split()
    assert PASSWORD not in seen
    connection.close()


def test_wrong_and_missing_passwords(user: Node) -> None:
    kind = error_of(lambda: connect(replace(user, password=Secret("wrong")))).kind
    assert kind == "auth"
    connection = connect(replace(user, become=Become(password=Secret("wrong"))))
    error = error_of(lambda: connection.run(["true"], become=True))
    assert (error.kind, "wrong password" in error.why) == ("become", True)
    connection.close()
    connection = connect(replace(user, become=Become()))
    error = error_of(lambda: payload.start(connection, payload.PROBE, "x", [], become=True))
    assert (error.kind, "a password is required" in error.why) == ("become", True)
    connection.close()


def test_su_with_a_password(user: Node, root: Callable[[str], str]) -> None:
    root(f"echo root:{PASSWORD}2 | chpasswd")
    connection = connect(replace(user, become=Become("su", password=Secret(f"{PASSWORD}2"))))
    done = connection.run(["sh", "-c", "id -un; cat"], stdin=b"input", become=True)
    assert done.stdout == b"root\ninput"
    connection.close()
    connection = connect(replace(user, become=Become("su", password=Secret("wrong"))))
    assert error_of(lambda: connection.run(["true"], become=True)).kind == "become"
    connection.close()
    root("passwd -dl root")


def test_payload_under_sudo_is_roots(user: Node, root: Callable[[str], str]) -> None:
    connection = connect(user)
    base, euid = where(connection)
    assert (base, euid) == ("/var/tmp", "0")
    listed = root("stat -c '%U %a' /var/tmp/.clusterctl-0-*")
    assert set(listed.splitlines()) == {"root 700"}
    connection.close()


@pytest.fixture
def mounted(root: Callable[[str], str]) -> Iterator[Callable[..., None]]:
    """Mount a small file system over a folder of the node."""
    folders: list[str] = []

    def mount(folder: str, options: str) -> None:
        root(f"mount -t tmpfs -o mode=1777,{options} none {folder}")
        folders.append(folder)

    yield mount
    for folder in reversed(folders):
        root(f"umount {folder}")


def test_noexec_is_avoided(node: Node, mounted: Callable[..., None]) -> None:
    mounted("/var/tmp", "noexec")
    connection = connect(node)
    assert where(connection)[0] == "/dev/shm"
    connection.close()


def test_full_disk_is_avoided_and_then_told(
    node: Node, mounted: Callable[..., None], root: Callable[[str], str]
) -> None:
    connection = connect(node)
    for folder in ("/var/tmp", "/dev/shm"):
        mounted(folder, "size=8k,nr_inodes=3")
        root(f"mkdir -p /root/.cache; head -c 8192 /dev/zero >{folder}/filler")
    if root("df --output=target /root/.cache | tail -1").strip() == "/":
        assert where(connection)[0] == "/root/.cache"
        root("rm -rf /root/.cache/.clusterctl-*")
    mounted("/root/.cache", "size=4k,nr_inodes=1")
    error = error_of(lambda: where(connection))
    assert error.kind == "disk"
    assert "/var/tmp: No space left on device" in error.why
    connection.close()


def test_key_of_a_node_that_changed(node: Node, cluster: Cluster, tmp_path: Path) -> None:
    """Another node answers under the address: its key is not the known one."""
    other = cluster.nodes[1]
    known = tmp_path / "known_hosts"
    line = subprocess.run(
        ["ssh-keyscan", "-t", "ed25519", other.host], capture_output=True, text=True, check=True
    ).stdout
    known.write_text(line.replace(other.host, node.host))
    options = ("-o", f"UserKnownHostsFile={known}")
    error = error_of(lambda: connect(replace(node, ssh_args=(*options, *node.ssh_args))))
    assert error.kind == "host-key"
    assert f"ssh-keygen -f {known} -R '{node.host}'" in error.next_step


def test_no_route_and_no_answer(node: Node) -> None:
    network = node.host.rpartition(".")[0]
    error = error_of(lambda: connect(replace(node, host=f"{network}.199"), timeout_s=5))
    assert error.kind == "unreachable"
    assert "No route to host" in error.why or "no answer" in error.why


def test_all_nodes_at_once(cluster: Cluster) -> None:
    def work(node: Node) -> str:
        connection = connect(node)
        try:
            return where(connection)[1]
        finally:
            connection.close()

    results = fan_out(cluster.nodes, work, deadline_s=60)
    assert set(results.values()) == {"0"}
