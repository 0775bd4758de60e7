"""Processes over SSH and on this machine: the same promises."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterctl.inventory import Become, Node, Secret
from clusterctl.ssh import Connection, NodeFailure, connect, printable
from clusterctl.ssh.launch import line

Sshd = Any
"""See conftest.py."""


@pytest.fixture(params=["local", "ssh"])
def connection(request: pytest.FixtureRequest, sshd: Sshd) -> Iterator[Connection]:
    node = Node("here", "localhost", local=True) if request.param == "local" else sshd.node
    opened = connect(node)
    yield opened
    opened.close()


def error_of(call: Callable[[], object]) -> Any:
    with pytest.raises(NodeFailure) as caught:
        call()
    return caught.value.error


def await_end(pid: int) -> None:
    """Wait until a process is gone, or is only waiting for its parent."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} still runs")


def test_lines(connection: Connection) -> None:
    process = connection.start(["cat"])
    process.write(b"one\n\ntwo\nrest")
    assert [process.read_line(5) for _ in range(3)] == [b"one", b"", b"two"]
    process.close_stdin()
    error = error_of(lambda: process.read_line(5))
    assert (error.kind, "cat" in error.why) == ("lost", True)
    assert process.wait(5) == 0


def test_deadline(connection: Connection) -> None:
    process = connection.start(["sleep", "30"])
    assert error_of(lambda: process.read_line(0.1)).kind == "timeout"
    assert error_of(lambda: process.wait(0.1)).kind == "timeout"
    process.kill()


def test_flood(connection: Connection) -> None:
    process = connection.start(["sh", "-c", "tr '\\0' x </dev/zero"])
    assert error_of(lambda: process.read_line(10, 100_000)).kind == "protocol"
    process.kill()
    run = connection.run
    assert error_of(lambda: run(["cat", "/dev/zero"], limit_bytes=100_000)).kind == "protocol"


def test_flood_on_standard_error_stops_nothing(connection: Connection) -> None:
    script = "head -c 5000000 /dev/zero | tr '\\0' e >&2; echo end >&2; echo done"
    process = connection.start(["sh", "-c", script])
    assert process.read_line(20) == b"done"
    assert process.wait(5) == 0
    assert process.stderr_tail().endswith("end")
    assert len(process.stderr_tail()) < 10_000


def test_large_input_comes_back(connection: Connection) -> None:
    data = bytes(range(256)) * 16_000
    assert connection.run(["cat"], stdin=data, limit_bytes=1 << 23).stdout == data


def test_input_that_nobody_takes(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterctl.ssh.process.WRITE_TIMEOUT_S", 0.3)
    process = connection.start(["sleep", "30"])
    error = error_of(lambda: process.write(b"x" * (8 << 20)))
    assert error.kind == "timeout"
    process.kill()


def test_write_to_what_has_ended(connection: Connection) -> None:
    process = connection.start(["true"])
    process.wait(5)
    assert error_of(lambda: process.write(b"x" * (8 << 20))).kind == "lost"


def test_exit_status_and_error_output(connection: Connection) -> None:
    done = connection.run(["sh", "-c", "echo oh >&2; exit 7"])
    assert (done.exit_status, done.stdout, done.stderr) == (7, b"", b"oh\n")
    assert connection.run(["sh", "-c", "kill -9 $$"]).exit_status < 0


def test_missing_command(connection: Connection) -> None:
    done = connection.run(["no-such-command"])
    assert done.exit_status == 127
    assert b"no-such-command" in done.stderr


def test_standard_error_is_shown_escaped(connection: Connection) -> None:
    process = connection.start(["printf", r"\033[31mred\377"])
    process.wait(5)
    process = connection.start(["sh", "-c", r"printf '\033[31mred\377' >&2"])
    process.wait(5)
    assert process.stderr_tail() == "\\x1b[31mred\ufffd"


def test_many_processes_at_once(connection: Connection) -> None:
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(connection.run(["echo", str(n)]).stdout))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == [f"{n}\n".encode() for n in range(8)]


def test_closing_ends_local_processes() -> None:
    connection = connect(Node("here", "localhost", local=True))
    script = "trap '' TERM; sleep 300 & echo $!; trap - TERM; wait"
    process = connection.start(["sh", "-c", script])
    pid = int(process.read_line(5))
    connection.close()
    await_end(pid)


def test_closing_ends_a_remote_reader(sshd: Sshd) -> None:
    connection = connect(sshd.node)
    process = connection.start(["sh", "-c", "echo $$; cat; exit 0"])
    pid = int(process.read_line(5))
    connection.close()
    await_end(pid)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40), max_size=5
    )
)
def test_arguments_arrive_as_they_are(words: list[str]) -> None:
    receiver = ["sh", "-c", 'IFS= read -r line && eval "$line"']
    text = line(["printf", "%s\\0", "-", *words])
    assert text.count(b"\n") == 1
    done = subprocess.run(receiver, input=text, capture_output=True, check=True)
    assert done.stdout.decode() == "".join(f"{word}\0" for word in ["-", *words])


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_login_that_prints_noise(new_sshd: Callable[..., Sshd], tmp_path: Path, shell: str) -> None:
    noisy = tmp_path / "noisy"
    noisy.write_text(
        f"#!/bin/sh\necho 'Welcome!'; printf 'no newline'; echo grumble >&2\n"
        f'exec {shell} -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    noisy.chmod(0o755)
    server = new_sshd(f"ForceCommand {noisy}")
    connection = connect(server.node)
    assert connection.run(["echo", "clean"]).stdout == b"clean\n"
    connection.close()


def test_login_that_runs_nothing(new_sshd: Callable[..., Sshd]) -> None:
    server = new_sshd("ForceCommand echo This account is not available.")
    connection = connect(server.node)
    error = error_of(lambda: connection.run(["true"]))
    assert error.kind == "protocol"
    assert "This account is not available." in error.why
    connection.close()


def test_server_that_dies_during_a_start(new_sshd: Callable[..., Sshd]) -> None:
    server = new_sshd("ForceCommand sleep 30")
    connection = connect(server.node)
    threading.Timer(0.5, server.stop).start()
    error = error_of(lambda: connection.run(["true"]))
    assert error.kind == "lost"
    connection.close()


def test_too_many_sessions(new_sshd: Callable[..., Sshd]) -> None:
    server = new_sshd("MaxSessions 1")
    connection = connect(server.node)
    process = connection.start(["cat"])
    error = error_of(lambda: connection.run(["true"]))
    assert (error.kind, "MaxSessions" in error.next_step) == ("protocol", True)
    process.kill()
    connection.close()


def test_no_escalation_to_oneself(connection: Connection) -> None:
    account = subprocess.run(["id", "-un"], capture_output=True, check=True).stdout
    node = replace(connection.node, become=Become(user=account.decode().strip()))
    opened = connect(node)
    assert opened.run(["id", "-un"], become=True).stdout == account
    opened.close()


def test_su_to_another_user(connection: Connection) -> None:
    opened = connect(replace(connection.node, become=Become(method="su", user="nobody")))
    done = opened.run(
        ["sh", "-c", 'id -un; echo "$1"; cat', "sh", "a 'b'\nc"], stdin=b"in", become=True
    )
    assert done.stdout == b"nobody\na 'b'\nc\nin"
    opened.close()


def test_unsupported_escalation(connection: Connection) -> None:
    for become in (Become("pbrun", "nobody"), Become("doas", "nobody", Secret("x"))):
        opened = connect(replace(connection.node, become=become))
        assert error_of(lambda: opened.run(["true"], become=True)).kind == "become"  # noqa: B023
        opened.close()


FAKE_SUDO = r"""#!/bin/sh
# Asks like sudo -S: the prompt on standard error, one line from standard input, three times.
while [ "$1" != -- ]; do
  case $1 in -p) prompt=$2; shift ;; -n) echo 'sudo: a password is required' >&2; exit 1 ;; esac
  shift
done
shift
for attempt in 1 2 3; do
  printf %s "$prompt" >&2
  IFS= read -r answer
  [ "$answer" = hunter2 ] && exec "$@"
  echo 'Sorry, try again.' >&2
done
echo 'sudo: 3 incorrect password attempts' >&2
exit 1
"""


@pytest.fixture
def sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Secret | None], Connection]:
    """A stand-in that asks as sudo does; the real one is tried on lab nodes."""
    program = tmp_path / "bin" / "sudo"
    program.parent.mkdir()
    program.write_text(FAKE_SUDO)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    here = Node("here", "localhost", local=True)
    return lambda password: connect(replace(here, become=Become(user="other", password=password)))


def test_password_of_sudo(sudo: Callable[[Secret | None], Connection]) -> None:
    done = sudo(Secret("hunter2")).run(["cat"], stdin=b"data", become=True)
    assert (done.exit_status, done.stdout) == (0, b"data")


def test_wrong_password_of_sudo(sudo: Callable[[Secret | None], Connection]) -> None:
    error = error_of(lambda: sudo(Secret("wrong one")).run(["true"], become=True))
    assert (error.kind, "wrong password" in error.why) == ("become", True)
    assert "wrong one" not in repr(error)


def test_missing_password_of_sudo(sudo: Callable[[Secret | None], Connection]) -> None:
    error = error_of(lambda: sudo(None).run(["true"], become=True))
    assert (error.kind, "a password is required" in error.why) == ("become", True)


def test_password_is_in_no_process_list(sudo: Callable[[Secret | None], Connection]) -> None:
    process = sudo(Secret("hunter2")).start(["sleep", "30"], become=True)
    seen = b""
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                seen += (folder / name).read_bytes()
            except OSError:
                continue
    process.kill()
    assert b"sleep\x0030" in seen
    assert b"hunter2" not in seen


def test_signal_reaches_the_local_group() -> None:
    connection = connect(Node("here", "localhost", local=True))
    process = connection.start(
        ["sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 1; done"]
    )
    assert process.read_line(5) == b"ready"
    process.kill()
    assert process.wait(5) in (3, -signal.SIGTERM, -signal.SIGKILL)


def test_printable() -> None:
    assert printable("a\tb\r\x1b[0m\nü\u202e") == "a\\tb\\r\\x1b[0m\nü\\u202e"
