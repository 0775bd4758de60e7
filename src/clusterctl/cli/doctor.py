"""``clusterctl doctor``: examine and say READY or NOT READY."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from clusterctl import inventory
from clusterctl.checks import Level
from clusterctl.cli.options import inventory_option, resolve_inventory
from clusterctl.doctor import Observer, examine
from clusterctl.errors import UserError
from clusterctl.findings import NodeError, NodeExam, Report
from clusterctl.interruption import signals_interrupt
from clusterctl.inventory import Cluster, Node
from clusterctl.report import json, prometheus, terminal
from clusterctl.state import state_folder


@click.command(epilog="Exit codes: 0 READY, 1 NOT READY, 2 usage, 3 could not be determined.")
@inventory_option(required=False)
@click.option("-l", "--limit", metavar="PATTERN", help="Only these hosts (an Ansible pattern).")
@click.option(
    "--level",
    type=click.Choice([level.name.lower() for level in Level]),
    default="standard",
    show_default=True,
    help="quick: the nodes alone; standard: the network and MPI as well.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    help="Write the report as JSON to this file (- for standard output).",
)
@click.option(
    "--prometheus",
    "prometheus_file",
    type=click.Path(dir_okay=False, writable=True),
    help="Write the findings as metrics to this file, for node-exporter's textfile collector.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show every finding, the good ones too.")
def doctor(
    source: str | None,
    limit: str | None,
    level: str,
    json_file: str | None,
    prometheus_file: str | None,
    verbose: bool,
) -> int:
    """Examine the nodes of an inventory and the network between them.

    Without -i: this machine alone, no SSH needed.

    \b
    Examples:
      clusterctl doctor
      clusterctl doctor -i lab
      clusterctl doctor -i inventory/hosts.yml --limit 'gpu:!gpu7' --json report.json
    """
    cluster = _cluster(source, limit)
    with signals_interrupt(), _observer() as observer:
        report = examine(cluster, observer, Level[level.upper()])
    _save(report, json_file)
    if prometheus_file:
        _save_metrics(report, Path(prometheus_file))
    if json_file != "-":
        terminal.render(report, Console(highlight=False, soft_wrap=False), verbose=verbose)
    return int(report.exit_code)


def _cluster(source: str | None, limit: str | None) -> Cluster:
    if source is None:
        if limit:
            raise UserError("--limit needs an inventory", "add -i INVENTORY")
        name = socket.gethostname()
        return Cluster(nodes=(Node(name=name, host=name, local=True),), source="this machine")
    return inventory.load(resolve_inventory(source), limit)


def _save(report: Report, json_file: str | None) -> None:
    text = json.render(report)
    if json_file == "-":
        click.echo(text, nl=False)
    elif json_file:
        Path(json_file).write_text(text)
    last = state_folder() / "doctor" / "last.json"
    last.parent.mkdir(parents=True, exist_ok=True)
    aside = last.with_suffix(f".{os.getpid()}")
    aside.write_text(text)
    aside.replace(last)
    if report.interrupted_by_signal and not json_file:
        click.echo(f"interrupted; what was measured is in {last}", err=True)


def _save_metrics(report: Report, path: Path) -> None:
    try:
        prometheus.write(report, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", "name another") from None


@contextmanager
def _observer() -> Iterator[Observer]:
    """Show progress on standard error: a live view on a terminal, lines elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield LineObserver()
        return
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with progress:
        yield LiveObserver(progress)


class LineObserver:
    """One line for each node that is in trouble and for each step; for logs and pipes."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def examining(self, names: Sequence[str]) -> None:
        """Say how many nodes are being examined."""
        self._say(f"examining {len(names)} node{'s' if len(names) != 1 else ''}")

    def examined(self, name: str, exam: NodeExam) -> None:
        """Say which node will not answer."""
        if isinstance(exam.facts, NodeError):
            self._say(f"{name}: {exam.facts.kind}")

    def measuring(self, message: str) -> None:
        """Repeat what the fabric measurement does."""
        self._say(message)

    def _say(self, message: str) -> None:
        print(f"{time.monotonic() - self._started:6.1f} s  {message}", file=sys.stderr, flush=True)


class LiveObserver:
    """A progress bar for the nodes, and a line for the measurement."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._waiting: set[str] = set()
        self._nodes = progress.add_task("examining nodes", visible=False, detail="")
        self._network = progress.add_task("measuring network", total=None, visible=False, detail="")

    def examining(self, names: Sequence[str]) -> None:
        """Start the bar of nodes."""
        self._waiting = set(names)
        self._progress.update(self._nodes, total=len(names), visible=True)

    def examined(self, name: str, exam: NodeExam) -> None:
        """Advance it, and name the ones still awaited."""
        self._waiting.discard(name)
        waiting = f"waiting for {terminal.fold(self._waiting)}" if self._waiting else "all answered"
        self._progress.update(self._nodes, advance=1, detail=waiting)

    def measuring(self, message: str) -> None:
        """Show what the fabric measurement does."""
        self._progress.update(self._network, detail=message, visible=True)
