"""Compiled packages for the nodes' Python: the controller's own when they fit, else PyPI's."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from clusterctl.errors import UserError
from clusterctl.state import cache_folder

DOWNLOAD_TIMEOUT_S = 60
GLIBC_TAGS = ("manylinux1", "manylinux2010", "manylinux2014", "manylinux_2_17", "manylinux_2_28")
OTHER_TAGS = ("musllinux_1_1", "musllinux_1_2")


@dataclass(frozen=True)
class Wanted:
    """A package for one Python: ``abi`` is ``abi3``, or ``cp311`` for exactly 3.11."""

    name: str
    requirement: str
    abi: str
    python: str


PSUTIL = Wanted("psutil", "psutil>=6.0", "abi3", "3.9")


def mpi4py(python: str) -> Wanted:
    """Give mpi4py for a Python (``3.11``); from 4.1 on its wheels fit any Open MPI or MPICH."""
    return Wanted("mpi4py", "mpi4py>=4.1", f"cp{python.replace('.', '')}", python)


def find(wanted: Wanted, machine: str, libc: str) -> dict[str, bytes] | None:
    """Give the package's files by path, or None when it cannot be had."""
    try:
        return require(wanted, machine, libc)
    except UserError:
        return None


def require(wanted: Wanted, machine: str, libc: str) -> dict[str, bytes]:
    """Give the package's files by path; :class:`UserError` with the command that failed."""
    return _installed(wanted, machine, libc) or _downloaded(wanted, machine, libc)


def _installed(wanted: Wanted, machine: str, libc: str) -> dict[str, bytes] | None:
    """Give the controller's own files if they came from a wheel that the node could use too."""
    if (machine, libc) != (platform.machine(), platform.libc_ver()[0]):
        return None
    try:
        package = distribution(wanted.name)
    except PackageNotFoundError:
        return None
    tags = [
        line.split()[1].split("-")
        for line in (package.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag:")
    ]
    # What was compiled here (linux_x86_64) fits this machine only.
    if not any(abi == wanted.abi and "linux_" not in tag[:6] for _, abi, tag in tags):
        return None
    paths = _runtime(str(path) for path in package.files or ())
    return {path: Path(str(package.locate_file(path))).read_bytes() for path in paths}


def _runtime(paths: Iterable[str]) -> list[str]:
    """Keep what is needed to import the package."""
    return [
        path
        for path in paths
        if path.endswith((".py", ".so")) and "test" not in path and not path.startswith("..")
        if ".dist-info" not in PurePosixPath(path).parts[0]
    ]


@functools.lru_cache(maxsize=32)
def _downloaded(wanted: Wanted, machine: str, libc: str) -> dict[str, bytes]:
    folder = cache_folder() / "wheels" / f"{wanted.name}-{wanted.abi}-{libc or 'musl'}-{machine}"
    if not list(folder.glob("*.whl")):
        _download(wanted, machine, libc, folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return {path: wheel.read(path) for path in _runtime(wheel.namelist())}


def _download(wanted: Wanted, machine: str, libc: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation=cp", f"--python-version={wanted.python}", f"--abi={wanted.abi}"]
    for tag in GLIBC_TAGS if libc == "glibc" else OTHER_TAGS:
        command.append(f"--platform={tag}_{machine}")
    quick = ["--quiet", "--disable-pip-version-check", "--timeout=5", "--retries=1"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as new:
        command += ["--dest", new, wanted.requirement]
        try:
            subprocess.run(
                [*command, *quick], check=True, capture_output=True, timeout=DOWNLOAD_TIMEOUT_S
            )
        except (subprocess.SubprocessError, OSError):
            raise UserError(
                f"{wanted.name} for Python {wanted.python} on {machine} cannot be fetched",
                " ".join(command)
                .replace(new, str(folder))
                .replace(wanted.requirement, f"'{wanted.requirement}'"),
            ) from None
        if not folder.exists():
            Path(new).rename(folder)
            Path(new).mkdir()  # what TemporaryDirectory is to remove
