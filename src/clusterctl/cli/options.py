"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

INVENTORY_HELP = "Ansible inventory: a file or folder; 'lab' or 'lab:NAME' for a running lab."


def inventory_option(*, required: bool) -> Callable[[Any], Any]:
    """Give the ``-i INVENTORY`` option, passed on as ``source``."""
    return click.option(
        "-i", "--inventory", "source", metavar="INVENTORY", required=required, help=INVENTORY_HELP
    )


def resolve_inventory(source: str) -> str:
    """Give the path behind ``lab`` and ``lab:NAME``, and every other source as it is."""
    if source != "lab" and not source.startswith("lab:"):
        return source
    from clusterctl.cli.lab import inventory_path

    return str(inventory_path(source))
