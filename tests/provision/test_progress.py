"""Events of a real run: node1 changes, node2 has the wrong Open MPI, node3 has no sshd."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterctl.provision.playbooks import playbooks_folder
from clusterctl.provision.progress import (
    STOP_TASK,
    Change,
    Diff,
    Failure,
    Note,
    Progress,
    Rebooted,
    RoleDone,
    Timing,
)
from clusterctl.provision.results import printable


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    lines = (Path(__file__).parent / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def progress(events: list[dict[str, Any]]) -> Progress:
    progress = Progress(["node1", "node2", "node3"])
    for event in events:
        progress.take(event)
    return progress


def test_changes_are_named_with_their_role(progress: Progress) -> None:
    assert progress.nodes["node1"].changes == [
        Change("base", "Configure chrony"),
        Change("base", "Raise the limits of locked memory and open files"),
        Change("base", "Restart chrony"),
    ]
    assert progress.nodes["node1"].failure is None
    assert progress.nodes["node1"].duration_s > 1


def test_a_failed_task_is_named_with_its_place_and_message(progress: Progress) -> None:
    failure = progress.nodes["node2"].failure
    assert failure is not None
    assert (failure.role, failure.task) == ("mpi", "See that the version is the one wanted")
    assert failure.path == "playbooks/roles/mpi/tasks/prove.yml:9"
    assert failure.message.startswith("Open MPI 4.1.4 is installed and mpi_version asks for 5")
    assert not failure.unreachable


def test_an_unreachable_node_has_no_role_of_anothers_task(progress: Progress) -> None:
    failure = progress.nodes["node3"].failure
    assert failure is not None
    assert failure.unreachable
    assert (failure.role, failure.task) == ("", "Gathering Facts")
    assert "Connection refused" in failure.message


def test_news_tell_each_role_once_and_each_failure_once(events: list[dict[str, Any]]) -> None:
    progress = Progress(["node1", "node2", "node3"])
    news = [item for event in events for item in progress.take(event)]
    done = [(item.node, item.role) for item in news if isinstance(item, RoleDone)]
    assert done == [("node2", "base"), ("node1", "base"), ("node1", "mpi")]
    assert [item.node for item in news if isinstance(item, Failure)] == ["node3", "node2"]


def test_stopped_in_the_middle_it_knows_who_was_in_which_task(
    events: list[dict[str, Any]],
) -> None:
    progress = Progress(["node1", "node2", "node3"])
    for event in events:
        progress.take(event)
        data = event["event_data"]
        if event["event"] == "runner_on_start" and data["task"] == "Configure chrony":
            break
    assert not progress.finished
    busy = {node.name: (node.role, node.task) for node in progress.interrupted}
    assert busy[data["host"]] == ("base", "Configure chrony")


def test_a_node_without_any_task_has_failed(events: list[dict[str, Any]]) -> None:
    progress = Progress(["node1", "node2", "node3", "node4"])
    for event in events:
        progress.take(event)
    failure = progress.nodes["node4"].failure
    assert failure is not None
    assert failure.message == "Ansible ran no task on this node"


def _result(
    kind: str, action: str = "command", task: str = "Do it", **result: Any
) -> dict[str, Any]:
    data = {
        "host": "node1",
        "task": task,
        "task_uuid": "1",
        "task_action": f"ansible.builtin.{action}",
        "end": "2026-11-25T01:00:00+00:00",
        "res": result,
    }
    return {"event": kind, "event_data": data}


def _play(name: str) -> dict[str, Any]:
    return {"event": "playbook_on_play_start", "event_data": {"play": name}}


def _begin(role: str = "", host: str = "node1", action: str = "command") -> list[dict[str, Any]]:
    """Give the events of a task's beginning on a node."""
    data = {
        "role": role,
        "task_uuid": role,
        "task": "x",
        "task_action": f"ansible.builtin.{action}",
    }
    return [
        {"event": "playbook_on_task_start", "event_data": data},
        {"event": "runner_on_start", "event_data": {**data, "host": host}},
    ]


def _take(progress: Progress, *events: dict[str, Any]) -> list[Any]:
    return [news for event in events for news in progress.take(event)]


def _stats(**counts: dict[str, int]) -> dict[str, Any]:
    return {"event": "playbook_on_stats", "event_data": {"processed": {"node1": 1}, **counts}}


def test_a_failure_that_a_rescue_took_care_of_is_none() -> None:
    progress = Progress(["node1"])
    progress.take(_result("runner_on_failed", msg="no"))
    assert progress.failures
    progress.take(_stats(rescued={"node1": 1}))
    assert not progress.failures


def test_an_ignored_failure_is_none() -> None:
    progress = Progress(["node1"])
    event = _result("runner_on_failed", msg="no")
    event["event_data"]["ignore_errors"] = True
    assert progress.take(event) == []
    assert not progress.failures


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"argument_errors": ["a is required", "b is no int"]}, "a is required\nb is no int"),
        ({"msg": "non-zero return code", "stderr": "boom\n"}, "non-zero return code\nboom"),
        (
            {"msg": "No start of json", "module_stderr": "no python3"},
            "No start of json\nno python3",
        ),
        ({"results": [{"msg": "fine"}, {"failed": True, "msg": "item 2"}]}, "item 2"),
        ({"censored": "hidden"}, "hidden"),
        ({}, "the task gives no reason"),
        ({"msg": "\x1b[31mred\x07"}, "\\x1b[31mred\\x07"),
    ],
)
def test_message_is_the_most_telling_part(result: dict[str, Any], message: str) -> None:
    progress = Progress(["node1"])
    progress.take(_result("runner_on_failed", **result))
    assert progress.failures[0].message == message


def test_a_diff_is_kept_for_a_changed_text_only() -> None:
    progress = Progress(["node1"])
    diff = [{"before": "a\n", "after": "b\n", "before_header": "/etc/x"}]
    attributes = {"before": {"mode": "0600"}, "after": {"mode": "0644"}}
    _take(
        progress,
        _result("runner_on_ok", changed=False, diff=diff),
        _result("runner_on_ok", changed=True, diff=attributes),
        _result("runner_on_ok", changed=True, diff=diff),
    )
    text = "--- /etc/x\n+++ /etc/x\n@@ -1 +1 @@\n-a\n+b"
    assert progress.diffs == {Diff("", "Do it", text): ["node1"]}


def test_what_ansible_says_outside_of_tasks_is_kept_without_colours() -> None:
    progress = Progress(["node1"])
    progress.take({"event": "error", "stdout": "\x1b[31m[ERROR]: no such file\x1b[0m\r\n"})
    assert progress.messages == ["[ERROR]: no such file"]


def test_nodes_that_were_not_asked_for_are_ignored() -> None:
    progress = Progress(["node1"])
    event = _result("runner_on_ok", changed=True)
    event["event_data"]["host"] = "intruder"
    assert progress.take(event) == []
    assert list(progress.nodes) == ["node1"]


@pytest.mark.parametrize("control", list("\0\a\b\v\r\x1b\x7f\x85\x9b\u202e"))
def test_control_characters_never_reach_the_terminal(control: str) -> None:
    assert control not in printable(f"a{control}b\n")
    assert printable("naïve\t日本\n") == "naïve\t日本\n"


def test_the_message_of_a_changed_debug_is_what_changes_and_else_a_note() -> None:
    progress = Progress(["node1"])
    _take(
        progress,
        _result("runner_on_ok", "debug", msg="Debian has no dcgm"),
        _result("runner_on_ok", "debug", msg="Debian has no dcgm"),
        _result("runner_on_ok", "debug", changed=True, msg="would install gcc"),
        _result("runner_on_ok", "command", msg="of no interest"),
        _result("runner_on_ok", "debug", censored="hidden"),
    )
    node = progress.nodes["node1"]
    assert node.notes == [Note("", "Debian has no dcgm")]
    (change,) = node.changes
    assert change == Change("", "Do it", "would install gcc")
    assert change.at == "2026-11-25T01:00:00+00:00"


def test_notes_of_a_loop_are_all_kept() -> None:
    progress = Progress(["node1"])
    items = [{"msg": "one"}, {"msg": ["two", 3]}, {"skipped": True}]
    progress.take(_result("runner_on_ok", "debug", results=items))
    assert [note.text for note in progress.nodes["node1"].notes] == ["one", "two"]


def test_a_reboot_is_news_with_its_reason() -> None:
    progress = Progress(["node1"])
    would = _result("runner_on_ok", "debug", "Reboot", changed=True, msg="would reboot: kernel")
    did = _result("runner_on_ok", "reboot", "Reboot", changed=True, elapsed=60)
    assert _take(progress, would, did) == [Rebooted("node1", "kernel"), Rebooted("node1", "")]
    assert [change.is_reboot for change in progress.nodes["node1"].changes] == [True, True]


@pytest.mark.parametrize("versions", [None, "5", ["5"], {"ucx": "1.13"}])
def test_versions_are_those_that_the_roles_promise(versions: Any) -> None:
    progress = Progress(["node1"])
    progress.take(_result("runner_on_ok", "promise", versions={"openmpi-bin": "4.1.4"}))
    progress.take(_result("runner_on_ok", "promise", versions=versions))
    progress.take(_result("runner_on_ok", "installed", versions={"openmpi-bin": "older"}))
    found = progress.nodes["node1"].versions
    assert found == {"openmpi-bin": "4.1.4"} | (versions if isinstance(versions, dict) else {})


def test_a_role_that_looks_at_nothing_on_the_node_is_told_as_skipped() -> None:
    progress = Progress(["node1"])
    news = _take(
        progress,
        *_begin("cuda", action="assert"),
        _result("runner_on_ok", "assert"),
        *_begin("mpi"),
        {"event": "runner_on_ok", "event_data": {"host": "node1", "task_uuid": "mpi"}},
        *_begin("healthcheck"),
    )
    told = {item.role: item.skipped for item in news if isinstance(item, RoleDone)}
    assert told == {"cuda": True, "mpi": False}


def test_a_role_that_is_come_back_to_is_done_when_it_is_left_again() -> None:
    progress = Progress(["node1"])
    node = progress.nodes["node1"]
    _take(progress, *_begin("base"), *_begin("mpi"))
    assert node.roles_done == ["base"]
    _take(progress, *_begin("base"))
    assert node.roles_done == ["mpi"]
    _take(progress, _stats())
    assert node.roles_done == ["mpi", "base"]


def test_a_node_that_is_told_to_stop_has_not_failed() -> None:
    progress = Progress(["node1"])
    stop = _result("runner_on_failed", "assert", STOP_TASK, msg="stopped: 3 nodes failed")
    assert _take(
        progress, *_begin("base"), *_begin("mpi"), stop, _stats(failures={"node1": 1})
    ) == [RoleDone("node1", "base", (), 0.0, skipped=True)]
    assert progress.failures == []
    assert progress.nodes["node1"].unfinished == "stopped because 3 nodes failed"
    assert progress.nodes["node1"].roles_done == ["base"]


def _two_plays(*second: dict[str, Any]) -> Progress:
    progress = Progress(["node1", "node2"], last_play="Provision")
    preflight = [*_begin(), *_begin(host="node2")]
    processed = {"event": "playbook_on_stats", "event_data": {"processed": progress.nodes}}
    _take(progress, _play("Preflight"), *preflight, *second, processed)
    return progress


def test_a_node_whose_batch_never_began_has_not_finished() -> None:
    begun = _two_plays(_play("Provision"), *_begin("base"))
    assert [node.name for node in begun.unfinished] == ["node2"]
    all_began = _two_plays(
        _play("Provision"), *_begin("base"), _play("Provision"), *_begin("base", "node2")
    )
    assert all_began.unfinished == []


def test_no_node_has_finished_when_the_last_play_never_began() -> None:
    assert [node.name for node in _two_plays().unfinished] == ["node1", "node2"]


def test_a_node_that_goes_on_to_another_role_has_not_failed() -> None:
    progress = Progress(["node1"])
    _take(progress, *_begin("base"), _result("runner_on_failed", msg="no"))
    assert progress.failures
    _take(progress, *_begin("mpi"))
    assert progress.failures == []


def test_the_time_of_each_task_is_kept() -> None:
    progress = Progress(["node1"])
    event = _result("runner_on_ok")
    event["event_data"]["start"] = "2026-11-25T00:59:58.5+00:00"
    progress.take(event)
    assert progress.timings == [Timing("node1", "", "Do it", 1.5)]


def test_the_playbook_has_the_task_that_is_told_apart() -> None:
    tasks = yaml.safe_load((playbooks_folder() / "tasks" / "begin.yml").read_text())
    assert tasks[0]["name"] == STOP_TASK
    assert tasks[0]["ansible.builtin.assert"]["fail_msg"].startswith("stopped: ")
