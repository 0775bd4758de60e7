"""Time services and MPI, as their own commands speak."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterctl.facts import Mpi, TimeSync, Unread
from clusterctl.probe.mpi import read_mpi
from clusterctl.probe.reading import Request
from clusterctl.probe.timesync import read_time_sync

Tree = Callable[..., Path]
Commands = Callable[..., None]

SYNCHRONIZED = (
    "C6120001,198.18.0.1,11,1795555908.291105,0.000024000,0.000011000,0.000012000,"
    "-1.500,0.001,0.050,0.000100000,0.000200000,64.2,Normal"
)
UNSYNCHRONIZED = "00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised"
NONE = "echo '506 Cannot talk to daemon' >&2; exit 1"
NTPQ = "echo 'leap=00, offset=-1.250, refid=198.18.0.1'"


def time_sync(tree: Tree, files: dict[str, str] | None = None) -> TimeSync:
    return read_time_sync(Request(root=tree({"etc/os-release": "", **(files or {})})))


def test_chrony(tree: Tree, commands: Commands) -> None:
    commands({"chronyc": f"echo '{SYNCHRONIZED}'"})
    # chronyc says how far to move the clock, which is 24 us behind.
    assert time_sync(tree) == TimeSync("chrony", True, -0.000024, "198.18.0.1")


def test_chrony_that_follows_itself(tree: Tree, commands: Commands) -> None:
    answer = "7F7F0101,,10,1795558123.7,0.000000000,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,Normal"
    commands({"chronyc": f"echo '{answer}'"})
    assert time_sync(tree) == TimeSync("chrony", True, 0.0, "its own clock")


def test_chrony_without_a_source(tree: Tree, commands: Commands) -> None:
    commands({"chronyc": f"echo '{UNSYNCHRONIZED}'"})
    found = time_sync(tree)
    assert found.synchronized is False
    assert isinstance(found.offset_s, Unread)
    assert isinstance(found.source, Unread)


def test_timesyncd(tree: Tree, commands: Commands) -> None:
    commands({"chronyc": NONE, "timedatectl": "echo ServerName=ntp.example"})
    files = {"run/systemd/timesync/synchronized": ""}
    found = time_sync(tree, files)
    assert (found.service, found.synchronized) == ("systemd-timesyncd", True)
    assert found.source == "ntp.example"
    assert isinstance(found.offset_s, Unread)


def test_ntpd(tree: Tree, commands: Commands) -> None:
    commands({"chronyc": NONE, "ntpq": NTPQ})
    found = time_sync(tree)
    assert found == TimeSync("ntpd", True, 0.00125, "198.18.0.1")


def test_no_service(tree: Tree, commands: Commands) -> None:
    commands({"chronyc": NONE, "ntpq": NONE})
    found = time_sync(tree)
    assert found.service == "none"
    assert isinstance(found.synchronized, Unread)
    assert found.synchronized.unread == "absent"


def test_a_service_that_answers_nonsense(tree: Tree, commands: Commands) -> None:
    commands({"chronyc": "echo what?"})
    with pytest.raises(IndexError):
        time_sync(tree)


def mpirun(banner: str) -> dict[str, str]:
    return {"mpirun": f"echo '{banner}'"}


@pytest.mark.parametrize(
    ("banner", "daemon", "version"),
    [
        ("mpirun (Open MPI) 4.1.4", "orted", "4.1.4"),
        ("mpirun (Open MPI) 5.0.8", "prted", "5.0.8"),
        ("mpirun (Open MPI) 4.1.7rc1", "orted", "4.1.7rc1"),
        ("prterun (OpenRTE) 4.0.0", "orted", None),
    ],
)
def test_open_mpi_on_path(
    commands: Commands, banner: str, daemon: str, version: str | None
) -> None:
    commands({**mpirun(banner), daemon: "exit 0"})
    found = read_mpi(Request())
    folder = os.environ["PATH"].partition(":")[0]
    if version is None:
        assert found != Mpi("openmpi", "4.0.0", f"{folder}/mpirun", f"{folder}/{daemon}")
    else:
        assert found == Mpi("openmpi", version, f"{folder}/mpirun", f"{folder}/{daemon}")


def install(folder: Path, banner: str, daemon: str = "prted") -> Path:
    folder.mkdir(parents=True)
    for name, words in (("mpirun", banner), (daemon, "")):
        (folder / name).write_text(f"#!/bin/sh\necho '{words}'\n")
        (folder / name).chmod(0o755)
    return folder


def test_places_without_path(tree: Tree) -> None:
    root = tree({"etc/os-release": ""})
    older = install(root / "opt/openmpi-4.1.5/bin", "mpirun (Open MPI) 4.1.5", "orted")
    install(root / "opt/other/bin", "HYDRA build details:")
    found = read_mpi(Request(root=root))
    assert found == Mpi("openmpi", "4.1.5", f"{older}/mpirun", f"{older}/orted")


def test_what_the_controller_brings_comes_last(tree: Tree, tmp_path: Path) -> None:
    root = tree({"etc/os-release": ""})
    brought = install(tmp_path / "venv/bin", "mpirun (Open MPI) 5.0.8")
    request = Request(root=root, mpi_paths=(str(brought),))
    assert read_mpi(request) == Mpi("openmpi", "5.0.8", f"{brought}/mpirun", f"{brought}/prted")
    own = install(root / "usr/local/bin", "mpirun (Open MPI) 4.1.4", "orted")
    found = read_mpi(request)
    assert isinstance(found, Mpi)
    assert found.mpirun == f"{own}/mpirun"


def test_another_mpi_is_told(tree: Tree) -> None:
    root = tree({"etc/os-release": ""})
    install(root / "usr/local/bin", "Intel(R) MPI Library for Linux* OS, Version 2021.12")
    found = read_mpi(Request(root=root))
    assert isinstance(found, Unread)
    assert found.unread == "unsupported"
    assert "Intel(R) MPI Library" in found.why


def test_no_daemon_beside_it(tree: Tree) -> None:
    root = tree({"etc/os-release": ""})
    folder = install(root / "usr/local/bin", "mpirun (Open MPI) 5.0.8")
    (folder / "prted").unlink()
    found = read_mpi(Request(root=root))
    assert isinstance(found, Unread)
    assert "prted" in found.why


def test_no_mpi(tree: Tree) -> None:
    found = read_mpi(Request(root=tree({"etc/os-release": ""})))
    assert isinstance(found, Unread)
    assert found.unread == "absent"
