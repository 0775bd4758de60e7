"""The command line as a user meets it: help, exit codes, errors."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from clusterctl.cli import COMMANDS, cli


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clusterctl", *args],
        capture_output=True,
        text=True,
        env=os.environ | env,
        timeout=120,
    )


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


@pytest.mark.parametrize("path", commands(cli), ids=" ".join)
def test_every_command_explains_itself_with_an_example(path: tuple[str, ...]) -> None:
    done = run(*path, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"clusterctl {' '.join(path)}" in done.stdout


def test_help_lists_every_command() -> None:
    done = run("--help")
    assert all(name in done.stdout for name in COMMANDS)


def test_a_missing_inventory_is_one_sentence_and_a_next_step() -> None:
    done = run("doctor", "-i", "/nowhere/hosts.yml")
    assert done.returncode == 2
    assert "/nowhere/hosts.yml" in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_option_is_a_usage_error() -> None:
    assert run("doctor", "--nonsense").returncode == 2


def test_limit_without_inventory_is_a_usage_error() -> None:
    assert run("doctor", "--limit", "x").returncode == 2


def test_a_bug_is_told_as_one(tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import sys, clusterctl.doctor, clusterctl.cli.doctor as command\n"
        "from clusterctl.cli import main\n"
        "def broken(*args): raise RuntimeError('planted')\n"
        "command.examine = broken\n"
        "sys.argv = ['clusterctl', 'doctor', '--level', 'quick']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, driver], capture_output=True, text=True, timeout=60,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    (saved,) = tmp_path.glob("clusterctl-bug-*.txt")
    assert str(saved) in done.stderr
    assert "planted" in saved.read_text()


@pytest.mark.parametrize(
    ("limits", "said"),
    [("{link_bandwith_min: 3}", "link_bandwith_min"), ("fast", "not a dictionary")],
)
def test_a_limit_that_judges_nothing_is_refused(tmp_path: Path, limits: str, said: str) -> None:
    hosts = tmp_path / "hosts.yml"
    hosts.write_text(f"all: {{hosts: {{a: {{doctor_limits: {limits}}}}}}}\n")
    done = run("doctor", "-i", str(hosts))
    assert done.returncode == 2
    assert said in done.stderr


def test_an_unreachable_node_is_not_ready(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.ini"
    hosts.write_text("gone ansible_host=127.0.0.1 ansible_port=1\n")
    done = run("doctor", "-i", str(hosts), XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "gone" in done.stdout
    assert "NOT READY" in done.stdout.splitlines()[-1]


def test_output_into_a_closed_pipe_is_quiet() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m clusterctl --help | true"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
