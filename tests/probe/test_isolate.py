"""Sections that hang, raise, crash or flood; and what is left when the controller is gone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPT = """
import ctypes, os, sys, time
from clusterctl.probe.__main__ import parse, run
from clusterctl.probe.isolate import apart, note
from clusterctl.probe.reading import command

def hangs(request):
    note("statvfs /mnt/far (nfs4)")
    time.sleep(600)

def raises(request):
    raise RuntimeError("no good\\x1b[31m\\n")

def is_denied(request):
    raise PermissionError(13, "Permission denied", "/proc/1/mem")

def crashes(request):
    note("nvmlInit")
    ctypes.string_at(0)

def dies(request):
    os._exit(7)

def floods(request):
    return "x" * (1 << 20)

def prints(request):
    print("a library's words")
    os.write(1, b"more of them")
    return "fine"

def forks(request):
    if os.fork() == 0:
        time.sleep(600)
    return "fine"

def commands(request):
    return command("chronyc", "tracking", deadline_s=600).stdout

def nested(request):
    return apart("NVML", lambda: time.sleep(600), 500)

def nested_crash(request):
    return apart("NVML", lambda: os.abort(), 500)

SECTIONS = {"hangs": hangs, "raises": raises, "is_denied": is_denied, "crashes": crashes,
            "dies": dies, "floods": floods, "prints": prints, "forks": forks,
            "commands": commands, "nested": nested, "nested_crash": nested_crash}
nonce, request = parse(sys.argv[1:])
run(nonce, request, {name: SECTIONS[name] for name in request.names})
"""
HANG = {"chronyc": "sleep 600"}


def processes_of(session: int) -> list[str]:
    """Name every living process of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, its_session = rest.split()[:4]
        if int(its_session) == session and state != "Z":
            found.append(name)
    return found


def assert_gone(session: int) -> None:
    end = time.monotonic() + 20
    while processes_of(session) and time.monotonic() < end:
        time.sleep(0.02)
    assert processes_of(session) == []


def ask(start: Callable[..., Any], *names: str, deadline_s: str = "30", **more: Any) -> dict:
    talk = start(["--names", ",".join(names), "--deadline", deadline_s], script=SCRIPT, **more)
    talk.hear("hello")
    answers = json.loads(talk.hear("facts"))
    session = talk.process.pid
    assert talk.leave() == 0
    assert_gone(session)
    return answers


def test_every_trouble_stays_with_its_section(start: Callable[..., Any]) -> None:
    names = ("raises", "is_denied", "crashes", "dies", "floods", "prints", "nested_crash")
    answers = ask(start, *names)
    assert answers["raises"] == {"unread": "failed", "why": "RuntimeError: no good\x1b[31m\n"}
    assert answers["is_denied"] == {"unread": "denied", "why": "/proc/1/mem: Permission denied"}
    assert answers["crashes"]["unread"] == "failed"
    assert answers["crashes"]["why"].startswith("nvmlInit: ")
    assert "SIGSEGV" in answers["crashes"]["why"]
    assert "status 7" in answers["dies"]["why"]
    assert "bytes" in answers["floods"]["why"]
    assert answers["prints"] == "fine"
    assert "SIGABRT" in answers["nested_crash"]["why"]


def test_what_hangs_times_out_and_says_where(
    start: Callable[..., Any], commands: Callable[..., None]
) -> None:
    names = ("hangs", "prints", "commands", "nested", "forks")
    commands(HANG)
    answers = ask(start, *names, deadline_s="0.7")
    assert answers["hangs"] == {
        "unread": "timeout",
        "why": "statvfs /mnt/far (nfs4): no answer within 0.7 seconds",
    }
    assert answers["prints"] == "fine"
    assert answers["commands"]["why"].startswith("chronyc tracking: no answer")
    assert answers["nested"]["unread"] == "timeout"
    assert answers["forks"] == "fine"


def test_a_lost_controller_leaves_nothing(
    start: Callable[..., Any], commands: Callable[..., None]
) -> None:
    names = "hangs,commands,nested"
    commands(HANG)
    talk = start(["--names", names], script=SCRIPT)
    talk.hear("hello")
    assert talk.leave() == 0
    assert_gone(talk.process.pid)


def test_a_killed_probe_leaves_nothing(
    start: Callable[..., Any], commands: Callable[..., None]
) -> None:
    names = "hangs,commands,nested"
    commands({"chronyc": "exec sleep 600"})
    talk = start(["--names", names], script=SCRIPT)
    talk.hear("hello")
    end = time.monotonic() + 20
    while len(processes_of(talk.process.pid)) < 6 and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(talk.process.pid, signal.SIGKILL)
    talk.process.wait(timeout=30)
    assert_gone(talk.process.pid)


def test_a_controller_that_stops_reading_ends_it(start: Callable[..., Any]) -> None:
    talk = start(["--names", "prints"], script=SCRIPT)
    talk.process.stdout.close()
    talk.say("clock 1")
    assert talk.process.wait(timeout=30) in (0, -signal.SIGPIPE)
    assert_gone(talk.process.pid)
