"""A provisioning run as it goes on: the live view on a terminal, the lines for a pipe."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from clusterctl.provision.progress import (
    Failure,
    News,
    NodeProgress,
    Progress,
    Rebooted,
    RoleDone,
)
from clusterctl.provision.summary import count, where


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
        if isinstance(news, RoleDone) and news.skipped:
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
        """Leave it to the view, which shows the state of every node."""

    def render(self) -> RenderableType:
        """Give the view as it is at this moment, no higher than the terminal."""
        nodes = list(self._progress.nodes.values())
        rows = max(3, self._console.height - 5)
        if len(nodes) > rows:
            nodes.sort(key=lambda node: (node.failure is None, not node.busy))
        elapsed = time.monotonic() - self._started
        verb = "Planning for" if self._check else "Provisioning"
        title = Text.assemble((f"{verb} {count(len(nodes), 'node')}", "bold"))
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
        changed = count(len(node.changes), "change") if node.changes else ""
        changes = Text(changed, style="yellow")
        name, role = Text(node.name), Text(node.role)
        if node.failure:
            headline = node.failure.message.partition("\n")[0]
            return Text("✗", style="red"), name, role, changes, Text(headline, style="red")
        if node.unfinished:
            return "○", name, role, changes, Text(node.unfinished.partition("\n")[0], style="dim")
        if node.busy:
            return self._spinners[node.name], name, role, changes, Text(node.task)
        if node.started_at is None:
            return "", name, role, changes, Text("connecting", style="dim")
        if node.play != self._progress.play:
            return "", name, role, changes, Text("waits for its turn", style="dim")
        return Text("·", style="green"), name, role, changes, Text("")


def _headline(news: RoleDone | Rebooted | Failure, *, check: bool) -> str:
    if isinstance(news, Rebooted):
        what = "would reboot" if check else "rebooted"
        return f"{news.node}  {what}{f': {news.reason}' if news.reason else ''}"
    if isinstance(news, Failure):
        state = "unreachable" if news.unreachable else "FAILED"
        first_line = news.message.partition("\n")[0]
        return f"{news.node}  {where(news.role, news.task)}  {state}: {first_line}"
    took = f"({news.duration_s:.1f} s)"
    if not news.changes:
        return f"{news.node}  {news.role}  as wanted {took}"
    verb = "would change" if check else "changed"
    tasks = ", ".join(change.task for change in news.changes)
    return f"{news.node}  {news.role}  {verb}: {tasks} {took}"
