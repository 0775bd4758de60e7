import fcntl
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusterctl.errors import UserError
from clusterctl.inventory import Secret
from clusterctl.provision import cleanup, record
from clusterctl.provision.playbooks import playbooks_folder, roles, tags
from clusterctl.provision.progress import Progress
from clusterctl.provision.run import Request
from clusterctl.provision.secret_file import in_memory

REQUEST = Request(
    inventory="hosts.yml", playbook=playbooks_folder() / "provision.yml", limit="node1"
)
WANTED = {"node1": {"base_nofile": 1}}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "clusterctl" / "runs"


def _content(run: record.Record) -> dict[str, object]:
    content: dict[str, object] = json.loads((run.folder / "run.json").read_text())
    return content


def test_record_says_what_was_asked_for_and_what_came_of_it(state: Path) -> None:
    record.tidy()
    run = record.Record(REQUEST, Path("/nowhere"), WANTED)
    assert _content(run)["state"] == "running"
    run.event({"event": "runner_on_ok", "stdout": "noise", "event_data": {"host": "node1"}})
    run.close(Progress(["node1"]), "done", 0)
    content = _content(run)
    assert content["state"] == "done"
    assert content["options"] == {
        "limit": "node1",
        "tags": None,
        "check": False,
        "diff": False,
        "rolling": None,
        "max_failures": None,
        "all_or_nothing": False,
        "no_reboot": False,
    }
    assert content["host"] == socket.gethostname()
    assert content["pid"] == os.getpid()
    assert set(content["versions"]) >= {"clusterctl", "ansible-core", "ansible-runner"}
    assert list(content["nodes"]) == ["node1"]
    events = (run.folder / "events.jsonl").read_text()
    assert json.loads(events) == {"event": "runner_on_ok", "event_data": {"host": "node1"}}
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "events.jsonl",
        "run.json",
        "wanted.json",
    ]


def test_only_the_owner_may_read_records(state: Path) -> None:
    record.tidy()
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_state_folder_that_cannot_be_written_is_a_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write the record"):
        record.tidy()


def _process_of_run(run_id: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "import os, time; os.setsid(); time.sleep(60)"],
        env={**os.environ, cleanup.MARKER: run_id},
    )


def test_tidy_ends_what_a_killed_run_left_and_spares_a_running_one() -> None:
    record.tidy()
    scratch = cleanup.make_scratch()
    killed = record.Record(REQUEST, scratch, WANTED)
    alive = record.Record(REQUEST, Path("/nowhere"), WANTED)
    fcntl.flock(killed._lock, fcntl.LOCK_UN)  # as the kernel does when the process dies
    left_by_killed, of_alive = _process_of_run(killed.id), _process_of_run(alive.id)
    time.sleep(0.3)  # until both have their environment
    try:
        record.tidy()
        left_by_killed.wait(5)  # raises unless it was ended
        assert of_alive.poll() is None
    finally:
        of_alive.kill()
        of_alive.wait()
    assert not scratch.exists()
    assert _content(killed)["state"] == "killed"
    assert _content(alive)["state"] == "running"


def test_tidy_drops_the_oldest_records(state: Path) -> None:
    record.tidy()
    for index in range(55):
        (state / f"20200101-0000{index:02}-0000").mkdir()
    record.tidy()
    kept = sorted(path.name for path in state.iterdir())
    assert len(kept) == 50
    assert kept[0] == "20200101-000005-0000"


def test_a_password_is_in_no_argument() -> None:
    request = Request(inventory="x", playbook=Path("y"), become_password=Secret("hunter2"))
    assert "hunter2" not in f"{request} {request.arguments()}"
    assert list(request.answers().values()) == ["hunter2"]


def test_a_password_in_memory_is_readable_by_programs_and_not_run() -> None:
    path = in_memory(Secret("hunter2"))
    reader = subprocess.run(["cat", path], capture_output=True, check=True)
    assert reader.stdout == b"hunter2"
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o400


def test_with_sudo_the_record_names_who_became_root(monkeypatch: pytest.MonkeyPatch) -> None:
    record.tidy()
    monkeypatch.delenv("SUDO_USER", raising=False)
    user = pwd.getpwuid(os.getuid()).pw_name
    assert record.Record(REQUEST, Path("/nowhere"), WANTED).holder["user"] == user
    monkeypatch.setenv("SUDO_USER", "alice")
    assert record.Record(REQUEST, Path("/nowhere"), WANTED).holder["user"] == "alice"


def test_what_a_killed_run_did_is_read_off_its_events() -> None:
    record.tidy()
    killed = record.Record(REQUEST, Path("/nowhere"), WANTED)
    for role in ("base", "mpi"):
        task = {"role": role, "task_uuid": role, "task": "x", "host": "node1"}
        killed.event({"event": "playbook_on_task_start", "event_data": task})
        killed.event({"event": "runner_on_start", "event_data": task})
    with (killed.folder / "events.jsonl").open("a") as events:
        events.write('{"event": "runner_on_o')  # in the middle of a write
    fcntl.flock(killed._lock, fcntl.LOCK_UN)
    record.tidy()
    (node,) = _content(killed)["nodes"].values()
    assert node["state"] == "interrupted"
    assert node["roles_done"] == ["base"]
    assert node["interrupted_in"] == {"role": "mpi", "task": "x"}


def test_roles_are_named_in_the_order_that_they_run_in() -> None:
    assert roles()[0] == "base"
    assert tags() == [*roles(), "reboot"]
    assert set(roles()) <= {path.name for path in (playbooks_folder() / "roles").iterdir()}
