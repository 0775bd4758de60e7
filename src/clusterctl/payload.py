"""What travels to a node, and starting a module from it there.

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
import hashlib
import io
import json
import secrets
import shlex
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from clusterctl import wheels
from clusterctl.ssh import Connection, NodeFailure, Process, failure, printable

OLDEST_PYTHON = "3.9"
PYTHONS = (
    *(f"python3.{minor}" for minor in range(13, 8, -1)),
    "python3",
    "/usr/libexec/platform-python",
)
FABRIC_MODULES = ("__init__", "schedule", "supervise", "worker")
"""Those of its modules that run on nodes."""

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


@dataclass(frozen=True)
class Interpreter:
    """The Python that a node has: ``3.11.2``, ``x86_64``, ``glibc`` (empty: another libc)."""

    python: str
    machine: str
    libc: str


@dataclass(frozen=True)
class Bundle:
    """Files by their path below the cache folder."""

    files: Mapping[str, bytes]

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over the paths and contents; the same sum as ``bootstrap.content_hash``."""
        rows = [f"{path} {hashlib.sha256(data).hexdigest()}\n" for path, data in self.files.items()]
        return hashlib.sha256("".join(sorted(rows)).encode()).hexdigest()

    @functools.cached_property
    def archive(self) -> bytes:
        """The files as a compressed tar archive."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
            for path, data in sorted(self.files.items()):
                info = tarfile.TarInfo(path)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()


Payload = Callable[[Interpreter], Bundle]
"""What to send to a node that has this interpreter."""


_building = threading.Lock()


def _probe(interpreter: Interpreter) -> Bundle:
    with _building:  # the first thread builds, the others wait for its result
        return _probe_for(interpreter.machine, interpreter.libc)


PROBE: Payload = _probe
"""The probe with pynvml, and with psutil if it can be had for the node's machine."""


@functools.lru_cache(maxsize=8)
def _probe_for(machine: str, libc: str) -> Bundle:
    psutil = wheels.find(wheels.PSUTIL, machine, libc)
    return Bundle({**_own("probe/**/*.py"), **_pynvml(), **(psutil or {})})


@functools.lru_cache(maxsize=8)
def _fabric_for(python: str, machine: str) -> Bundle:
    mpi4py = wheels.require(wheels.mpi4py(python), machine, "glibc")
    return Bundle({**_own(*(f"fabric/{name}.py" for name in FABRIC_MODULES)), **mpi4py})


def _own(*patterns: str) -> dict[str, bytes]:
    """Give our own modules that travel, by the paths they have there."""
    root = Path(__file__).parent
    paths = [
        path for pattern in ("__init__.py", "facts.py", *patterns) for path in root.glob(pattern)
    ]
    return {f"clusterctl/{path.relative_to(root)}": path.read_bytes() for path in paths}


def _pynvml() -> dict[str, bytes]:
    return {
        "pynvml.py": Path(str(distribution("nvidia-ml-py").locate_file("pynvml.py"))).read_bytes()
    }


def fabric(python_version: str, architecture: str) -> Payload:
    """Give the fabric worker with mpi4py for that Python (``3.11``, ``3.11.2``) and machine.

    Raises :class:`clusterctl.errors.UserError` when mpi4py cannot be had for them.
    """
    bundle = _fabric_for(".".join(python_version.split(".")[:2]), architecture)
    return lambda _interpreter: bundle


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
