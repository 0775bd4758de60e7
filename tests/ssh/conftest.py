"""A real sshd on the loopback interface, with keys, logs and configuration of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clusterctl.inventory import Node


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Sshd:
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def keygen(path: Path) -> Path:
        """Make an ed25519 key pair without a passphrase."""
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path]
        subprocess.run(command, check=True)
        return path

    @staticmethod
    def public(path: Path) -> str:
        """Give the key's type and public part."""
        return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])

    def start(self, *options: str) -> None:
        configuration = self.folder / "sshd_config"
        configuration.write_text(
            "\n".join(
                [
                    *options,
                    "ListenAddress 127.0.0.1",
                    f"Port {self.port}",
                    f"HostKey {self.folder / 'host'}",
                    f"AuthorizedKeysFile {self.folder / 'authorized'}",
                    "PidFile none",
                    "StrictModes no",
                    "UsePAM no",
                    "PasswordAuthentication no",
                    "PermitRootLogin yes",
                ]
            )
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-f", configuration, "-E", self.folder / "log"],
            start_new_session=True,
        )
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)
        raise AssertionError((self.folder / "log").read_text())

    def children(self) -> list[int]:
        process = self.process
        if process is None:
            return []
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)],
            capture_output=True,
            check=False,
        )
        return [int(pid) for pid in listed.stdout.split()]

    def stop(self) -> None:
        children = self.children()
        # A test may stop it in a thread while the fixture does: one of them takes the process.
        process, self.process = self.process, None
        if process is not None:
            for pid in [*children, process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def authorize(self, line: str) -> None:
        (self.folder / "authorized").write_text(line + "\n")

    @property
    def known(self) -> Path:
        return self.folder / "known_hosts"

    def know(self, line: str) -> None:
        self.known.write_text(line.replace("NAME", f"[127.0.0.1]:{self.port}") + "\n")

    @property
    def node(self) -> Node:
        options = [
            f"UserKnownHostsFile={self.known}",
            "GlobalKnownHostsFile=/dev/null",
            "IdentityAgent=none",
        ]
        return Node(
            name="node1",
            host="127.0.0.1",
            port=self.port,
            private_key_file=str(self.folder / "user"),
            ssh_args=("-F", "none", *(word for option in options for word in ("-o", option))),
        )

    def node_with(self, *options: str) -> Node:
        extra = tuple(word for option in options for word in ("-o", option))
        # ssh takes the first value of an option.
        return replace(self.node, ssh_args=(*extra, *self.node.ssh_args))


def make_sshd(folder: Path) -> Sshd:
    folder.mkdir(exist_ok=True)
    sshd = Sshd(folder)
    sshd.keygen(folder / "host")
    sshd.keygen(folder / "user")
    sshd.authorize(sshd.public(folder / "user"))
    sshd.know(f"NAME {sshd.public(folder / 'host')}")
    return sshd


@pytest.fixture(scope="session")
def shared_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = make_sshd(tmp_path_factory.mktemp("sshd"))
    server.start("MaxStartups 200", "MaxSessions 100")
    yield server
    server.stop()


@pytest.fixture
def sshd(shared_sshd: Sshd) -> Sshd:
    """The session's sshd, with who and what is trusted as at the beginning."""
    shared_sshd.authorize(shared_sshd.public(shared_sshd.folder / "user"))
    shared_sshd.know(f"NAME {shared_sshd.public(shared_sshd.folder / 'host')}")
    return shared_sshd


@pytest.fixture
def new_sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Start an sshd of one's own, with further lines of sshd_config."""
    started: list[Sshd] = []

    def start(*options: str) -> Sshd:
        server = make_sshd(tmp_path / f"sshd{len(started)}")
        started.append(server)
        server.start(*options)
        return server

    yield start
    for server in started:
        server.stop()
