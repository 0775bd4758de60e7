"""Checks of each node's own connection to the network."""

from __future__ import annotations

import ipaddress

from clusterctl.checks.base import (
    Level,
    NodeView,
    UnjudgedError,
    check,
    fail,
    known,
    ok,
    skip,
    source,
    unknown,
    warn,
)
from clusterctl.checks.culprit import Network
from clusterctl.checks.units import bits, both_rates, number_of, percent, rate, seconds
from clusterctl.facts import FabricFacts, Nic, Unread
from clusterctl.findings import Outcome, Status

NODE_DEFICIT_MAX = 0.2
"""Default of ``doctor_limits.node_bandwidth_deficit_max``."""

NODE_SIGMAS = 4.0
"""A deficit must also exceed the measurement's noise by this much."""

NOISE_HIDES = 0.5
"""A deficit that noise may explain is unknown, and no pass, when noise could hide a half."""

LATENCY_FACTOR, LATENCY_MARGIN_S = 2.0, 50e-6
"""A latency is conspicuous beyond factor x peers and beyond peers + margin."""

LOSS_MAX = 0.0025
"""Default of ``doctor_limits.loss_max``: share of TCP segments sent again."""

LOSS_FACTOR, LOSS_ALIKE_MAX = 3.0, 0.02
"""Below the second, a node that loses less than the first x its peers is no worse than they."""

ERRORS_MIN, ERROR_SHARE_MAX = 100, 1e-5
DROPS_MIN, DROP_SHARE_MAX = 1000, 0.01


@check("node.nic.errors", "Network interfaces count no errors", of=NodeView, severity=Status.WARN)
def nic_errors(node: NodeView) -> Outcome:
    """Relate errors and drops since boot to the packets of the same direction."""
    nics = [nic for nic in known(node.facts.nics) if nic.up and nic.name != "lo"]
    limit = (
        f"errors: at most {ERRORS_MIN} or {percent(ERROR_SHARE_MAX)} of packets since boot; "
        f"drops: at most {DROPS_MIN} or {percent(DROP_SHARE_MAX)}"
    )
    trouble = [text for nic in nics for text in _nic_trouble(nic)]
    if trouble:
        name = trouble[0].split()[0]
        return warn(
            "; ".join(trouble),
            limit,
            f"on {node.name}: ethtool -S {name} | grep -i -e err -e drop -e crc; "
            "then its cable and port",
        )
    if not nics:
        return skip("no network interface is up")
    return ok(f"{number_of(len(nics), 'interface')} without errors that count", limit)


def _nic_trouble(nic: Nic) -> list[str]:
    counts = [
        ("receive errors", nic.rx_errors, nic.rx_packets, ERRORS_MIN, ERROR_SHARE_MAX),
        ("transmit errors", nic.tx_errors, nic.tx_packets, ERRORS_MIN, ERROR_SHARE_MAX),
        ("received packets dropped", nic.rx_dropped, nic.rx_packets, DROPS_MIN, DROP_SHARE_MAX),
        ("packets to send dropped", nic.tx_dropped, nic.tx_packets, DROPS_MIN, DROP_SHARE_MAX),
    ]
    return [
        f"{nic.name} has {count} {what} in {packets} packets since boot"
        for what, count, packets, least, share in counts
        if count > least and count > share * packets
    ]


@check(
    "node.network.bandwidth",
    "The node is as fast on the network as the others",
    of=NodeView,
    level=Level.STANDARD,
)
def node_bandwidth(node: NodeView) -> Outcome:
    """Judge what the node reaches with its best partners, which only it itself can limit."""
    network = _network_of_peers(node, "link.bandwidth judges the pair")
    send, receive = network.send[node.name], network.receive[node.name]
    site = node.limit("node_bandwidth_deficit_max")
    most = NODE_DEFICIT_MAX if site is None else site
    limit = (
        f"at least {percent(1 - most)} of the median of the nodes, "
        f"{rate((1 - most) * network.usual_send)} "
        f"({source('node_bandwidth_deficit_max', site)})"
    )
    usual = f"the median node sends {rate(network.usual_send)}"
    floor = node.limit("link_bandwidth_min_bytes_per_s")
    least = min(send, receive)
    seen = f"{_both_ways(send, receive)} with {_partners(network, node.name)}{_nic_text(node)}"
    if floor is not None and least < floor:
        return fail(
            seen,
            f"at least {both_rates(floor)} (inventory: doctor_limits."
            "link_bandwidth_min_bytes_per_s)",
            _look_at_nic(node),
        )
    deficit = max(deficit_of(send, network.usual_send), deficit_of(receive, network.usual_receive))
    noise = NODE_SIGMAS * network.node_noise(node.name)
    if deficit <= most or (deficit <= noise < NOISE_HIDES):
        return ok(f"{seen}; {usual}", limit)
    if deficit <= noise:
        return too_noisy(network)
    return fail(
        f"{seen}; {usual} and receives {rate(network.usual_receive)}", limit, _look_at_nic(node)
    )


def _both_ways(send: float, receive: float) -> str:
    return f"sends {both_rates(send)} and receives {both_rates(receive)}"


def _partners(network: Network, name: str) -> str:
    count = network.partners(name)
    return f"the best of its {count} partners" if count > 3 else f"all {count} partners"


def deficit_of(value: float, usual: float) -> float:
    """Give the share that is missing to the usual value; negative where there is more."""
    return 1 - value / usual if usual > 0 else 0.0


def too_noisy(network: Network) -> Outcome:
    """Say that a low figure may be noise, or not; in the same words for all, so that they fold."""
    return unknown(
        "slower than it should be, but this cannot be told from noise: measurements of this "
        f"network differ by {percent(network.noise)} (standard deviation)",
        "run again when nothing else uses the nodes and the network, or set "
        "doctor_limits.link_bandwidth_min_bytes_per_s",
    )


def _nic_of(node: NodeView) -> Nic | None:
    """Give the interface that the measurement used, where the facts leave no doubt."""
    nics = node.facts.nics
    if isinstance(nics, Unread):
        return None
    wanted = str(node.wanted.get("fabric_network") or "")
    candidates = [nic for nic in nics if nic.up and nic.name != "lo" and _addresses(nic, wanted)]
    return candidates[0] if len(candidates) == 1 else None


def _addresses(nic: Nic, network: str) -> list[str]:
    try:
        net = ipaddress.ip_network(network, strict=False) if network else None
        own = [ipaddress.ip_address(text.split("/")[0].split("%")[0]) for text in nic.addresses]
    except ValueError:
        return []
    return [str(a) for a in own if (a in net if net else not a.is_link_local)]


def _nic_text(node: NodeView) -> str:
    nic = _nic_of(node)
    if nic is None:
        return ""
    speed = nic.speed_bits_per_s
    return f" over {nic.name}" + ("" if isinstance(speed, Unread) else f" ({bits(speed)})")


def _look_at_nic(node: NodeView) -> str:
    nic = _nic_of(node)
    name = nic.name if nic else "INTERFACE"
    return (
        f"on {node.name}: ip -s link show {name}; ethtool {name}; tc qdisc show dev {name}; "
        "then its cable, its switch port, another job"
    )


def _network_of_peers(node: NodeView, instead: str) -> Network:
    """Give the network if this node can be told from its partners, else end the check."""
    network = node.network()
    if len(node.peers) == 1:
        raise UnjudgedError(skip(f"two nodes: which end it is cannot be told; {instead}"))
    partners = network.partners(node.name)
    if partners < 2:
        raise UnjudgedError(
            unknown(
                f"measured with {number_of(partners, 'partner')} only: which end it is cannot be "
                f"told{incomplete(node.evidence.fabric)}"
            )
        )
    return network


def incomplete(fabric: FabricFacts | Unread) -> str:
    """Give why the measurement ended early, in brackets, or nothing."""
    return (
        f" ({fabric.incomplete})" if isinstance(fabric, FabricFacts) and fabric.incomplete else ""
    )


@check(
    "node.network.latency",
    "The node answers on the network as quickly as the others",
    of=NodeView,
    level=Level.STANDARD,
    severity=Status.WARN,
)
def node_latency(node: NodeView) -> Outcome:
    """Judge the latency with the node's better partners, which only it itself can add to."""
    network = _network_of_peers(node, "link.latency judges the pair")
    own, usual = network.node_latency[node.name], network.usual_latency
    most = max(LATENCY_FACTOR * usual, usual + LATENCY_MARGIN_S)
    limit = (
        f"at most {seconds(most)}: {LATENCY_FACTOR:g} times the median of the nodes, "
        f"and {seconds(LATENCY_MARGIN_S)} more (default)"
    )
    seen = f"{seconds(own)} one way with its better partners; the median node {seconds(usual)}"
    if own > most:
        return warn(
            seen,
            limit,
            f"on {node.name}: top -b -n1 | head -20 (another job?); cpupower frequency-info; "
            "ethtool -c INTERFACE",
        )
    return ok(seen, limit)


@check(
    "node.network.loss",
    "The node's connection loses no packets",
    of=NodeView,
    level=Level.STANDARD,
)
def node_loss(node: NodeView) -> Outcome:
    """Judge what gets lost with the node's better partners: that is lost at this node."""
    network = _network_of_peers(node, "link.loss judges the pair")
    share = known(network.node_loss[node.name], skip=("unsupported",))
    out, into = known(network.lost_sending(node.name)), known(network.lost_receiving(node.name))
    most, limit = loss_limit(node.limit("loss_max"))
    seen = f"{percent(out)} of what it sent was lost, and {percent(into)} of what was sent to it"
    if share <= most:
        return ok(seen, limit)
    seen += f"; {percent(share)} or more with most partners"
    usual = known(network.usual_loss)
    if share <= LOSS_FACTOR * usual and share <= LOSS_ALIKE_MAX:
        return warn(
            f"{seen}, and its peers lose as much ({percent(usual)})",
            limit,
            "look at the queues and drops of the switch between the nodes, and at their MTU",
        )
    return fail(seen, limit, _look_at_nic(node))


def loss_limit(site: float | None) -> tuple[float, str]:
    """Give the most that a node may lose, and the words for it."""
    most = LOSS_MAX if site is None else site
    return most, f"at most {percent(most)} of TCP segments sent again ({source('loss_max', site)})"
