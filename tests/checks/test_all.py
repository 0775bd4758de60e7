"""What is true of every check, present and future."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

import pytest
from cases import CASES, CHECKS, PAGES, PLANTED, Case, evidence, example

from clusterctl.checks import (
    LIMITS,
    Cell,
    Evidence,
    Level,
    Scope,
    check,
    judge,
    plan,
    unknown_limits,
)
from clusterctl.checks.base import NodeView
from clusterctl.facts import NodeFacts, Unread
from clusterctl.findings import NodeError, Outcome, Status, Subject
from clusterctl.lab.faults import FAULTS

HEADINGS = [
    "What it means",
    "How it is measured",
    "Why this limit",
    "What you see",
    "What to do",
    "When to accept it",
    "References",
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}: {case.name}")
every_check = pytest.mark.parametrize("check_id", CHECKS)


@every_case
def test_case(case: Case) -> None:
    finding = case.finding()
    assert finding.status is case.status, finding
    text = "\n".join([finding.evidence, finding.limit, finding.remedy])
    for words in case.says:
        assert words in text


@every_case
def test_a_finding_says_what_a_person_needs(case: Case) -> None:
    finding = case.finding()
    assert finding.evidence
    if finding.status in (Status.FAIL, Status.WARN):
        assert finding.limit
        assert finding.remedy
    assert "the check itself failed" not in finding.evidence


@every_check
def test_check_is_declared_well(check_id: str) -> None:
    declared = CHECKS[check_id]
    assert re.fullmatch(r"[a-z]+(\.[a-z]+){1,3}", check_id)
    assert check_id.startswith(f"{declared.scope.value}.")
    assert re.fullmatch(r"[A-Z].*[^.]", declared.title)
    assert declared.severity in (Status.FAIL, Status.WARN)


def test_ids_are_unique() -> None:
    assert len({c.id for c in CHECKS.values()}) == len(CHECKS)
    assert {case.check for case in CASES} == set(CHECKS)


@every_check
def test_check_has_cases(check_id: str) -> None:
    statuses = {case.status for case in CASES if case.check == check_id}
    assert Status.PASS in statuses
    assert statuses & {Status.FAIL, Status.WARN}
    assert Status.UNKNOWN in statuses


@every_check
def test_page(check_id: str) -> None:
    page = (PAGES / f"{check_id}.md").read_text()
    assert page.startswith(f"# {check_id}\n\n{CHECKS[check_id].title}.\n\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == HEADINGS
    for body in re.split(r"^## .*$", page, flags=re.MULTILINE)[1:]:
        assert body.strip()
    assert f"## What you see\n\n{example(check_id)}\n" in page, "run: python tests/checks/cases.py"


def test_no_page_without_a_check() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == set(CHECKS)


@every_case
def test_what_was_not_read_never_becomes_a_pass(case: Case) -> None:
    before = case.finding().status
    for where, changed in unread_variants(case.evidence):
        after = case.finding(changed).status
        assert after is not Status.PASS or before is Status.PASS, where


def unread_variants(whole: Evidence) -> Iterator[tuple[str, Evidence]]:
    """The evidence with each value that may be unread replaced by one that is."""
    yield "fabric", replace(whole, fabric=PLANTED)
    if not isinstance(whole.fabric, Unread):
        for name in ("segments_sent", "segments_retransmitted"):
            links = [replace(sample, **{name: PLANTED}) for sample in whole.fabric.links]
            yield name, replace(whole, fabric=replace(whole.fabric, links=links))
    for node, exam in whole.exams.items():
        if isinstance(exam.facts, NodeError):
            continue
        yield f"{node} clock", with_exam(whole, node, replace(exam, clock=PLANTED))
        for where, facts in unread_values(exam.facts):
            yield f"{node} {where}", with_exam(whole, node, replace(exam, facts=facts))


def with_exam(whole: Evidence, node: str, exam: typing.Any) -> Evidence:
    return replace(whole, exams={**whole.exams, node: exam})


def unread_values(value: typing.Any) -> Iterator[tuple[str, typing.Any]]:
    """A dataclass with each of its values, at any depth, replaced where its type allows it."""
    hints = typing.get_type_hints(type(value))
    for field in fields(value):
        if Unread in typing.get_args(hints[field.name]):
            yield field.name, replace(value, **{field.name: PLANTED})
        inner = getattr(value, field.name)
        if is_dataclass(inner) and not isinstance(inner, Unread):
            for where, changed in unread_values(inner):
                yield f"{field.name}.{where}", replace(value, **{field.name: changed})
        if isinstance(inner, list):
            for i, item in enumerate(inner):
                for where, changed in unread_values(item) if is_dataclass(item) else ():
                    items = [*inner[:i], changed, *inner[i + 1 :]]
                    yield f"{field.name}[{i}].{where}", replace(value, **{field.name: items})


def test_the_generic_test_looks_everywhere() -> None:
    facts = evidence().exams["node1"].facts
    assert isinstance(facts, NodeFacts)
    seen = {where for where, _ in unread_values(facts)}
    assert {"cpu", "cpu.governor", "gpus.nvml", "limits.memlock_configured_bytes"} <= seen


def test_plan_lists_every_cell() -> None:
    names = ["node1", "node2", "node3"]
    cells = plan(names, list(CHECKS.values()))
    assert len(cells) == len(set(cells))
    for declared in CHECKS.values():
        subjects = [cell.subject for cell in cells if cell.check is declared]
        if declared.scope is Scope.NODE:
            assert subjects == [Subject(node=name) for name in names]
        elif declared.scope is Scope.LINK:
            assert [(s.node, s.peer) for s in subjects] == [
                ("node1", "node2"),
                ("node1", "node3"),
                ("node2", "node3"),
            ]
        else:
            assert subjects == [Subject()]


def test_one_machine_has_no_links() -> None:
    scopes = {cell.check.scope for cell in plan(["node1"], list(CHECKS.values()))}
    assert scopes == {Scope.NODE, Scope.CLUSTER}


def test_every_cell_gets_one_finding_when_nothing_is_known() -> None:
    names = ["node1", "node2", "node3"]
    cells = plan(names, list(CHECKS.values()))
    findings = judge(cells, Evidence(exams={}, fabric=PLANTED, wanted={}))
    assert [(f.check, f.subject) for f in findings] == [(c.check.id, c.subject) for c in cells]
    assert Status.PASS not in {f.status for f in findings}


def test_a_silent_node_costs_only_its_own_cells() -> None:
    error = NodeError("timeout", "silence", "look at its console")
    whole = evidence(errors={"node3": error})
    findings = judge(plan(list(whole.exams), list(CHECKS.values())), whole)
    its_own = [f for f in findings if f.subject.node == "node3" and not f.subject.peer]
    assert [f.check for f in its_own if f.status is Status.FAIL] == ["node.reachable"]
    others = [f for f in its_own if f.status is not Status.FAIL]
    assert {f.status for f in others} == {Status.UNKNOWN}
    assert {f.evidence for f in others} == {"not examined: node is unreachable"}
    near = [
        f for f in findings if "node3" not in (f.subject.node, f.subject.peer) and f.subject.node
    ]
    assert {f.status for f in near} <= {Status.PASS, Status.SKIP}


def test_a_check_that_raises_is_unknown() -> None:
    @check("node.broken", "Broken", of=NodeView)
    def broken(node: NodeView) -> Outcome:
        raise KeyError("planted")

    (finding,) = judge([Cell(broken, Subject(node="node1"))], evidence())
    assert finding.status is Status.UNKNOWN
    assert finding.evidence == "the check itself failed: KeyError: 'planted'"


def test_severity_caps_what_a_check_says() -> None:
    @check("node.mild", "Mild", of=NodeView, severity=Status.WARN)
    def mild(node: NodeView) -> Outcome:
        return Outcome(Status.FAIL, "seen", "limit", "remedy")

    (finding,) = judge([Cell(mild, Subject(node="node1"))], evidence())
    assert finding.status is Status.WARN


def test_a_misspelt_limit_is_found() -> None:
    wanted = {"node1": {"doctor_limits": {"loss_max": 0.1, "lost_max": 0.1}}, "node2": {}}
    assert unknown_limits(wanted) == ["lost_max"]


@pytest.mark.parametrize("key", LIMITS)
def test_every_limit_is_on_a_page(key: str) -> None:
    assert any(f"doctor_limits.{key}" in path.read_text() for path in PAGES.glob("*.md"))


def test_levels_are_ordered() -> None:
    assert Level.QUICK < Level.STANDARD < Level.DEEP


def test_every_fault_of_the_lab_is_caught_by_a_check() -> None:
    assert {fault.caught_by for fault in FAULTS.values()} <= set(CHECKS)
