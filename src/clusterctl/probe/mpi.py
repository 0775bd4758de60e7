"""The MPI of this node."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from clusterctl.facts import Mpi, Unread
from clusterctl.probe.reading import Request, command

USUAL_PLACES = (
    "usr/lib64/openmpi*/bin",
    "usr/lib64/mpi/gcc/openmpi*/bin",
    "usr/local/bin",
    "usr/local/openmpi*/bin",
    "usr/mpi/gcc/openmpi*/bin",
    "opt/openmpi*/bin",
    "opt/amazon/openmpi*/bin",
    "opt/hpcx*/ompi/bin",
    "opt/*/bin",
)
"""Where distributions, MLNX_OFED, HPC-X and clouds put an MPI that is not on PATH."""

DAEMONS = ("prted", "orted")
VERSION = re.compile(r"\(Open(?: |R)MPI\) v?(\d+[.\w]*)")


def read_mpi(request: Request) -> Mpi | Unread:
    """Find the first Open MPI: on PATH, in the usual places, then where the controller says."""
    reasons = []
    for mpirun in _candidates(request):
        found = _inspect(mpirun)
        if isinstance(found, Mpi):
            return found
        reasons.append(found)
    if reasons:
        return Unread("unsupported", "; ".join(reasons)[:500])
    return Unread("absent", "no mpirun on PATH or in the usual places")


def _inspect(mpirun: Path) -> Mpi | str:
    try:
        output = command(str(mpirun), "--version")
    except OSError as error:  # TimeoutError is one
        return f"{mpirun}: {error}"
    version = VERSION.search(output.stdout)
    if version is None:
        return f"{mpirun}: not Open MPI ({output.complaint})"
    daemon = _daemon(mpirun)
    if daemon is None:
        return f"{mpirun}: neither {' nor '.join(DAEMONS)} beside it"
    return Mpi("openmpi", version[1], str(mpirun), str(daemon))


def _daemon(mpirun: Path) -> Path | None:
    for folder in (mpirun.parent, mpirun.resolve().parent):
        for name in DAEMONS:
            if os.access(folder / name, os.X_OK):
                return folder / name
    return None


def _candidates(request: Request) -> Iterator[Path]:
    seen = set()
    for folder in _folders(request):
        # Open MPI takes its prefix from this path: /bin would mean /, where /usr is meant.
        mpirun = folder.resolve() / "mpirun"
        if os.access(mpirun, os.X_OK) and mpirun.resolve() not in seen:
            seen.add(mpirun.resolve())
            yield mpirun


def _folders(request: Request) -> Iterator[Path]:
    if request.root == Path("/"):
        yield from map(Path, filter(os.path.isabs, os.get_exec_path()))
    for place in ("usr/bin", *USUAL_PLACES):
        yield from sorted(request.root.glob(place), reverse=True)
    yield from map(Path, request.mpi_paths)
