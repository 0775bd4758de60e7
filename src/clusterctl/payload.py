"""Starting a module on a node, from a bundle of files that travels there.

Nothing is installed: the files lie in a cache folder that is named by their content. The talk
with bootstrap.py, one JSON object a line, each of the node's lines after the nonce of this run::

    node        {"python": "3.11.2", "machine": "x86_64", "libc": "glibc"}
    controller  {"hash": "..."}
    node        {"need": "..."}           only when it does not have the content
    controller  {"bytes": n} and n bytes  then
    node        {"ready": folder}         and the module runs; {"disk": [reasons]}: it could not

"""

from __future__ import annotations

import functools
import json
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusterctl.bundle import PROBE, Bundle, Interpreter, Payload, fabric
from clusterctl.ssh import Connection, NodeFailure, Process, failure, printable

__all__ = ["PROBE", "Bundle", "Interpreter", "Payload", "fabric", "start"]

OLDEST_PYTHON = "3.9"
PYTHONS = (
    *(f"python3.{minor}" for minor in range(13, 8, -1)),
    "python3",
    "/usr/libexec/platform-python",
)
LINE_LIMIT_BYTES = 1 << 16
NOISE_STEP = "log in by hand and see what the account's login scripts print"

FIND_PYTHON = r"""
nonce=$1; code=$2; old=; shift 2
for python in PYTHONS; do
  path=$(command -v "$python") || continue
  version=$("$path" -V 2>&1) || continue
  case $version in
    "Python 3."[0-8] | "Python 3."[0-8].* | "Python "[0-2].*) old="$path is $version" ;;
    "Python "*) exec "$path" -I -c "$code" "$nonce" "$@" ;;
  esac
done
old=$(printf %s "$old" | tr -cd 'A-Za-z0-9 ./_-')
printf '\n%s {"nopython": "%s"}\n' "$nonce" "$old"
"""
"""POSIX shell: runs the bootstrap under the first Python that is new enough.

``-V`` is asked since a name alone says little: pyenv has one for Pythons that do not start.
"""


def start(
    connection: Connection,
    payload: Payload,
    module: str,
    args: Sequence[str],
    *,
    become: bool = False,
    timeout_s: float = 30,
    python: str | None = None,
) -> Process:
    """Run ``module`` of the payload on the node; the process given has just begun.

    Raises :class:`NodeFailure` of kind ``python``, ``disk``, ``become``, ``timeout``, ``lost``
    or ``protocol``.
    """
    nonce = secrets.token_hex(8)
    here = sys.executable if connection.node.local else None
    wanted = python or connection.node.python or here
    pythons = [wanted] if wanted else list(PYTHONS)
    script = FIND_PYTHON.replace("PYTHONS", shlex.join(pythons))
    process = connection.start(
        ["sh", "-c", script, "sh", nonce, bootstrap_text(), module, *args], become=become
    )
    try:
        _supply(process, _Talk(process, nonce, timeout_s), payload, wanted)
    except BaseException:
        process.kill()
        raise
    return process


class _Talk:
    """The node's framed lines, whatever else its login prints between them."""

    def __init__(self, process: Process, nonce: str, timeout_s: float) -> None:
        self._process = process
        self._nonce = nonce.encode() + b" "
        self._deadline = time.monotonic() + timeout_s
        self._noise_left = LINE_LIMIT_BYTES

    def read(self) -> dict[str, Any]:
        """Give the next framed line."""
        while self._noise_left > 0:
            remaining = max(0.0, self._deadline - time.monotonic())
            line = self._process.read_line(remaining, LINE_LIMIT_BYTES)
            if line.startswith(self._nonce):
                return self._parse(line[len(self._nonce) :])
            self._noise_left -= len(line) + 1
        raise failure("protocol", "the node sent too much that is not ours", NOISE_STEP)

    def say(self, **message: Any) -> None:
        """Send one line."""
        self._process.write(json.dumps(message).encode() + b"\n")

    @staticmethod
    def _parse(text: bytes) -> dict[str, Any]:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            why = (
                f"the node answered with something else than we sent it to: {printable(text[:80])}"
            )
            raise failure("protocol", why, NOISE_STEP)
        return message


def _supply(process: Process, talk: _Talk, payload: Payload, wanted: str | None) -> None:
    """Hold the bootstrap's talk up to the beginning of the module."""
    hello = talk.read()
    if "nopython" in hello:
        raise _no_python(_text(hello, "nopython"), wanted)
    bundle = payload(Interpreter(*(_text(hello, key) for key in ("python", "machine", "libc"))))
    talk.say(hash=bundle.hash)
    answer = talk.read()
    if "need" in answer:
        talk.say(bytes=len(bundle.archive))
        process.write(bundle.archive)
        answer = talk.read()
    if "disk" in answer:
        raise _no_room(answer)
    _text(answer, "ready")


def _text(message: dict[str, Any], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str):
        raise failure("protocol", f"the node's answer has no {key}", NOISE_STEP)
    return value


def _no_python(old: str, wanted: str | None) -> NodeFailure:
    if old:
        why = f"{printable(old)}; {OLDEST_PYTHON} or newer is needed"
    elif wanted:
        why = f"ansible_python_interpreter is {wanted}, which does not start"
    else:
        why = "there is no Python"
    step = "apt install python3 (or dnf install python3.11), or set ansible_python_interpreter"
    return failure("python", why, step)


def _no_room(answer: dict[str, Any]) -> NodeFailure:
    reasons = answer["disk"] if isinstance(answer["disk"], list) else [answer["disk"]]
    return failure(
        "disk",
        "no folder takes the probe: " + printable("; ".join(map(str, reasons))[:500]),
        "free some space in one of them: df -h /var/tmp /dev/shm; df -i /var/tmp",
    )


@functools.cache
def bootstrap_text() -> str:
    """Give the program that a node's Python runs first."""
    source = Path(__file__).with_name("bootstrap.py").read_text()
    return f"{source}\nmain(*sys.argv[1:])\n"
