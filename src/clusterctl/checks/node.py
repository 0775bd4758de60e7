"""Checks of one node by itself."""

from __future__ import annotations

from clusterctl.checks.base import NodeView, check, fail, ok, unknown
from clusterctl.findings import NodeError, Outcome


@check("node.reachable", "The node answers", of=NodeView)
def reachable(node: NodeView) -> Outcome:
    """Ask whether it was reached, let us in, and gave an answer that was understood."""
    error = node.exam.facts
    if not isinstance(error, NodeError):
        return ok(f"answered in {node.exam.duration_s:.1f} s")
    if error.kind == "interrupted":
        return unknown(error.why, error.next_step)
    return fail(
        f"{error.kind}: {error.why}", "every node of the inventory answers", error.next_step
    )
