"""How a section reads: text of small files under a root, and a few commands with a deadline."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from clusterctl.probe.isolate import die_with_parent, note

COMMAND_DEADLINE_S = 5.0
COMMANDS = frozenset(
    {
        "chronyc",
        "dpkg-query",
        "modinfo",
        "modprobe",
        "mpirun",
        "ntpq",
        "rpm",
        "systemctl",
        "timedatectl",
    }
)
"""Everything that the probe ever runs. All of them only read."""

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Searched after PATH: a login without a profile often lacks the sbin folders."""


@dataclass(frozen=True)
class Request:
    """What the controller asked for. ``root`` is ``/`` but for captured trees."""

    root: Path = Path("/")
    names: tuple[str, ...] = ()
    mpi_paths: tuple[str, ...] = ()
    deadline_s: float = 10.0


def text(path: Path, limit_bytes: int = 1 << 20) -> str:
    """Read a file's beginning, without surrounding white space."""
    with path.open("rb") as file:
        return file.read(limit_bytes).decode("utf-8", "replace").strip()


def text_or(path: Path, default: str) -> str:
    """Read a file that may not be there, or may not be readable."""
    try:
        return text(path)
    except OSError:
        return default


def fields(content: str, separator: str = ":") -> dict[str, str]:
    """Split ``key: value`` lines; the first line with a key counts."""
    result: dict[str, str] = {}
    for line in content.splitlines():
        key, found, value = line.partition(separator)
        if found:
            result.setdefault(key.strip(), value.strip())
    return result


def cpu_list_length(ranges: str) -> int:
    """Count the CPUs of a kernel list such as ``0-15,32-47``."""
    count = 0
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def find_command(name: str) -> str | None:
    """Find an executable on PATH or in the system's folders."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_PATH))
    return shutil.which(name, path=path)


@dataclass(frozen=True)
class Output:
    """What a command that ended said."""

    exit_status: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """Its last words, for a reason."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1][:200] if lines else f"exit status {self.exit_status}"


def command(*argv: str, deadline_s: float = COMMAND_DEADLINE_S) -> Output:
    """Run one of :data:`COMMANDS`. Raises TimeoutError, and OSError if it cannot start."""
    if Path(argv[0]).name not in COMMANDS:
        raise ValueError(f"{argv[0]} is not a command of the probe")
    note(" ".join(argv))
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=deadline_s,
            env=environment,
            preexec_fn=die_with_parent,  # safe: this process has one thread
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{' '.join(argv)}: no answer within {deadline_s:g} seconds") from None
    return Output(
        done.returncode,
        done.stdout[: 1 << 20].decode("utf-8", "replace"),
        done.stderr[: 1 << 16].decode("utf-8", "replace"),
    )
