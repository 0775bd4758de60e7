"""One run of the playbook: start it, follow its events, stop it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ansible.config.manager import find_ini_config_file

from clusterctl.inventory import Secret
from clusterctl.provision.cleanup import MARKER, sweep
from clusterctl.provision.redaction import Redaction

_FORKS_MAX = 100
_TASK_LIMIT_S = 3600
_STOP_GRACE_S = 10.0

_DEFAULTS = {
    "ANSIBLE_PIPELINING": "True",
    # ansible-runner would switch it off.
    "ANSIBLE_HOST_KEY_CHECKING": "True",
    # A node that freezes is given up after a minute of silence.
    "ANSIBLE_SSH_EXTRA_ARGS": "-o ServerAliveInterval=15 -o ServerAliveCountMax=4",
    "ANSIBLE_TASK_TIMEOUT": str(_TASK_LIMIT_S),
    "ANSIBLE_NOCOLOR": "True",
}
"""Settings of Ansible that the user's own environment may override."""


@dataclass(frozen=True)
class Request:
    """What the user asks for, in Ansible's own terms."""

    inventory: str
    playbook: Path
    limit: str | None = None
    tags: str | None = None
    check: bool = False
    diff: bool = False
    rolling: str | None = None
    """How many nodes at a time: a number or a percentage; None: all that the inventory says."""
    max_failures: int | None = None
    """When more nodes have failed, no node begins another role; None: they go on."""
    all_or_nothing: bool = False
    """A node that fails before anything was touched ends the run."""
    no_reboot: bool = False
    done: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Node -> the roles that a resumed run had finished on it."""
    become_password: Secret | None = None

    def arguments(self) -> list[str]:
        """Give the arguments of ``ansible-playbook``. They show in process lists: no secret."""
        arguments = ["-i", self.inventory, "--forks", str(_FORKS_MAX)]
        arguments += ["--limit", self.limit] if self.limit else []
        arguments += ["--tags", self.tags] if self.tags else []
        arguments += ["--check"] if self.check else []
        arguments += ["--diff"] if self.diff else []
        arguments += ["--ask-become-pass"] if self.become_password else []
        return arguments

    def variables(self) -> dict[str, Any]:
        """Give the playbook's variables that the options set; it has a default for each."""
        variables: dict[str, Any] = {"provision_done": self.done} if self.done else {}
        if self.rolling:
            variables["provision_batch"] = self.rolling
        if self.all_or_nothing:
            variables["provision_all_or_nothing"] = True
        if self.no_reboot:
            variables["provision_reboot"] = "never"
        return variables

    def answers(self) -> dict[str, str]:
        """Give the answers to Ansible's prompts, by pattern. Secret."""
        password = self.become_password
        return {r"^BECOME password.*:\s*?$": password.reveal()} if password else {}


class Run:
    """A running playbook. Iterate over :meth:`events`; then ``return_code`` is Ansible's."""

    def __init__(
        self, request: Request, run_id: str, scratch: Path, log: Path, redact: Redaction
    ) -> None:
        self._redact = redact
        self.return_code: int | None = None
        self._id, self._scratch = run_id, scratch
        self._stop_file = scratch / "stop"
        variables = request.variables() | {
            "provision_run": run_id,
            "provision_stop_file": str(self._stop_file),
        }
        options = scratch / "options.json"
        options.write_text(json.dumps(variables))
        order = {
            "scratch": str(scratch),
            "folder": str(Path.cwd()),
            "playbook": str(request.playbook),
            "arguments": [*request.arguments(), "--extra-vars", f"@{options}"],
            "passwords": request.answers(),
        }
        with log.open("wb") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "clusterctl.provision.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=_environment(request, run_id, scratch),
                # Ctrl-C on the terminal is for us to pass on.
                start_new_session=True,
            )
        _pipe(self._process.stdin).write(json.dumps(order).encode() + b"\n")
        _pipe(self._process.stdin).flush()

    def events(self) -> Iterator[dict[str, Any]]:
        """Give Ansible's events as they come, until the run has ended or was stopped."""
        for line in _pipe(self._process.stdout):
            event: dict[str, Any] = json.loads(self._redact(line))
            if event["event"] == "ended":
                self.return_code = event["rc"]
            else:
                yield event

    def wind_down(self, reason: str) -> None:
        """Let every node end before its next role, and begin with no other node."""
        if not self._stop_file.exists():
            aside = self._stop_file.with_suffix(".new")
            aside.write_text(reason)
            aside.replace(self._stop_file)  # nobody reads half a reason

    def stop(self) -> None:
        """Ask the child to cancel the run; its events end soon after."""
        with suppress(OSError, ValueError):
            _pipe(self._process.stdin).close()

    def kill(self) -> None:
        """End every process of the run at once; its events end with them."""
        sweep(self._id, self._scratch)

    def close(self) -> None:
        """See that nothing of the run is left on this machine, whatever state it is in."""
        self.stop()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_GRACE_S)
        self.kill()
        self._process.wait()
        _pipe(self._process.stdout).close()


def _environment(request: Request, run_id: str, scratch: Path) -> dict[str, str]:
    environment = {**_DEFAULTS, **os.environ}
    if find_ini_config_file() is None:
        environment["ANSIBLE_CONFIG"] = str(request.playbook.with_name("ansible.cfg"))
    return environment | {
        MARKER: run_id,
        # ansible-runner looks for ansible-playbook there, and this one belongs to our Python.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(scratch / "cp"),
        "ANSIBLE_LOCAL_TEMP": str(scratch / "tmp"),
        "PYTHONWARNINGS": "ignore",
    }


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101 - Popen was given PIPE
    return pipe
