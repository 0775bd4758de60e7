"""The examination of this node by itself: the probe's sections, then the quick checks."""

from __future__ import annotations

import base64
import datetime
import functools
import json
import pickle
import select
import time
from collections.abc import Mapping
from typing import Any, Callable

from clusterctl.checks import Check, Evidence, Level, Scope, all_checks, judge, plan
from clusterctl.facts import NodeFacts, Unread
from clusterctl.findings import NodeExam, Report
from clusterctl.probe.__main__ import SECTIONS
from clusterctl.probe.isolate import Child
from clusterctl.probe.reading import Request

DEADLINE_S = 20.0
NO_CLOCK = Unread("unsupported", "this node's clock is compared by clusterctl doctor alone")
NO_FABRIC = Unread("unsupported", "the network is measured by clusterctl doctor alone")


def examine(name: str, wanted: Mapping[str, Any], version: str) -> Report:
    """Judge this node as the node ``name``; ``wanted`` stands above what provision recorded."""
    started = time.time()
    facts = read_facts(Request(deadline_s=DEADLINE_S))
    exam = NodeExam(facts=facts, clock=NO_CLOCK, duration_s=time.time() - started)
    evidence = Evidence(exams={name: exam}, fabric=NO_FABRIC, wanted={name: wanted})
    return Report(
        findings=judge(plan([name], own_checks()), evidence),
        nodes={name: exam},
        fabric=NO_FABRIC,
        inventory="the node itself",
        started_at=datetime.datetime.fromtimestamp(started, datetime.timezone.utc).isoformat(
            "T", "seconds"
        ),
        duration_s=time.time() - started,
        clusterctl_version=version,
    )


def own_checks() -> list[Check]:
    """The checks that a node can answer alone: of nodes, and of what the probe reads."""
    return [
        check for check in all_checks() if check.scope is Scope.NODE and check.level is Level.QUICK
    ]


def read_facts(
    request: Request, sections: Mapping[str, Callable[[Request], Any]] = SECTIONS
) -> NodeFacts:
    """Read every section in a child of its own: one that hangs costs itself and nothing else."""
    children = [
        Child(name, functools.partial(_packed, section, request), request.deadline_s)
        for name, section in sections.items()
    ]
    try:
        return NodeFacts(**{name: _unpacked(text) for name, text in _gather(children).items()})
    finally:
        for child in children:
            child.kill()


def _gather(children: list[Child]) -> dict[str, str]:
    answers: dict[str, str] = {}
    working = {child.fd: child for child in children}
    while working:
        patience_s = min(child.deadline for child in working.values()) - time.monotonic()
        ready, _, _ = select.select(list(working), [], [], max(0.0, patience_s))
        for fd, child in list(working.items()):
            late = child.deadline <= time.monotonic()
            answer = child.read() if fd in ready else child.expire() if late else None
            if answer is not None:
                answers[child.name] = answer
                del working[fd]
    return answers


def _packed(section: Callable[[Request], Any], request: Request) -> Any:
    """Give the section's value in a form that survives the way from the child as it is."""
    value = section(request)
    return value if isinstance(value, Unread) else base64.b64encode(pickle.dumps(value)).decode()


def _unpacked(text: str) -> Any:
    value = json.loads(text)
    if isinstance(value, dict):
        return Unread(**value)
    return pickle.loads(base64.b64decode(value))  # noqa: S301 - from a child that we forked
