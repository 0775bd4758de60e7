"""A provisioned node as the source of a mirror: what it promises, and the packages for that.

apt on the node resolves the packages against an empty system, so that they suffice for any node
of the same release, and downloads them from the node's own sources, whose signatures it checks.
It works in a folder of its own: nothing of the node is changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from clusterctl.inventory import Node
from clusterctl.provision.repository import Package
from clusterctl.ssh import Process, connect, failure, printable

SILENCE_TIMEOUT_S = 3600
"""How long apt may download before the first package comes."""

ANSWER_LIMIT_BYTES = 8 << 20
CONTROL_LIMIT_BYTES = 1 << 20
PACKAGE_LIMIT_BYTES = 16 << 30
NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
VERSION = re.compile(r"[0-9][A-Za-z0-9.+~:-]*")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]*\.deb")

ALWAYS = ("python3-apt",)
"""Ansible's apt module installs it by itself on a node that has none."""

ASK = r"""
. /etc/os-release
echo "$ID $VERSION_ID"
dpkg-query --show --showformat '${Package} ${Version} ' 2>/dev/null
echo
cat /etc/clusterctl/provisioned/*.json 2>/dev/null || true
"""

FETCH = r"""
set -e
work=$(mktemp -d /var/tmp/clusterctl-mirror.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM PIPE
mkdir -p "$work/lists/partial" "$work/archives/partial"
: > "$work/status"
cat > "$work/apt.conf" << END
Dir::State::status "$work/status";
Dir::State::lists "$work/lists";
Dir::Cache::archives "$work/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::Languages "none";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
END
export APT_CONFIG="$work/apt.conf" LC_ALL=C DEBIAN_FRONTEND=noninteractive
{ apt-get -qq update && apt-get -qq --yes --download-only install "$@"; } >&2
cd "$work/archives"
for package in *.deb; do dpkg-deb --field "$package" > "$package.control"; done
tar -cf - *.deb *.deb.control
"""
"""POSIX shell: downloads the packages that its arguments name, and sends them as a tar archive."""


@dataclass(frozen=True)
class Promised:
    """What provision established on a node."""

    release: str
    """As the roles write it: ``Debian-12``, ``Ubuntu-22.04``."""
    packages: dict[str, str]
    """Package -> the version to mirror; empty for the newest."""
    vendor: bool = False
    """A role took packages from a vendor's repository."""

    @property
    def requests(self) -> list[str]:
        """What to ask apt for."""
        asked = {**dict.fromkeys(ALWAYS, ""), **self.packages}
        return [f"{name}={version}" if version else name for name, version in asked.items()]


def ask(node: Node) -> Promised:
    """Ask a node what provision established on it."""
    done = connect(node).run(["sh", "-c", ASK], limit_bytes=ANSWER_LIMIT_BYTES)
    return parse(done.stdout.decode(errors="replace"))


def parse(answer: str) -> Promised:
    """Read a node's answer to :data:`ASK`. NodeFailure: it cannot be a source."""
    system, _, rest = answer.partition("\n")
    installed, _, promises = rest.partition("\n")
    distribution, _, version = system.partition(" ")
    if distribution not in ("debian", "ubuntu") or not re.fullmatch(r"\d+(\.\d+)?", version):
        raise failure(
            "protocol",
            f"{printable(system)} is no Debian or Ubuntu",
            "docs/guide/mirror.md has the steps for dnf",
        )
    words = installed.split()
    try:
        packages, vendor = _promised(promises, dict(zip(words[::2], words[1::2], strict=True)))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise failure(
            "protocol",
            "what provision wrote down there, /etc/clusterctl/provisioned, is spoilt",
            "provision the node again",
        ) from None
    if not packages:
        raise failure(
            "protocol",
            "it was not provisioned, and a mirror has what provisioned nodes have",
            "run clusterctl provision on it first",
        )
    return Promised(f"{distribution.capitalize()}-{version}", packages, vendor)


def _promised(text: str, installed: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    packages: dict[str, str] = {}
    vendor = False
    for role in _objects(text):
        sources = [value for name, value in role["variables"].items() if name.endswith("_source")]
        vendor = vendor or "vendor" in sources
        for promise in role["promises"]:
            kind, name, wanted = promise["kind"], promise["name"], promise["wanted"]
            if kind in ("package", "hold") and NAME.fullmatch(name):
                # What was asked for in a certain version stays in the one that was proved.
                pinned = installed.get(name, "") if wanted else ""
                packages[name] = packages.get(name) or (pinned if VERSION.fullmatch(pinned) else "")
    return packages, vendor


def _objects(text: str) -> list[dict[str, Any]]:
    decoder, found = json.JSONDecoder(), []
    text = text.lstrip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


def fetch(node: Node, requests: Sequence[str], folder: Path) -> tuple[Package, ...]:
    """Fetch packages and all that they need through a node's apt, into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    process = connect(node).start(["sh", "-c", FETCH, "sh", *requests], become=True)
    try:
        process.close_stdin()
        packages = receive(cast("IO[bytes]", _Output(process)), folder)
    except tarfile.TarError as error:
        status = process.wait(60)
        said = process.stderr_tail()[-1000:] or f"no tar archive: {error}"
        raise failure(
            "protocol",
            f"apt there gave no packages (status {status}): {said}",
            "provision the node again, then make the mirror again",
        ) from None
    finally:
        process.kill()
    return packages


class _Output:
    """A process's standard output as a file."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def read(self, _size: int) -> bytes:
        return self._process.read(SILENCE_TIMEOUT_S)


def receive(archive: IO[bytes], folder: Path) -> tuple[Package, ...]:
    """Unpack what :data:`FETCH` sends. TarError: it is not that."""
    sums: dict[str, tuple[int, str]] = {}
    controls: dict[str, str] = {}
    with tarfile.open(fileobj=archive, mode="r|") as members:
        for member in members:
            content = members.extractfile(member) if member.isreg() else None
            described = member.name.endswith(".control")
            # As archives name them: apt would look for the colon that its cache writes as %3a.
            name = re.sub(r"_\d+%3a", "_", member.name.removesuffix(".control"))
            if content is None or not FILE.fullmatch(name):
                raise tarfile.ReadError(f"unexpected: {printable(member.name)}")
            if described and member.size <= CONTROL_LIMIT_BYTES:
                controls[name] = content.read().decode(errors="replace")
            elif not described and member.size <= PACKAGE_LIMIT_BYTES:
                sums[name] = (member.size, _keep(content, folder / name))
            else:
                raise tarfile.ReadError(f"too large: {name}")
    if not sums or sums.keys() != controls.keys():
        raise tarfile.ReadError("packages are missing")
    return tuple(Package(controls[name], name, *sums[name]) for name in sorted(sums))


def _keep(content: IO[bytes], path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
