"""One node: its disk, its start and its end, and running commands inside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from clusterctl.errors import UserError
from clusterctl.lab import cgroup, tree
from clusterctl.lab.command import run
from clusterctl.lab.spec import LabSpec, NodeSpec

DISK_BYTES = 16 * 2**30
"""Size of a node's disk; the file behind it is sparse."""

REBOOT_STATUS = 133
"""systemd-nspawn's exit status when the node reboots and nothing registered it."""

_KEEPER = f"""
groups=$1; shift
join() {{ for group in $groups; do echo 0 > "$group/$1/cgroup.procs" || exit 1; done; }}
join keeper
while :; do
  (join machine; exec "$@"); status=$?
  [ $status -eq {REBOOT_STATUS} ] || exit $status
  for group in $groups; do find "$group/machine" -mindepth 1 -depth -type d -delete; done
done
"""

_NSPAWN_STATE = Path("/run/systemd/nspawn")


def mountpoints() -> set[str]:
    """Where this machine has something mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split()[4] for line in lines}


def provide_disk(spec: LabSpec, node: NodeSpec, mounted: set[str]) -> None:
    """Make the node's disk, mount it, and mount the node's root over its tree."""
    image, runtime = spec.image(node), spec.runtime(node)
    disk, root = runtime / "disk", runtime / "root"
    for folder in (disk, root):
        folder.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        aside = image.with_suffix(".new")
        aside.unlink(missing_ok=True)
        with aside.open("wb") as file:
            file.truncate(DISK_BYTES)
        # No journal: a disk that is never used again after a crash of this machine needs none.
        run(
            [
                "mkfs.ext4",
                "-qF",
                "-m0",
                "-O^has_journal",
                "-Elazy_itable_init,nodiscard",
                str(aside),
            ]
        )
        aside.rename(image)
    if str(disk) not in mounted:
        run(["mount", "-o", "loop", str(image), str(disk)])
    upper, work = disk / "upper", disk / "work"
    if not (disk / "complete").exists():
        for folder in (upper, work):
            folder.mkdir(exist_ok=True)
        _write_identity(spec, node, upper)
        (disk / "complete").touch()
    if str(root) not in mounted:
        options = f"lowerdir={':'.join(node.layers)},upperdir={upper},workdir={work}"
        run(["mount", "-t", "overlay", "-o", options, "overlay", str(root)])


def _write_identity(spec: LabSpec, node: NodeSpec, upper: Path) -> None:
    """Write what a cloud image gets at its first boot: name, keys, resolver."""
    ssh = upper / "etc/ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    for suffix in ("", ".pub"):
        shutil.copy(host_key(spec, node).with_suffix(suffix), ssh / f"ssh_host_ed25519_key{suffix}")
    (upper / "etc/hostname").write_text(f"{node.name}\n")
    (upper / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {node.name}\n")
    (upper / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (upper / "etc/resolv.conf").write_text(resolver_configuration())
    keys = upper / "home" / tree.USER / ".ssh"
    keys.mkdir(parents=True, exist_ok=True)
    shutil.copy(spec.key.with_suffix(".pub"), keys / "authorized_keys")
    keys.chmod(0o700)
    for path in (keys.parent, keys, keys / "authorized_keys"):
        os.chown(path, tree.USER_ID, tree.USER_ID)


def host_key(spec: LabSpec, node: NodeSpec) -> Path:
    """The node's SSH host key, as the lab keeps it."""
    return spec.state / f"{node.name}_hostkey"


def resolver_configuration() -> str:
    """This machine's resolvers, those that nodes can reach: not one on its loopback."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        with contextlib.suppress(OSError):
            lines = path.read_text().splitlines()
            if any(line.startswith("nameserver") and " 127." not in line for line in lines):
                return "".join(f"{line}\n" for line in lines if " 127." not in line)
    return ""


def start(spec: LabSpec, node: NodeSpec) -> None:
    """Boot the node; a process of its own keeps it, so that a reboot brings it up again."""
    groups = cgroup.create(spec, node)
    runtime = spec.runtime(node)
    nspawn = ["systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit"]
    nspawn += ["--settings=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
    nspawn += [f"--directory={runtime / 'root'}", f"--machine={spec.port(node)}"]
    nspawn += [f"--hostname={node.name}", f"--network-namespace-path=/run/netns/{spec.port(node)}"]
    with (runtime / "console.log").open("wb") as console:
        keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "clusterctl-lab", " ".join(map(str, groups)), *nspawn],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            cwd="/",
            env={"PATH": os.environ["PATH"], "UNIFIED_CGROUP_HIERARCHY": "1"},
            start_new_session=True,
        )
    (runtime / "keeper.pid").write_text(f"{keeper.pid}\n")
    while keeper.poll() is None and not kept(spec, node):
        time.sleep(0.005)


def leader(spec: LabSpec, node: NodeSpec) -> int | None:
    """Process id, on this machine, of the node's init; None when the node does not run."""
    for folder in cgroup.folders(spec, node)[:1]:
        for pid in cgroup.pids(folder / "machine"):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                inner = next(line for line in status.splitlines() if line.startswith("NSpid:"))
                if inner.split()[1:][-1] == "1" and len(inner.split()) > 2:
                    return pid
    return None


def kept(spec: LabSpec, node: NodeSpec) -> bool:
    """Whether the process that brings the node back after a reboot is alive."""
    folders = cgroup.folders(spec, node)[:1]
    return any(True for folder in folders for _ in cgroup.pids(folder / "keeper"))


def run_inside(spec: LabSpec, node: NodeSpec, argv: Sequence[str]) -> str:
    """Run a command as root in the node, whether or not it can be reached over SSH."""
    return run([*enter(spec, node), *argv])


def enter(spec: LabSpec, node: NodeSpec) -> list[str]:
    """The command line before a command that is to run as root in the node."""
    if "node-frozen" in node.faults:
        raise UserError(
            f"{node.name} is frozen", f"clusterctl lab fault clear {node.name} node-frozen"
        )
    pid = leader(spec, node)
    if pid is None:
        raise UserError(f"{node.name} is off", "clusterctl lab up starts it")
    spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd=/"]
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return ["nsenter", f"--target={pid}", *spaces, "env", path]


def answers(spec: LabSpec, node: NodeSpec, timeout_s: float) -> bool:
    """Whether the node's sshd greets."""
    try:
        with socket.create_connection((spec.address(node), 22), timeout_s) as connection:
            connection.settimeout(timeout_s)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def ready(spec: LabSpec, node: NodeSpec) -> bool:
    """Whether the node is up: its sshd greets or, if that is down, its systemd takes orders."""
    if "sshd-down" not in node.faults:
        return answers(spec, node, timeout_s=2)
    pid = leader(spec, node)
    return pid is not None and Path(f"/proc/{pid}/root/run/systemd/private").exists()


def release_disk(spec: LabSpec, node: NodeSpec, mounted: set[str], discard: bool) -> None:
    """Unmount the node's root and disk; ``discard`` spares writing what is thrown away."""
    root, disk = spec.runtime(node) / "root", spec.runtime(node) / "disk"
    _forget_at_nspawn(spec, node, root)
    if discard:
        spec.image(node).unlink(missing_ok=True)
    for path in (root, disk):
        if str(path) in mounted:
            run(["umount", str(path)])


def _forget_at_nspawn(spec: LabSpec, node: NodeSpec, root: Path) -> None:
    """Remove what systemd-nspawn keeps about a machine that was killed."""
    shutil.rmtree(_NSPAWN_STATE / "propagate" / spec.port(node), ignore_errors=True)
    with contextlib.suppress(OSError):
        place = root.stat()
        lock = f"inode-{place.st_dev}:{place.st_ino}"
        (_NSPAWN_STATE / "locks" / lock).unlink(missing_ok=True)


def console_tail(spec: LabSpec, node: NodeSpec) -> str:
    """The last line of the node's console that says something."""
    with contextlib.suppress(OSError):
        text = (spec.runtime(node) / "console.log").read_bytes()[-4000:].decode(errors="replace")
        lines = ["".join(filter(str.isprintable, line)).strip() for line in text.splitlines()]
        return next((line for line in reversed(lines) if line), "")
    return ""
