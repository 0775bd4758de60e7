"""A vendor's repository on real nodes: keys, their change, versions, holds.

The content of its packages is a stand-in (vendor.py); the rest is real.

The tests build on each other, on a lab of their own: one node of each Debian.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vendor import Vendor, nvidia

CLUSTERCTL = Path(sys.executable).with_name("clusterctl")
LAB = "source-test"
PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
NODES = ("node1", "node2")
STRANGER = "0" * 40


def lab_cli(*arguments: str) -> str:
    verb, *rest = arguments
    argv = [CLUSTERCTL, "lab", verb, "--name", LAB, *rest]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=400).stdout


def on(node: str, command: str) -> str:
    """Run a shell command as root; what it prints, whatever it exits with."""
    return lab_cli("shell", "--console", node, "sh", "-c", f"cd /; {command}; true").strip()


@pytest.fixture(scope="module")
def inventory() -> Iterator[str]:
    lab_cli("down")
    lab_cli("up", "--nodes", "2", "--release", "bookworm:1,trixie:1")
    yield lab_cli("inventory").strip()
    lab_cli("down")


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    return nvidia(tmp_path_factory.mktemp("vendor") / "repository")


@pytest.fixture(scope="module")
def keys(vendor: Vendor) -> dict[str, str]:
    return {name: vendor.new_key(name) for name in ("first", "second")}


@pytest.fixture(scope="module")
def url(inventory: str, vendor: Vendor) -> Iterator[str]:
    gateway = re.search(r"default via (\S+)", on("node1", "ip route"))
    assert gateway is not None
    with vendor.served(gateway[1]) as url:
        yield url


class Provisioner:
    """Runs the playbook for the roles that a vendor's repository is for."""

    def __init__(self, inventory: str, url: str, folder: Path) -> None:
        self.inventory, self.url, self.folder = inventory, url, folder

    def __call__(self, key: str, fingerprints: list[str], **more: object) -> str:
        variables = {
            "vendor_source": "vendor",
            **{f"{role}_enabled": True for role in ("nccl", "container_toolkit")},
            "cuda_repository_url": f"{self.url}/cuda",
            "cuda_repository_key": f"{self.url}/{key}.pub",
            "cuda_repository_fingerprints": fingerprints,
            "container_toolkit_vendor_url": f"{self.url}/toolkit",
            "container_toolkit_vendor_key": f"{self.url}/{key}.pub",
            "container_toolkit_vendor_fingerprints": fingerprints,
            **more,
        }
        file = self.folder / "variables.json"
        file.write_text(json.dumps(variables))
        argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory]
        roles = ["--tags", "nccl,container_toolkit,dcgm", "-e", f"@{file}"]
        done = subprocess.run(
            [*argv, PLAYBOOKS / "provision.yml", *roles],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg")},
        )
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def provision(inventory: str, url: str, tmp_path_factory: pytest.TempPathFactory) -> Provisioner:
    return Provisioner(inventory, url, tmp_path_factory.mktemp("provision"))


def _recap(said: str) -> dict[str, dict[str, int]]:
    rows = re.findall(r"^(node\d) +: (.*)$", said.partition("PLAY RECAP")[2], re.MULTILINE)
    return {
        node: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", counts)}
        for node, counts in rows
    }


def _versions(node: str, package: str) -> str:
    query = f"dpkg-query -W -f '${{Version}} ${{db:Status-Want}}' {package} 2>/dev/null"
    return on(node, query)


def _promised(node: str, role: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(on(node, f"cat /etc/clusterctl/provisioned/{role}.json"))
    return found


def test_a_key_of_a_stranger_is_refused_and_nothing_is_installed(
    vendor: Vendor, keys: dict[str, str], provision: Provisioner
) -> None:
    vendor.sign(keys["first"])
    said = provision("first", [STRANGER])
    assert all(counts["failed"] == 1 for counts in _recap(said).values())
    assert f"is {keys['first']}, and accepted are {STRANGER}: nothing was installed" in said
    for node in NODES:
        assert on(node, "ls /etc/apt/sources.list.d | grep clusterctl") == ""
        assert on(node, "ls /etc/apt/keyrings | grep clusterctl") == ""
        assert _versions(node, "libnccl2") == ""


def test_a_list_that_another_key_signed_is_refused_and_apt_goes_on_to_work(
    vendor: Vendor, keys: dict[str, str], provision: Provisioner
) -> None:
    vendor.sign(keys["second"])
    said = provision("first", [keys["first"]])
    assert all(counts["failed"] == 1 for counts in _recap(said).values())
    assert re.search("NO_PUBKEY|Missing key", said)
    for node in NODES:
        assert on(node, "ls /etc/apt/sources.list.d | grep clusterctl") == ""
        on(node, "apt-get update -q -o APT::Update::Error-Mode=any")


def test_with_the_right_key_it_is_installed_pinned_and_held(
    vendor: Vendor, keys: dict[str, str], provision: Provisioner
) -> None:
    vendor.sign(keys["first"])
    said = provision("first", [keys["first"]], nccl_version="2.27.3")
    assert {node: counts["failed"] for node, counts in _recap(said).items()} == {
        "node1": 0,
        "node2": 0,
    }, said
    for node in NODES:
        assert _versions(node, "libnccl2") == "2.27.3-1+cuda12.9 hold"
        assert _versions(node, "nvidia-container-toolkit") == "1.18.0-1 install"
        held = [
            entry["name"]
            for entry in _promised(node, "nccl")["promises"]
            if entry["kind"] == "hold"
        ]
        assert held == ["libnccl-dev", "libnccl2"]
    again = provision("first", [keys["first"]], nccl_version="2.27.3")
    assert all(counts["changed"] == 0 for counts in _recap(again).values()), again


def test_a_changed_key_is_accepted_when_its_fingerprint_is_listed(
    vendor: Vendor, keys: dict[str, str], provision: Provisioner
) -> None:
    vendor.sign(keys["second"])
    both = [keys["first"], keys["second"]]
    said = provision("second", both, nccl_version="2.27.5")
    assert all(counts["failed"] == 0 for counts in _recap(said).values()), said
    for node in NODES:
        assert _versions(node, "libnccl2") == "2.27.5-1+cuda12.9 hold"


def test_what_is_pinned_no_more_is_let_go(keys: dict[str, str], provision: Provisioner) -> None:
    said = provision("second", [keys["second"]])
    assert all(counts["failed"] == 0 for counts in _recap(said).values()), said
    for node in NODES:
        assert _versions(node, "libnccl2") == "2.27.5-1+cuda12.9 install"


def test_dcgm_is_installed_where_the_vendor_has_it(
    keys: dict[str, str], provision: Provisioner
) -> None:
    said = provision("second", [keys["second"]], dcgm_enabled=True, dcgm_version="4.6")
    recap = _recap(said)
    assert (recap["node1"]["failed"], recap["node2"]["failed"]) == (0, 1), said
    assert 'dcgm is not to be had: the source "vendor" has no package of it for Debian 13' in said
    assert _versions("node1", "datacenter-gpu-manager-4-core") == "1:4.6.0-1 hold"
    assert "enabled" in on("node1", "systemctl is-enabled nvidia-dcgm")


def test_a_repository_that_the_node_has_already_is_named(
    keys: dict[str, str], provision: Provisioner, url: str
) -> None:
    source = f"deb [trusted=yes] {url}/cuda ./"
    on("node1", f"echo '{source}' > /etc/apt/sources.list.d/cuda-debian12.list")
    said = provision("second", [keys["second"]])
    assert _recap(said)["node1"]["failed"] == 1
    assert "/etc/apt/sources.list.d/cuda-debian12.list has the repository" in said
    on("node1", "rm /etc/apt/sources.list.d/cuda-debian12.list")


def test_a_container_runtime_that_is_there_is_configured(
    keys: dict[str, str], provision: Provisioner
) -> None:
    # A stand-in as well: a program of that name, and a unit to restart.
    unit = "[Service]\\nExecStart=/bin/sleep infinity\\n"
    on("node2", f"printf '{unit}' > /etc/systemd/system/containerd.service")
    on("node2", "ln -s /bin/true /usr/local/bin/containerd; systemctl daemon-reload")
    said = provision("second", [keys["second"]])
    assert _recap(said)["node2"] | {"failed": 0, "changed": 2} == _recap(said)["node2"], said
    assert "nvidia-container-runtime" in on("node2", "cat /etc/containerd/config.toml")
    assert "active" in on("node2", "systemctl is-active containerd")
    again = provision("second", [keys["second"]])
    assert _recap(again)["node2"]["changed"] == 0, again
