"""What fleets do to installers: each damage is repaired or clearly refused, and costs one node.

node1, which keeps the time for the others, is always well and must always come through.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

CLUSTERCTL = Path(sys.executable).with_name("clusterctl")
NODES = ("node1", "node2", "node3")

# dpkg is killed by the package that it configures, the first time.
KILL_DPKG = r"""
mkdir -p /tmp/killer/DEBIAN
cd /tmp/killer/DEBIAN
cat > control << END
Package: killer
Version: 1
Architecture: all
Maintainer: x <x@x>
Description: x
END
printf '#!/bin/sh\n[ -e /root/killed ] || { touch /root/killed; kill -9 $PPID; }\n' > postinst
chmod 755 postinst
dpkg-deb --build /tmp/killer /tmp/killer.deb
dpkg --install /tmp/killer.deb
dpkg --audit
"""

HOLD_LOCK = """
import fcntl, os, sys, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
while not os.path.exists("/root/let-go"):
    time.sleep(0.1)
"""

SLOW_BOOT = """
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Service]\\nExecStartPre=/bin/sleep 60\\n' > /etc/systemd/system/ssh.service.d/damage.conf
touch /run/reboot-required
echo linux-image-damage > /run/reboot-required.pkgs
"""


@pytest.fixture(scope="module")
def lab(own_lab: Callable[..., Any]) -> Any:
    return own_lab("damage-test", "--nodes", "3")


@pytest.fixture(autouse=True)
def work_to_do(lab: Any) -> Iterator[None]:
    """Every node lacks a package, so that each run has to install something; no damage stays."""
    for node in NODES:
        lab.root(node, "apt-get purge -qq -y chrony 2>&1; rm -f /root/let-go", check=False)
    yield
    lab.cli("fault", "clear")
    for node in NODES:
        lab.root(
            node, "rm -rf /etc/apt/sources.list.d/damage.list /etc/systemd/system/ssh.service.d"
        )


class Run:
    """A run of ``clusterctl provision`` that is under way."""

    def __init__(self, lab: Any, state: Path, *arguments: str, roles: str = "base") -> None:
        self.state = state
        self.before = self.folder()
        self.process = subprocess.Popen(
            [CLUSTERCTL, "provision", "-i", str(lab.inventory), "--tags", roles, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": str(state)},
        )

    def folder(self) -> Path | None:
        return max((self.state / "clusterctl" / "runs").glob("*"), default=None)

    def wait_for(self, node: str, task: str) -> None:
        """Wait until the node works on the task."""
        deadline = time.monotonic() + 300
        while not self._begun(node, task):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _begun(self, node: str, task: str) -> bool:
        folder = self.folder()
        if folder is None or folder == self.before or not (folder / "events.jsonl").exists():
            return False
        lines = (folder / "events.jsonl").read_text().splitlines()
        starts = (line for line in lines if '"runner_on_start"' in line and task in line)
        return any(json.loads(line)["event_data"]["host"] == node for line in starts)

    def end(self, exit_code: int) -> str:
        said, _ = self.process.communicate(timeout=400)
        assert self.process.returncode == exit_code, said
        return said


def _well(lab: Any, *nodes: str) -> bool:
    return all("Leap status     : Normal" in lab.root(node, "chronyc tracking") for node in nodes)


def test_interrupted_dpkg_is_repaired_and_a_held_lock_waited_for(lab: Any, tmp_path: Path) -> None:
    assert "killer" in lab.root("node2", KILL_DPKG, check=False)
    shell = [CLUSTERCTL, "lab", "shell", "--name", lab.name, "--console", "node3", "python3", "-c"]
    with subprocess.Popen([*shell, HOLD_LOCK], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        run = Run(lab, tmp_path)
        run.wait_for("node3", "Install chrony")
        lab.root("node3", "touch /root/let-go")
        said = run.end(0)
    assert "3 nodes provisioned: " in said
    assert "Repair half-configured packages" in said
    assert "node3  waits for python3 (pid " in said
    assert lab.root("node2", "dpkg --audit") == ""
    assert _well(lab, *NODES)


def test_sources_that_apt_cannot_use_are_named(lab: Any, tmp_path: Path) -> None:
    file = "/etc/apt/sources.list.d/damage.list"
    lab.root("node2", f"echo 'deb http//broken nothing' > {file}")
    # A repository that is down; what it does not offer can still be installed.
    lab.root("node3", f"echo 'deb http://127.0.0.1:9 nowhere main' > {file}")
    lab.root("node3", "touch -d '3 hours ago' /var/lib/apt/lists /var/lib/apt/lists/partial")
    said = Run(lab, tmp_path).end(1)
    assert "1 of 3 nodes failed" in said
    assert f"Malformed entry 1 in list file {file}" in said
    assert "correct or remove the entry that it names" in said
    assert "node3  base: apt cannot fetch http://127.0.0.1:9/" in said
    assert _well(lab, "node1", "node3")
    lab.root("node2", f"rm {file}")
    assert "1 node provisioned: " in Run(lab, tmp_path, "--limit", "node2").end(0)


def test_a_full_disk_and_a_wrong_clock_are_refused_before_anything_is_touched(
    lab: Any, tmp_path: Path
) -> None:
    lab.cli("fault", "add", "node2", "disk-full")
    lab.cli("fault", "add", "node3", "clock-skew=+3600s")
    said = Run(lab, tmp_path).end(1)
    assert "2 of 3 nodes failed" in said
    assert "/ has 0.00 GB free, of 2.00 GB needed" in said
    assert "free some: du -xh" in said
    assert re.search(r"the clock is 36\d\d s ahead of the controller's", said)
    assert "chronyc makestep" in said
    assert _well(lab, "node1")
    for node in ("node2", "node3"):
        assert lab.root(node, "command -v chronyd", check=False) == ""


def test_an_sshd_that_restarts_and_a_node_that_takes_a_minute_to_reboot_are_waited_for(
    lab: Any, tmp_path: Path
) -> None:
    lab.root("node3", SLOW_BOOT)
    booted = lab.root("node3", "cat /proc/1/stat").split()[21]
    run = Run(lab, tmp_path, roles="base,reboot")
    run.wait_for("node2", "Install chrony")
    for _ in range(3):
        lab.root("node2", "systemctl restart ssh")
    said = run.end(0)
    assert "3 nodes provisioned: " in said
    assert "asked for by linux-image-damage" in said
    assert lab.root("node3", "cat /proc/1/stat").split()[21] != booted
    assert _well(lab, *NODES)


def test_connections_that_break_in_the_middle_cost_their_node_and_resume_goes_on(
    lab: Any, tmp_path: Path
) -> None:
    run = Run(lab, tmp_path)
    run.wait_for("node2", "Install chrony")
    lab.root("node2", "pkill sshd; systemctl restart ssh")
    said = run.end(1)
    assert "1 of 3 nodes failed" in said
    assert "✗ node2  unreachable" in said
    assert _well(lab, "node1", "node3")
    assert "1 node provisioned" in _resumed(lab, tmp_path)
    assert _well(lab, "node2")


def test_a_controller_that_is_killed_in_the_middle_resumes(lab: Any, tmp_path: Path) -> None:
    run = Run(lab, tmp_path)
    run.wait_for("node2", "Install chrony")
    for process in [*psutil.Process(run.process.pid).children(), run.process]:
        process.kill()
    run.process.communicate()
    assert "3 nodes provisioned" in _resumed(lab, tmp_path)
    assert _well(lab, *NODES)
    assert [lab.root(node, "dpkg --audit") for node in NODES] == ["", "", ""]


def _resumed(lab: Any, state: Path) -> str:
    argv = [CLUSTERCTL, "provision", "-i", str(lab.inventory), "--resume"]
    env = {**os.environ, "XDG_STATE_HOME": str(state)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
