"""The tree that nodes boot from: a bare Debian as a cloud image has it, built once and cached."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clusterctl.errors import UserError
from clusterctl.lab import preflight
from clusterctl.lab import spec as specs
from clusterctl.lab.command import run
from clusterctl.lab.spec import CACHE

RELEASES = ("bookworm", "trixie")
USER = "ops"
USER_ID = 1000

PACKAGES = (
    "ca-certificates,dbus,iproute2,iputils-ping,kmod,less,libfaketime,libpam-systemd,netbase,"
    "openssh-server,procps,python3,python3-apt,sudo,systemd,systemd-sysv"
)
"""On top of debootstrap's minbase: what Debian's cloud images have and a login or Ansible needs,
and libfaketime, which is for the clock-skew fault."""

FILES = {
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/dpkg/dpkg.cfg.d/lab": "force-unsafe-io\n",
    "etc/sudoers.d/ops": f"{USER} ALL=(ALL) NOPASSWD:ALL\n",
    # sshd answers only once users may log in, so an answer means that the node is up.
    "etc/systemd/system/ssh.service.d/lab.conf": "[Unit]\nAfter=systemd-user-sessions.service\n",
    # chronyd follows its sources without touching the clock, which is this machine's.
    "etc/systemd/system/chrony.service.d/lab.conf": (
        "[Unit]\nConditionCapability=\n\n"
        '[Service]\nEnvironmentFile=\nEnvironment="DAEMON_OPTS=-F 1 -x"\n'
    ),
}
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service")
"""Units that would take apt's lock at a moment of their own, or wait on a console."""

REMOVED = ("var/cache/apt/archives/*.deb", "etc/ssh/ssh_host_*", "etc/machine-id", "etc/hostname")
"""What differs from node to node, or is not needed again."""

SETUP = f"""
useradd --create-home --uid {USER_ID} --shell /bin/bash {USER}
update-ca-certificates
apt-get -q update
touch etc/.updated var/.updated
"""
"""What runs in the tree at last; the two stamps spare nodes what systemd does after upgrades."""

HOST_CERTIFICATES = Path("/usr/local/share/ca-certificates")
_APT_OPTIONS = re.compile(r'Acquire::(?:https?|ftp|Check-|Retries)[^ ]* "[^"]+";')
_STEPS = {"Retrieving": "downloading", "Extracting": "unpacking", "Configuring": "configuring"}


@dataclass(frozen=True)
class Mirror:
    """Where packages come from: this machine's own Debian mirror, else debootstrap's default."""

    main: str = ""
    security: str = ""

    def sources(self, release: str) -> str:
        """The tree's ``sources.list``; empty leaves debootstrap's own."""
        lines = []
        if self.main:
            lines += [f"deb {self.main} {suite} main" for suite in (release, f"{release}-updates")]
        if self.security:
            lines.append(f"deb {self.security} {release}-security main")
        return "".join(f"{line}\n" for line in lines)


def host_mirror() -> Mirror:
    """The mirrors in this machine's apt configuration, if it is a Debian machine."""
    if not shutil.which("apt-get"):
        return Mirror()
    wanted = ["--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    lines = run(["apt-get", "indextargets", *wanted]).splitlines()
    uris = {label: uri for label, _, uri in (line.partition(" ") for line in reversed(lines))}
    main, security = uris.get("Debian", ""), uris.get("Debian-Security", "")
    usable = main.startswith(("http://", "https://"))
    return Mirror(main, security) if usable else Mirror()


def host_apt_options() -> str:
    """How this machine's apt reaches its mirror: proxies, certificates, retries."""
    if not shutil.which("apt-config"):
        return ""
    lines = run(["apt-config", "dump"]).splitlines()
    return "".join(f"{line}\n" for line in lines if _APT_OPTIONS.fullmatch(line))


@dataclass(frozen=True)
class Recipe:
    """All that decides what a tree holds, except for the time at which it is built."""

    release: str
    mirror: Mirror
    apt_options: str
    certificates: dict[str, str]

    @property
    def path(self) -> Path:
        """Where the tree is cached: its name ends with the checksum of the recipe."""
        everything = [
            self.release,
            self.mirror.sources(self.release),
            self.apt_options,
            self.certificates,
            PACKAGES,
            FILES,
            MASKED,
            REMOVED,
            SETUP,
        ]
        checksum = hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:12]
        return CACHE / f"tree-{self.release}-{checksum}"


def recipe(release: str) -> Recipe:
    """The recipe for a release on this machine."""
    if release not in RELEASES:
        raise UserError(f"{release!r} is no release that a lab has", f"use {' or '.join(RELEASES)}")
    certificates = {path.name: path.read_text() for path in sorted(HOST_CERTIFICATES.glob("*.crt"))}
    return Recipe(release, host_mirror(), host_apt_options(), certificates)


def provide(release: str, say: Callable[[str], None]) -> Path:
    """Give the release's tree, building it if it is not cached. The lab's lock must be held."""
    wanted = recipe(release)
    if wanted.path.exists():
        return wanted.path
    preflight.require_builder()
    say(f"building the {release} tree with debootstrap (once, about a minute)")
    building = CACHE / "building"
    sweep()
    building.mkdir(parents=True)
    try:
        _build(wanted, building, say)
        building.rename(wanted.path)
        _prune(wanted)
    finally:
        sweep()
    return wanted.path


def sweep() -> None:
    """Remove what a killed build left. The lab's lock must be held."""
    shutil.rmtree(CACHE / "building", ignore_errors=True)


def _prune(built: Recipe) -> None:
    """Remove the release's trees of other recipes, as far as no lab boots from them."""
    used = {layer for lab in specs.load_all() for node in lab.nodes for layer in node.layers}
    for path in CACHE.glob(f"tree-{built.release}-*"):
        if path != built.path and str(path) not in used:
            shutil.rmtree(path, ignore_errors=True)


def _build(wanted: Recipe, root: Path, say: Callable[[str], None]) -> None:
    debootstrap = ["debootstrap", "--variant=minbase", f"--keyring={preflight.KEYRING}"]
    debootstrap += [f"--include={PACKAGES}", wanted.release, str(root)]
    if wanted.mirror.main:
        debootstrap.append(wanted.mirror.main)
    _run_contained(debootstrap, _progress(say))
    for pattern in REMOVED:
        for path in root.glob(pattern):
            path.unlink()
    if sources := wanted.mirror.sources(wanted.release):
        _write(root, "etc/apt/sources.list", sources)
    _write(root, "etc/apt/apt.conf.d/00host", wanted.apt_options)
    for name, text in FILES.items():
        _write(root, name, text)
    for name, text in wanted.certificates.items():
        _write(root, f"usr/local/share/ca-certificates/{name}", text)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    say("fetching the package lists")
    _run_contained(["chroot", str(root), "sh", "-ec", SETUP], lambda _: None)


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _run_contained(argv: list[str], on_line: Callable[[str], None]) -> None:
    """Run a command whose processes and mounts end with it, and it with us, however we end."""
    contained = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
    contained += ["--kill-child", *argv]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    tail: list[str] = []
    with subprocess.Popen(
        contained,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment | {"DEBIAN_FRONTEND": "noninteractive"},
    ) as process:
        try:
            for line in process.stdout or ():
                tail = [*tail[-4:], line.strip()]
                on_line(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise UserError(
            f"building the node tree failed: {' / '.join(tail)}",
            "check that `apt-get update` works on this machine, then run the command again",
        )


def _progress(say: Callable[[str], None]) -> Callable[[str], None]:
    """Turn debootstrap's 700 lines into one for each of its steps."""
    said: set[str] = set()

    def on_line(line: str) -> None:
        with contextlib.suppress(IndexError):
            step = _STEPS.get(line.split()[1])
            if step and step not in said:
                said.add(step)
                say(f"  {step} packages")

    return on_line
