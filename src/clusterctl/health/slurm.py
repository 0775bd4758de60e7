"""Slurm: drain this node when it fails, and resume it when it is well again and we drained it."""

from __future__ import annotations

import os
import re
import socket
import subprocess

from clusterctl.findings import Report, Status, Verdict
from clusterctl.probe.reading import find_command

MARK = "clusterctl: "
"""Begins the reasons that are ours. A node that somebody else drained is left alone."""

TIMEOUT_S = 20
REASON_LIMIT = 200
HELD = re.compile(r"DRAIN|DOWN|FAIL")


class SlurmError(Exception):
    """Slurm could not be asked or told."""


def act(report: Report) -> str:
    """Drain or resume this node as the report demands; give what was done, empty: nothing.

    What could not be determined drains nothing and resumes nothing. Raises :class:`SlurmError`.
    """
    trouble = reason_of(report)
    name = _name()
    state, reason = _node(name)
    ours = reason.startswith(MARK)
    if trouble:
        # Slurm keeps the reason of a node that was resumed: alone it says nothing.
        if HELD.search(state) and (not ours or reason == trouble):
            return ""
        _scontrol("update", f"NodeName={name}", "State=DRAIN", f"Reason={trouble}")
        return f"drained {name}: {trouble}"
    if report.verdict is Verdict.READY and "DRAIN" in state and ours:
        _scontrol("update", f"NodeName={name}", "State=RESUME")
        return f"resumed {name}"
    return ""


def reason_of(report: Report) -> str:
    """Give why the node fails, in one line; empty if it does not.

    Without the characters that Slurm's own output separates fields with.
    """
    texts = [
        f"{finding.check} {finding.evidence}"
        for finding in report.findings
        if finding.status is Status.FAIL
    ]
    line = re.sub(r"[^ -~]|[\"'=\[\]]", " ", MARK + "; ".join(texts))
    return " ".join(line.split())[:REASON_LIMIT].rstrip() if texts else ""


def _name() -> str:
    """Give the name that Slurm has for this node: slurmd tells it, else its host name does."""
    given = os.environ.get("SLURMD_NODENAME", "")
    if given:
        return given
    host = socket.gethostname().partition(".")[0]
    for line in _scontrol("show", "node", "--oneliner").splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split())
        if fields.get("NodeHostName") == host:
            return fields["NodeName"]
    raise SlurmError(f"Slurm knows no node whose NodeHostName is {host}")


def _node(name: str) -> tuple[str, str]:
    """Give the node's state and reason."""
    line = _scontrol("show", "node", name, "--oneliner")
    state = re.search(r"\sState=(\S+)", line)
    reason = re.search(r"\sReason=(.*?)(?:\s\[\S+@\S+\])?\s*(?:\sComment=.*)?$", line.strip())
    if state is None:
        raise SlurmError(f"scontrol show node {name} names no state")
    return state[1], reason[1] if reason else ""


def _scontrol(*arguments: str) -> str:
    path = find_command("scontrol")
    if path is None:
        raise SlurmError("there is no scontrol here")
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            text=True,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"scontrol: no answer within {TIMEOUT_S} seconds") from None
    except subprocess.CalledProcessError as error:
        raise SlurmError(f"scontrol {arguments[0]}: {error.stderr.strip()[:200]}") from None
    return done.stdout
