"""Past runs as text for people and as values for programs."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clusterctl.provision import history, record, wanted
from clusterctl.provision.history import PastRun
from clusterctl.provision.progress import Change, Progress, Timing
from clusterctl.provision.resume import Rest
from clusterctl.provision.summary import count, print_failures, print_notes, where, with_detail
from clusterctl.report.terminal import fold

_SLOWEST_SHOWN = 10


@dataclass(frozen=True)
class Version:
    """A version of a package that the roles established, and what was there before."""

    package: str
    version: str
    before: str
    """What the runs before had found; empty where none had."""
    nodes: list[str]

    @property
    def changed(self) -> bool:
        """Whether the runs before had found another."""
        return self.before not in ("", self.version)


def outline(run: PastRun) -> dict[str, Any]:
    """Give what a list of runs says of one."""
    named = ("started_at", "duration_s", "user", "host", "inventory", "options", "resumes")
    nodes = _nodes(run)
    failed = [name for name, node in nodes.items() if node["failure"]]
    return {
        "id": run.id,
        "state": run.state,
        **{name: run.content.get(name) for name in named},
        "nodes": len(nodes),
        "changes": sum(len(node["changes"]) for node in nodes.values()),
        "failed": failed,
    }


def full(run: PastRun) -> dict[str, Any]:
    """Give all that is known of a run."""
    progress = run.progress()
    earlier = history.before(run)
    return {
        **run.content,
        "state": run.state,
        "nodes": _nodes(run),
        "run_before": earlier[-1].id if earlier else None,
        "versions_on_nodes": [asdict(version) for version in _versions(run, earlier)],
        "wanted_changes": _wanted_changes(run, earlier),
        "durations": [asdict(timing) for timing in progress.timings],
    }


def print_list(runs: Sequence[PastRun], console: Console) -> None:
    """Show each run in two lines: when, who and what came of it; what was asked for."""
    if not runs:
        console.print("There is no record of any run yet.")
        return
    for run in runs:
        line = Text.assemble((run.id, "bold"), f"  {_when(run)}  {_who(run)}  {_outcome(run)}")
        console.print(line, soft_wrap=True)
        console.print(Text(f"    {_asked(run)}", style="dim"), soft_wrap=True)


def print_run(run: PastRun, console: Console) -> None:
    """Show what a run was asked for and what came of it."""
    progress = run.progress()
    earlier = history.before(run)
    _print_head(run, console)
    print_failures(progress, console)
    if run.state in {"interrupted", "killed"}:
        for node in progress.interrupted:
            place = where(node.role, node.task)
            console.print(Text(f"○ {node.name} was in the middle of: {place}"), soft_wrap=True)
        console.print()
    _print_nodes(run, console)
    _print_wanted(_wanted_changes(run, earlier), console)
    _print_changes(progress, console, check=run.check)
    _print_versions(_versions(run, earlier), console)
    _print_slowest(progress, console)
    print_notes(progress, console)


def tell_rest(rest: Rest, known: Sequence[str], console: Console) -> None:
    """Show what a resumed run will do on which nodes."""
    run = rest.run
    head = f"Going on with run {run.id} ({run.state}, began {_when(run)} by {_who(run)}):"
    console.print(Text(head), soft_wrap=True)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node, done in rest.done.items():
        to_do = ", ".join(rest.roles(node, known)) or "the last proofs"
        groups[(to_do, ", ".join(done))].append(node)
    for (to_do, finished), names in groups.items():
        line = Text.assemble("  ", (fold(names), "bold"), f"  {to_do}")
        console.print(line.append(f"  (done: {finished})" if finished else ""), soft_wrap=True)


def _print_head(run: PastRun, console: Console) -> None:
    content = run.content
    console.print(Text.assemble((f"Run {run.id}: {_outcome(run)}", "bold")), soft_wrap=True)
    took = f", took {content['duration_s']:.1f} s" if "duration_s" in content else ""
    versions = ", ".join(f"{name} {value}" for name, value in content["versions"].items())
    lines = [
        f"began {_when(run)}{took}, by {_who(run)}",
        _asked(run),
        *([f"goes on with run {content['resumes']}"] if content["resumes"] else []),
        versions,
    ]
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print()


def _print_nodes(run: PastRun, console: Console) -> None:
    groups: dict[str, list[str]] = defaultdict(list)
    slowest_s: dict[str, float] = defaultdict(float)
    for name, node in _nodes(run).items():
        state = "under way" if run.state == "running" else node["state"]
        groups[state].append(name)
        slowest_s[state] = max(slowest_s[state], node["duration_s"])
    console.print("Nodes, with the time of the slowest:")
    for state, names in groups.items():
        line = Text(f"  {slowest_s[state]:6.1f} s  {state}  ")
        console.print(line.append(fold(names), style="bold"), soft_wrap=True)
    console.print()


def _print_wanted(changes: Mapping[str, Sequence[str]], console: Console) -> None:
    if not changes:
        return
    console.print("The inventory asked for something else than before:")
    for words, names in changes.items():
        console.print(Text.assemble("  ", (fold(names), "bold"), f"  {words}"), soft_wrap=True)
    console.print()


def _print_changes(progress: Progress, console: Console, *, check: bool) -> None:
    changed: dict[Change, list[str]] = defaultdict(list)
    first: dict[Change, str] = {}
    for node in progress.nodes.values():
        for change in node.changes:
            changed[change].append(node.name)
            first[change] = min(first.get(change, change.at), change.at)
    if not changed:
        console.print("No change.\n")
        return
    console.print(f"{'Would change' if check else 'Changed'}, with the time on the first node:")
    for change in sorted(changed, key=lambda change: first[change]):
        line = Text(f"  {first[change][11:19]}  {where(change.role, with_detail(change))}  ")
        console.print(line.append(fold(changed[change]), style="bold"), soft_wrap=True)
    console.print()


def _print_versions(versions: Sequence[Version], console: Console) -> None:
    if not versions:
        return
    console.print("Versions:")
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    for each in versions:
        was = Text(f"was {each.before}" if each.changed else "", style="yellow")
        table.add_row("", Text(each.package), Text(each.version), Text(fold(each.nodes)), was)
    console.print(table)
    console.print()


def _print_slowest(progress: Progress, console: Console) -> None:
    slowest = _slowest(progress)
    if not slowest:
        return
    console.print("Slowest tasks, with the node that took longest:")
    for timing in slowest:
        task = where(timing.role, timing.task)
        console.print(Text(f"  {timing.duration_s:6.1f} s  {task}  {timing.node}"), soft_wrap=True)
    console.print()


def _nodes(run: PastRun) -> Mapping[str, Mapping[str, Any]]:
    return run.nodes or record.results(run.progress())


def _versions(run: PastRun, earlier: list[PastRun]) -> list[Version]:
    known = history.known_versions(earlier)
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for node, result in _nodes(run).items():
        for package, version in result["versions"].items():
            before = known.get(node, {}).get(package, "")
            groups[(package, version, before)].append(node)
    return [Version(*key, nodes) for key, nodes in sorted(groups.items())]


def _wanted_changes(run: PastRun, earlier: Iterable[PastRun]) -> dict[str, list[str]]:
    known = {node: variables for past in earlier for node, variables in past.wanted.items()}
    now = {node: variables for node, variables in run.wanted.items() if node in known}
    return wanted.differences({node: known[node] for node in now}, now)


def _slowest(progress: Progress) -> list[Timing]:
    slowest: dict[tuple[str, str], Timing] = {}
    for timing in progress.timings:
        key = (timing.role, timing.task)
        if key not in slowest or slowest[key].duration_s < timing.duration_s:
            slowest[key] = timing
    return sorted(slowest.values(), key=lambda timing: -timing.duration_s)[:_SLOWEST_SHOWN]


def _outcome(run: PastRun) -> str:
    seen = outline(run)
    failed = f" on {fold(seen['failed'])}" if seen["failed"] else ""
    changes = count(seen["changes"], "change")
    return f"{seen['state']}{failed}, {'would make ' if run.check else ''}{changes}"


def _asked(run: PastRun) -> str:
    """Give what the run was asked for as it is written on the command line."""
    options = run.content["options"]
    words = ["-i", run.content["inventory"]]
    if run.content["resumes"]:
        return shlex.join([*words, "--resume"])
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        words += [] if value is True else [str(value)]
    return shlex.join(words)


def _when(run: PastRun) -> str:
    return f"{datetime.fromisoformat(run.content['started_at']):%Y-%m-%d %H:%M} UTC"


def _who(run: PastRun) -> str:
    return f"{run.content['user']}@{run.content['host']}"
