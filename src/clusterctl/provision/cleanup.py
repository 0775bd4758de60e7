"""What a run leaves on the controller when it is killed, and how it is ended.

Ansible's workers and ssh's masters leave the process group and the session that they were
started in, and killing ``ansible-playbook`` leaves them behind. All of them inherit the
environment, so a variable with the run's id marks them. A master writes its title over its
environment; the title names its socket, which lies in the run's private folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

MARKER = "CLUSTERCTL_RUN"
"""Environment variable that every process of a run carries: the run's id."""

_TERMINATION_GRACE_S = 2.0


def make_scratch() -> Path:
    """Make a run's private folder. Short, since socket paths end at 108 bytes; only ours (0700)."""
    return Path(tempfile.mkdtemp(prefix="clusterctl-", dir="/tmp"))


def sweep(run_id: str, scratch: Path) -> None:
    """End every process of a run but this one, and remove its private folder."""
    ours = [process for process in psutil.process_iter() if _belongs(process, run_id, scratch)]
    for process in ours:
        _signal(process, psutil.Process.terminate)
    _gone, alive = psutil.wait_procs(ours, timeout=_TERMINATION_GRACE_S)
    for process in alive:
        _signal(process, psutil.Process.kill)
    psutil.wait_procs(alive, timeout=_TERMINATION_GRACE_S)
    shutil.rmtree(scratch, ignore_errors=True)


def _belongs(process: psutil.Process, run_id: str, scratch: Path) -> bool:
    try:
        if process.pid == os.getpid():
            return False
        title = " ".join(process.cmdline())
        return title.startswith(f"ssh: {scratch}/") or process.environ().get(MARKER) == run_id
    except (psutil.Error, OSError):
        return False  # it ended, or it is another user's


def _signal(process: psutil.Process, send: Callable[[psutil.Process], None]) -> None:
    with suppress(psutil.Error):
        send(process)
