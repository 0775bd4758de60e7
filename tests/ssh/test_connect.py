from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusterctl.inventory import Node, Secret
from clusterctl.ssh import NodeFailure, connect

Sshd = Any
"""See conftest.py."""


def refusal(node: Node, timeout_s: float = 5) -> tuple[str, str, str]:
    with pytest.raises(NodeFailure) as caught:
        connect(node, timeout_s=timeout_s)
    error = caught.value.error
    return error.kind, error.why, error.next_step


def test_runs_a_command(sshd: Sshd) -> None:
    connection = connect(sshd.node)
    done = connection.run(["printf", "%s|", "a b", "c'd", "e\nf", "$HOME", "*", ""])
    assert done.stdout == b"a b|c'd|e\nf|$HOME|*||"
    assert done.exit_status == 0
    connection.close()


def test_unknown_host_key(sshd: Sshd) -> None:
    sshd.know("")
    kind, why, step = refusal(sshd.node)
    assert kind == "host-key"
    assert "in no known_hosts file" in why
    assert "SHA256:" in step
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> {sshd.known}" in step


def test_changed_host_key(sshd: Sshd, tmp_path: Path) -> None:
    sshd.know(f"NAME {sshd.public(sshd.keygen(tmp_path / 'other'))}")
    kind, why, step = refusal(sshd.node)
    assert kind == "host-key"
    assert f"{sshd.known}:1" in why
    assert f"ssh-keygen -f {sshd.known} -R '[127.0.0.1]:{sshd.port}'" in step


def test_changed_host_key_of_another_type(sshd: Sshd, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", other], check=True)
    sshd.know(f"NAME {sshd.public(other)}")
    assert refusal(sshd.node)[0] == "host-key"


def test_revoked_host_key(sshd: Sshd) -> None:
    key = sshd.public(sshd.folder / "host")
    sshd.know(f"NAME {key}\n@revoked * {key}")
    kind, why, _ = refusal(sshd.node)
    assert kind == "host-key"
    assert "@revoked" in why


def test_hashed_known_hosts(sshd: Sshd) -> None:
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", sshd.known], check=True, capture_output=True)
    assert "127.0.0.1" not in sshd.known.read_text()
    connect(sshd.node).close()


def test_host_key_alias(sshd: Sshd) -> None:
    sshd.know(f"rack7 {sshd.public(sshd.folder / 'host')}")
    connect(sshd.node_with("HostKeyAlias=rack7")).close()
    assert refusal(sshd.node_with("HostKeyAlias=rack8"))[0] == "host-key"


def test_plain_name_holds_for_another_port_too(sshd: Sshd) -> None:
    sshd.know(f"127.0.0.1 {sshd.public(sshd.folder / 'host')}")
    connect(sshd.node).close()


def test_accept_new_remembers_and_then_refuses_another_key(sshd: Sshd, tmp_path: Path) -> None:
    sshd.know("# nothing")
    connect(sshd.node_with("StrictHostKeyChecking=accept-new")).close()
    connect(sshd.node).close()
    sshd.know(f"NAME {sshd.public(sshd.keygen(tmp_path / 'other'))}")
    assert refusal(sshd.node_with("StrictHostKeyChecking=accept-new"))[0] == "host-key"


def test_checking_off_sends_no_password_to_a_changed_host(sshd: Sshd, tmp_path: Path) -> None:
    sshd.know(f"NAME {sshd.public(sshd.keygen(tmp_path / 'other'))}")
    node = sshd.node_with("StrictHostKeyChecking=no")
    connect(node).close()
    stranger = sshd.keygen(tmp_path / "stranger")
    node = replace(node, private_key_file=str(stranger), password=Secret("hunter2"))
    kind, why, _ = refusal(node)
    assert kind == "auth"
    assert "the password was not sent" in why


@pytest.fixture
def certified(new_sshd: Callable[..., Sshd], tmp_path: Path) -> Callable[..., Sshd]:
    """An sshd whose host key is signed by an authority that known_hosts trusts."""

    def start(principal: str, *options: str) -> Sshd:
        server = new_sshd()
        server.stop()
        authority = server.keygen(tmp_path / "authority")
        key = server.folder / "host.pub"
        subprocess.run(
            ["ssh-keygen", "-q", "-s", authority, "-I", "id", "-h", "-n", principal, *options, key],
            check=True,
        )
        server.start(f"HostCertificate {server.folder / 'host-cert.pub'}")
        server.know(f"@cert-authority * {server.public(authority)}")
        return server

    return start


def test_host_certificate(certified: Callable[..., Sshd]) -> None:
    connect(certified("127.0.0.1").node).close()


def test_host_certificate_for_another_host(certified: Callable[..., Sshd]) -> None:
    kind, why, _ = refusal(certified("elsewhere").node)
    assert kind == "host-key"
    assert "is for elsewhere" in why


def test_expired_host_certificate(certified: Callable[..., Sshd]) -> None:
    kind, why, _ = refusal(certified("127.0.0.1", "-V", "20200101:20200102").node)
    assert kind == "host-key"
    assert "has expired" in why


def test_proxy_jump(sshd: Sshd, new_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    bastion = new_sshd()
    configuration = tmp_path / "config"
    configuration.write_text(
        f"""
Host bastion
    HostName 127.0.0.1
    Port {bastion.port}
    IdentityFile {bastion.folder / "user"}
    UserKnownHostsFile {bastion.known}
Host inner
    HostName 127.0.0.1
    Port {sshd.port}
    IdentityFile {sshd.folder / "user"}
    UserKnownHostsFile {sshd.known}
    ProxyJump bastion
"""
    )
    connection = connect(Node("inner", "inner", ssh_args=("-F", str(configuration))))
    assert connection.run(["echo", "through"]).stdout == b"through\n"
    assert "direct-tcpip" in (bastion.folder / "log").read_text() or bastion.children()
    connection.close()
    bastion.stop()
    kind, why, _ = refusal(Node("inner", "inner", ssh_args=("-F", str(configuration))))
    assert kind == "unreachable"
    assert "Connection refused" in why


def test_proxy_command(sshd: Sshd) -> None:
    relay = (
        f"{sys.executable} -c 'import os,socket,sys,threading;"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
        'threading.Thread(target=lambda:[os.write(1,d) for d in iter(lambda:s.recv(65536),b"")],'
        'daemon=True).start();[s.sendall(d) for d in iter(lambda:os.read(0,65536),b"")]\' %h %p'
    )
    connection = connect(sshd.node_with(f"ProxyCommand={relay}"))
    assert connection.run(["echo", "100%"]).stdout == b"100%\n"
    connection.close()


def test_agent(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL)
    try:
        while not agent.exists():
            time.sleep(0.01)
        environment = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
        keys = [sshd.folder / "user", sshd.keygen(tmp_path / "another")]
        for key in reversed(keys):
            subprocess.run(["ssh-add", "-q", key], env=environment, check=True)
        node = replace(sshd.node_with(f"IdentityAgent={agent}"), private_key_file=None)
        connect(node).close()
        only = sshd.node_with(f"IdentityAgent={agent}", "IdentitiesOnly=yes")
        kind, why, _ = refusal(replace(only, private_key_file=str(keys[1])))
        assert kind == "auth"
        assert why.count("agent key") == 1
    finally:
        process.terminate()
        process.wait()


def test_login_refused(sshd: Sshd, tmp_path: Path) -> None:
    stranger = sshd.keygen(tmp_path / "stranger")
    kind, why, step = refusal(replace(sshd.node, private_key_file=str(stranger)))
    assert kind == "auth"
    assert str(stranger) in why
    assert "ssh-copy-id" in step


def test_encrypted_key(sshd: Sshd, tmp_path: Path) -> None:
    key = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", key], check=True)
    kind, why, _ = refusal(replace(sshd.node, private_key_file=str(key)))
    assert kind == "auth"
    assert f"ssh-add {key}" in why


def test_user_certificate(sshd: Sshd, new_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    authority, user = sshd.keygen(tmp_path / "authority"), sshd.keygen(tmp_path / "me")
    sign = ["ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", "root", f"{user}.pub"]
    subprocess.run(sign, check=True)
    server = new_sshd(f"TrustedUserCAKeys {authority}.pub")
    server.authorize("")
    connect(replace(server.node, private_key_file=str(user))).close()


def test_refused_port(sshd: Sshd) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        kind, why, step = refusal(replace(sshd.node, port=unused.getsockname()[1]))
    assert kind == "unreachable"
    assert "nothing listens" in why
    assert "systemctl start ssh" in step


def test_name_that_leads_nowhere(sshd: Sshd) -> None:
    kind, why, _ = refusal(replace(sshd.node, host="no.such.host.invalid"))
    assert kind == "unreachable"
    assert "no.such.host.invalid" in why


def test_refused_configuration(sshd: Sshd) -> None:
    kind, why, _ = refusal(sshd.node_with("NoSuchOption=1"))
    assert kind == "unreachable"
    assert "nosuchoption" in why.lower()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_silent_port(sshd: Sshd, listener: socket.socket) -> None:
    node = replace(sshd.node, port=listener.getsockname()[1])
    kind, why, _ = refusal(node, timeout_s=0.3)
    assert kind == "timeout"
    assert "said nothing" in why


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", "unreachable"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol"),
        (b"SSH-2.0-OpenSSH_9.2\r\n" + b"\x00\x00\x00\x0c\x0a\x14garbage...", "protocol"),
        (b"SSH-1.5-old\r\n", "protocol"),
        (b"\x00" * 4096, "protocol"),
    ],
)
def test_not_an_ssh_server(sshd: Sshd, listener: socket.socket, said: bytes, kind: str) -> None:
    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(said)
            peer.shutdown(socket.SHUT_WR)
            time.sleep(0.2)

    threading.Thread(target=serve, daemon=True).start()
    node = replace(sshd.node, port=listener.getsockname()[1])
    found, why, _ = refusal(node, timeout_s=2)
    assert found in (kind, "lost")
    assert why.isprintable()


def test_server_that_stops_in_the_handshake(sshd: Sshd, listener: socket.socket) -> None:
    def serve() -> None:
        peer, _ = listener.accept()
        peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        time.sleep(3)

    threading.Thread(target=serve, daemon=True).start()
    node = replace(sshd.node, port=listener.getsockname()[1])
    assert refusal(node, timeout_s=0.5)[0] == "timeout"


def test_server_that_dies(new_sshd: Callable[..., Sshd]) -> None:
    server = new_sshd()
    process = connect(server.node).start(["cat"])
    server.stop()
    with pytest.raises(NodeFailure) as caught:
        process.read_line(10)
    assert caught.value.error.kind == "lost"


def test_server_that_freezes(new_sshd: Callable[..., Sshd]) -> None:
    server = new_sshd()
    connection = connect(server.node)
    process = connection.start(["cat"])
    for pid in server.children():
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(NodeFailure) as caught:
        process.read_line(0.3)
    assert caught.value.error.kind == "timeout"
    connection.close()


def test_password_shows_nowhere(sshd: Sshd) -> None:
    node = replace(sshd.node, password=Secret("hunter2"), private_key_file="/nonexistent")
    with pytest.raises(NodeFailure) as caught:
        connect(node)
    assert "hunter2" not in repr(caught.value.error)
    assert "hunter2" not in repr(node)
