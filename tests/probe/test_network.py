"""Interfaces, in a network namespace of their own whose ``/sys`` is still this machine's."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tree = Callable[..., Path]
SETUP = """
ip link set lo up
ip link add cx0 address 02:00:00:00:00:01 mtu 9000 type veth peer name cx1
ip link add eth0 address 02:00:00:00:00:03 type veth peer name eth1
ip addr add 198.18.77.1/23 dev cx0
ip link set cx0 up
ip link set cx1 up
"""


def nics(root: Path) -> dict[str, Any]:
    """Read the interfaces of a new network namespace, by name."""
    reader = [sys.executable, str(Path(__file__).with_name("nics.py")), str(root)]
    script = f"set -e\n{SETUP}\nexec {shlex.join(reader)}"
    answer = subprocess.check_output(["unshare", "--net", "sh", "-c", script])
    return {nic["name"]: nic for nic in json.loads(answer)}


def sysfs(name: str, address: str) -> dict[str, str]:
    return {
        f"sys/class/net/{name}/address": f"{address}\n",
        f"sys/class/net/{name}/device/driver": "-> ../../../../drivers/mlx5_core",
    }


def test_virtual_interfaces() -> None:
    found = nics(Path("/"))
    assert sorted(found) == ["cx0", "cx1", "eth0", "eth1", "lo"]
    assert found["cx0"]["up"]
    assert found["cx0"]["mtu_bytes"] == 9000
    assert "198.18.77.1/23" in found["cx0"]["addresses"]
    assert found["lo"]["addresses"][0] == "127.0.0.1/8"
    assert not found["eth0"]["up"]
    assert found["eth0"]["rx_bytes"] == 0  # and not those of this machine's eth0
    for nic in found.values():
        assert nic["speed_bits_per_s"]["unread"] == "unsupported"
        assert nic["driver"]["unread"] == "unsupported"


def test_interfaces_with_hardware(tree: Tree) -> None:
    root = tree(
        {
            **sysfs("cx0", "02:00:00:00:00:01"),
            **sysfs("eth0", "02:00:00:00:00:03"),
            **sysfs("lo", "02:00:00:00:00:05"),  # another's
        }
    )
    found = nics(root)
    assert found["cx0"]["driver"] == "mlx5_core"
    assert found["cx0"]["speed_bits_per_s"] == 10_000_000_000  # what veth says
    assert found["eth0"]["speed_bits_per_s"]["why"] == "the link is down"
    assert found["lo"]["driver"]["unread"] == "unsupported"
