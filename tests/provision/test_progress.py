"""Events of a real run: node1 changes, node2 has the wrong Open MPI, node3 has no sshd."""

import json
from pathlib import Path
from typing import Any

import pytest

from clusterctl.provision.progress import Change, Diff, Failure, Progress, RoleDone, printable


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


def _result(kind: str, **result: Any) -> dict[str, Any]:
    data = {"host": "node1", "task": "Do it", "task_uuid": "1", "res": result}
    return {"event": kind, "event_data": data}


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


def test_a_diff_is_told_for_a_changed_text_only() -> None:
    progress = Progress(["node1"])
    diff = [{"before": "a\n", "after": "b\n", "before_header": "/etc/x"}]
    assert progress.take(_result("runner_on_ok", changed=False, diff=diff)) == []
    (told,) = progress.take(_result("runner_on_ok", changed=True, diff=diff))
    assert isinstance(told, Diff)
    assert told.text.splitlines() == ["--- /etc/x", "+++ /etc/x", "@@ -1 +1 @@", "-a", "+b"]
    attributes = {"before": {"mode": "0600"}, "after": {"mode": "0644"}}
    assert progress.take(_result("runner_on_ok", changed=True, diff=attributes)) == []


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
