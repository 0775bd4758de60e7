"""Whether the key that a server shows is the one that the user trusts for that name."""

from __future__ import annotations

import base64
import contextlib
import threading

import paramiko

from clusterctl.ssh.base import NodeFailure, failure
from clusterctl.ssh.config import Target
from clusterctl.ssh.known_hosts import Known, fingerprint, look_up

_saving = threading.Lock()


def known(target: Target) -> Known:
    """Look the target up in all of its known_hosts files."""
    return look_up((*target.user_known_hosts, *target.global_known_hosts), target.known_names)


def prefer(transport: paramiko.Transport, known: Known) -> None:
    """Ask the server first for the types of key that we can compare, as OpenSSH does."""
    types = [line.key_type for line in known.keys]
    if not types:
        return
    options = transport.get_security_options()
    offered = list(options.key_types)
    options.key_types = sorted(offered, key=lambda name: _blob_type(name) not in types)


def check(target: Target, known: Known, key: paramiko.PKey) -> bool:
    """Refuse a server that may be another; say whether it is beyond doubt.

    With checking turned off a changed key is accepted, and then no password may be sent
    (OpenSSH does the same).
    """
    blob = key.asbytes()
    if any(line.key == blob for line in known.revoked):
        raise _revoked(target, known, blob)
    if any(line.key == blob for line in known.keys):
        return True
    if known.keys:
        if target.host_key_checking == "off":
            return False
        raise _changed(target, known, key)
    if target.host_key_checking == "strict":
        raise _unknown(target, known, key)
    _save(target, key)
    return True


def _blob_type(algorithm: str) -> str:
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _save(target: Target, key: paramiko.PKey) -> None:
    """Remember a new key where ssh would; a file that cannot be written is no reason to stop."""
    if not target.user_known_hosts:
        return
    name = target.known_names[0]
    if target.hash_known_hosts:
        name = paramiko.HostKeys.hash_host(name)
    path = target.user_known_hosts[0]
    encoded = base64.b64encode(key.asbytes()).decode()
    with _saving, contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with path.open("a") as file:
            file.write(f"{name} {key.get_name()} {encoded}\n")


def _scan(target: Target) -> str:
    port = "" if target.port == 22 else f"-p {target.port} "
    file = target.user_known_hosts[0] if target.user_known_hosts else "~/.ssh/known_hosts"
    return f"ssh-keyscan {port}{target.hostname} >> {file}"


def _unknown(target: Target, known: Known, key: paramiko.PKey) -> NodeFailure:
    shown = f"{key.get_name()} {fingerprint(key.asbytes())}"
    if target.host_key_alias or target.proxy:
        step = f"log in once with ssh, compare {shown} with the node's own, and accept it"
    else:
        step = f"compare {shown} with the node's own, then: {_scan(target)}"
    why = f"the host key of {target} is in no known_hosts file"
    if known.authorities:
        place = known.authorities[0].place
        why += f" (the @cert-authority line {place} vouches for no certificate that it showed)"
    return failure("host-key", why, step)


def _changed(target: Target, known: Known, key: paramiko.PKey) -> NodeFailure:
    line = next((line for line in known.keys if line.key_type == key.get_name()), known.keys[0])
    file, _, _ = line.place.rpartition(":")
    return failure(
        "host-key",
        f"the host key of {target} is not the known one: it shows {key.get_name()} "
        f"{fingerprint(key.asbytes())}, {line.place} has {line.key_type} {fingerprint(line.key)}. "
        "Either the machine was reinstalled, or another answers in its place",
        f"if it was reinstalled: ssh-keygen -f {file} -R '{target.known_names[0]}', "
        f"then: {_scan(target)}",
    )


def _revoked(target: Target, known: Known, blob: bytes) -> NodeFailure:
    line = next(line for line in known.revoked if line.key == blob)
    return failure(
        "host-key",
        f"the host key of {target} is marked @revoked in {line.place}",
        "give the node new host keys: rm /etc/ssh/ssh_host_*; ssh-keygen -A, on its console",
    )
