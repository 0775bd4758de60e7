"""The real probe on this machine, under every Python that is at hand."""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable

from clusterctl.decode import node_facts
from clusterctl.facts import Cpu, Memory, Names, NodeFacts, ResourceLimits, System


def test_reads_this_machine(start: Callable[..., object], every_python: str) -> None:
    talk = start(["--names", "localhost,nowhere.invalid"], python=every_python)
    talk.hear("hello")
    facts = node_facts(talk.hear("facts").encode())
    assert talk.leave() == 0
    assert isinstance(facts, NodeFacts), facts

    assert isinstance(facts.system, System)
    assert facts.system.hostname == socket.gethostname()
    assert facts.system.kernel == platform.release()
    assert facts.system.python in subprocess.check_output([every_python, "-V"], text=True)
    assert isinstance(facts.cpu, Cpu)
    assert facts.cpu.threads == os.cpu_count()
    assert isinstance(facts.memory, Memory)
    assert facts.memory.total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert isinstance(facts.limits, ResourceLimits)
    assert isinstance(facts.names, Names)
    assert facts.names.resolved["localhost"] in ("127.0.0.1", "::1")
    assert facts.names.resolved["nowhere.invalid"] == ""
    assert facts.names.reasons["nowhere.invalid"]
    assert isinstance(facts.filesystems, list)
    root = next(filesystem for filesystem in facts.filesystems if filesystem.mountpoint == "/")
    assert root.total_bytes > root.free_bytes
    assert isinstance(facts.nics, list)
    loopback = next(nic for nic in facts.nics if nic.name == "lo")
    assert loopback.up
    assert ipaddress.ip_interface(loopback.addresses[0]).ip.is_loopback


def test_answers_the_clock_while_sections_hang(start: Callable[..., object]) -> None:
    talk = start(
        script="import sys, time\n"
        "from clusterctl.probe.__main__ import parse, run\n"
        "run(*parse(sys.argv[1:]), {'names': lambda request: time.sleep(600)})\n"
    )
    talk.hear("hello")
    before = time.time()
    talk.say("clock 7")
    number, seconds = talk.hear("clock").split()
    assert number == "7"
    assert before <= float(seconds) <= time.time()
    talk.say("bye")
    assert talk.process.wait(timeout=30) == 0


def test_what_is_no_question_is_no_answer(start: Callable[..., object]) -> None:
    talk = start()
    talk.hear("hello")
    talk.say("clock")
    talk.say("clock 1 2")
    talk.say("\x1b[31m")
    talk.hear("facts")
    talk.say("clock 3")
    assert talk.hear("clock").startswith("3 ")


def test_an_endless_question_ends_it(start: Callable[..., object]) -> None:
    talk = start()
    talk.process.stdin.write(b"x" * 10_000)
    talk.process.stdin.flush()
    assert talk.process.wait(timeout=30) == 0


def test_an_unknown_option_is_refused(start: Callable[..., object]) -> None:
    assert start(["--no-such", "1"]).process.wait(timeout=30) != 0
