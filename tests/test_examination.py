"""The examination of one node, over a real connection: this machine as the node."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterctl import examination
from clusterctl.examination import examine_node
from clusterctl.facts import ClockOffset, Names, NodeFacts, Unread
from clusterctl.findings import NodeError, NodeExam
from clusterctl.inventory import Node
from clusterctl.ssh import Connection, Process, connect


@pytest.fixture
def here() -> Iterator[Connection]:
    connection = connect(Node(name="here", host="localhost", local=True))
    yield connection
    connection.close()


def test_a_healthy_node(here: Connection) -> None:
    exam = examine_node(here, ["localhost", "nowhere.invalid"], timeout_s=60)
    assert isinstance(exam.facts, NodeFacts), exam.facts
    assert isinstance(exam.facts.names, Names)
    assert exam.facts.names.resolved.keys() == {"localhost", "nowhere.invalid"}
    assert isinstance(exam.clock, ClockOffset)
    assert abs(exam.clock.offset_s) <= exam.clock.uncertainty_s
    assert exam.duration_s > 0


def test_it_leaves_no_process(here: Connection) -> None:
    examine_node(here, [], timeout_s=60)
    end = time.monotonic() + 20
    while (left := _descendants()) and time.monotonic() < end:
        time.sleep(0.02)
    assert left == []


def _descendants() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if stat[1] == str(os.getpid()) and stat[0] != "Z" and "clusterctl.probe" in command:
            found.append(command)
    return found


Pretend = Callable[[str], None]
SAY = "def say(kind, *words): print('clusterctl-' + kind, nonce, *words, flush=True)\n"


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Have the node run a script of ours where the probe should be."""

    def _pretend(script: str) -> None:
        def start(
            connection: Connection, _payload: Any, _module: str, args: Any, **_: Any
        ) -> Process:
            nonce = args[args.index("--nonce") + 1]
            program = f"import os, sys, time\nnonce = {nonce!r}\n{SAY}{script}"
            return connection.start([sys.executable, "-c", program])

        monkeypatch.setattr(examination.payload, "start", start)

    return _pretend


def exam_of(here: Connection, timeout_s: float = 60) -> tuple[NodeError, NodeExam]:
    exam = examine_node(here, [], timeout_s=timeout_s)
    assert isinstance(exam.facts, NodeError), exam.facts
    return exam.facts, exam


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("print('welcome to node7')", "protocol"),
        ("print('clusterctl-hello', 'another')", "protocol"),
        ("print('clusterctl-clock', nonce, 0, 1.0)", "protocol"),
        ("os.write(1, bytes(range(256)) * 100)", "protocol"),
        ("while True: os.write(1, b'x' * 65536)", "protocol"),
        ("while True: os.write(1, b'x' * 64 + bytes([10]))", "protocol"),
        ("say('hello'); say('facts', '{}'); say('facts', '{}'); time.sleep(60)", "protocol"),
        ("say('hello'); say('clock', 0, 'nan'); time.sleep(60)", "protocol"),
        ("say('hello'); say('clock', 0, 'inf'); time.sleep(60)", "protocol"),
        ("say('hello'); say('clock', 99, 1.0); time.sleep(60)", "protocol"),
        ("say('hello'); say('clock'); time.sleep(60)", "protocol"),
        ("raise SystemExit('no such machine\\x1b[31m')", "lost"),
        ("say('hello'); sys.stdin.readline()", "lost"),
    ],
)
def test_what_is_not_the_probe(here: Connection, pretend: Pretend, script: str, kind: str) -> None:
    pretend(script)
    error, exam = exam_of(here)
    assert error.kind == kind
    assert "\x1b" not in error.why
    assert error.next_step
    assert isinstance(exam.clock, Unread)


def test_its_last_words_are_told(here: Connection, pretend: Pretend) -> None:
    pretend("raise SystemExit('no such machine')")
    assert "no such machine" in exam_of(here)[0].why


@pytest.mark.parametrize(
    "facts", ["{}", "[", "{'a'", '{"wire_version": 1}', '{"wire_version": 99}']
)
def test_facts_that_are_none_keep_the_clock(here: Connection, pretend: Pretend, facts: str) -> None:
    pretend(
        f"say('hello'); say('facts', {facts!r})\n"
        "for line in sys.stdin: say('clock', line.split()[1], repr(time.time()))\n"
    )
    error, exam = exam_of(here)
    assert error.kind == "protocol"
    assert isinstance(exam.clock, ClockOffset)


@pytest.mark.parametrize("script", ["time.sleep(600)", "say('hello'); time.sleep(600)"])
def test_silence_ends_at_the_deadline(here: Connection, pretend: Pretend, script: str) -> None:
    pretend(script)
    assert exam_of(here, timeout_s=0.5)[0].kind == "timeout"


def test_the_offset_of_a_wrong_clock(here: Connection, pretend: Pretend) -> None:
    pretend(
        "say('hello')\n"
        "for line in sys.stdin:\n"
        "    delay = 0.02 if line.startswith('clock 0') else 0.0\n"
        "    time.sleep(delay)\n"
        "    say('clock', line.split()[1], repr(time.time() + 120))\n"
    )
    clock = exam_of(here, timeout_s=2)[1].clock
    assert isinstance(clock, ClockOffset)
    assert abs(clock.offset_s - 120) <= clock.uncertainty_s
