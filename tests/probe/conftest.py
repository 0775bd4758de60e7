"""The probe as the controller starts it: a process of its own, from what travels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from clusterctl.decode import node_facts
from clusterctl.facts import NodeFacts
from clusterctl.payload import PROBE, Interpreter

NONCE = "c0ffee"


class Talk:
    """A probe that runs, spoken to line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, kind: str) -> str:
        """Read one line, which must be of this kind; give what follows the nonce."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith(f"clusterctl-{kind} {NONCE}"), line
        return line.split(" ", 2)[2].rstrip("\n") if line.count(" ") > 1 else ""

    def leave(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def travelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the controller sends to a node, in a folder."""
    folder = tmp_path_factory.mktemp("payload")
    machine = Interpreter(python="3.9.0", machine=os.uname().machine, libc="glibc")
    for name, data in PROBE(machine).files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture
def start(travelling: Path) -> Iterator[Callable[..., Talk]]:
    """Start the probe, or a script that uses its modules, under some Python."""
    processes = []

    def _start(
        arguments: Sequence[str] = (),
        *,
        script: str = "",
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> Talk:
        main = ["-c", script] if script else ["-m", "clusterctl.probe"]
        process = subprocess.Popen(
            [python, *main, "--nonce", NONCE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(travelling), **(environment or {})},
            start_new_session=True,
        )
        processes.append(process)
        return Talk(process)

    yield _start
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def read(start: Callable[..., Talk]) -> Callable[..., NodeFacts]:
    """Run the probe to its end and decode its facts."""

    def _read(*arguments: str, environment: Mapping[str, str] | None = None) -> NodeFacts:
        talk = start(arguments, environment=environment)
        talk.hear("hello")
        facts = node_facts(talk.hear("facts").encode())
        assert talk.leave() == 0
        assert isinstance(facts, NodeFacts), facts
        return facts

    return _read


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[Mapping[str, str]], Path]:
    """Make a captured root from paths and contents; a value ``-> x`` is a symbolic link."""

    def _tree(files: Mapping[str, str]) -> Path:
        root = tmp_path / "root"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content.startswith("-> "):
                path.symlink_to(content[3:])
            else:
                path.write_text(content)
        return root

    return _tree


@pytest.fixture
def commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Mapping[str, str]], None]:
    """Put shell scripts first on PATH: services that this machine does not run."""

    def _commands(scripts: Mapping[str, str]) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, body in scripts.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return _commands
