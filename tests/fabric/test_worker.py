"""The worker under a real mpirun on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MPIRUN = Path(sys.executable).parent / "mpirun"
MARKER = "@test"
SWEEP = {"allreduce": {"budget_s": 0.05, "max_bytes": 1 << 16}}


def run(ranks, *orders, program=("-m", "clusterctl.fabric.worker"), status=0):
    """Run the worker and give its answers; it must end with ``status``."""
    lines = [json.dumps(order) for order in (*orders, {"end": True})]
    argv = [MPIRUN, "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "-n", str(ranks)]
    argv += ["--mca", "mpi_yield_when_idle", "1", "--mca", "pml", "ob1"]
    if os.getuid() == 0:
        argv.insert(1, "--allow-run-as-root")
    done = subprocess.run(
        [*argv, sys.executable, *program, MARKER],
        input="".join(line + "\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "CLUSTERCTL_NODE": "here"},
    )
    assert done.returncode == status, done.stderr
    out = done.stdout.splitlines()
    return [json.loads(line[len(MARKER) :]) for line in out if line.startswith(MARKER)]


def test_ranks_say_where_they_are():
    (first,) = run(3)
    assert first["nodes"] == ["here"] * 3
    assert "Open MPI" in first["mpi"]


def test_a_rank_that_fails_ends_all():
    assert len(run(3, {"pairs": [[0, 77]]}, status=1)) == 1


def test_pairs_of_a_round_are_measured_both_ways():
    _, *answers, last = run(4, {"pairs": [[0, 3], [2, 1]]})
    assert last == {"round": True}
    measured = {(answer["pair"][0], answer["pair"][1]): answer["pair"] for answer in answers}
    assert set(measured) == {(0, 3), (1, 2)}
    for _, _, latency_s, there, back in measured.values():
        assert 0 < latency_s < 1
        for rate, count, segments in (there, back):
            assert rate > 0
            assert count >= 1 << 18
            assert len(segments) == 2


def test_an_idle_rank_waits_and_joins_the_next_round():
    answers = run(3, {"pairs": [[1, 2]]}, {"pairs": [[0, 2]]})
    assert [next(iter(answer)) for answer in answers] == ["nodes"] + ["pair", "round"] * 2


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_allreduce_is_exact_at_every_size(ranks):
    _, *answers, last = run(ranks, SWEEP)
    assert last == {"swept": True}
    samples = [answer["allreduce"] for answer in answers]
    sizes = [sample["size_bytes"] for sample in samples]
    assert sizes == [8 * 4**step for step in range(len(sizes))]
    for sample in samples:
        assert sample["wrong"] == [0] * ranks
        assert len(sample["times_s"]) >= 3
        assert min(sample["times_s"]) > 0


CORRUPT = """
import sys
from clusterctl.fabric import worker
from mpi4py import MPI

true_sum = worker.reduce_sum

def corrupted(comm, send, receive, count):
    true_sum(comm, send, receive, count)
    {fault}

worker.reduce_sum = corrupted
worker.run(MPI.COMM_WORLD, sys.argv[1])
"""


@pytest.mark.parametrize(
    ("fault", "ranks_at_fault"),
    [
        ("if comm.rank == 1 and count > 100: receive[40] ^= 1  # one bit", [1]),
        ("receive[:] = bytes(len(receive))  # nothing arrived", [0, 1]),
        ("if count >= 128: receive[:] = receive[256:] + receive[:256]  # blocks swapped", [0, 1]),
    ],
    ids=["bit", "nothing", "swapped"],
)
def test_a_wrong_sum_is_counted_where_it_is(tmp_path, fault, ranks_at_fault):
    program = tmp_path / "corrupt.py"
    program.write_text(CORRUPT.format(fault=fault))
    _, *answers, _ = run(2, SWEEP, program=[str(program)])
    largest = answers[-1]["allreduce"]
    assert [rank for rank, wrong in enumerate(largest["wrong"]) if wrong] == ranks_at_fault


def test_an_allreduce_that_does_nothing_is_noticed(tmp_path):
    program = tmp_path / "lazy.py"
    program.write_text(
        CORRUPT.format(fault="pass").replace(
            "true_sum(comm, send, receive, count)",
            "any(receive) or true_sum(comm, send, receive, count)  # an old result is kept",
        )
    )
    _, *answers, _ = run(2, SWEEP, program=[str(program)])
    assert min(answers[-1]["allreduce"]["wrong"]) > 0
