"""Which nodes can take part in one MPI run, and over which networks. Pure."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clusterctl.facts import Mpi, NodeFacts, Unread

Network = ipaddress.IPv4Network


@dataclass(frozen=True)
class Membership:
    """Who takes part, in order."""

    mpi: dict[str, Mpi]
    addresses: dict[str, str]
    """Each member's address, for the launch."""
    networks: tuple[str, ...]
    """CIDRs that all traffic is kept to; empty: this machine alone."""
    lost: dict[str, str]
    """Node -> why it cannot take part."""


def choose(
    facts: Mapping[str, NodeFacts], ssh_addresses: Mapping[str, str], network: str | None
) -> Membership:
    """Choose the members of one run.

    All must run the same major version of Open MPI: the majority's, the newer one of two equal
    halves. ``network`` is the CIDR to use; without one it is what all members have an address
    in, else each member's own network that its SSH connection (``ssh_addresses``) arrives at.
    """
    lost: dict[str, str] = {}
    mpi: dict[str, Mpi] = {}
    for name, fact in facts.items():
        if isinstance(fact.mpi, Unread):
            lost[name] = f"no MPI: {fact.mpi.why}"
        else:
            mpi[name] = fact.mpi
    votes = Counter(major(found) for found in mpi.values())
    chosen = max(votes, key=lambda version: (votes[version], version), default=0)
    for name, found in mpi.items():
        if major(found) != chosen:
            lost[name] = (
                f"has Open MPI {found.version}; this run is of Open MPI {chosen}, and different "
                "major versions cannot join one"
            )
    if chosen >= 5:
        lost |= _namesakes({name: facts[name] for name in mpi if name not in lost})
    names = [name for name in mpi if name not in lost]
    if len(names) == 1:
        return Membership({name: mpi[name] for name in names}, {names[0]: "127.0.0.1"}, (), lost)

    interfaces = {name: _interfaces(facts[name]) for name in names}
    networks = [ipaddress.IPv4Network(network, strict=False)] if network else _common(interfaces)
    if not networks:
        networks = _arrived_at(interfaces, ssh_addresses)
    addresses: dict[str, str] = {}
    for name in names:
        inside = [
            str(interface.ip)
            for net in networks
            for interface in interfaces[name]
            if interface.ip in net
        ]
        if inside:
            addresses[name] = inside[0]
        elif network:
            lost[name] = f"has no address in the fabric network {network}"
        else:
            lost[name] = "shares no network with the other nodes; set fabric_network"
    return Membership(
        {name: mpi[name] for name in addresses}, addresses, tuple(map(str, networks)), lost
    )


def major(mpi: Mpi) -> int:
    """Give the first number of an MPI's version; 0 when it has none."""
    head = mpi.version.split(".")[0]
    return int(head) if head.isdigit() else 0


def _namesakes(facts: Mapping[str, NodeFacts]) -> dict[str, str]:
    """Find nodes whose hostname another one has: Open MPI 5 takes them for the same node."""
    first: dict[str, str] = {}
    lost = {}
    for name, fact in facts.items():
        if not isinstance(fact.system, Unread):
            owner = first.setdefault(fact.system.hostname, name)
            if owner != name:
                lost[name] = (
                    f"has the hostname {fact.system.hostname!r}, which is {owner}'s as well, and "
                    "Open MPI 5 tells nodes apart by it; hostnamectl set-hostname"
                )
    return lost


def _interfaces(facts: NodeFacts) -> list[ipaddress.IPv4Interface]:
    found = []
    for nic in [] if isinstance(facts.nics, Unread) else facts.nics:
        for address in nic.addresses if nic.up else []:
            try:
                interface = ipaddress.ip_interface(address)
            except ValueError:
                continue
            if (
                isinstance(interface, ipaddress.IPv4Interface)
                and not interface.is_loopback
                and not interface.is_link_local
            ):
                found.append(interface)
    return found


def _common(interfaces: Mapping[str, Iterable[ipaddress.IPv4Interface]]) -> list[Network]:
    """Networks in which every member has an address, and all of them different ones.

    A bridge for containers has the same address on every machine and joins none of them.
    """
    shared = None
    for mine in interfaces.values():
        networks = {interface.network for interface in mine}
        shared = networks if shared is None else shared & networks
    return sorted(net for net in shared or () if _distinct(interfaces, net))


def _distinct(
    interfaces: Mapping[str, Iterable[ipaddress.IPv4Interface]], network: Network
) -> bool:
    everything = (interface for mine in interfaces.values() for interface in mine)
    owners = Counter(interface.ip for interface in everything if interface.ip in network)
    return max(owners.values(), default=1) == 1


def _arrived_at(
    interfaces: Mapping[str, Iterable[ipaddress.IPv4Interface]], ssh_addresses: Mapping[str, str]
) -> list[Network]:
    return sorted(
        {
            interface.network
            for name, mine in interfaces.items()
            for interface in mine
            if str(interface.ip) == ssh_addresses.get(name)
        }
    )
