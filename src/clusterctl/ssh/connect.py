"""From a node of the inventory to an open connection, each way to fail with its own sentence."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from typing import IO

import paramiko

from clusterctl.inventory import Node
from clusterctl.ssh import hostkey
from clusterctl.ssh.auth import Login
from clusterctl.ssh.base import Connection, NodeFailure, failure, printable
from clusterctl.ssh.config import Target, resolve
from clusterctl.ssh.fan import register
from clusterctl.ssh.local import LocalConnection
from clusterctl.ssh.remote import SshConnection

PROXIES_AT_ONCE = threading.BoundedSemaphore(8)
"""A bastion's sshd drops connections that have not logged in beyond 10 (MaxStartups)."""

HANDSHAKES_AT_ONCE = threading.BoundedSemaphore(32)
"""Key exchanges share this machine's cores; in a queue their deadlines would not be the node's."""

FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}

# paramiko logs what it raises as well, tracebacks of hostile servers included.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


def connect(node: Node, *, timeout_s: float = 10) -> Connection:
    """Open a connection to a node; ``timeout_s`` holds for each step of it.

    Raises :class:`NodeFailure` of kind ``unreachable``, ``host-key``, ``auth``, ``timeout`` or
    ``protocol``.
    """
    if node.local:
        here = LocalConnection(node)
        register(here)
        return here
    target = resolve(node)
    if target.connect_timeout_s is not None:
        timeout_s = target.connect_timeout_s
    link = _through_proxy(target, timeout_s) if target.proxy else _direct(target, timeout_s)
    register(link)
    try:
        with HANDSHAKES_AT_ONCE:
            transport, trusted = _handshake(link, target, timeout_s)
            transport.auth_timeout = timeout_s
            Login(transport, target, node, send_password=trusted).run()
    except BaseException:
        link.close()
        raise
    return SshConnection(node, transport, link)


class Link:
    """The byte stream to a node's sshd, and the proxy process that carries it, if any."""

    def __init__(
        self,
        stream: socket.socket,
        proxy: subprocess.Popen[bytes] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> None:
        self.stream = stream
        self.transport: paramiko.Transport | None = None
        self._proxy = proxy
        self._stderr = stderr

    def close(self) -> None:
        """End the stream and whoever carries it."""
        if self.transport is not None:
            self.transport.close()
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)
        self.stream.close()
        if self._proxy is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._proxy.pid, signal.SIGKILL)
            self._proxy.wait()
        if self._stderr is not None:
            self._stderr.close()

    def proxy_said(self) -> str:
        """Give what the proxy printed on standard error, once it has ended."""
        if self._proxy is None or self._stderr is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._proxy.wait(1)
        self._stderr.seek(0)
        return printable(self._stderr.read(4096)).strip()


def _direct(target: Target, timeout_s: float) -> Link:
    link = Link(_tcp(target, timeout_s))
    _await_banner(link, target, timeout_s)
    return link


def _tcp(target: Target, timeout_s: float) -> socket.socket:
    family = FAMILIES.get(target.address_family, socket.AF_UNSPEC)
    try:
        addresses = socket.getaddrinfo(target.hostname, target.port, family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise failure(
            "unreachable",
            f"the name {target.hostname} leads nowhere: {error}",
            "set ansible_host to an address, or add the name to DNS or /etc/hosts",
        ) from None
    deadline = time.monotonic() + timeout_s
    trouble: OSError = TimeoutError()
    for index, (kind, how, protocol, _, address) in enumerate(addresses):
        stream = socket.socket(kind, how, protocol)
        try:
            share = (deadline - time.monotonic()) / (len(addresses) - index)
            stream.settimeout(max(0.1, share))
            stream.connect(address)
            _notice_death(stream)
        except OSError as error:
            stream.close()
            trouble = error
        else:
            return stream
    raise _unreachable(target, trouble, timeout_s)


def _unreachable(target: Target, trouble: OSError, timeout_s: float) -> NodeFailure:
    if isinstance(trouble, ConnectionRefusedError):
        return failure(
            "unreachable",
            f"the machine answers, but nothing listens on {target}",
            "start sshd on its console (systemctl start ssh), or set ansible_port",
        )
    if isinstance(trouble, TimeoutError):
        return failure(
            "unreachable",
            f"no answer from {target} within {timeout_s:g} s",
            f"see whether the machine is on and whether a firewall drops port {target.port}",
        )
    return failure(
        "unreachable",
        f"no way to {target}: {trouble.strerror or trouble}",
        "see `ip route get ADDRESS` here, the cable and the switch port",
    )


def _notice_death(stream: socket.socket) -> None:
    """Let the kernel report a peer that has vanished, after 20 s."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)


def _through_proxy(target: Target, timeout_s: float) -> Link:
    with PROXIES_AT_ONCE:
        ours, theirs = socket.socketpair()
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the link
        with theirs:
            proxy = subprocess.Popen(
                target.proxy,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=stderr,
                start_new_session=True,
            )
        link = Link(ours, proxy, stderr)
        # A jump host has its own connection and login before the node's banner comes.
        _await_banner(link, target, 2 * timeout_s)
        return link


def _await_banner(link: Link, target: Target, timeout_s: float) -> None:
    """Wait until the server speaks, before a key exchange takes processor time."""
    poll = select.poll()
    poll.register(link.stream, select.POLLIN)
    try:
        spoke = poll.poll(timeout_s * 1000)
        first = link.stream.recv(1, socket.MSG_PEEK) if spoke else None
    except OSError:
        first = b""
    if first:
        return
    said = link.proxy_said() if first is not None else ""
    link.close()
    if said or target.proxy:
        raise failure(
            "unreachable",
            f"the way to {target} through `{' '.join(target.proxy)}` failed: "
            f"{said[-300:] or f'no answer within {timeout_s:g} s'}",
            "run that command by hand; it must work without asking anything",
        )
    if first is None:
        raise failure(
            "timeout",
            f"{target} accepted the connection and then said nothing for {timeout_s:g} s",
            "the machine hangs, or another service has that port: look at its console",
        )
    raise failure(
        "unreachable",
        f"{target} closed the connection without a word",
        "see MaxStartups, hosts.deny and the log of the node's sshd",
    )


def _handshake(link: Link, target: Target, timeout_s: float) -> tuple[paramiko.Transport, bool]:
    known = hostkey.known(target)
    transport = paramiko.Transport(link.stream)
    link.transport = transport
    # Beyond start_client's own timeout, which tells slowness from a broken connection.
    transport.banner_timeout = transport.handshake_timeout = 2 * timeout_s + 1
    hostkey.prefer(transport, known)
    try:
        transport.start_client(timeout=timeout_s)
    except Exception as error:  # noqa: BLE001 - whatever a hostile server made paramiko's thread raise
        raise _no_handshake(target, error) from None
    if not transport.initial_kex_done:
        raise failure(
            "timeout",
            f"{target} did not finish the SSH handshake within {timeout_s:g} s",
            "log in to the node and look at its load, its disks and its kernel log",
        )
    return transport, hostkey.check(target, known, transport.get_remote_server_key())


def _no_handshake(target: Target, error: Exception) -> NodeFailure:
    said = printable(str(error))[:300] or type(error).__name__
    if isinstance(error, (EOFError, ConnectionError)):
        return failure(
            "lost", f"{target} broke off the SSH handshake: {said}", "see the node's sshd log"
        )
    return failure(
        "protocol",
        f"no SSH handshake with {target}: {said}",
        f"see whether sshd listens there: ssh -v -p {target.port} {target.hostname}",
    )
