"""``clusterctl-health``: READY or NOT READY, said by the node itself."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusterctl.findings import ExitCode, Report, Status
from clusterctl.health import slurm
from clusterctl.health.examine import examine
from clusterctl.report import prometheus

WANTED = Path("/etc/clusterctl/health.json")
"""What the inventory says of this node: its name, ``doctor_limits``, ``gpu_count``."""

VERSION = Path(__file__).parents[2] / "version"


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine this node, tell, and give the exit code."""
    options = _parser().parse_args(arguments)
    try:
        inventory = _inventory(options.wanted)
    except (OSError, ValueError) as error:
        print(f"clusterctl-health: {options.wanted}: {error}", file=sys.stderr)
        return int(ExitCode.USAGE)
    report = examine(inventory["node"], inventory["wanted"], VERSION.read_text().strip())
    try:
        if options.prometheus:
            prometheus.write(report, options.prometheus)
        if options.slurm and (done := slurm.act(report)):
            print(done, file=sys.stderr)
    except (OSError, slurm.SlurmError) as error:
        print(text(report), f"clusterctl-health: {error}", sep="\n")
        return int(ExitCode.USAGE)
    print(text(report))
    return int(report.exit_code)


def text(report: Report) -> str:
    """Give what is not as it should be, and the verdict, for people and for the journal."""
    lines = []
    for finding in report.findings:
        if finding.status in (Status.FAIL, Status.UNKNOWN, Status.WARN):
            lines.append(f"{finding.status.upper():<8}{finding.check}  {finding.evidence}")
            lines += [f"        limit   {finding.limit}"] if finding.limit else []
            lines += [f"        do      {finding.remedy}"] if finding.remedy else []
    return "\n".join([*lines, report.verdict])


def _inventory(path: Path) -> dict[str, Any]:
    """Read what the inventory says; without the file nothing but this node's record is wanted."""
    if not path.exists():
        return {"node": socket.gethostname(), "wanted": {}}
    document = json.loads(path.read_text())
    if not isinstance(document, dict) or not isinstance(document.get("wanted"), dict):
        raise ValueError("not an object with a node and what is wanted of it")
    return {"node": str(document["node"]), "wanted": document["wanted"]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clusterctl-health",
        description="Examine this node with the quick checks of clusterctl doctor.",
        epilog="Exit codes: 0 READY, 1 NOT READY, 2 it cannot run, 3 could not be determined.",
    )
    parser.add_argument(
        "--prometheus", metavar="FILE", type=Path, help="write the findings as metrics to this file"
    )
    parser.add_argument(
        "--slurm",
        action="store_true",
        help="drain this node when it fails, resume it when it is READY and was drained by this",
    )
    parser.add_argument("--wanted", type=Path, default=WANTED, help=argparse.SUPPRESS)
    return parser
