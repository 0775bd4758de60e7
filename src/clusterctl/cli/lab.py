"""``clusterctl lab``: a cluster of real nodes on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from clusterctl.errors import UserError
from clusterctl.lab import faults as fault_list
from clusterctl.lab import lab as labs
from clusterctl.lab import node as nodes
from clusterctl.lab import preflight
from clusterctl.lab import spec as specs
from clusterctl.lab.spec import LabSpec
from clusterctl.lab.tree import USER

name_option = click.option(
    "--name", default="lab", show_default=True, help="Which lab; several can be up at once."
)


def inventory_path(source: str) -> Path:
    """Give the inventory that ``lab`` or ``lab:NAME`` stands for; the lab must be up."""
    name = source.partition(":")[2] or "lab"
    spec = specs.require(name)
    if not (specs.RUNTIME / name).is_dir():
        raise UserError(f"lab {name!r} does not run", f"clusterctl lab up{_name(name)}")
    return spec.inventory


def _say(text: str) -> None:
    click.echo(text, err=True)


def _name(name: str) -> str:
    return "" if name == "lab" else f" --name {name}"


@click.group()
def lab() -> None:
    """Run a cluster of real nodes on this machine, for trying, teaching and testing.

    Every node boots its own Debian with systemd, sshd and apt, has its own disk, network and
    address, and can be broken on purpose. Needs root.

    \b
    Examples:
      clusterctl lab up                           four bare nodes, node1 to node4
      clusterctl lab up --nodes 16                grow to sixteen
      clusterctl lab up --release bookworm:2,trixie:2
      clusterctl lab fault add node3 slow-link=50mbit
      clusterctl lab fault clear
      clusterctl lab down
    """


@lab.command()
@click.option("--nodes", type=click.IntRange(1, specs.MAX_NODES), help="How many.  [default: 4]")
@click.option(
    "--release", "releases", metavar="RELEASE", help="bookworm, trixie, or bookworm:2,trixie:2."
)
@click.option("--nic", metavar="RATE", help="Rate of every NIC, or unshaped.  [default: 200mbit]")
@name_option
def up(nodes: int | None, releases: str | None, nic: str | None, name: str) -> None:
    """Bring the lab up, or what is missing of it.

    The first time builds the node tree (about a minute); after that it takes seconds. Nodes that
    are up stay as they are; more nodes are added, and --nic changes the rate of all.

    \b
    Examples:
      clusterctl lab up
      clusterctl lab up --nodes 16 --nic 1gbit
      clusterctl lab up --release bookworm:2,trixie:2 --name mixed
    """
    spec = labs.up(labs.Request(name, nodes, releases, nic), _say)
    _show(spec)
    source = "lab" if name == "lab" else f"lab:{name}"
    click.echo(
        f"\nnext: clusterctl provision -i {source}\n"
        f"      clusterctl doctor -i {source}\n"
        f"      clusterctl lab shell node1{_name(name)}"
    )


@lab.command()
@name_option
def status(name: str) -> None:
    """Show the nodes: address, release, state, NIC rate, faults.

    \b
    Example:
      clusterctl lab status
    """
    preflight.require_root()
    _show(specs.require(name))


def _show(spec: LabSpec) -> None:
    states = labs.states(spec)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("NODE", "ADDRESS", "RELEASE", "STATE", "NIC", "FAULTS"):
        table.add_column(column)
    for node in spec.nodes:
        rate = specs.format_rate(spec.rate(node))
        how = states[node.name]
        table.add_row(
            node.name, spec.address(node), node.release, how, rate, _faults(node.faults) or "-"
        )
    Console(highlight=False).print(table)


def _faults(faults: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" if value else name for name, value in faults.items())


@lab.command()
@name_option
def inventory(name: str) -> None:
    """Print the path of the lab's Ansible inventory.

    \b
    Example:
      ansible -i "$(clusterctl lab inventory)" all -m ping
    """
    click.echo(specs.require(name).inventory)


@lab.command(context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--console", is_flag=True, help="Enter as root without SSH, whatever is broken.")
@name_option
def shell(node: str, command: tuple[str, ...], console: bool, name: str) -> None:
    """Log in to a node over SSH, or run a command there.

    \b
    Examples:
      clusterctl lab shell node1
      clusterctl lab shell node1 systemctl is-system-running
      clusterctl lab shell --console node3 systemctl start ssh
    """
    spec = specs.require(name)
    target = spec.node(node)
    if console:
        preflight.require_root()
        argv = [*nodes.enter(spec, target), *(command or ("bash", "--login"))]
    else:
        argv = ["ssh", "-i", str(spec.key), "-o", f"UserKnownHostsFile={spec.known_hosts}"]
        argv += ["-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"]
        argv += [f"{USER}@{spec.address(target)}", *command]
    os.execvp(argv[0], argv)  # noqa: S606 - becomes that shell


@lab.command()
@name_option
def down(name: str) -> None:
    """Take the lab down and remove all of it; only the cache of trees and packages stays.

    \b
    Example:
      clusterctl lab down
    """
    was_up = labs.down(name, _say)
    click.echo(f"lab {name!r} is down" if was_up else f"there was no lab {name!r}")


@lab.group()
def fault() -> None:
    """Break nodes on purpose, and make them whole again.

    \b
    Example:
      clusterctl lab fault add node3 slow-link && clusterctl doctor -i lab
    """


def _fault_epilog() -> str:
    lines = [
        f"  {each.name + ('=' + each.default if each.default else ''):22} {each.help}"
        for each in fault_list.FAULTS.values()
    ]
    return "\b\nFaults, with their default values:\n" + "\n".join(lines)


@fault.command(epilog=_fault_epilog())
@click.argument("node")
@click.argument("fault", metavar="FAULT[=VALUE]")
@name_option
def add(node: str, fault: str, name: str) -> None:
    """Break a node.

    \b
    Examples:
      clusterctl lab fault add node3 slow-link
      clusterctl lab fault add node2 lossy-link=5%
    """
    preflight.require_root()
    fault_list.parse(fault)
    with specs.locked(_say):
        spec = specs.require(name)
        fault_list.add(spec, spec.node(node), fault)
    _say(f"{node} has {fault}; undo it with: clusterctl lab fault clear {node}{_name(name)}")


@fault.command("list")
@name_option
def list_(name: str) -> None:
    """Show the faults that are in, and those that can be added.

    \b
    Example:
      clusterctl lab fault list
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("FAULT", "DEFAULT", "NODES", "WHAT", "CAUGHT BY"):
        table.add_column(column)
    spec = specs.load(name)
    for each in fault_list.FAULTS.values():
        broken = [node.name for node in spec.nodes if each.name in node.faults] if spec else []
        row = (each.name, each.default or "-", " ".join(broken) or "-", each.help, each.caught_by)
        table.add_row(*row)
    Console(highlight=False).print(table)


@fault.command()
@click.argument("node", required=False)
@click.argument("fault", required=False)
@name_option
def clear(node: str | None, fault: str | None, name: str) -> None:
    """Undo all faults, those of a node, or one of them.

    \b
    Examples:
      clusterctl lab fault clear
      clusterctl lab fault clear node3 slow-link
    """
    preflight.require_root()
    if fault:
        fault_list.parse(fault)
    with specs.locked(_say):
        spec = specs.require(name)
        for target in [spec.node(node)] if node else spec.nodes:
            for each in [fault] if fault else fault_list.in_clearing_order(target):
                spec = fault_list.clear(spec, spec.node(target.name), each)
