"""Times and rates against a named reference. Prints ratios and asserts nothing about them.

Run by ``make bench``, as root; it takes a few minutes. Every ratio comes from runs that take turns
in one session, since machines are noisy.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

BIN = Path(sys.executable).parent
PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
ROUNDS = 5


def clusterctl(*args: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "clusterctl", *args],
        capture_output=True,
        text=True,
        env=os.environ | env,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@contextmanager
def lab(name: str, nodes: int, *options: str) -> Iterator[str]:
    clusterctl("lab", "up", "--name", name, "--nodes", str(nodes), *options)
    try:
        yield clusterctl("lab", "inventory", "--name", name).stdout.strip()
    finally:
        clusterctl("lab", "down", "--name", name)


def seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def show(what: str, ours: list[float], reference: str, theirs: list[float], unit: str) -> None:
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"\n{what}: {median(ours):.2f} {unit}; {reference}: {median(theirs):.2f} {unit}; "
        f"ratio {median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f}, {len(pairs)} rounds)"
    )


def test_examining_64_nodes_against_ansible_ping(tmp_path: Path) -> None:
    with lab("bench", 64) as inventory:
        config = tmp_path / "ansible.cfg"
        config.write_text("[ssh_connection]\npipelining = True\n")
        ping = [BIN / "ansible", "-i", inventory, "all", "-m", "ping", "-f", "64"]
        env = os.environ | {"ANSIBLE_CONFIG": str(config)}

        def ansible() -> None:
            subprocess.run(ping, env=env, check=True, capture_output=True)

        def doctor() -> None:
            state = str(tmp_path)
            done = clusterctl(
                "doctor", "-i", inventory, "--level", "quick", "--json", "-",
                check=False, XDG_STATE_HOME=state,
            )  # fmt: skip
            findings = json.loads(done.stdout)["findings"]
            reached = [f for f in findings if f["check"] == "node.reachable"]
            assert [f["status"] for f in reached] == ["pass"] * 64

        doctor(), ansible()
        rounds = [(seconds(doctor), seconds(ansible)) for _ in range(ROUNDS)]
    ours, theirs = map(list, zip(*rounds, strict=True))
    show("doctor --level quick, 64 nodes", ours, "ansible -m ping, pipelining, -f 64", theirs, "s")


@pytest.mark.parametrize("nic", ["default", "unshaped"])
def test_bandwidth_of_two_nodes_against_iperf3(nic: str, tmp_path: Path) -> None:
    options = () if nic == "default" else ("--nic", nic)
    with lab("bench", 2, *options) as inventory:
        clusterctl("provision", "-i", inventory, XDG_STATE_HOME=str(tmp_path))
        become = [BIN / "ansible", "-i", inventory, "--become"]
        install = "name=iperf3 install_recommends=false"
        subprocess.run(
            [*become, "all", "-m", "apt", "-a", install], check=True, capture_output=True
        )
        hosts = json.loads(
            subprocess.check_output([BIN / "ansible-inventory", "-i", inventory, "--list"])
        )["_meta"]["hostvars"]
        target = hosts["node2"]["ansible_host"]
        serve = "iperf3 --server --daemon"
        subprocess.run([*become, "node2", "-a", serve], check=True, capture_output=True)

        def iperf3() -> float:
            client = f"iperf3 --client {target} --time 4 --omit 1 --json"
            out = subprocess.check_output([*become, "node1", "-a", client], text=True)
            end = json.loads(out[out.index("{") :])["end"]
            return float(end["sum_received"]["bits_per_second"]) / 8e6

        def doctor() -> float:
            done = clusterctl("doctor", "-i", inventory, "--json", "-", check=False)
            links = json.loads(done.stdout)["fabric"]["links"]
            return median(s["bandwidth_bytes_per_s"] for s in links if s["source"] == "node1") / 1e6

        rounds = [(doctor(), iperf3()) for _ in range(ROUNDS)]
    ours, theirs = map(list, zip(*rounds, strict=True))
    show(f"node1 to node2, NIC {nic}", ours, "iperf3, one stream", theirs, "MB/s")


def test_a_second_provision_of_16_nodes_against_ansible_playbook(tmp_path: Path) -> None:
    """The same playbook and roles with Ansible's defaults: 5 forks, no pipelining, linear."""
    plain = tmp_path / "playbooks"
    shutil.copytree(PLAYBOOKS, plain)
    playbook = plain / "provision.yml"
    playbook.write_text(playbook.read_text().replace("  strategy: free\n", ""))
    config = tmp_path / "ansible.cfg"
    config.touch()
    with lab("bench", 16) as inventory:
        clusterctl("provision", "-i", inventory, XDG_STATE_HOME=str(tmp_path))

        def ansible() -> None:
            argv = [BIN / "ansible-playbook", "-i", inventory, playbook]
            env = os.environ | {"ANSIBLE_CONFIG": str(config)}
            recap = subprocess.check_output(argv, env=env, text=True).partition("PLAY RECAP")[2]
            assert recap.count("changed=0") == 16, recap

        def provision() -> None:
            done = clusterctl("provision", "-i", inventory, XDG_STATE_HOME=str(tmp_path))
            assert "Nothing to change: 16 nodes are as wanted." in done.stdout

        rounds = [(seconds(provision), seconds(ansible)) for _ in range(3)]
    ours, theirs = map(list, zip(*rounds, strict=True))
    show("second provision, 16 nodes", ours, "ansible-playbook, its defaults", theirs, "s")
