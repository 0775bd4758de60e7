"""What came of a run, or would: failures, then every node, changes, restarts, notes, a sentence."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clusterctl.provision.progress import Change, Failure, NodeProgress, Progress
from clusterctl.report.terminal import fold

_FOLD_FROM_NODES = 17
"""From this many nodes on, there is one row for all nodes that fared alike."""


def summarize(progress: Progress, console: Console, *, check: bool, diff: bool = False) -> None:
    """Show failures first, in full, then a table of all nodes, what changed, and one sentence."""
    if diff:
        _print_diffs(progress, console)
    print_failures(progress, console)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("node", overflow="fold")
    for heading in ("ok", "would change" if check else "changed", "failed", "seconds"):
        table.add_column(heading, justify="right")
    for names, node, seconds in _rows(progress.nodes.values()):
        table.add_row(
            Text(names),
            str(node.ok),
            Text(str(len(node.changes)), style="yellow" if node.changes else ""),
            Text("1", style="red") if node.failure else "○" if node.unfinished else "0",
            f"{seconds:.1f}",
        )
    console.print(table)
    console.print()
    print_changes(progress, console, check=check)
    print_notes(progress, console)
    console.print(Text(_sentence(progress, check=check), style="bold"), soft_wrap=True)


def tell_interrupted(progress: Progress, console: Console, *, check: bool) -> None:
    """Say which nodes were in the middle of which task when the run was stopped."""
    console.print(Text("Interrupted.", style="bold"))
    groups: dict[str, list[str]] = defaultdict(list)
    for node in progress.interrupted:
        groups[where(node.role, node.task)].append(node.name)
    for place, names in groups.items():
        console.print(Text(f"  {fold(names)} in the middle of: {place}"), soft_wrap=True)
    if not check:
        hint = "What had begun on a node may still end there; add --resume to carry on."
        console.print(Text(hint), soft_wrap=True)


def print_failures(progress: Progress, console: Console) -> None:
    """Show each failure with all nodes that have it, then who did not finish because of others."""
    for failures in _alike(progress.failures):
        _print_failure(console, failures)
    groups: dict[str, list[str]] = defaultdict(list)
    for node in progress.unfinished:
        groups[node.unfinished].append(node.name)
    for reason, names in groups.items():
        line = Text.assemble("○ ", (fold(names), "bold"), f"  not finished: {reason}")
        console.print(line, soft_wrap=True)
        console.print()


def print_changes(progress: Progress, console: Console, *, check: bool) -> None:
    """Show what changed, by nodes and role, each change once; then what was restarted and why."""
    changed: dict[Change, list[str]] = defaultdict(list)
    for node in progress.nodes.values():
        for change in node.changes:
            changed[change].append(node.name)
    reboots = {change: changed.pop(change) for change in list(changed) if change.is_reboot}
    # Roles keep the order that they ran in, and a role's changes on the same nodes stay together.
    groups: dict[tuple[str, str], list[Change]] = defaultdict(list)
    for role in dict.fromkeys(change.role for change in changed):
        for change, names in changed.items():
            if change.role == role:
                groups[(role, fold(names))].append(change)
    for (role, on), changes in groups.items():
        heading = Text("Would change on " if check else "Changed on ")
        heading.append(on, style="bold").append(f", {role}:" if role else ":")
        console.print(heading, soft_wrap=True)
        for change in changes:
            console.print(Text(f"  {with_detail(change)}"), soft_wrap=True)
        console.print()
    for change, names in reboots.items():
        reason = f": {change.detail}" if change.detail else ""
        line = Text("Would reboot " if check else "Rebooted ")
        console.print(line.append(fold(names), style="bold").append(reason), soft_wrap=True)
    if check and changed and not reboots:
        console.print(Text("No node would reboot."))
    if reboots or (check and changed):
        console.print()


def print_notes(progress: Progress, console: Console) -> None:
    """Show what roles had to say, each message once with all nodes that it is about."""
    groups: dict[str, list[str]] = defaultdict(list)
    for node in progress.nodes.values():
        for note in node.notes:
            groups[where(note.role, note.text)].append(node.name)
    if not groups:
        return
    console.print(Text("Notes:"))
    for text, names in groups.items():
        line = Text.assemble("  ", (fold(names), "bold"), "  ", text)
        console.print(line, soft_wrap=True)
    console.print()


def where(role: str, task: str) -> str:
    """Give a task with its role, where it has one."""
    return f"{role}: {task}" if role else task


def with_detail(change: Change) -> str:
    """Give a change's task with what exactly it changes, where that is known."""
    return f"{change.task}: {change.detail}" if change.detail else change.task


def count(number: int, noun: str) -> str:
    """Give ``1 node`` or ``2 nodes``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_diffs(progress: Progress, console: Console) -> None:
    for diff, names in progress.diffs.items():
        head = Text.assemble((fold(names), "bold"), f"  {where(diff.role, diff.task)}")
        console.print(head, soft_wrap=True)
        for line in diff.text.splitlines():
            console.print(Text(line, style=_DIFF_STYLES.get(line[:1], "")), soft_wrap=True)
        console.print()


_DIFF_STYLES = {"+": "green", "-": "red", "@": "dim"}


def _print_failure(console: Console, failures: list[Failure]) -> None:
    first = failures[0]
    line = Text.assemble(("✗ ", "red"), (fold(failure.node for failure in failures), "bold red"))
    line.append(f"  {'unreachable' if first.unreachable else 'failed'}", style="red")
    if first.task:
        line.append(f"  {where(first.role, first.task)}")
    console.print(line, soft_wrap=True)
    console.print(Text(textwrap.indent(first.message, "    ")), soft_wrap=True)
    if first.path:
        console.print(Text(f"    {first.path}", style="dim"), soft_wrap=True)
    console.print()


def _sentence(progress: Progress, *, check: bool) -> str:
    nodes = list(progress.nodes.values())
    changes = sum(len(node.changes) for node in nodes)
    failed, unfinished = len(progress.failures), len(progress.unfinished)
    if failed or unfinished:
        rest = f", {unfinished} did not finish" if unfinished else ""
        return (
            f"{failed} of {count(len(nodes), 'node')} failed{rest}; "
            f"{count(changes, 'change')} {'would be made' if check else 'made'}."
        )
    if not changes:
        are = "is" if len(nodes) == 1 else "are"
        return f"Nothing to change: {count(len(nodes), 'node')} {are} as wanted."
    if check:
        changed = sum(bool(node.changes) for node in nodes)
        some = f"{changed} of " if changed < len(nodes) else ""
        return f"{count(changes, 'change')} would be made to {some}{count(len(nodes), 'node')}."
    return f"{count(len(nodes), 'node')} provisioned: {count(changes, 'change')}."


def _alike(failures: Iterable[Failure]) -> list[list[Failure]]:
    """Group failures of the same task with the same message, in order of first appearance."""
    groups: dict[tuple[str, str, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        groups[(failure.role, failure.task, failure.message)].append(failure)
    return list(groups.values())


def _rows(nodes: Iterable[NodeProgress]) -> Iterator[tuple[str, NodeProgress, float]]:
    """Give the rows of the table: name or names, a node that stands for them, longest time."""
    nodes = list(nodes)
    groups: dict[object, list[NodeProgress]] = defaultdict(list)
    for node in nodes:
        alike = (node.ok, tuple(node.changes), node.failure is None, bool(node.unfinished))
        groups[alike if len(nodes) >= _FOLD_FROM_NODES else node.name].append(node)
    for group in groups.values():
        yield fold(n.name for n in group), group[0], max(n.duration_s for n in group)
