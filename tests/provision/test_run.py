"""``clusterctl provision`` on hosts that are all this machine, with playbooks of the tests' own."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
import yaml

from clusterctl.cli import cli
from clusterctl.errors import UserError
from clusterctl.provision import lock

PLAYBOOKS = Path(__file__).parent / "playbooks"


@dataclass
class Fleet:
    """An inventory of hosts, what they have done, and what goes wrong on them."""

    folder: Path
    """Holds HOST.STEP.done for each finished step; HOST.STEP.fails makes one fail."""
    runs: Path
    capture: pytest.CaptureFixture[str]
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def inventory(self) -> str:
        path = self.folder / "hosts.yml"
        hosts = {f"node{index}": {} for index in range(1, 4)}
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "folder": str(self.folder),
            **self.variables,
        }
        path.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common}}))
        return str(path)

    def set(self, *names: str) -> None:
        for name in names:
            (self.folder / name).touch()

    def clear(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink()

    @property
    def done(self) -> set[str]:
        return {path.name.removesuffix(".done") for path in self.folder.glob("*.done")}

    @property
    def waiting(self) -> set[str]:
        return {path.name.removesuffix(".waiting") for path in self.folder.glob("*.waiting")}

    def provision(self, *arguments: str, exit_code: int = 0) -> str:
        """Give what a run printed, standard error first."""
        return self.cli("-i", self.inventory, *arguments, exit_code=exit_code)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it as a process of its own."""
        code = f"""
import pathlib
import clusterctl.cli.provision as command
from clusterctl.cli import main
from clusterctl.provision import playbooks

command.playbooks_folder = playbooks.playbooks_folder = lambda: pathlib.Path({str(PLAYBOOKS)!r})
main()
"""
        return subprocess.Popen(
            [sys.executable, "-c", code, "provision", "-i", self.inventory, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def cli(self, *arguments: str, exit_code: int = 0) -> str:
        self.capture.readouterr()
        try:
            code = cli.main(["provision", *arguments], standalone_mode=False) or 0
            refused = ""
        except UserError as error:
            code, refused = 2, f"{error.message}\n{error.next_step}"
        out, err = self.capture.readouterr()
        assert code == exit_code, err + out + refused
        return err + out + refused

    def refused(self, *arguments: str) -> str:
        return self.provision(*arguments, exit_code=2)

    def wrong_usage(self, *arguments: str) -> str:
        with pytest.raises(click.UsageError) as error:
            cli.main(["provision", *arguments], standalone_mode=False)
        return error.value.format_message()

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.last() / "run.json").read_text())
        return record

    def last(self) -> Path:
        return max(self.runs.iterdir())

    def each_node(self, key: str) -> dict[str, Any]:
        return {name: node[key] for name, node in self.record()["nodes"].items()}


@pytest.fixture
def fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fleet:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for module in ("cli.provision", "provision.playbooks"):
        monkeypatch.setattr(f"clusterctl.{module}.playbooks_folder", lambda: PLAYBOOKS)
    (tmp_path / "fleet").mkdir()
    return Fleet(tmp_path / "fleet", tmp_path / "state" / "clusterctl" / "runs", capsys)


def test_a_plan_says_what_where_and_whether_a_node_reboots(fleet: Fleet) -> None:
    fleet.set("node1.first.done", "node2.reboots")
    with lock.held(fleet.inventory):  # a plan disturbs nobody, and waits for nobody
        said = fleet.provision("--check")
    assert fleet.done == {"node1.first"}
    assert "Would change on node[2-3], first:\n  Do first\n" in said
    assert "Would change on node[1-3], second:\n" in said
    assert "  Plan a package: would install sl\n" in said
    assert "Would reboot node2: the kernel changed\n" in said
    assert "  node[1-3]  second: nothing is for sale here\n" in said
    assert "9 changes would be made to 3 nodes." in said
    assert "no run on" in fleet.refused("--resume")


def test_history_and_show_tell_what_changed_over_the_runs(fleet: Fleet) -> None:
    assert "There is no record of any run yet." in fleet.cli("history")
    assert "no record of any run" in fleet.cli("show", exit_code=2)
    fleet.set("node2.reboots")
    assert "Reboot" not in fleet.provision("--no-reboot")
    first = fleet.last().name
    fleet.set("node2.new")
    fleet.variables["nofile"] = 5
    fleet.provision("--tags", "second", "--limit", "node2,node3")
    assert fleet.each_node("roles_done") == {"node2": ["second"], "node3": ["second"]}

    listed = fleet.cli("history", "-i", fleet.inventory)
    assert f"{first}  " in listed
    assert "done, 6 changes\n" in listed
    assert f"    -i {fleet.inventory} --limit node2,node3 --tags second\n" in listed
    assert "done, 6 changes" not in fleet.cli("history", "-i", "elsewhere,")
    outlines = json.loads(fleet.cli("history", "--json"))
    assert [(run["state"], run["changes"], run["failed"]) for run in outlines] == [
        ("done", 6, []),
        ("done", 1, []),
    ]

    shown = fleet.cli("show")
    assert "  node[2-3]  nofile: not set -> 5\n" in shown
    assert "second: Reboot: the kernel changed  node2\n" in shown
    assert re.search(r"sl +6\.0 +node2 +was 5\.02 *\n", shown)
    assert re.search(r"sl +5\.02 +node3 *\n", shown)
    assert " s  second: Promise  node" in shown
    assert "first: Do first  node[1-3]\n" in fleet.cli("show", first)
    full = json.loads(fleet.cli("show", "--json"))
    assert full["run_before"] == first
    assert full["nodes"]["node2"]["versions"] == {"sl": "6.0"}
    assert full["wanted_changes"] == {"nofile: not set -> 5": ["node2", "node3"]}
    assert all(each["duration_s"] > 0 for each in full["durations"])
    assert "2 runs begin with 2" in fleet.cli("show", "2", exit_code=2)
    assert "there is no run 1999" in fleet.cli("show", "1999", exit_code=2)


def test_too_many_failures_stop_the_rest_and_resume_goes_on(fleet: Fleet) -> None:
    fleet.set("node1.first.fails")
    said = fleet.provision("--rolling", "1", "--max-failures", "0", exit_code=1)
    assert fleet.done == set()
    assert "○ node[2-3]  not finished: not begun, because other nodes failed" in said
    assert "1 of 3 nodes failed, 2 did not finish; 0 changes made." in said

    fleet.set("node2.first.waits", "node1.second.fails")
    fleet.clear("node1.first.fails")
    # node2 is in its first role when node1 fails in its second.
    once_failed(fleet, "node1", lambda: fleet.clear("node2.first.waits"))
    said = fleet.provision("--resume", "--rolling", "2", exit_code=1)
    assert fleet.done == {"node1.first", "node2.first"}
    assert "  node[1-3]  first, second\n" in said
    assert "○ node[2-3]  not finished: stopped because 1 node failed, and --max-failures" in said
    assert fleet.each_node("state") == {"node1": "failed", "node2": "stopped", "node3": "stopped"}

    fleet.clear("node1.second.fails")
    fleet.clear("node1.first.done")  # would be done again if the role were not left out
    said = fleet.provision("--resume")
    assert "  node[1-2]  second  (done: first)\n" in said
    assert "  node3  first, second\n" in said
    assert fleet.done == {"node1.second", "node2.first", "node2.second", "node3.first"} | {
        "node3.second"
    }
    assert "finished on all of its nodes" in fleet.refused("--resume")
    assert "--resume takes its nodes" in fleet.wrong_usage("-i", "x", "--resume", "--limit", "y")


def once_failed(fleet: Fleet, node: str, act: Callable[[], None]) -> None:
    """Act in the background as soon as a run that begins after this says that the node failed."""
    before = fleet.last()

    def watch() -> None:
        while True:
            events = fleet.last() / "events.jsonl"
            if fleet.last() != before and events.exists():
                told = [json.loads(line) for line in whole_lines(events)]
                if any(
                    event["event"] == "runner_on_failed" and event["event_data"]["host"] == node
                    for event in told
                ):
                    return act()
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()


def whole_lines(path: Path) -> list[str]:
    return path.read_text().rpartition("\n")[0].splitlines()


def test_all_or_nothing_touches_no_node_when_one_fails_its_preflight(fleet: Fleet) -> None:
    fleet.set("node2.preflight.fails")
    said = fleet.provision("--all-or-nothing", exit_code=1)
    assert fleet.done == set()
    assert "✗ node2  failed  Look at the node before anything is touched" in said
    assert "○ node[1,3]  not finished: stopped because node2 failed, and it was to be" in said
    # Without the option, the others go on.
    fleet.provision(exit_code=1)
    assert fleet.done == {"node1.first", "node1.second", "node3.first", "node3.second"}
    fleet.variables["nofile"] = 6
    refused = fleet.refused("--resume")
    assert "asks for something else since run" in refused
    assert "node1, node2, node3: nofile: not set -> 6" in refused


def test_a_second_run_on_an_inventory_is_refused_and_told_who_holds_it(fleet: Fleet) -> None:
    link = fleet.folder / "link.yml"
    link.symlink_to(fleet.inventory)
    with lock.held(fleet.inventory) as sign:
        assert "it has just begun" in fleet.refused()
        sign({"user": "alice", "host": "head", "pid": 7, "since": "noon", "run": "r1"})
        refused = fleet.cli("-i", str(link), exit_code=2)
    assert "alice on head, process 7, since noon, run r1" in refused
    assert not list(fleet.runs.iterdir())


def test_a_killed_run_is_gone_on_with(fleet: Fleet) -> None:
    fleet.set("node1.second.waits", "node2.second.waits", "node3.first.waits")
    process = fleet.start()
    while not {"node1.second", "node2.second", "node3.first"} <= fleet.waiting:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    killed = fleet.last().name
    assert "killed, 2 changes" in fleet.cli("history")
    assert "was in the middle of: second: Do second" in fleet.cli("show")
    fleet.clear("node1.second.waits", "node2.second.waits", "node3.first.waits")
    said = fleet.provision("--resume")
    assert f"Going on with run {killed} (killed, began " in said
    assert "  node[1-2]  second  (done: first)\n  node3  first, second\n" in said
    assert fleet.record()["resumes"] == killed
    assert not {path.name for path in fleet.runs.glob("*/lock")}


def test_a_vaulted_value_shows_nowhere(fleet: Fleet, tmp_path: Path) -> None:
    secret = f"Planted-{secrets.token_hex(8)}"  # looked for in all processes of the machine
    (tmp_path / "vault").write_text("open sesame")
    encrypt = ["encrypt_string", "--vault-password-file", tmp_path / "vault", "-n", "licence"]
    vaulted = subprocess.run(
        [Path(sys.executable).with_name("ansible-vault"), *encrypt, secret],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (fleet.folder / "group_vars").mkdir()
    (fleet.folder / "group_vars" / "all.yml").write_text(vaulted)
    shown: list[str] = []
    running = threading.Event()
    watcher = threading.Thread(target=_watch_processes, args=(shown, running))
    watcher.start()
    try:
        process = fleet.start("--limit", "node1", "--vault-password-file", str(tmp_path / "vault"))
        out, err = process.communicate()
    finally:
        running.set()
        watcher.join()
    assert process.returncode == 0, err + out
    assert any("options.json" in text for text in shown)  # it did look while the run went on
    kept = [path.read_text() for path in fleet.last().iterdir()]
    assert '"task": "Keep a secret"' in "".join(kept)
    assert r"***\na dull message" in "".join(kept)
    for text in [out, err, *kept, *shown, fleet.cli("show"), fleet.cli("show", "--json")]:
        assert secret not in text


def _watch_processes(shown: list[str], ended: threading.Event) -> None:
    while not ended.wait(0.02):
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                shown.append(f"{process.cmdline()} {process.environ()}")


def test_options_of_provision_before_another_command_are_refused(fleet: Fleet) -> None:
    assert "--check before history has no effect" in fleet.wrong_usage("--check", "history")
    assert "Missing option" in fleet.wrong_usage()


@pytest.mark.parametrize("value", ["0", "0%", "101%", "-1", "some", "1.5"])
def test_a_batch_is_a_number_or_a_percentage(fleet: Fleet, value: str) -> None:
    assert "number of nodes" in fleet.wrong_usage("-i", "x", "--rolling", value)
