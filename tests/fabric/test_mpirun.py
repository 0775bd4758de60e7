"""Command lines of Open MPI 4 and 5, and what their launch prints."""

import pytest

from clusterctl.fabric import mpirun
from clusterctl.facts import Mpi

OLD = Mpi("openmpi", "4.1.4", "/usr/bin/mpirun", "/usr/bin/orted")
NEW = Mpi("openmpi", "5.0.7", "/opt/mpi/bin/mpirun", "/opt/mpi/bin/prted")

HANDED_BACK_BY_4 = (
    "@mark 198.18.0.3           PATH=/usr/bin:$PATH ; export PATH ; "
    "LD_LIBRARY_PATH=/usr/lib:${LD_LIBRARY_PATH:-} ; export LD_LIBRARY_PATH ;   /usr/bin/orted "
    '-mca ess "env" -mca ess_base_jobid "1573912576" -mca ess_base_vpid 2 '
    '-mca orte_hnp_uri "1573912576.0;tcp://198.18.0.1:46529" -mca plm_rsh_agent "/bin/echo @mark"'
)
HANDED_BACK_BY_5 = (
    "@mark 198.18.0.3 PRTE_PREFIX=/opt/mpi;export PRTE_PREFIX;LD_LIBRARY_PATH=/opt/mpi/lib:"
    "$LD_LIBRARY_PATH;export LD_LIBRARY_PATH;/opt/mpi/bin/prted --leave-session-attached "
    '--prtemca ess "env" --prtemca prte_hnp_uri "prterun-zn1-7976@0.0;tcp://198.18.0.1:50511:24"'
)


def command(mpi, **changes):
    options = {
        "ranks_per_node": 1,
        "networks": ["198.18.0.0/24"],
        "as_root": False,
        "rdma": False,
        "marker": "@mark",
    }
    return mpirun.command(mpi, ["198.18.0.1", "198.18.0.2"], **(options | changes))


def option(argv, name):
    return [argv[i + 1] for i, word in enumerate(argv) if word == name]


@pytest.mark.parametrize("mpi", [OLD, NEW], ids=["4", "5"])
def test_the_worker_runs_unbound_on_every_address(mpi):
    argv = command(mpi, ranks_per_node=2)
    assert argv[0] == mpi.mpirun
    assert option(argv, "--host") == ["198.18.0.1:2,198.18.0.2:2"]
    assert option(argv, "-n") == ["4"]
    assert option(argv, "--bind-to") == ["none"]
    assert option(argv, "mpi_yield_when_idle") == ["1"]
    assert option(argv, "btl_tcp_if_include") == ["198.18.0.0/24"]


def test_each_version_gets_its_own_names_of_the_agent():
    assert option(command(OLD), "plm_rsh_agent") == ["/bin/echo @mark"]
    assert option(command(NEW), "plm_ssh_agent") == ["/bin/echo @mark"]


def test_only_root_needs_the_permission_to_be_root():
    assert "--allow-run-as-root" in command(OLD, as_root=True)
    assert "--allow-run-as-root" not in command(OLD)


def test_tcp_is_forced_only_where_there_is_no_rdma():
    assert option(command(OLD), "pml") == ["ob1"]
    assert option(command(OLD, rdma=True), "pml") == []


@pytest.mark.parametrize(
    ("line", "last", "port"),
    [(HANDED_BACK_BY_4, "/bin/echo @mark", 46529), (HANDED_BACK_BY_5, None, 50511)],
    ids=["4", "5"],
)
def test_a_daemon_is_read_from_what_is_handed_back(line, last, port):
    address, arguments = mpirun.handed_back(line, "@mark")
    assert address == "198.18.0.3"
    assert arguments[0].startswith("-")
    assert "env" in arguments
    assert last is None or arguments[-1] == last
    assert mpirun.reporting_port(arguments) == port


@pytest.mark.parametrize(
    "line",
    [
        "",
        "@mark",
        '@mark{"nodes": []}',
        "@mark 198.18.0.3 'unclosed",
        "@mark 198.18.0.3 rm -rf /",
        HANDED_BACK_BY_4.replace("@mark", "@other", 1),
    ],
)
def test_other_lines_start_nothing(line):
    assert mpirun.handed_back(line, "@mark") is None


def test_an_mpi_outside_the_system_gets_its_libraries():
    assert "LD_LIBRARY_PATH" not in mpirun.environment(OLD, "/dev/shm/ours")
    assert mpirun.environment(NEW, "/dev/shm/ours")["LD_LIBRARY_PATH"].startswith("/opt/mpi/lib")


def test_a_library_says_which_it_is():
    said = "Open MPI v5.0.11, package: Open MPI user@localhost Distribution, ident: 5.0.11"
    assert mpirun.library_version(said) == "Open MPI 5.0.11"
    assert mpirun.library_version("something else") == "unknown"


def test_the_node_that_mpirun_blames_is_found():
    said = (
        "mpirun noticed that process rank 3 with PID 0 on node node4 exited on signal 9 (Killed)."
    )
    assert mpirun.failed_node(said) == "node4"
    assert mpirun.failed_node("something else") is None
