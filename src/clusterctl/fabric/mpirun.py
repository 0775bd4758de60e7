"""The command lines of Open MPI 4 and 5, and what their launch hands back. Pure.

``mpirun`` is given ``/bin/echo`` as its launch agent: for every other node it then prints the
node's address and the daemon's command line instead of logging in there. The controller starts
the daemon over the connection that it already has, so nodes need not trust each other.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from clusterctl.fabric.membership import major
from clusterctl.facts import Mpi

LIBRARY = "libmpi.so.40"
"""The library of Open MPI 4 and 5 alike."""

DAEMONS = {"orted", "prted"}

WORKER = 'exec "$CLUSTERCTL_PYTHON" -u -m clusterctl.fabric.worker "$0"'
"""Each node's supervisor sets the variable: interpreters differ between nodes, this does not."""


def command(
    mpi: Mpi,
    addresses: Sequence[str],
    *,
    ranks_per_node: int,
    networks: Sequence[str],
    as_root: bool,
    rdma: bool,
    marker: str,
) -> list[str]:
    """Give the command that runs the worker on ``addresses``, the first of which runs it.

    ``marker`` starts the lines of daemons to be launched and of the worker.
    """
    new = major(mpi) >= 5
    argv = [mpi.mpirun]
    if as_root:
        argv.append("--allow-run-as-root")
    # Ranks that outnumber cores must give way while they wait, and no rank may be bound: nodes
    # that are containers of one machine each believe that they own its first core.
    argv += ["--bind-to", "none", "--wdir", "/", "--leave-session-attached"]
    argv += ["--map-by", ":OVERSUBSCRIBE"] if new else ["--oversubscribe"]
    argv += _parameters("--mca", {"mpi_yield_when_idle": "1"} | _transport(networks, rdma, new))
    agent = f"/bin/echo {marker}"
    concurrent = str(len(addresses))
    subnets = ",".join(networks)
    if new:
        runtime = {"plm": "ssh", "plm_ssh_agent": agent, "plm_ssh_no_tree_spawn": "1"}
        runtime |= {"plm_ssh_num_concurrent": concurrent}
        runtime |= {"prte_if_include": subnets} if networks else {}
        argv += _parameters("--prtemca", runtime)
    else:
        runtime = {"plm": "rsh", "plm_rsh_agent": agent, "plm_rsh_no_tree_spawn": "1"}
        runtime |= {"plm_rsh_num_concurrent": concurrent}
        runtime |= {"oob_tcp_if_include": subnets} if networks else {}
        argv += _parameters("--mca", runtime)
    argv += ["--host", ",".join(f"{address}:{ranks_per_node}" for address in addresses)]
    argv += ["-n", str(len(addresses) * ranks_per_node)]
    return [*argv, "/bin/sh", "-c", WORKER, marker]


def _transport(networks: Sequence[str], rdma: bool, new: bool) -> dict[str, str]:
    chosen = {"btl_tcp_if_include": ",".join(networks)} if networks else {}
    if not rdma:
        # Without RDMA hardware, transports made for it only look for it and warn.
        chosen |= {"pml": "ob1", "btl": f"self,tcp,{'sm' if new else 'vader'}"}
    return chosen


def _parameters(option: str, values: Mapping[str, str]) -> list[str]:
    return [word for name, value in values.items() for word in (option, name, value)]


def handed_back(line: str, marker: str) -> tuple[str, list[str]] | None:
    """Read a line of ``mpirun``: (address, arguments of the daemon), or None if it is another.

    Only the arguments are taken from it, and no shell sees them; which program they are for is
    the controller's knowledge of that node.
    """
    if not line.startswith(f"{marker} "):
        return None
    try:
        address, *words = shlex.split(line[len(marker) :])
    except ValueError:
        return None
    for index, word in enumerate(words):
        # Settings for a shell may be glued to the program: PREFIX=/opt/mpi;export PREFIX;/opt/...
        if PurePosixPath(word.rpartition(";")[2]).name in DAEMONS:
            return address, words[index + 1 :]
    return None


def reporting_port(arguments: Sequence[str]) -> int | None:
    """Find the TCP port at which ``mpirun`` expects a daemon to report."""
    found = re.search(r"tcp[46]?://[^;:]+:(\d+)", " ".join(arguments))
    return int(found.group(1)) if found else None


def library_version(text: str) -> str:
    """Shorten what an Open MPI library says of itself: ``Open MPI 4.1.4``."""
    found = re.match(r"Open MPI v?(\d[\w.]*)", text)
    return f"Open MPI {found.group(1)}" if found else "unknown"


def environment(mpi: Mpi, folder: str) -> dict[str, str]:
    """Give the variables under which a node's MPI, and no other there, is what runs.

    What its ranks share in memory lies in ``folder``, so that it goes when that goes.
    """
    prefix = PurePosixPath(mpi.launch_daemon).parent.parent
    # mpi4py looks beside its interpreter first, where another MPI may be installed.
    found = {"MPI4PY_LIBMPI": LIBRARY, "MPI4PY_RC_THREADS": "0"}
    for transport in ("sm", "vader"):
        found[f"OMPI_MCA_btl_{transport}_backing_directory"] = folder
    if str(prefix) in ("/usr", "/"):
        return found
    libraries = f"{prefix}/lib:{prefix}/lib64"
    return {**found, "LD_LIBRARY_PATH": libraries, "PATH": f"{prefix}/bin:/usr/bin:/bin"}


def failed_node(text: str) -> str | None:
    """Find the host that ``mpirun`` blames for the end of a process, in its words."""
    found = re.search(r"on node (\S+) exited on signal", text)
    return found.group(1) if found else None
