"""NVIDIA's driver on lab nodes: a real build with DKMS, and whatever goes wrong with one.

The tests build on each other, on a node of their own: the build takes a minute, and there is one.
Those marked ``full`` build several times more.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm

from clusterctl.lab.faults import FAULTS

LAB = "driver-test"
PROMISE = "/etc/clusterctl/provisioned/nvidia_driver.json"
KERNELS = "ls -d /lib/modules/*/build | cut -d/ -f4"
VERSION_OF = "modinfo -k {kernel} -F version nvidia-current"
SECOND_RUN = "Nothing to change: 1 node is as wanted."
SLOW_BOOT = "/etc/systemd/system/ssh.service.d/slow.conf"

# A build takes a minute on an idle machine, and many on a busy one.
BUILD_S = 1700
pytestmark = pytest.mark.timeout(BUILD_S + 100)

Provision = Callable[..., str]


@pytest.fixture(scope="module")
def lab(own_lab: Callable[..., Any]) -> Any:
    return own_lab(LAB, "--nodes", "1", "--release", "bookworm:1")


@pytest.fixture(scope="module")
def provision(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Provision:
    """Provision the node with the driver, although it has no GPU; with more variables."""

    def run(*arguments: str, exit_code: int = 0, tags: str = "nvidia_driver", **more: Any) -> str:
        def edit(everything: dict[str, Any]) -> None:
            everything["vars"] |= {"nvidia_driver_enabled": True, **more}

        inventory = lab.edited(tmp_path_factory.mktemp("inventory"), edit)
        said = lab.provision(
            *("--tags", tags, *arguments),
            inventory=inventory,
            exit_code=exit_code,
            timeout_s=BUILD_S,
        )
        return " ".join(said.split())

    return run


@pytest.fixture(scope="module")
def built(lab: Any, provision: Provision) -> str:
    """The first run's words; the node has the driver then."""
    return provision()


def _promises(lab: Any, kind: str) -> dict[str, str]:
    listed = json.loads(lab.root("node1", f"cat {PROMISE}"))["promises"]
    return {entry["name"]: entry["wanted"] for entry in listed if entry["kind"] == kind}


def _kernels(lab: Any) -> list[str]:
    return str(lab.root("node1", KERNELS)).split()


def _modules(lab: Any) -> set[str]:
    return {
        lab.root("node1", VERSION_OF.format(kernel=each), check=False).strip() or f"none in {each}"
        for each in _kernels(lab)
    }


def test_a_bare_node_is_told_what_it_would_get(lab: Any, provision: Provision) -> None:
    said = provision("--check", "--diff")
    assert "nvidia-kernel-dkms" in said
    assert "blacklist nouveau" in said
    assert lab.root("node1", "ls /etc/modprobe.d") == ""


def test_the_driver_is_built_for_the_kernel_that_has_headers(lab: Any, built: str) -> None:
    assert "1 node provisioned" in built
    version = _promises(lab, "module")["nvidia-current"]
    assert _modules(lab) == {version}
    assert "installed" in lab.root("node1", f"dkms status -m nvidia-current -v {version}")
    library = "readlink -f /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
    assert lab.root("node1", library).strip().endswith(f"libnvidia-ml.so.{version}")


def test_nouveau_and_upgrades_are_kept_away(lab: Any, built: str) -> None:
    assert "blacklist nouveau" in lab.root("node1", "modprobe --showconfig")
    held = set(lab.root("node1", "apt-mark showhold").split())
    assert {"nvidia-kernel-dkms", "libcuda1", "libnvidia-ml1", "nvidia-alternative"} <= held
    assert set(_promises(lab, "hold")) == held
    excluded = lab.root("node1", "apt-config dump Unattended-Upgrade::Package-Blacklist")
    assert '"libnvidia-"' in excluded


def test_a_node_without_a_gpu_has_no_failed_service(lab: Any, built: str) -> None:
    assert lab.root("node1", "systemctl --failed --plain --no-legend") == ""
    assert "enabled" in lab.root("node1", "systemctl is-enabled nvidia-persistenced")


def test_a_second_run_changes_nothing(provision: Provision, built: str) -> None:
    assert SECOND_RUN in provision()


@pytest.mark.parametrize(
    "fault",
    [f for f in FAULTS.values() if f.needs == "nvidia_driver"],
    ids=lambda fault: fault.name,
)
def test_the_doctor_names_what_is_wrong_with_a_driver(lab: Any, built: str, fault: Any) -> None:
    lab.cli("fault", "add", "node1", fault.name)
    report = lab.clusterctl("doctor", "-i", str(lab.inventory), "--level", "quick", "--json", "-")
    lab.cli("fault", "clear")
    findings = json.loads(report.stdout)["findings"]
    assert fault.caught_by in {f["check"] for f in findings if f["status"] == "fail"}, findings


def test_options_reach_the_module_and_the_doctor(
    lab: Any, provision: Provision, built: str
) -> None:
    options = {"nvidia": {"NVreg_RestrictProfilingToAdminUsers": 0}}
    provision(nvidia_driver_module_options=options)
    assert _promises(lab, "module_option") == {"nvidia NVreg_RestrictProfilingToAdminUsers": "0"}
    option = "options nvidia NVreg_RestrictProfilingToAdminUsers=0"
    assert option in lab.root("node1", "modprobe --showconfig")
    provision()
    assert option not in lab.root("node1", "modprobe --showconfig")


def test_a_version_that_no_source_has_is_refused_before_anything_changes(
    lab: Any, provision: Provision, built: str
) -> None:
    said = provision(exit_code=1, nvidia_driver_version="999.1")
    version = _promises(lab, "module")["nvidia-current"]
    assert "nvidia_driver_version asks for 999.1" in said
    assert f"in {version}-" in said
    assert lab.root("node1", "ls /etc/apt/preferences.d") == ""
    assert SECOND_RUN in provision()


def test_a_driver_in_use_is_not_changed(lab: Any, provision: Provision, built: str) -> None:
    older = lab.root("node1", "apt-cache madison nvidia-kernel-dkms | cut -d'|' -f2").split()[-1]
    lab.root("node1", "touch /dev/nvidia0; setsid sleep 600 </dev/nvidia0 >/dev/null 2>&1 &")
    try:
        said = provision(exit_code=1, nvidia_driver_version=older)
        assert "The driver is in use, and is not changed under sleep (pid " in said
        assert lab.root("node1", "ls /etc/apt/preferences.d") == ""
    finally:
        lab.root("node1", "pkill -x sleep; rm /dev/nvidia0")


def test_a_module_deleted_by_hand_is_put_back(lab: Any, provision: Provision, built: str) -> None:
    kernel = _kernels(lab)[-1]
    lab.root("node1", f"rm /lib/modules/{kernel}/updates/dkms/nvidia-current.ko; depmod {kernel}")
    assert _modules(lab) != {_promises(lab, "module")["nvidia-current"]}
    provision()
    assert _modules(lab) == {_promises(lab, "module")["nvidia-current"]}


def test_a_conflicting_repository_is_refused(lab: Any, provision: Provision, built: str) -> None:
    path = "/etc/apt/sources.list.d/cuda-debian12-x86_64.list"
    url = "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/"
    lab.root("node1", f"echo 'deb {url} /' >{path}")
    try:
        said = provision(exit_code=1)
        assert f"{path} adds NVIDIA's repository" in said
        assert f"rm -f {path}" in said
    finally:
        lab.root("node1", f"rm {path}")


def test_a_reboot_is_announced_and_refused_when_it_is_not_wanted(
    lab: Any, provision: Provision
) -> None:
    lab.root("node1", "touch /run/reboot-required; echo libc6 >/run/reboot-required.pkgs")
    boot = lab.root("node1", "cat /proc/sys/kernel/random/boot_id")
    assert "would reboot: asked for by libc6" in provision("--check", tags="reboot")
    said = provision("--no-reboot", tags="reboot")
    assert "must reboot, and was not to" in said
    assert lab.root("node1", "cat /proc/sys/kernel/random/boot_id") == boot


def test_a_node_under_slurm_is_drained_rebooted_and_resumed(lab: Any, provision: Provision) -> None:
    cluster = slurm.set_up(lab, ["node1"])
    lab.root("node1", "touch /run/reboot-required")
    boot = lab.root("node1", "cat /proc/sys/kernel/random/boot_id")
    said = (
        provision(exit_code=1, tags="reboot", provision_drain_timeout_s=5) if _job(cluster) else ""
    )
    assert "still ran after 5 s" in said
    assert lab.root("node1", "cat /proc/sys/kernel/random/boot_id") == boot
    assert "DRAIN" not in cluster.state("node1")
    cluster.run("scancel --full --user=root")
    cluster.wait("node1", lambda state: state == "IDLE")

    assert "rebooted in " in provision(tags="reboot")
    assert lab.root("node1", "cat /proc/sys/kernel/random/boot_id") != boot
    assert cluster.wait("node1", lambda state: state == "IDLE") == "IDLE"

    cluster.drain("node1", "a fan is loud")
    lab.root("node1", "touch /run/reboot-required")
    assert "rebooted in " in provision(tags="reboot")
    cluster.wait("node1", lambda state: state == "IDLE+DRAIN")
    assert cluster.reason("node1") == "a fan is loud"
    cluster.stop()


def _job(cluster: slurm.Slurm) -> bool:
    cluster.run("sbatch --output=/dev/null --wrap='sleep 600'")
    return bool(cluster.wait("node1", lambda state: state in ("ALLOCATED", "MIXED")))


@pytest.mark.full
def test_a_boot_that_takes_a_minute_is_waited_for(lab: Any, provision: Provision) -> None:
    lab.root(
        "node1",
        f"mkdir -p $(dirname {SLOW_BOOT}); touch /run/reboot-required; "
        f"printf '[Service]\\nExecStartPre=/bin/sleep 60\\n' >{SLOW_BOOT}",
    )
    said = provision(tags="reboot")
    lab.root("node1", f"rm {SLOW_BOOT}; systemctl daemon-reload")
    seconds = int(said.partition("rebooted in ")[2].split()[0])
    assert seconds >= 60


@pytest.mark.full
def test_a_build_that_fails_is_told_with_its_kernel_and_log(
    lab: Any, provision: Provision, built: str
) -> None:
    kernel = _kernels(lab)[-1]
    version = _promises(lab, "module")["nvidia-current"]
    # Debian's headers of a kernel refer to those that all of its kinds have in common.
    makefile = f"$(sed -n 's/^include //p' /lib/modules/{kernel}/build/Makefile)"
    lab.root("node1", f"dkms remove -m nvidia-current -v {version} -k {kernel}")
    lab.root("node1", f"sed -i '1i $(error the disk ate these headers)' {makefile}")
    said = provision(exit_code=1)
    assert f"DKMS could not build nvidia-current/{version} for {kernel}" in said
    assert "the disk ate these headers" in said
    lab.root("node1", f"sed -i 1d {makefile}")
    provision()
    assert _modules(lab) == {version}


@pytest.mark.full
def test_missing_headers_come_back(lab: Any, provision: Provision, built: str) -> None:
    lab.root("node1", "DEBIAN_FRONTEND=noninteractive apt-get -qqy purge 'linux-headers-*-amd64'")
    assert _kernels(lab) == []
    provision()
    assert _modules(lab) == {_promises(lab, "module")["nvidia-current"]}


@pytest.mark.full
def test_a_kernel_installed_since_gets_headers_and_module(
    lab: Any, provision: Provision, built: str
) -> None:
    install = "DEBIAN_FRONTEND=noninteractive apt-get -qqy --no-install-recommends install"
    lab.root("node1", f"{install} linux-image-cloud-amd64 >/dev/null 2>&1")
    kernel = lab.root("node1", "ls -d /lib/modules/*/kernel | cut -d/ -f4").strip()
    assert "cloud" in kernel
    provision()
    version = _promises(lab, "module")["nvidia-current"]
    assert lab.root("node1", VERSION_OF.format(kernel=kernel)).strip() == version
    assert "linux-headers-cloud-amd64" in _promises(lab, "package")
    assert SECOND_RUN in provision()


@pytest.mark.full
def test_another_version_than_the_wanted_one_is_replaced(
    lab: Any, provision: Provision, built: str
) -> None:
    offered = lab.root("node1", "apt-cache madison nvidia-kernel-dkms | cut -d'|' -f2").split()
    older = offered[-1].partition("-")[0]
    assert older != _promises(lab, "module")["nvidia-current"]
    provision(nvidia_driver_version=older)
    assert _promises(lab, "module") == {"nvidia-current": older}
    assert {
        lab.root("node1", f"dpkg-query -Wf '${{Version}}' {name}").partition("-")[0]
        for name in _promises(lab, "hold")
    } == {older}
    assert set(lab.root("node1", "apt-mark showhold").split()) == set(_promises(lab, "hold"))
    assert SECOND_RUN in provision(nvidia_driver_version=older)


@pytest.mark.full
def test_the_driver_is_built_on_trixie(own_lab: Callable[..., Any], tmp_path: Path) -> None:
    trixie = own_lab("driver-trixie-test", "--nodes", "1", "--release", "trixie:1")

    def edit(everything: dict[str, Any]) -> None:
        everything["vars"]["nvidia_driver_enabled"] = True

    inventory = trixie.edited(tmp_path, edit)
    trixie.provision("--tags", "nvidia_driver", inventory=inventory, timeout_s=BUILD_S)
    version = _promises(trixie, "module")["nvidia-current"]
    assert version.startswith("550.")
    assert _modules(trixie) == {version}
    said = trixie.provision("--tags", "nvidia_driver", inventory=inventory)
    assert SECOND_RUN in " ".join(said.split())
