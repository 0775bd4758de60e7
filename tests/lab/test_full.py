"""Bare nodes become all that a GPU cluster needs: the real driver, CUDA, NCCL, RDMA, MPI.

Too heavy for every run of the tests (several gigabytes a release): ``make test-full``. The driver's
modules are built for Debian's kernels, which are not the one that runs here.
"""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.full, pytest.mark.timeout(7200)]

WHOLE = {"node1": "bookworm", "node3": "trixie"}
"""Nodes that get everything. Each has a neighbour of its release for MPI: the Open MPI of Debian 12
(4.1) and of Debian 13 (5.0) do not talk to each other."""
PAIRS = [("node1", "node2"), ("node3", "node4")]
ON = {
    "node1": ("nvidia_driver", "cuda", "rdma"),  # Debian 12 has no package of NCCL
    "node3": ("nvidia_driver", "cuda", "nccl", "rdma"),
}
PARTS = ("", "-uvm", "-drm", "-modeset", "-peermem")
PROGRAM = r"""
#include <cstdio>
__global__ void twice(int *values) { values[threadIdx.x] *= 2; }
int main() { int count = -1; cudaGetDeviceCount(&count); printf("compiled, %d GPUs\n", count); }
"""


@pytest.fixture(scope="module")
def lab(own_lab: Callable[..., Any]) -> Any:
    return own_lab(
        "full-test", "--nodes", "4", "--release", "bookworm:2,trixie:2", "--nic", "unshaped"
    )


@pytest.fixture(scope="module")
def inventory(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def edit(everything: dict[str, Any]) -> None:
        for name in WHOLE:
            everything["hosts"][name] |= {f"{role}_enabled": True for role in ON[name]}
        everything["vars"]["healthcheck_interval_s"] = 20

    edited: Path = lab.edited(tmp_path_factory.mktemp("inventory"), edit)
    return edited


@pytest.fixture(scope="module")
def provisioned(lab: Any, inventory: Path) -> str:
    """What the first run said."""
    said: str = lab.provision(inventory=inventory, timeout_s=5400)
    print(said)
    return said


@pytest.fixture(params=list(WHOLE))
def node(request: pytest.FixtureRequest, provisioned: str) -> str:
    name: str = request.param
    return name


def test_one_run_provisions_both_releases(provisioned: str) -> None:
    assert "4 nodes provisioned: " in provisioned


def test_the_driver_s_modules_are_built_for_every_kernel_that_can_boot(lab: Any, node: str) -> None:
    kernels = lab.root(node, "ls -d /lib/modules/*/build").split()
    assert kernels
    for kernel in (path.split("/")[3] for path in kernels):
        listed = lab.root(node, f"find /lib/modules/{kernel} -path '*/dkms/nvidia*.ko*'").split()
        built = {Path(path).name.partition(".")[0] for path in listed}
        assert built == {f"nvidia-current{part}" for part in PARTS}
        for module in built:
            version = lab.root(node, f"modinfo -k {kernel} -F version {module}").strip()
            assert re.fullmatch(r"\d+(\.\d+)+", version)
    assert "installed" in lab.root(node, "dkms status")


def test_the_compiler_compiles(lab: Any, node: str) -> None:
    lab.run(node, f"cat > two.cu << 'END'\n{PROGRAM}\nEND")
    said = lab.run(node, "bash -lc 'nvcc -o two two.cu && ./two'")
    assert "compiled, " in said


def test_nccl_loads(lab: Any, provisioned: str) -> None:
    load = "import ctypes; found = ctypes.c_int(); nccl = ctypes.CDLL('libnccl.so.2')"
    call = "print(nccl.ncclGetVersion(ctypes.byref(found)), found.value)"
    status, version = lab.run("node3", f'python3 -c "{load}; {call}"').split()
    assert status == "0"
    assert int(version) > 20000


def test_rdma_tools_run(lab: Any, node: str) -> None:
    assert "ib_write_bw" in lab.run(node, "command -v ib_write_bw")
    # No RDMA device is here, and it says so; a library that is missing is said otherwise.
    assert "IB devices" in lab.run(node, "ibv_devices 2>&1; true")


@pytest.mark.parametrize("role", ["container_toolkit", "nccl"])
def test_what_no_source_has_is_said(lab: Any, provisioned: str, role: str, tmp_path: Path) -> None:
    def edit(everything: dict[str, Any]) -> None:
        everything["hosts"]["node1"][f"{role}_enabled"] = True

    edited = lab.edited(tmp_path, edit)
    limit = ("--limit", "node1", "--tags", role)
    said = " ".join(lab.provision(*limit, inventory=edited, exit_code=1).split())
    assert 'the source "distro" has no package of it for Debian 12' in said
    assert f"{role}_source: vendor has." in said


@pytest.mark.parametrize("pair", PAIRS)
def test_open_mpi_runs_across_nodes(
    lab: Any, provisioned: str, inventory: Path, pair: tuple[str, str]
) -> None:
    done = lab.clusterctl("doctor", "-i", str(inventory), "-l", ",".join(pair), "--json", "-")
    fabric = json.loads(done.stdout)["fabric"]
    between = {(link["source"], link["target"]) for link in fabric["links"]}
    assert between == {pair, pair[::-1]}


def test_clocks_are_in_sync(lab: Any, node: str) -> None:
    assert ",Normal" in lab.root(node, "chronyc -n -c tracking")


def test_limits_hold_for_a_new_login_or_the_doctor_says_why_not(
    lab: Any, inventory: Path, node: str
) -> None:
    assert "* - memlock unlimited" in lab.root(
        node, "cat /etc/security/limits.d/90-clusterctl.conf"
    )
    if lab.run(node, "ulimit -l").strip() == "unlimited":
        return
    argv = ("doctor", "-i", str(inventory), "-l", node, "--level", "quick", "--json", "-")
    findings = json.loads(lab.clusterctl(*argv).stdout)["findings"]
    (memlock,) = [found for found in findings if found["check"] == "node.limits.memlock"]
    assert memlock["status"] == "warn"
    assert "CAP_SYS_RESOURCE" in json.dumps(memlock)


def test_the_timer_writes_metrics(lab: Any, node: str) -> None:
    metrics = "/var/lib/prometheus/node-exporter/clusterctl.prom"
    lab.root(node, f"rm {metrics}")
    deadline = time.monotonic() + 300
    while "clusterctl_ready" not in (found := lab.root(node, f"cat {metrics}", check=False)):
        assert time.monotonic() < deadline, lab.root(node, "systemctl list-timers")
        time.sleep(2)
    assert re.search(r"^clusterctl_ready [01]$", found, re.MULTILINE)


def test_a_second_run_changes_nothing(lab: Any, inventory: Path, provisioned: str) -> None:
    said = lab.provision(inventory=inventory)
    assert "Nothing to change: 4 nodes are as wanted." in said
