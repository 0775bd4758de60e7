"""Whether the key that a server shows is the one that the user trusts for that name."""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import threading
import time

import paramiko
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)
from paramiko.message import Message

from clusterctl.ssh.base import NodeFailure, failure
from clusterctl.ssh.config import Target
from clusterctl.ssh.known_hosts import Known, fingerprint, look_up

CERTIFICATE = "-cert-v01@openssh.com"

_saving = threading.Lock()


def known(target: Target) -> Known:
    """Look the target up in all of its known_hosts files."""
    return look_up((*target.user_known_hosts, *target.global_known_hosts), target.known_names)


def prefer(transport: paramiko.Transport, known: Known) -> None:
    """Ask the server first for the kinds of key that we can judge, as OpenSSH does."""
    types = [line.key_type for line in known.keys]
    options = transport.get_security_options()
    plain = sorted(options.key_types, key=lambda name: _blob_type(name) not in types)
    certified = [name + CERTIFICATE for name in plain] if known.authorities else []
    # A certificate is of use before a key that no file knows, and after one that is known.
    options.key_types = [*plain, *certified] if types else [*certified, *plain]


def check(target: Target, known: Known, key: paramiko.PKey) -> bool:
    """Refuse a server that may be another; say whether it is beyond doubt.

    With checking turned off a changed key is accepted, and then no password may be sent
    (OpenSSH does the same).
    """
    blob = key.asbytes()
    certificate = key.public_blob.key_blob if key.public_blob else b""
    if any(line.key in (blob, _authority(certificate)) for line in known.revoked):
        raise _revoked(target, known)
    if any(line.key == blob for line in known.keys):
        return True
    if certificate and not (why := _distrust(certificate, target, known)):
        return True
    if known.keys:
        if target.host_key_checking == "off":
            return False
        raise _changed(target, known, key)
    if target.host_key_checking == "strict":
        raise _unknown(target, known, key, why if certificate else "")
    _save(target, key)
    return True


def _certificate(blob: bytes) -> SSHCertificate | None:
    try:
        name = Message(blob).get_text()
        identity = load_ssh_public_identity(f"{name} {base64.b64encode(blob).decode()}".encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return identity if isinstance(identity, SSHCertificate) else None


def _authority(blob: bytes) -> bytes:
    """Give the public key that signed a certificate, in SSH's own encoding."""
    certificate = _certificate(blob) if blob else None
    if certificate is None:
        return b""
    line = certificate.signature_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return base64.b64decode(line.split()[1])


def _distrust(blob: bytes, target: Target, known: Known) -> str:
    """Say why a host certificate does not vouch for the target; empty: it does."""
    certificate = _certificate(blob)
    if certificate is None:
        return "its certificate cannot be read"
    if _authority(blob) not in {line.key for line in known.authorities}:
        return "its certificate is by another authority"
    try:
        certificate.verify_cert_signature()
    except (InvalidSignature, UnsupportedAlgorithm):
        return "its certificate's signature is wrong"
    if certificate.type is not SSHCertificateType.HOST:
        return "its certificate is one for users"
    if not certificate.valid_after <= time.time() < certificate.valid_before:
        return "its certificate has expired, or is not valid yet"
    if certificate.critical_options:
        return "its certificate has options that nobody knows"
    name = target.host_key_alias or target.hostname.lower()
    principals = [principal.decode(errors="replace") for principal in certificate.valid_principals]
    if principals and not any(fnmatch.fnmatchcase(name, principal) for principal in principals):
        return f"its certificate is for {', '.join(principals)}"
    return ""


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


def _unknown(target: Target, known: Known, key: paramiko.PKey, distrust: str) -> NodeFailure:
    shown = f"{key.get_name()} {fingerprint(key.asbytes())}"
    if target.host_key_alias or target.proxy:
        step = f"log in once with ssh, compare {shown} with the node's own, and accept it"
    else:
        step = f"compare {shown} with the node's own, then: {_scan(target)}"
    why = f"the host key of {target} is in no known_hosts file"
    if known.authorities:
        authority = f"@cert-authority in {known.authorities[0].place}"
        why += f"; {authority} does not vouch for it: {distrust or 'it showed no certificate'}"
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


def _revoked(target: Target, known: Known) -> NodeFailure:
    places = ", ".join(line.place for line in known.revoked)
    return failure(
        "host-key",
        f"the host key of {target} is marked @revoked in {places}",
        "give the node new host keys, on its console: rm /etc/ssh/ssh_host_*; ssh-keygen -A",
    )
