"""The child process that holds ansible-runner: ``python -m clusterctl.provision.child``.

It reads one line of JSON with the order (the password of sudo comes this way: a pipe is in no
process list), writes each event as a line of JSON, and last
``{"event": "ended", "rc": ...}``. When its standard input closes, because the run is stopped or
because its parent was killed, it cancels the run.

A process of its own, because ansible-runner forks a pseudo terminal, which a process with
threads (such as one with a live view) cannot do safely.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ansible_runner

from clusterctl.provision.cleanup import MARKER, sweep

_POLL_S = 1


def main() -> None:
    """Run what the order says."""
    order = json.loads(sys.stdin.buffer.readline())
    # Events go where standard output went; whatever prints by itself goes to the log.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(event: Mapping[str, Any]) -> None:
        try:
            events.write(json.dumps(event) + "\n")
            events.flush()
        except BrokenPipeError:
            pass  # the parent is gone; the closed standard input ends the run

    def handle(event: Mapping[str, Any]) -> bool:
        send(event)
        return False  # ansible-runner need not keep it in a file

    scratch = Path(order["scratch"])
    try:
        send({"event": "ended", "rc": _run(order, scratch, handle)})
    finally:
        sweep(os.environ[MARKER], scratch)


def _run(
    order: Mapping[str, Any], scratch: Path, handle: Callable[[Mapping[str, Any]], bool]
) -> int:
    result = ansible_runner.run(
        private_data_dir=str(scratch),
        project_dir=order["folder"],
        playbook=order["playbook"],
        cmdline=shlex.join(order["arguments"]),
        passwords=order["passwords"],
        settings={"pexpect_timeout": _POLL_S, "suppress_ansible_output": True},
        suppress_env_files=True,
        fact_cache_type="none",
        event_handler=handle,
        # Without it, ansible-runner would put its own handlers of SIGINT and SIGTERM in place.
        cancel_callback=_stdin_closed,
        quiet=True,
    )
    return int(result.rc)


def _stdin_closed() -> bool:
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and os.read(0, 1) == b""


if __name__ == "__main__":
    main()
