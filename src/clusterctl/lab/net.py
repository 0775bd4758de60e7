"""The lab's network: a bridge, a namespace and a veth pair per node, rates, loss, NAT."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clusterctl.errors import UserError
from clusterctl.lab import spec as specs
from clusterctl.lab.command import run
from clusterctl.lab.spec import LabSpec, NodeSpec

NETNS = Path("/run/netns")


def free_index(taken: Iterable[int]) -> int:
    """Number for a new lab whose network nobody here uses: no lab, no interface, no route."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    targets = (route["dst"] for route in routes if route["dst"] != "default")
    used = [ipaddress.IPv4Network(target) for target in targets]
    networks = list(specs.BENCHMARK_NETWORK.subnets(new_prefix=specs.LAB_PREFIX))
    busy = set(taken)
    for index, network in enumerate(networks):
        if index not in busy and not any(network.overlaps(other) for other in used):
            return index
    raise UserError(f"every network of {specs.BENCHMARK_NETWORK} is in use on this machine")


def interfaces() -> set[str]:
    """Names of this machine's interfaces."""
    return {link.name for link in Path("/sys/class/net").iterdir()}


def open_lab(spec: LabSpec, say: Callable[[str], None]) -> None:
    """Make the bridge and the way out of it; what is there already stays."""
    if spec.tag not in interfaces():
        run(
            ["ip", "-batch", "-"],
            f"link add {spec.tag} type bridge\n"
            f"addr add {spec.gateway}/{specs.LAB_PREFIX} dev {spec.tag}\n",
        )
    run(["ip", "link", "set", spec.tag, "up"])
    run(["nft", "-f", "-"], _nat(spec))
    if _drops_forwarded():
        say(
            "this machine's firewall drops forwarded packets (Docker's does): nodes may not reach"
            " the package mirror; allow it with: iptables -I FORWARD -i clab+ -j ACCEPT;"
            " iptables -I FORWARD -o clab+ -j ACCEPT"
        )


def _nat(spec: LabSpec) -> str:
    """Rules that lend the nodes this machine's address, and its MTU where that is smaller."""
    leaving = f'ip saddr {spec.network} oifname != "{spec.tag}"'
    entering = f'ip daddr {spec.network} iifname != "{spec.tag}"'
    clamp = "tcp flags syn tcp option maxseg size set rt mtu"
    return f"""
table ip {spec.tag}
delete table ip {spec.tag}
table ip {spec.tag} {{
  chain leave {{
    type nat hook postrouting priority srcnat;
    {leaving} masquerade
  }}
  chain forward {{
    type filter hook forward priority mangle;
    {leaving} {clamp}
    {entering} {clamp}
  }}
}}
"""


def _drops_forwarded() -> bool:
    chains = json.loads(run(["nft", "-j", "list", "chains"]))["nftables"]
    return any(
        chain.get("chain", {}).get("hook") == "forward" and chain["chain"].get("policy") == "drop"
        for chain in chains
    )


def plug_in(spec: LabSpec, nodes: list[NodeSpec]) -> None:
    """Give each node a namespace with an ``eth0`` on the bridge, at its rate."""
    batch = [
        line
        for node in nodes
        for port in [spec.port(node)]
        for line in (
            f"netns add {port}",
            f"link add {port} type veth peer name eth0 netns {port}",
            f"link set {port} master {spec.tag} up",
        )
    ]
    run(["ip", "-batch", "-"], "\n".join(batch))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda node: _configure(spec, node), nodes))
    shape(spec, nodes)


def _configure(spec: LabSpec, node: NodeSpec) -> None:
    """Set up the inside of a namespace, with the ping for everyone that systemd allows."""
    script = f"""
echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range
exec ip -batch - <<END
link set lo up
addr add {spec.address(node)}/{specs.LAB_PREFIX} dev eth0
link set eth0 up
route add default via {spec.gateway}
END
"""
    run(["nsenter", f"--net={NETNS / spec.port(node)}", "sh", "-ec", script])


def shape(spec: LabSpec, nodes: list[NodeSpec]) -> None:
    """Set the rate of the nodes' NICs, in both directions."""
    lines = "\n".join(_tbf(spec.port(node), spec.rate(node)) for node in nodes)
    _tc(["tc", "-force", "-batch", "-"], lines)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda node: _shape_inside(spec, node), nodes))


def _shape_inside(spec: LabSpec, node: NodeSpec) -> None:
    argv = ["tc", "-n", spec.port(node), "-force", "-batch", "-"]
    _tc(argv, _tbf("eth0", spec.rate(node)))


def _tbf(device: str, bits_per_s: int | None) -> str:
    """A ``tc`` line. The queue is deep: with a short one TCP collapses when many nodes talk."""
    if bits_per_s is None:
        return f"qdisc del dev {device} root"
    burst = max(256 * 1024, bits_per_s // 8 // 250)
    limit = max(8 * 1024 * 1024, 16 * burst)
    return f"qdisc replace dev {device} root tbf rate {bits_per_s}bit burst {burst} limit {limit}"


def _tc(argv: list[str], lines: str) -> None:
    """Run ``tc``; removing a rate from an interface that has none is no error."""
    done = subprocess.run(argv, input=lines, capture_output=True, text=True, check=False)
    errors = [
        line
        for line in done.stderr.splitlines()
        if line.startswith(("RTNETLINK", "Error")) and "handle of zero" not in line
    ]
    if errors:
        raise UserError(f"`tc` failed: {errors[0]}")


def set_loss(spec: LabSpec) -> None:
    """Let the ports of nodes with a lossy link drop that part of what passes, both ways."""
    lossy = {
        spec.port(node): float(node.faults["lossy-link"])
        for node in spec.nodes
        if "lossy-link" in node.faults
    }
    rules = "".join(
        f"  chain {chain} {{ type filter hook {hook} priority 0;\n"
        + "".join(
            f'    {match} "{port}" numgen random mod 100000 < {round(percent * 1000)} drop\n'
            for port, percent in lossy.items()
        )
        + "  }\n"
        for chain, hook, match in (
            ("from_node", "prerouting", "iifname"),
            ("to_node", "postrouting", "oifname"),
        )
    )
    table = f"table bridge {spec.tag}"
    text = f"{table}\ndelete {table}\n" + (f"{table} {{\n{rules}}}\n" if lossy else "")
    run(["nft", "-f", "-"], text)


def unplug(spec: LabSpec, nodes: list[NodeSpec]) -> None:
    """Take the nodes' namespaces and ports away, as far as they are there."""
    here = interfaces()
    ports = [spec.port(node) for node in nodes]
    batch = [f"link del {port}" for port in ports if port in here]
    batch += [f"netns del {port}" for port in ports if (NETNS / port).exists()]
    if batch:
        run(["ip", "-batch", "-"], "\n".join(batch))


def close_lab(spec: LabSpec) -> None:
    """Remove the bridge and the rules."""
    if spec.tag in interfaces():
        run(["ip", "link", "del", spec.tag])
    for family in ("ip", "bridge"):
        table = f"table {family} {spec.tag}"
        run(["nft", "-f", "-"], f"{table}\ndelete {table}\n")


def forget_namespaces() -> None:
    """Remove the mount that ``ip netns`` leaves behind, if no namespace is left in it."""
    if NETNS.is_dir() and not any(NETNS.iterdir()):
        subprocess.run(["/bin/umount", str(NETNS)], capture_output=True, check=False)
        with contextlib.suppress(OSError):
            NETNS.rmdir()
