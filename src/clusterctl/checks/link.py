"""Checks of the paths between nodes, after what their ends explain is taken off."""

from __future__ import annotations

from clusterctl.checks.base import (
    Level,
    LinkView,
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
from clusterctl.checks.culprit import Network, Pair
from clusterctl.checks.network import (
    NODE_DEFICIT_MAX,
    NOISE_HIDES,
    deficit_of,
    incomplete,
    loss_limit,
    too_noisy,
)
from clusterctl.checks.units import both_rates, percent, rate, seconds
from clusterctl.facts import FabricFacts, Unread
from clusterctl.findings import Outcome

LINK_DEFICIT_MAX = 0.3
"""Default of ``doctor_limits.link_bandwidth_deficit_max``."""

LINK_SIGMAS = 5.0
"""More than for nodes: there are many more links, and each was measured less."""

LINK_LOSS_MAX = 0.02
"""Default of ``doctor_limits.link_loss_max``: a burst or two, of a full queue, stay below."""

LATENCY_FACTOR, LATENCY_MARGIN_S = 5.0, 1e-3
"""A latency is conspicuous beyond factor x and beyond margin + what its ends explain."""


@check(
    "link.bandwidth",
    "The path between two nodes gives what its ends can",
    of=LinkView,
    level=Level.STANDARD,
)
def link_bandwidth(link: LinkView) -> Outcome:
    """Judge a pair after its ends: what they explain is their fault and not the path's."""
    network, pairs = _pairs(link)
    measured = [network.bandwidth[pair] for pair in pairs]
    seen = _directions(pairs, measured)
    floor = link.limit("link_bandwidth_min_bytes_per_s")
    floor_text = (
        f"at least {both_rates(floor)} (inventory: doctor_limits.link_bandwidth_min_bytes_per_s)"
        if floor is not None
        else ""
    )
    if floor is not None and min(measured) < floor <= _ends_allow(network, pairs, link):
        return fail(seen, floor_text, _look_at_path(link))
    if _is_only_pair(link):
        if floor is not None:
            return ok(seen, floor_text)
        return skip(
            f"{seen}; two nodes have no peers to compare with, and the inventory sets no "
            "doctor_limits.link_bandwidth_min_bytes_per_s"
        )
    site = link.limit("link_bandwidth_deficit_max", lowest=True)
    most = LINK_DEFICIT_MAX if site is None else site
    deficit, pair = max((deficit_of(network.bandwidth[p], network.expected(p)), p) for p in pairs)
    expected = network.expected(pair)
    limit = (
        f"at least {percent(1 - most)} of what the slower end reaches with others, "
        f"{rate((1 - most) * expected)} ({source('link_bandwidth_deficit_max', site)})"
    )
    noise = LINK_SIGMAS * network.noise
    if deficit <= most or (deficit <= noise < NOISE_HIDES):
        return ok(f"{seen}{_slow_end(network, pair)}", limit)
    if deficit <= noise:
        return too_noisy(network)
    if lossy := _lossy_ends(link, network):
        return ok(f"{seen}: {' and '.join(lossy)} loses packets (see node.network.loss)", limit)
    return fail(
        f"{seen}; with others, {pair[0]} sends {rate(network.send[pair[0]])} and {pair[1]} "
        f"receives {rate(network.receive[pair[1]])}: neither end, the path between them",
        limit,
        _look_at_path(link),
    )


def _pairs(link: LinkView) -> tuple[Network, list[Pair]]:
    """Give both directions of the link, or end the check when one was not measured."""
    network = link.network()
    pairs = [(link.a, link.b), (link.b, link.a)]
    missing = [pair for pair in pairs if pair not in network.bandwidth]
    if missing:
        source_name, target = missing[0]
        raise UnjudgedError(
            unknown(
                f"not measured from {source_name} to {target}{incomplete(link.evidence.fabric)}"
            )
        )
    return network, pairs


def _is_only_pair(link: LinkView) -> bool:
    fabric = link.evidence.fabric
    return isinstance(fabric, FabricFacts) and len(fabric.nodes) == 2


def _ends_allow(network: Network, pairs: list[Pair], link: LinkView) -> float:
    """Give what the ends allow in the worse direction; two nodes alone explain nothing."""
    if _is_only_pair(link):
        return float("inf")
    return min(network.expected(pair) for pair in pairs)


def _directions(pairs: list[Pair], measured: list[float]) -> str:
    texts = [f"{both_rates(m)} from {a} to {b}" for (a, b), m in zip(pairs, measured, strict=True)]
    return ", ".join(texts)


def _slow_end(network: Network, pair: Pair) -> str:
    """Say it when an end explains why the link is slower than others."""
    a, b = pair
    if deficit_of(network.expected(pair), network.usual_send) <= NODE_DEFICIT_MAX:
        return ""
    slower = a if network.send[a] <= network.receive[b] else b
    return f": as much as {slower} reaches with any partner (see node.network.bandwidth)"


def _look_at_path(link: LinkView) -> str:
    return (
        f"on {link.a}: tracepath -n {link.b} (and back); then the switch ports, cables and "
        "uplinks between them"
    )


@check(
    "link.latency",
    "The path between two nodes is as short as the others",
    of=LinkView,
    level=Level.STANDARD,
)
def link_latency(link: LinkView) -> Outcome:
    """Judge the inventory's limit, and notice a path that is much longer than its ends explain."""
    network, pairs = _pairs(link)
    measured = network.latency[pairs[0]]
    seen = f"{seconds(measured)} one way"
    site = link.limit("link_latency_max_s", lowest=True)
    if site is not None:
        limit = f"at most {seconds(site)} (inventory: doctor_limits.link_latency_max_s)"
        return fail(seen, limit, _look_at_path(link)) if measured > site else ok(seen, limit)
    if _is_only_pair(link):
        return skip(
            f"{seen}; two nodes have no peers to compare with, and the inventory sets no "
            "doctor_limits.link_latency_max_s"
        )
    expected = network.expected_latency(pairs[0])
    most = max(LATENCY_FACTOR * expected, expected + LATENCY_MARGIN_S)
    limit = (
        f"at most {seconds(most)}: {LATENCY_FACTOR:g} times what its ends explain, and "
        f"{seconds(LATENCY_MARGIN_S)} more (default)"
    )
    if measured > most:
        return warn(f"{seen}; its ends explain {seconds(expected)}", limit, _look_at_path(link))
    return ok(seen, limit)


@check(
    "link.loss",
    "The path between two nodes loses no packets",
    of=LinkView,
    level=Level.STANDARD,
)
def link_loss(link: LinkView) -> Outcome:
    """Judge the loss between two nodes when neither of them loses with everybody."""
    network, pairs = _pairs(link)
    share = known(network.link_loss(pairs[0]), skip=("unsupported",))
    site = link.limit("link_loss_max", lowest=True)
    most = LINK_LOSS_MAX if site is None else site
    limit = f"at most {percent(most)} of TCP segments sent again ({source('link_loss_max', site)})"
    seen = f"{percent(share)} lost between them, both ways together"
    if share <= most:
        return ok(seen, limit)
    if lossy := _lossy_ends(link, network):
        return ok(f"{seen}: {' and '.join(lossy)} loses with others too (node.network.loss)", limit)
    return fail(seen, limit, _look_at_path(link))


def _lossy_ends(link: LinkView, network: Network) -> list[str]:
    """Name the ends that lose packets with their other partners, too."""
    return [] if _is_only_pair(link) else [n for n in (link.a, link.b) if _loses(link, network, n)]


def _loses(link: LinkView, network: Network, name: str) -> bool:
    most, _ = loss_limit(link.evidence.limit("loss_max", name))
    share = network.node_loss[name]
    return not isinstance(share, Unread) and share > most
