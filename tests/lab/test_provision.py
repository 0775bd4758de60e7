"""Provisioning real nodes. The tests build on each other: bare nodes first, provisioned ones after.

This module has a lab of its own, since only nodes that nobody has touched are bare.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

CLUSTERCTL = Path(sys.executable).with_name("clusterctl")
LAB = "provision-test"
# Of this test run alone: it is looked for in all processes of the machine.
PASSWORD = f"Planted-{secrets.token_hex(8)}"


@dataclass
class Provisioner:
    """Runs ``clusterctl provision`` on the lab, with records in a folder of its own."""

    inventory: Path
    state: Path
    before: Path | None = None
    """The record of the run before the one started last."""

    def start(
        self, *arguments: str, inventory: str = f"lab:{LAB}", stdin: str = ""
    ) -> subprocess.Popen[str]:
        self.before = self.folder()
        process = subprocess.Popen(
            [CLUSTERCTL, "provision", "-i", inventory, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": str(self.state)},
            start_new_session=True,  # so that passwords are read from the pipe, not the terminal
        )
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        return process

    def run(
        self, *arguments: str, exit_code: int = 0, inventory: str = f"lab:{LAB}", stdin: str = ""
    ) -> str:
        """Give what a run printed, standard error first."""
        process = self.start(*arguments, inventory=inventory, stdin=stdin)
        out, err = process.communicate(timeout=500)
        assert process.returncode == exit_code, err + out
        return err + out

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder() / "run.json").read_text())
        return record

    def events(self) -> str:
        return (self.folder() / "events.jsonl").read_text()

    def folder(self) -> Path:
        return max((self.state / "clusterctl" / "runs").glob("*"), default=Path("none yet"))

    def wait_until(self, process: subprocess.Popen[str], task: str) -> None:
        """Wait until a node works on the task."""
        _eventually(lambda: self._started(task), process)

    def _started(self, task: str) -> bool:
        if self.folder() == self.before:
            return False
        try:
            events = self.events().splitlines()
        except OSError:
            return False
        return any('"runner_on_start"' in line and task in line for line in events)


def _eventually(
    condition: Callable[[], bool], process: subprocess.Popen[str] | None = None
) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process is None or process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def inventory() -> Iterator[Path]:
    subprocess.run([CLUSTERCTL, "lab", "down", "--name", LAB], check=False, capture_output=True)
    up = [CLUSTERCTL, "lab", "up", "--nodes", "3", "--name", LAB]
    subprocess.run(up, check=True, capture_output=True)
    found = subprocess.run(
        [CLUSTERCTL, "lab", "inventory", "--name", LAB], check=True, capture_output=True, text=True
    )
    yield Path(found.stdout.strip())
    subprocess.run([CLUSTERCTL, "lab", "down", "--name", LAB], check=True, capture_output=True)


@pytest.fixture(scope="module")
def provision(inventory: Path, tmp_path_factory: pytest.TempPathFactory) -> Provisioner:
    return Provisioner(inventory, tmp_path_factory.mktemp("state"))


def on(node: str, command: str) -> str:
    shell = [CLUSTERCTL, "lab", "shell", "--name", LAB, node, "--", "sudo", "sh", "-c"]
    quoted = "'" + command.replace("'", "'\\''") + "'"
    done = subprocess.run([*shell, quoted], capture_output=True, text=True, timeout=120)
    return done.stdout


def _edited(inventory: Path, edit: Callable[[dict[str, Any]], None], folder: Path) -> str:
    content = yaml.safe_load(inventory.read_text())
    edit(content["all"])
    (folder / "hosts.yml").write_text(yaml.safe_dump(content))
    return str(folder / "hosts.yml")


def _left_behind(record: dict[str, Any]) -> list[str]:
    """Name processes of a run on this machine: those it started, and ssh's masters."""
    left = []
    for process in psutil.process_iter():
        try:
            title = " ".join(process.cmdline())
            started_by_it = process.environ().get("CLUSTERCTL_RUN") == record["id"]
            if started_by_it or f"ssh: {record['scratch']}" in title:
                left.append(title)
        except psutil.Error:
            continue
    return left


def _ours_on(node: str) -> str:
    return on(node, "pgrep -a 'apt|dpkg|mpirun|orted' ; pgrep -af '[a]nsible|[A]nsiballZ'; true")


def test_check_on_bare_nodes_says_what_would_change_and_changes_nothing(
    provision: Provisioner,
) -> None:
    before = on("node1", "cat /etc/hosts; dpkg-query -W | md5sum; ls /etc/security/limits.d")
    said = provision.run("--check", "--diff")
    assert "node1  base  would change: Install chrony" in said
    assert "+root - memlock unlimited" in said
    assert "Would change on node[1-3], base:\n" in said
    assert "No node would reboot." in said
    assert "changes would be made to 3 nodes." in said
    after = on("node1", "cat /etc/hosts; dpkg-query -W | md5sum; ls /etc/security/limits.d")
    assert before == after


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_and_says_who_was_where(
    provision: Provisioner, number: signal.Signals
) -> None:
    for node in ("node1", "node2", "node3"):
        on(node, "apt-get purge -qq -y chrony")  # so that installing it takes its time
    process = provision.start()
    provision.wait_until(process, "Install chrony")
    process.send_signal(number)
    out, _err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "in the middle of: base: " in out
    record = provision.record()
    assert record["state"] == "interrupted"
    assert not Path(record["scratch"]).exists()
    assert _left_behind(record) == []


def test_what_an_interrupted_run_left_half_done_is_finished(provision: Provisioner) -> None:
    # A package that was unpacked when the machine lost its power.
    control = (
        "Package: half\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@x>\\nDescription: x\\n"
    )
    on(
        "node1",
        # What Ansible had begun runs on, and may not have come to apt yet.
        "while pgrep 'apt|dpkg' || pgrep -f '[B]ECOME-SUCCESS'; do sleep 0.5; done >/dev/null;"
        f"mkdir -p /tmp/half/DEBIAN && printf '{control}' > /tmp/half/DEBIAN/control"
        " && dpkg-deb --build /tmp/half /tmp/half.deb && dpkg --unpack /tmp/half.deb",
    )
    assert "half" in on("node1", "dpkg --audit")
    said = provision.run("--resume")
    assert "  node[1-3]  base, " in said
    assert "Repair half-configured packages" in said
    assert "3 nodes provisioned: " in said
    assert on("node1", "dpkg --audit") == ""


def test_nodes_are_what_the_inventory_asks_for(provision: Provisioner) -> None:
    for node in ("node1", "node2", "node3"):
        limits = on(node, "cat /etc/security/limits.d/90-clusterctl.conf")
        assert "* - memlock unlimited" in limits
        assert "root - nofile 1048576" in limits
        assert "mpirun (Open MPI)" in on(node, "mpirun --version")
        assert ",Normal" in on(node, "chronyc -n -c tracking")
        names = on(node, "getent ahostsv4 node1 node2 node3")
        assert "127." not in names
        assert _ours_on(node) == ""


def test_second_run_changes_nothing_and_says_so(provision: Provisioner) -> None:
    said = provision.run()
    assert "Nothing to change: 3 nodes are as wanted." in said
    record = provision.record()
    assert record["state"] == "done"
    assert all(node["changes"] == [] and node["ok"] for node in record["nodes"].values())
    assert record["inventory"] == str(provision.inventory)


def test_plain_ansible_playbook_finds_the_same(provision: Provisioner) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            *("-i", provision.inventory),
            Path(__file__).parents[2] / "playbooks" / "provision.yml",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    recap = done.stdout.partition("PLAY RECAP")[2]
    assert recap.count("changed=0") == 3


def test_limit_and_tags_touch_nothing_else(provision: Provisioner) -> None:
    for node in ("node1", "node2"):
        on(node, "rm /etc/security/limits.d/90-clusterctl.conf")
    said = provision.run("--limit", "node1", "--tags", "mpi")
    assert "Nothing to change: 1 node is as wanted." in said
    said = provision.run("--limit", "node1", "--tags", "base")
    assert "1 node provisioned: 1 change." in said
    assert list(provision.record()["nodes"]) == ["node1"]
    assert "node1  mpi" not in said
    assert "Run an MPI job" not in provision.events()
    assert on("node2", "ls /etc/security/limits.d") == ""


def test_failing_nodes_are_named_while_the_rest_goes_on(
    provision: Provisioner, tmp_path: Path
) -> None:
    def edit(everything: dict[str, Any]) -> None:
        everything["hosts"]["node1"]["mpi_version"] = "77.1"
        everything["hosts"]["node3"]["ansible_port"] = 9  # nobody listens there

    inventory = _edited(provision.inventory, edit, tmp_path)
    said = provision.run(inventory=inventory, exit_code=1)
    assert "✗ node1  failed  mpi: See that the version is the one wanted" in said
    assert "mpi_version asks for 77.1" in said
    assert "✗ node3  unreachable" in said
    assert "node2  base  changed: Raise the limits" in said
    assert "2 of 3 nodes failed; " in said
    assert str(provision.folder()) in said
    nodes = provision.record()["nodes"]
    assert nodes["node1"]["failure"]["path"].rpartition(":")[0].endswith("mpi/tasks/prove.yml")
    assert nodes["node2"]["failure"] is None


def test_a_wrong_value_is_refused_before_anything_is_done(
    provision: Provisioner, tmp_path: Path
) -> None:
    inventory = _edited(
        provision.inventory, lambda all_: all_["vars"].update(base_nofile="many"), tmp_path
    )
    said = provision.run("--limit", "node1", inventory=inventory, exit_code=1)
    assert "base_nofile" in said
    assert "many" in said


@pytest.fixture
def with_password(provision: Provisioner, tmp_path: Path) -> str:
    on("node1", "id careful || useradd -m -s /bin/bash careful")
    on("node1", f"echo careful:{PASSWORD} | chpasswd; cp -r /home/ops/.ssh /home/careful/")
    on("node1", "chown -R careful /home/careful; echo 'careful ALL=(ALL) ALL' > /etc/sudoers.d/c")
    return _edited(
        provision.inventory, lambda all_: all_["vars"].update(ansible_user="careful"), tmp_path
    )


def test_the_password_of_sudo_shows_nowhere(provision: Provisioner, with_password: str) -> None:
    process = provision.start(
        "--limit", "node1", "--tags", "base", "-K", inventory=with_password, stdin=PASSWORD + "\n"
    )
    shown = ""
    while process.poll() is None:
        for other in psutil.process_iter():
            try:
                shown += f"{other.cmdline()} {other.environ()}"
            except psutil.Error:
                continue
        time.sleep(0.05)
    out, err = process.communicate()
    assert process.returncode == 0, err + out
    assert "Nothing to change" in out
    assert PASSWORD not in shown + out + err
    for file in provision.folder().iterdir():
        assert PASSWORD not in file.read_text()


def test_a_wrong_password_of_sudo_is_said_so(provision: Provisioner, with_password: str) -> None:
    said = provision.run(
        "--limit",
        "node1",
        "--tags",
        "base",
        "-K",
        inventory=with_password,
        stdin="wrong\n",
        exit_code=1,
    )
    assert "Incorrect sudo password" in said or "incorrect password" in said.lower()


def test_a_vault_is_opened_with_the_password_asked_for(
    provision: Provisioner, with_password: str, tmp_path: Path
) -> None:
    (tmp_path / "vault-password").write_text("vault-secret")
    encrypted = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-vault"),
            *("encrypt_string", "--vault-password-file", tmp_path / "vault-password", PASSWORD),
            *("--name", "ansible_become_password"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text(encrypted)
    said = provision.run(
        *("--limit", "node1", "--tags", "base", "-J"),
        inventory=with_password,
        stdin="vault-secret\n",
    )
    assert "Nothing to change" in said
    assert PASSWORD not in provision.events()


def test_after_sigkill_resume_cleans_up_and_goes_on(provision: Provisioner) -> None:
    on("node2", "apt-get purge -qq -y chrony")  # so that installing it takes its time
    process = provision.start("--tags", "base")
    provision.wait_until(process, "Install chrony")
    killed = provision.record()
    refused = provision.run(exit_code=2)
    assert f"process {process.pid}, since {killed['started_at']}, run {killed['id']}" in refused
    # The child as well, which would else notice and clean up by itself.
    for child in psutil.Process(process.pid).children():
        child.kill()
    process.kill()
    process.communicate()
    assert _left_behind(killed) != []
    said = provision.run("--resume")
    assert f"Going on with run {killed['id']} (killed, " in said
    assert _left_behind(killed) == []
    assert not Path(killed["scratch"]).exists()
    record = json.loads((provision.folder().parent / killed["id"] / "run.json").read_text())
    assert record["state"] == "killed"
    assert record["nodes"]["node2"]["roles_done"] == []
    assert "chrony" in provision.record()["nodes"]["node2"]["versions"]


def test_a_killed_command_line_takes_its_run_along(provision: Provisioner) -> None:
    process = provision.start("--tags", "base")
    provision.wait_until(process, "Read which packages are installed")
    killed = provision.record()
    process.kill()
    process.communicate()
    _eventually(lambda: _left_behind(killed) == [])
    assert not Path(killed["scratch"]).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tags", "mip"), "no role has the tag mip"),
        (("--limit", "nobody"), "nobody"),
    ],
)
def test_wrong_usage_is_told_and_starts_nothing(
    provision: Provisioner, arguments: tuple[str, ...], message: str
) -> None:
    runs = len(list(provision.folder().parent.iterdir()))
    assert message in provision.run(*arguments, exit_code=2)
    assert len(list(provision.folder().parent.iterdir())) == runs
