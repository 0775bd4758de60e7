"""``clusterctl provision history`` and ``show``: who changed what, and when."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
from rich.console import Console

from clusterctl.cli.options import inventory_option, resolve_inventory
from clusterctl.provision import history as past
from clusterctl.provision import past_view

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


def real_inventory(source: str) -> str:
    """Give the one path that an inventory has, whatever it was called; a list of hosts as it is."""
    path = resolve_inventory(source)
    return os.path.realpath(path) if Path(path).exists() else path


@click.command()
@inventory_option(required=False)
@json_option
def history(source: str | None, as_json: bool) -> None:
    """List the runs: when, who, which inventory, how, and what came of it. The last is the newest.

    \b
    Examples:
      clusterctl provision history
      clusterctl provision history -i inventory/hosts.yml --json
    """
    runs = past.runs(real_inventory(source) if source else None)
    if as_json:
        click.echo(json.dumps([past_view.outline(run) for run in runs], indent=2))
    else:
        past_view.print_list(runs, Console(highlight=False))


@click.command()
@click.argument("run", required=False)
@json_option
def show(run: str | None, as_json: bool) -> None:
    """Show a run, by default the last: what changed where and when, versions, failures, times.

    RUN is an id, or as much of its beginning as tells it apart.

    \b
    Examples:
      clusterctl provision show
      clusterctl provision show 20261125-0044
      clusterctl provision show --json
    """
    found = past.find(run)
    if as_json:
        click.echo(json.dumps(past_view.full(found), indent=2))
    else:
        past_view.print_run(found, Console(highlight=False))
