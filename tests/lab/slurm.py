"""Slurm on lab nodes: Debian's slurmctld, slurmd and munge, as real as it gets on one machine."""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

CONFIG = """\
ClusterName=lab
SlurmctldHost={controller}({address})
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
# What needs a cgroup of its own does not work under systemd-nspawn.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

INSTALL = """\
export DEBIAN_FRONTEND=noninteractive
command -v slurmctld >/dev/null && command -v slurmd >/dev/null || {
  apt-get -o DPkg::Lock::Timeout=300 -qq update
  apt-get -o DPkg::Lock::Timeout=300 -qqy --no-install-recommends install slurmctld slurmd munge
} >/tmp/slurm-install.log 2>&1 || { tail /tmp/slurm-install.log >&2; exit 1; }
systemctl --quiet --now disable slurmctld slurmd
"""

CONFIGURE = """\
install -d -o slurm -g slurm /var/lib/slurm/slurmctld /var/lib/slurm/slurmd /var/log/slurm
echo {key} | base64 -d >/etc/munge/munge.key
chown munge: /etc/munge/munge.key && chmod 400 /etc/munge/munge.key
echo {config} | base64 -d >/etc/slurm/slurm.conf
# Nothing here needs cgroups. Slurm 22.05 needs some, and refuses a hybrid tree of v2.
case $(slurmd -V) in
  *" 22."*) echo CgroupPlugin=cgroup/v1 ;;
  *) echo CgroupPlugin=disabled ;;
esac >/etc/slurm/cgroup.conf
systemctl restart munge
"""


@dataclass(frozen=True)
class Slurm:
    """A Slurm that runs. ``lab`` is a ``conftest.Lab``; commands run as root on the controller."""

    lab: Any
    controller: str
    nodes: tuple[str, ...]

    def run(self, command: str, *, check: bool = True) -> str:
        """Run a shell command on the controller: ``srun -N2 hostname``, ``scontrol ...``."""
        return str(self.lab.root(self.controller, f"cd /; {command}", check=check))

    def state(self, node: str) -> str:
        """Give Slurm's words for the node: ``IDLE``, ``IDLE+DRAIN``, ``MIXED``, ``DOWN``."""
        return self._field(node, "State").rstrip("*")

    def reason(self, node: str) -> str:
        """Give why the node is drained or down; empty when it is neither."""
        return re.sub(r" \[\S+@\S+\]$", "", self._field(node, "Reason"))

    def drain(self, node: str, reason: str) -> None:
        """Drain the node as an administrator would."""
        self.run(f"scontrol update NodeName={node} State=DRAIN Reason='{reason}'")

    def resume(self, node: str) -> None:
        """Resume the node."""
        self.run(f"scontrol update NodeName={node} State=RESUME")

    def wait(self, node: str, is_wanted: Callable[[str], bool], timeout_s: float = 60) -> str:
        """Wait until the node's state is wanted, and give it."""
        end = time.monotonic() + timeout_s
        while not is_wanted(state := self.state(node)):
            assert time.monotonic() < end, self.run("scontrol show node; sinfo -R", check=False)
            time.sleep(0.5)
        return state

    def stop(self) -> None:
        """Stop its services on every node, and leave the packages."""
        for name in self.nodes:
            self.lab.root(name, "systemctl --quiet --now disable slurmctld slurmd munge")
            self.lab.root(name, "rm -rf /etc/slurm/slurm.conf /var/lib/slurm/*")

    def _field(self, node: str, key: str) -> str:
        text = self.run(f"scontrol show node {node}")
        found = re.search(rf"\b{key}=(.*?)(?=\s+\w+=|\s*$)", text, re.MULTILINE)
        return found[1] if found else ""


def set_up(lab: Any, nodes: Sequence[str], *extra_lines: str) -> Slurm:
    """Install, configure and start Slurm on these nodes of a lab; the first is the controller.

    ``lab`` is a ``conftest.Lab``: ``root(node, command)`` and ``inventory`` are used. All nodes
    must be of one release. ``extra_lines`` go into slurm.conf. Run on nodes that have Slurm, it
    starts a fresh one. Takes about 15 s for the installation, and 5 s else. Use ``state``,
    ``reason``, ``drain``, ``resume``, ``wait`` and ``run`` of what it gives; ``stop`` at the end
    of a test on shared nodes.
    """
    hosts = yaml.safe_load(lab.inventory.read_text())["all"]["hosts"]
    addresses = {name: hosts[name]["ansible_host"] for name in nodes}
    controller = nodes[0]
    lines = [f"NodeName={n} NodeAddr={a} CPUs=1 State=UNKNOWN" for n, a in addresses.items()]
    config = CONFIG.format(
        controller=controller,
        address=addresses[controller],
        nodes="\n".join([*lines, *extra_lines]),
    )
    key = base64.b64encode(os.urandom(128)).decode()
    text = base64.b64encode(config.encode()).decode()
    for name in nodes:
        lab.root(name, INSTALL)
    for name in nodes:
        lab.root(name, CONFIGURE.format(key=key, config=text))
    lab.root(controller, "rm -rf /var/lib/slurm/slurmctld/*; systemctl --now enable slurmctld")
    for name in nodes:
        lab.root(name, "systemctl --now enable slurmd")
    slurm = Slurm(lab, controller, tuple(nodes))
    for name in nodes:
        slurm.wait(name, lambda state: state == "IDLE")
    slurm.run(f"for i in 1 2 3 4 5; do srun -N{len(nodes)} true && exit; sleep 1; done; exit 1")
    return slurm
