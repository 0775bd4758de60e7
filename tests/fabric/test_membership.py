"""Who can take part in one MPI run."""

import dataclasses

import pytest

from clusterctl.fabric.membership import choose
from clusterctl.facts import Mpi, Nic, NodeFacts, System, Unread

MISSING = Unread("absent", "not in this test")


def facts(*addresses, mpi="4.1.4", hostname=""):
    nics = [
        Nic("eth", True, 1500, MISSING, MISSING, [address], 0, 0, 0, 0, 0, 0, 0, 0)
        for address in addresses
    ]
    empty = {field.name: MISSING for field in dataclasses.fields(NodeFacts)}
    return NodeFacts(
        **empty
        | {
            "nics": nics,
            "mpi": Mpi("openmpi", mpi, "/usr/bin/mpirun", "/usr/bin/orted") if mpi else MISSING,
            "system": System(
                hostname or "-".join(addresses), "debian", "12", "", "", "", "3.11.2", "", 0.0, ""
            ),
            "wire_version": 1,
        }
    )


def test_the_network_that_all_share_is_found():
    chosen = choose(
        {
            "a": facts("10.0.0.1/24", "192.168.1.7/24"),
            "b": facts("127.0.0.1/8", "10.0.0.2/24", "172.16.0.1/16"),
        },
        {},
        None,
    )
    assert chosen.networks == ("10.0.0.0/24",)
    assert chosen.addresses == {"a": "10.0.0.1", "b": "10.0.0.2"}
    assert chosen.lost == {}


def test_a_bridge_with_the_same_address_everywhere_is_no_network():
    chosen = choose(
        {
            "a": facts("172.17.0.1/16", "10.0.0.1/24"),
            "b": facts("172.17.0.1/16", "10.0.0.2/24"),
        },
        {},
        None,
    )
    assert chosen.networks == ("10.0.0.0/24",)


def test_routed_nodes_use_the_addresses_that_ssh_arrives_at():
    chosen = choose(
        {
            "a": facts("10.1.0.5/32", "172.17.0.1/16"),
            "b": facts("10.2.0.5/32", "172.17.0.1/16"),
        },
        {"a": "10.1.0.5", "b": "10.2.0.5"},
        None,
    )
    assert chosen.networks == ("10.1.0.5/32", "10.2.0.5/32")
    assert chosen.addresses == {"a": "10.1.0.5", "b": "10.2.0.5"}


def test_a_node_outside_the_wanted_network_is_left_out_and_told():
    chosen = choose(
        {"a": facts("10.0.0.1/24"), "b": facts("10.0.0.2/24"), "c": facts("10.9.0.3/24")},
        {},
        "10.0.0.0/24",
    )
    assert list(chosen.addresses) == ["a", "b"]
    assert "10.0.0.0/24" in chosen.lost["c"]


@pytest.mark.parametrize(
    ("versions", "members"),
    [
        (["4.1.4", "4.1.6", "5.0.7"], ["n0", "n1"]),
        (["5.0.7", "5.0.8", "4.1.4"], ["n0", "n1"]),
        (["4.1.4", "5.0.7", "4.1.4", "5.0.7"], ["n1", "n3"]),
        (["4.1.4", "", "4.1.4"], ["n0", "n2"]),
    ],
)
def test_the_majority_of_versions_takes_part(versions, members):
    nodes = {f"n{i}": facts(f"10.0.0.{i + 1}/24", mpi=v) for i, v in enumerate(versions)}
    chosen = choose(nodes, {}, None)
    assert list(chosen.addresses) == members
    assert set(chosen.lost) == set(nodes) - set(members)


def test_one_machine_alone_needs_no_network():
    chosen = choose({"here": facts()}, {}, None)
    assert chosen.addresses == {"here": "127.0.0.1"}
    assert chosen.networks == ()


def test_open_mpi_5_cannot_tell_namesakes_apart():
    nodes = {
        name: facts(f"10.0.0.{i}/24", mpi="5.0.7", hostname="debian")
        for i, name in enumerate("ab", start=1)
    }
    assert "debian" in choose(nodes, {}, None).lost["b"]
