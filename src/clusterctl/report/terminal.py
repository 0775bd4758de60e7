"""A Report for a tired person: what is wrong first, the verdict last."""

from __future__ import annotations

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from ClusterShell.NodeSet import NodeSet
from rich.console import Console
from rich.text import Text

from clusterctl.decode import show
from clusterctl.facts import AllreduceSample, FabricFacts, NodeFacts, Unread
from clusterctl.findings import Finding, NodeExam, Report, Status, Subject, Verdict

STYLES = {
    Status.FAIL: "bold red",
    Status.UNKNOWN: "bold magenta",
    Status.WARN: "bold yellow",
    Status.SKIP: "dim",
    Status.PASS: "green",
}
WORST_FIRST = sorted(Status, key=list(Status).index, reverse=True)
_FOLDABLE = re.compile(r"[A-Za-z0-9._-]+")


def render(report: Report, console: Console, *, verbose: bool = False) -> None:
    """Print what is wrong, what was measured, and the verdict; with ``verbose``, every finding."""
    width = console.width if console.is_terminal else None
    shown = WORST_FIRST if verbose else [Status.FAIL, Status.UNKNOWN, Status.WARN]
    for status in shown:
        for group in _alike(f for f in report.findings if f.status is status):
            console.print(_block(group, width), soft_wrap=True)
    if not verbose:
        for line in _skips(report.findings):
            console.print(line, soft_wrap=width is None)
    for line in _examined(report):
        console.print(line, soft_wrap=True)
    for line in _measured(report.fabric):
        console.print(line, soft_wrap=True)
    console.print(_tally(report), soft_wrap=True)
    console.print(_verdict(report), soft_wrap=True)


def fold(names: Iterable[str]) -> str:
    """Give node names in the short form of HPC tools: ``node[1-3,7]``."""
    unique = sorted(set(names))
    if all(_FOLDABLE.fullmatch(name) for name in unique):
        return str(NodeSet.fromlist(unique))
    return ", ".join(show(name) for name in unique)


def _alike(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Group findings with one reason, whatever their subjects and checks, by first appearance."""
    groups: dict[tuple[str, ...], list[Finding]] = defaultdict(list)
    for finding in findings:
        shared = (finding.status, _nameless(finding, finding.evidence), finding.limit)
        groups[(*shared, _nameless(finding, finding.remedy))].append(finding)
    return list(groups.values())


def _nameless(finding: Finding, text: str) -> str:
    """Blank the subject's own names, so that equal troubles fold."""
    return _renamed(finding, text, "*")


def _renamed(finding: Finding, text: str, name: str) -> str:
    own = [re.escape(n) for n in (finding.subject.node, finding.subject.peer) if n]
    return re.sub(rf"(?<![\w-])({'|'.join(own)})(?![\w-])", name, text) if own else text


def _subjects(group: Sequence[Finding]) -> str:
    """Name what a group is about: ``node[1-3]``, ``node1 - node2``, ``6 links of node[1-4]``."""
    subjects = list(dict.fromkeys(f.subject for f in group))
    if len(subjects) == 1:
        return show(str(subjects[0]))
    nodes = [s.node for s in subjects if s.node and not s.peer]
    links = [s for s in subjects if s.peer]
    parts = [fold(nodes)] if nodes else []
    if links:
        parts.append(f"{len(links)} links of {fold(n for s in links for n in (s.node, s.peer))}")
    if Subject() in subjects:
        parts.append("cluster")
    return ", ".join(parts)


def _checks(group: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(f.check for f in group))


def _said(group: Sequence[Finding], text: str) -> str:
    """Give a text of the first finding, in the name of all of the group's nodes."""
    nodes = list(dict.fromkeys(f.subject.node for f in group))
    if len(nodes) == 1 or any(f.subject.peer for f in group):
        return show(text)
    return show(_renamed(group[0], text, ",".join(nodes)))


def _block(group: Sequence[Finding], width: int | None) -> Text:
    """Say who, which check, what was seen, the limit and what to do; one line where all is well."""
    first = group[0]
    calm = first.status in (Status.PASS, Status.SKIP)
    text = Text.assemble(
        (f"{first.status.value.upper():<8}", STYLES[first.status]),
        (_subjects(group), "" if calm else "bold"),
        (f"  {_checks(group)}", "dim"),
    )
    if calm:
        return text.append(f"  {_said(group, first.evidence)}")
    for label, words in (("seen", first.evidence), ("limit", first.limit), ("do", first.remedy)):
        if words:
            text.append(f"\n        {label:<7}", "dim").append(_wrapped(_said(group, words), width))
    return text.append("\n")


def _wrapped(words: str, width: int | None) -> str:
    """Wrap for a terminal; a pipe gets whole lines (``width`` None)."""
    if width is None:
        return words
    indent = 15
    return textwrap.fill(
        words, max(width - 1, 40), initial_indent=" " * indent, subsequent_indent=" " * indent
    ).lstrip()


def _skips(findings: Sequence[Finding]) -> list[Text]:
    """One line for what does not apply; the reasons are for those who ask."""
    skipped = [f.check for f in findings if f.status is Status.SKIP]
    names = ", ".join(dict.fromkeys(skipped))
    return [Text(f"does not apply here (-v says why): {names}", "dim")] if names else []


def _examined(report: Report) -> list[Text]:
    """One line for each kind of node: its operating system, size, MPI and GPUs."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, exam in report.nodes.items():
        kinds[_kind(exam)].append(name)
    return [Text(f"{fold(names)}: {kind}") for kind, names in kinds.items()]


def _kind(exam: NodeExam) -> str:
    if not isinstance(exam.facts, NodeFacts):
        return f"no facts ({show(exam.facts.kind)})"
    facts = exam.facts
    parts = []
    if not isinstance(facts.system, Unread):
        parts += [show(facts.system.os_name), f"kernel {show(facts.system.kernel)}"]
    if not isinstance(facts.cpu, Unread):
        parts.append(f"{facts.cpu.threads} CPUs")
    if not isinstance(facts.memory, Unread):
        parts.append(f"{facts.memory.total_bytes / 2**30:.0f} GiB")
    if isinstance(facts.mpi, Unread):
        parts.append("no MPI")
    else:
        parts.append(f"{show(facts.mpi.implementation)} {show(facts.mpi.version)}")
    parts.append(_gpus(facts))
    return ", ".join(parts)


def _gpus(facts: NodeFacts) -> str:
    if isinstance(facts.gpus, Unread):
        return "GPUs not read"
    if isinstance(facts.gpus.nvml, Unread):
        return f"{facts.gpus.pci_count} GPUs on PCI" if facts.gpus.pci_count != 0 else "no GPU"
    models = Counter(show(gpu.name) for gpu in facts.gpus.nvml)
    label = "simulated " if facts.gpus.simulated else ""
    return ", ".join(f"{n} {label}{name}" for name, n in models.items()) or "no GPU"


def _measured(fabric: FabricFacts | Unread) -> list[Text]:
    if isinstance(fabric, Unread):
        return []
    lines = []
    if fabric.links:
        rates = [link.bandwidth_bytes_per_s for link in fabric.links]
        latencies = [link.latency_s for link in fabric.links]
        pairs = {frozenset((link.source, link.target)) for link in fabric.links}
        lines.append(
            Text(
                f"network: {len(pairs)} pairs both ways, bandwidth {_rate(min(rates))} to "
                f"{_rate(max(rates))}, median {_rate(median(rates))}; "
                f"latency median {median(latencies) * 1e6:.0f} us"
            )
        )
    if fabric.allreduce:
        lines.append(Text(_allreduce(max(fabric.allreduce, key=lambda s: s.size_bytes))))
    return lines


def _allreduce(sample: AllreduceSample) -> str:
    algbw = sample.size_bytes / median(sample.times_s)
    busbw = algbw * 2 * (sample.ranks - 1) / sample.ranks
    verified = "WRONG RESULT" if sample.wrong_elements else "every element right"
    return (
        f"allreduce: {sample.ranks} ranks, {_size(sample.size_bytes)}, "
        f"algbw {_rate(algbw)}, busbw {_rate(busbw)}, {verified}"
    )


def _size(size_bytes: int) -> str:
    """Give a power of two as such: ``8 MiB``, ``512 KiB``, ``8 B``."""
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:g} {unit}"
    return f"{size_bytes} B"


def _rate(bytes_per_s: float) -> str:
    return (
        f"{bytes_per_s / 1e9:.2f} GB/s" if bytes_per_s >= 1e9 else f"{bytes_per_s / 1e6:.1f} MB/s"
    )


def _tally(report: Report) -> Text:
    counts = Counter(finding.status for finding in report.findings)
    said = ", ".join(f"{counts[status]} {status.value}" for status in WORST_FIRST if counts[status])
    nodes = f"{len(report.nodes)} node{'s' if len(report.nodes) != 1 else ''}"
    return Text(f"{nodes}, {report.duration_s:.1f} s: {said}", "dim")


def _verdict(report: Report) -> Text:
    if report.verdict is Verdict.READY:
        return Text.assemble(("READY", "bold white on green"), _simulated(report))
    text = Text.assemble(("NOT READY", "bold white on red"), _simulated(report))
    if report.interrupted_by_signal:
        return text.append("  interrupted before it was finished")
    for status, words in ((Status.FAIL, ""), (Status.UNKNOWN, "could not be determined: ")):
        culprits = _alike(f for f in report.findings if f.status is status)
        if culprits:
            return text.append("  " + words + _summary(culprits))
    return text.append("  nothing was examined")


def _summary(groups: list[list[Finding]]) -> str:
    """Name each culprit once, with the checks that it broke."""
    broken: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        broken[_subjects(group)].append(_checks(group))
    named = [f"{who} ({', '.join(checks)})" for who, checks in broken.items()]
    more = f" and {len(named) - 4} more" if len(named) > 4 else ""
    return "; ".join(named[:4]) + more


def _simulated(report: Report) -> str:
    return f"  [simulated: {'; '.join(map(show, report.simulated))}]" if report.simulated else ""
