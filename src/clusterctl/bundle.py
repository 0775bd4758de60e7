"""What travels to a node: files of ours and of the packages that they need, by their content."""

from __future__ import annotations

import functools
import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution, version
from pathlib import Path

from clusterctl import wheels

FABRIC_MODULES = ("__init__", "schedule", "supervise", "worker")
"""Those of its modules that run on nodes."""


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
                info.size, info.mode = len(data), 0o644
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


HEALTH_MODULES = (
    "checks/*.py",
    "findings.py",
    "health/*.py",
    "probe/*.py",
    "report/__init__.py",
    "report/prometheus.py",
)


def health(machine: str, libc: str = "glibc") -> Bundle:
    """Give the node's own health check, with pynvml and psutil, for machines of this kind."""
    psutil = wheels.find(wheels.PSUTIL, machine, libc)
    own = _own(*HEALTH_MODULES)
    return Bundle({**own, **_pynvml(), **(psutil or {}), "version": version("clusterctl").encode()})


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
