import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from clusterctl.provision import summary, view
from clusterctl.provision.progress import Change, Diff, Note, Progress


@pytest.fixture
def progress() -> Progress:
    progress = Progress(["node1", "node2", "node3"])
    for line in (Path(__file__).parent / "events.jsonl").read_text().splitlines():
        progress.take(json.loads(line))
    return progress


def _summary(progress: Progress, *, check: bool = False, diff: bool = False) -> str:
    console = Console(file=io.StringIO(), width=100)
    summary.summarize(progress, console, check=check, diff=diff)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_failures_come_first_and_in_full(progress: Progress) -> None:
    text = _summary(progress)
    assert text.startswith("✗ node2  failed  mpi: See that the version is the one wanted\n")
    assert "asks for 5; Debian 12.15 has no other." in text
    assert "✗ node3  unreachable" in text
    assert text.index("Connection refused") < text.index("seconds")


def test_summary_says_what_changed_where(progress: Progress) -> None:
    text = _summary(progress)
    assert "Changed on node1, base:\n  Configure chrony\n" in text
    assert text.endswith("2 of 3 nodes failed; 3 changes made.\n")


def test_nothing_to_change_is_said_so() -> None:
    assert _summary(Progress(["a", "b"])).endswith("Nothing to change: 2 nodes are as wanted.\n")
    assert _summary(Progress(["a"])).endswith("Nothing to change: 1 node is as wanted.\n")


def test_check_reads_like_a_plan() -> None:
    progress = Progress(["node1", "node2"])
    for node in progress.nodes.values():
        node.changes.append(Change("mpi", "Install Open MPI", "would install openmpi-bin"))
    text = _summary(progress, check=True)
    assert "Would change on node[1-2], mpi:\n  Install Open MPI: would install openmpi-bin" in text
    assert "No node would reboot.\n" in text
    assert text.endswith("2 changes would be made to 2 nodes.\n")
    assert "Changed" not in text


def test_each_change_is_told_once_with_all_nodes_that_it_is_on() -> None:
    progress = Progress(["node1", "node2", "node3"])
    for name, packages in (("node1", "gcc"), ("node2", "gcc"), ("node3", "gcc, nvcc")):
        progress.nodes[name].changes = [
            Change("base", "Raise limits"),
            Change("cuda", "Install", packages),
        ]
    progress.nodes["node2"].changes.insert(1, Change("base", "Tune"))
    lines = _summary(progress).split("\n\n", 1)[1].splitlines()
    assert [line for line in lines if line][:-1] == [
        "Changed on node[1-3], base:",
        "  Raise limits",
        "Changed on node2, base:",
        "  Tune",
        "Changed on node[1-2], cuda:",
        "  Install: gcc",
        "Changed on node3, cuda:",
        "  Install: gcc, nvcc",
    ]


def test_reboots_are_told_with_nodes_and_reason() -> None:
    progress = Progress(["node1", "node2", "node3"])
    for name in ("node1", "node3"):
        progress.nodes[name].changes.append(Change("", "Reboot", "a newer kernel is installed"))
    text = _summary(progress, check=True)
    assert "\nWould reboot node[1,3]: a newer kernel is installed\n" in text
    assert text.endswith("2 changes would be made to 2 of 3 nodes.\n")
    assert "\nRebooted node[1,3]: a newer kernel is installed\n" in _summary(progress)


def test_notes_are_told_once_with_all_nodes_that_they_are_about() -> None:
    progress = Progress(["node1", "node2"])
    for node in progress.nodes.values():
        node.notes.append(Note("dcgm", "Debian has no package of it"))
    assert "Notes:\n  node[1-2]  dcgm: Debian has no package of it\n" in _summary(progress)


def test_a_diff_is_told_once_with_all_its_nodes_and_only_when_asked_for() -> None:
    progress = Progress(["node1", "node2"])
    line = "+" + "long " * 40
    progress.diffs[Diff("base", "Configure chrony", line)] = ["node1", "node2"]
    assert "long" not in _summary(progress)
    said = _summary(progress, diff=True)
    assert said.startswith(f"node[1-2]  base: Configure chrony\n{line}\n")


def test_nodes_that_did_not_finish_are_not_among_the_failed(progress: Progress) -> None:
    progress.nodes["node1"].unfinished = "stopped because 2 nodes failed"
    text = _summary(progress)
    assert "○ node1  not finished: stopped because 2 nodes failed\n" in text
    assert text.endswith("2 of 3 nodes failed, 1 did not finish; 3 changes made.\n")


def test_many_nodes_that_fared_alike_are_one_row() -> None:
    rows = _summary(Progress(f"node{index}" for index in range(1, 65))).splitlines()
    assert rows[1].startswith("node[1-64]")
    assert len(rows) == 4


def test_interrupted_says_who_was_in_which_task() -> None:
    progress = Progress(["node1", "node2", "node3"])
    for name in ("node1", "node2"):
        progress.nodes[name].enter("mpi", "Install openmpi-bin", None)
    console = Console(file=io.StringIO(), width=100)
    summary.tell_interrupted(progress, console, check=False)
    assert isinstance(console.file, io.StringIO)
    assert "node[1-2] in the middle of: mpi: Install openmpi-bin" in console.file.getvalue()


def test_live_view_keeps_within_the_terminal(progress: Progress) -> None:
    many = Progress(f"node{index}" for index in range(200))
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=20)
    with view.watching(many, console, check=False):
        many.nodes["node150"].enter("base", "Install chrony " * 20, None)
    assert isinstance(console.file, io.StringIO)
    last_frame = console.file.getvalue().rpartition("Provisioning")[2]
    assert "node150" in last_frame
    assert "and 185 more" in last_frame
    assert last_frame.count("\n") <= 20


def test_live_view_leaves_the_cursor_visible(progress: Progress) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=20)
    with view.watching(progress, console, check=False):
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue().rfind("\x1b[?25h") > console.file.getvalue().rfind(
            "\x1b[?25l"
        )
