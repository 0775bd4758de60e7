"""A provisioning run on the terminal: the live view, the lines for a pipe, the summary."""

from __future__ import annotations

import textwrap
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from clusterctl.provision.progress import (
    Change,
    Diff,
    Failure,
    News,
    NodeProgress,
    Progress,
    RoleDone,
)
from clusterctl.report.terminal import fold

_FOLD_FROM_NODES = 17
"""From this many nodes on, the summary has one row for all nodes that fared alike."""


class View(Protocol):
    """Shows a run while it goes on."""

    def tell(self, news: News) -> None:
        """Show one piece of news."""


@contextmanager
def watching(progress: Progress, console: Console, *, check: bool) -> Iterator[View]:
    """Give the view that fits the console: live on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield Lines(console, check=check)
        return
    board = _Board(progress, console, check=check)
    with Live(get_renderable=board.render, console=console, refresh_per_second=8, transient=True):
        # rich hides the cursor, and nobody would show it again if we were killed.
        console.show_cursor(True)
        yield board


class Lines:
    """One line for each role that a node is through with, and for each failure."""

    def __init__(self, console: Console, *, check: bool) -> None:
        self._console, self._check = console, check
        self._started = time.monotonic()

    def tell(self, news: News) -> None:
        """Print it."""
        if isinstance(news, Diff):
            _print_diff(self._console, news)
            return
        seconds = time.monotonic() - self._started
        line = f"{seconds:6.1f} s  {_headline(news, check=self._check)}"
        self._console.print(line, markup=False, soft_wrap=True)


class _Board:
    """The live view: a row for each node."""

    def __init__(self, progress: Progress, console: Console, *, check: bool) -> None:
        self._progress, self._console, self._check = progress, console, check
        self._started = time.monotonic()
        self._spinners: dict[str, Spinner] = defaultdict(lambda: Spinner("dots", style="cyan"))

    def tell(self, news: News) -> None:
        """Print a diff above the view; the view itself shows the rest."""
        if isinstance(news, Diff):
            _print_diff(self._console, news)

    def render(self) -> RenderableType:
        """Give the view as it is at this moment, no higher than the terminal."""
        nodes = list(self._progress.nodes.values())
        rows = max(3, self._console.height - 5)
        if len(nodes) > rows:
            nodes.sort(key=lambda node: (node.failure is None, not node.busy))
        elapsed = time.monotonic() - self._started
        verb = "Planning for" if self._check else "Provisioning"
        title = Text.assemble((f"{verb} {_count(len(nodes), 'node')}", "bold"))
        title.append(f"  {elapsed:.0f} s", style="dim")
        table = Table.grid(padding=(0, 2, 0, 0))
        # Room for the terminal's echo of ^C: if that wrapped, the view would be erased amiss.
        table.width = max(40, self._console.width - 8)
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, style="dim")
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for node in nodes[:rows]:
            table.add_row(*self._row(node))
        parts: list[RenderableType] = [title, table]
        if len(nodes) > rows:
            parts.append(Text(f"and {len(nodes) - rows} more", style="dim"))
        return Group(*parts)

    def _row(self, node: NodeProgress) -> tuple[RenderableType, ...]:
        changed = _count(len(node.changes), "change") if node.changes else ""
        changes = Text(changed, style="yellow")
        name, role = Text(node.name), Text(node.role)
        if node.failure:
            headline = node.failure.message.partition("\n")[0]
            return Text("✗", style="red"), name, role, changes, Text(headline, style="red")
        if node.busy:
            return self._spinners[node.name], name, role, changes, Text(node.task)
        if node.started_at is None:
            return "", name, role, changes, Text("connecting", style="dim")
        return Text("·", style="green"), name, role, changes, Text("")


def summarize(progress: Progress, console: Console, *, check: bool) -> None:
    """Show failures first, in full, then a table of all nodes, what changed, and one sentence."""
    for failures in _alike(progress.failures):
        _print_failure(console, failures)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("node", overflow="fold")
    for heading in ("ok", "would change" if check else "changed", "failed", "seconds"):
        table.add_column(heading, justify="right")
    for names, node, seconds in _rows(progress.nodes.values()):
        table.add_row(
            Text(names),
            str(node.ok),
            Text(str(len(node.changes)), style="yellow" if node.changes else ""),
            Text("1", style="red") if node.failure else "0",
            f"{seconds:.1f}",
        )
    console.print(table)
    console.print()
    _print_changes(progress, console, check=check)
    console.print(Text(_sentence(progress, check=check), style="bold"), soft_wrap=True)


def tell_interrupted(progress: Progress, console: Console) -> None:
    """Say which nodes were in the middle of which task when the run was stopped."""
    console.print(Text("Interrupted.", style="bold"))
    groups: dict[str, list[str]] = defaultdict(list)
    for node in progress.interrupted:
        groups[_where(node.role, node.task)].append(node.name)
    for where, names in groups.items():
        console.print(Text(f"  {fold(names)} in the middle of: {where}"), soft_wrap=True)
    console.print(
        Text("What had begun on a node may still end there; run the same command to carry on."),
        soft_wrap=True,
    )


def _print_failure(console: Console, failures: list[Failure]) -> None:
    first = failures[0]
    line = Text.assemble(("✗ ", "red"), (fold(failure.node for failure in failures), "bold red"))
    line.append(f"  {'unreachable' if first.unreachable else 'failed'}", style="red")
    if first.task:
        line.append(f"  {_where(first.role, first.task)}")
    console.print(line, soft_wrap=True)
    console.print(Text(textwrap.indent(first.message, "    ")), soft_wrap=True)
    if first.path:
        console.print(Text(f"    {first.path}", style="dim"), soft_wrap=True)
    console.print()


def _print_changes(progress: Progress, console: Console, *, check: bool) -> None:
    groups: dict[tuple[Change, ...], list[str]] = defaultdict(list)
    for node in progress.nodes.values():
        groups[tuple(node.changes)].append(node.name)
    for changes, names in groups.items():
        if not changes:
            continue
        heading = "Would change on" if check else "Changed on"
        console.print(Text(f"{heading} {fold(names)}:"), soft_wrap=True)
        for change in changes:
            console.print(Text(f"  {_where(change.role, change.task)}"), soft_wrap=True)
        console.print()


def _print_diff(console: Console, diff: Diff) -> None:
    console.print(Text(f"{diff.node}: {diff.task}", style="bold"))
    console.print(Syntax(diff.text, "diff", theme="ansi_dark", background_color="default"))


def _headline(news: RoleDone | Failure, *, check: bool) -> str:
    if isinstance(news, Failure):
        state = "unreachable" if news.unreachable else "FAILED"
        first_line = news.message.partition("\n")[0]
        return f"{news.node}  {_where(news.role, news.task)}  {state}: {first_line}"
    took = f"({news.duration_s:.1f} s)"
    if not news.changes:
        return f"{news.node}  {news.role}  as wanted {took}"
    verb = "would change" if check else "changed"
    tasks = ", ".join(change.task for change in news.changes)
    return f"{news.node}  {news.role}  {verb}: {tasks} {took}"


def _sentence(progress: Progress, *, check: bool) -> str:
    nodes = list(progress.nodes.values())
    changes = sum(len(node.changes) for node in nodes)
    failed = len(progress.failures)
    if failed:
        return (
            f"{failed} of {_count(len(nodes), 'node')} failed; "
            f"{_count(changes, 'change')} {'would be made' if check else 'made'}."
        )
    if not changes:
        are = "is" if len(nodes) == 1 else "are"
        return f"Nothing to change: {_count(len(nodes), 'node')} {are} as wanted."
    if check:
        return f"{_count(changes, 'change')} would be made to {_count(len(nodes), 'node')}."
    return f"{_count(len(nodes), 'node')} provisioned: {_count(changes, 'change')}."


def _alike(failures: Iterable[Failure]) -> list[list[Failure]]:
    """Group failures of the same task with the same message, in order of first appearance."""
    groups: dict[tuple[str, str, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        groups[(failure.role, failure.task, failure.message)].append(failure)
    return list(groups.values())


def _rows(nodes: Iterable[NodeProgress]) -> Iterator[tuple[str, NodeProgress, float]]:
    """Give the rows of the summary: name or names, a node that stands for them, longest time."""
    nodes = list(nodes)
    groups: dict[object, list[NodeProgress]] = defaultdict(list)
    for node in nodes:
        alike = (node.ok, tuple(node.changes), node.failure is None)
        groups[alike if len(nodes) >= _FOLD_FROM_NODES else node.name].append(node)
    for group in groups.values():
        yield fold(n.name for n in group), group[0], max(n.duration_s for n in group)


def _where(role: str, task: str) -> str:
    return f"{role}: {task}" if role else task


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
