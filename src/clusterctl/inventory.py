"""An Ansible inventory as a Cluster of Nodes with their wanted state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Secret:
    """A value that never shows: its ``repr`` and ``str`` are ``***``."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the value, for the one place that must send it."""
        return self._value

    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True)
class Become:
    """Privilege escalation, from ``ansible_become*``; ``method`` is ``sudo``, ``su``, ``doas``."""

    method: str = "sudo"
    user: str = "root"
    password: Secret | None = None


@dataclass(frozen=True)
class Node:
    """One machine: where it is, as whom to log in, and what it should be."""

    name: str
    host: str
    port: int | None = None
    user: str | None = None
    password: Secret | None = None
    private_key_file: str | None = None
    ssh_args: tuple[str, ...] = ()
    """``ansible_ssh_common_args`` then ``ansible_ssh_extra_args``, split as a shell would."""
    python: str | None = None
    """``ansible_python_interpreter``, unless it is one of Ansible's ``auto`` values."""
    become: Become | None = None
    local: bool = False
    """``ansible_connection: local``: this machine, no SSH."""
    wanted: Mapping[str, Any] = field(default_factory=dict)
    """The node's templated variables without Ansible's own (``ansible_*``): the wanted state that
    provisioning uses as well. Values out of a vault are :class:`Secret`."""


@dataclass(frozen=True)
class Cluster:
    """The machines of one inventory."""

    nodes: tuple[Node, ...]
    source: str
    """What the user gave as the inventory, for the report."""


def load(source: str | Path, limit: str | None = None) -> Cluster:
    """Read an inventory with Ansible's own loader: every format and plugin, vault, host ranges.

    ``limit`` is an Ansible host pattern. Raises :class:`clusterctl.errors.UserError` for an
    inventory that cannot be read or that holds no node.
    """
    from clusterctl import ansible_inventory  # importing Ansible takes 0.2 s, --help does not wait

    return ansible_inventory.read(str(source), limit)
