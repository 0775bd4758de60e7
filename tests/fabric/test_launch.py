"""The whole measurement on this machine alone, through the MPI of the PyPI package."""

import dataclasses
import platform
import sys
from pathlib import Path

import pytest

from clusterctl.fabric.launch import Member, measure
from clusterctl.facts import Mpi, NodeFacts, System, Unread
from clusterctl.inventory import Node
from clusterctl.ssh import connect

FOLDER = Path(sys.executable).parent
MPI = Mpi("openmpi", "5.0.8", str(FOLDER / "mpirun"), str(FOLDER / "prted"))
ABSENT = Unread("absent", "no MPI was found")


@pytest.fixture
def member():
    """Give this machine as a member."""
    connection = connect(Node("here", "localhost", local=True, python=sys.executable))
    empty = {field.name: ABSENT for field in dataclasses.fields(NodeFacts)}
    version = platform.python_version()
    system = System("here", "", "", "", "", platform.machine(), version, "", 0.0, "")

    def make(mpi=MPI):
        facts = NodeFacts(**{**empty, "system": system, "mpi": mpi})
        return Member(connection, facts)

    yield make
    connection.close()


def run(member, deadline_s=60.0, **options):
    said = []
    fabric = measure(
        {"here": member},
        network=None,
        deadline_s=deadline_s,
        on_progress=said.append,
        **{"ranks_per_node": 2} | options,
    )
    return fabric, said


def test_one_machine_measures_an_allreduce_of_two_ranks(member):
    fabric, said = run(member())
    assert fabric.incomplete == ""
    assert fabric.lost == {}
    assert fabric.nodes == ["here"]
    assert fabric.mpi.startswith("Open MPI 5.")
    assert {sample.ranks for sample in fabric.allreduce} == {2}
    assert all(sample.wrong_elements == {} for sample in fabric.allreduce)
    assert fabric.links == []
    assert any("allreduce" in message for message in said)


def test_a_machine_without_mpi_is_a_reason_and_no_error(member):
    fabric, _ = run(member(mpi=ABSENT))
    assert fabric.lost == {"here": "no MPI: no MPI was found"}
    assert fabric.incomplete
    assert fabric.allreduce == []


def test_an_mpirun_that_fails_is_quoted(member):
    fabric, _ = run(member(dataclasses.replace(MPI, mpirun="/bin/false")))
    assert "mpirun on here ended with status 1" in fabric.incomplete


def test_an_mpirun_that_hangs_ends_at_the_deadline(member, tmp_path):
    hanging = tmp_path / "mpirun"
    hanging.write_text("#!/bin/sh\nexec sleep 300\n")
    hanging.chmod(0o755)
    fabric, _ = run(member(dataclasses.replace(MPI, mpirun=str(hanging))), deadline_s=3.0)
    assert "not finished within 3 s" in fabric.incomplete


def test_an_mpirun_that_talks_nonsense_is_not_believed(member, tmp_path):
    liar = tmp_path / "mpirun"
    liar.write_text(
        "#!/bin/sh\nfor marker; do :; done\n"
        'echo \'noise\'; echo "$marker not json"; echo "$marker"\'{"nodes": ["there"]}\'\n'
        "exec sleep 300\n"
    )
    liar.chmod(0o755)
    fabric, _ = run(member(dataclasses.replace(MPI, mpirun=str(liar))))
    assert "ranks came up on" in fabric.incomplete
