"""The supervisor against real processes: what it starts never outlives its use."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A daemon as MPI's are: in a session of its own, its parent gone, its streams elsewhere.
DAEMON = "setsid sh -c 'echo $$ > {pids}/$$; exec sleep 300' >/dev/null 2>&1 &"


class Supervised:
    """A supervisor and the talk with it."""

    def __init__(self, folder, deadline_s=60):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clusterctl.fabric.supervise", str(folder), str(deadline_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.ready = self.read()["ready"]

    def tell(self, **order):
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def read(self):
        return json.loads(self.process.stdout.readline())

    def read_until(self, key):
        while True:
            message = self.read()
            if key in message:
                return message


@pytest.fixture
def pids(tmp_path):
    folder = tmp_path / "pids"
    folder.mkdir()
    yield folder
    for pid in folder.iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.name), signal.SIGKILL)


@pytest.fixture
def start(tmp_path):
    started = []

    def make(**options):
        started.append(Supervised(tmp_path / "own", **options))
        return started[-1]

    yield make
    for supervised in started:
        supervised.process.kill()
        supervised.process.wait()
        supervised.process.stdin.close()
        supervised.process.stdout.close()


def eventually(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)


def running(pids):
    return [pid for pid in pids.iterdir() if Path("/proc", pid.name).exists()]


def test_lines_of_a_command_are_passed_on_and_its_end_comes_last(start):
    supervised = start()
    supervised.tell(run=["sh", "-c", 'echo out; echo "$WORD" >&2; exit 3'], env={"WORD": "err"})
    messages = [supervised.read() for _ in range(3)]
    assert sorted(messages[:2], key=str) == [{"err": "err"}, {"out": "out"}]
    assert messages[2] == {"exit": 3}


def test_a_command_reads_what_the_controller_writes(start):
    supervised = start()
    supervised.tell(run=["cat"])
    supervised.tell(input="a line")
    assert supervised.read() == {"out": "a line"}


def test_a_command_that_is_not_there_ends_with_127(start):
    supervised = start()
    supervised.tell(run=["/nonexistent/mpirun"])
    assert "/nonexistent/mpirun" in supervised.read()["err"]
    assert supervised.read() == {"exit": 127}


def test_commands_find_the_same_python_and_package(start):
    supervised = start()
    code = "import clusterctl.fabric.supervise as s; print(s.__file__)"
    supervised.tell(run=["sh", "-c", f'"$CLUSTERCTL_PYTHON" -c "{code}"'])
    assert supervised.read()["out"].endswith("clusterctl/fabric/supervise.py")


def test_stop_ends_daemons_and_removes_their_files(start, pids, tmp_path):
    supervised = start()
    supervised.tell(run=["sh", "-c", 'touch "$TMPDIR/left"; ' + DAEMON.format(pids=pids)])
    eventually(lambda: running(pids))
    supervised.read_until("exit")
    supervised.tell(stop=7)
    assert supervised.read_until("stopped") == {"stopped": 7}
    assert not running(pids)
    assert not (tmp_path / "own").exists()
    supervised.tell(ping=8)
    assert supervised.read_until("pong")["pong"] == 8


def test_commands_run_again_after_a_stop(start):
    supervised = start()
    supervised.tell(stop=1)
    supervised.tell(run=["echo", "again"])
    assert supervised.read_until("out") == {"out": "again"}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_everything(start, pids, end):
    supervised = start()
    supervised.tell(run=["sh", "-c", DAEMON.format(pids=pids) + " sleep 300"])
    eventually(lambda: running(pids))
    supervised.process.send_signal(end)
    supervised.process.wait(20)
    assert not running(pids)


def test_the_deadline_ends_everything_even_when_nobody_reads(start, pids):
    supervised = start(deadline_s=2)
    supervised.tell(run=["sh", "-c", DAEMON.format(pids=pids) + " yes"])
    eventually(lambda: running(pids))
    supervised.process.wait(20)
    assert not running(pids)


def test_a_killed_controller_leaves_nothing(tmp_path, pids):
    code = (
        "import subprocess, sys, json, time\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'clusterctl.fabric.supervise', "
        f"{str(tmp_path / 'own')!r}, '60'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        f"order = {{'run': ['sh', '-c', {DAEMON.format(pids=pids) + ' sleep 300'!r}]}}\n"
        "p.stdin.write(json.dumps(order).encode() + b'\\n'); p.stdin.flush()\n"
        "time.sleep(300)\n"
    )
    controller = subprocess.Popen([sys.executable, "-c", code])
    eventually(lambda: running(pids))
    controller.kill()
    controller.wait()
    eventually(lambda: not running(pids))
    eventually(lambda: not (tmp_path / "own").exists())


def test_a_killed_supervisor_takes_its_commands_along(start, pids):
    supervised = start()
    supervised.tell(run=["sh", "-c", f"echo $$ > {pids}/$$; exec sleep 300"])
    eventually(lambda: running(pids))
    supervised.process.kill()
    eventually(lambda: not running(pids))


def test_a_folder_of_somebody_else_is_refused(start, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "own").symlink_to(elsewhere)
    supervised = start()
    supervised.tell(run=["echo", "hi"])
    assert "err" in supervised.read()
    assert supervised.read() == {"exit": 127}
    assert elsewhere.exists()


def test_it_says_what_the_controller_needs_to_know(start):
    ready = start().ready
    assert ready["uid"] == os.getuid()
    assert ready["hostname"] == os.uname().nodename
    assert all(isinstance(count, int) for count in ready["tcp"])
