"""The verdict and the exit codes: never green without looking."""

import pytest

from clusterctl.facts import Unread
from clusterctl.findings import ExitCode, Finding, Report, Status, Subject, Verdict


def report(*statuses: Status, signal: int = 0) -> Report:
    return Report(
        findings=[Finding("a.b", "All is well", Subject("node1"), s, "seen") for s in statuses],
        nodes={},
        fabric=Unread("absent", "not measured"),
        inventory="hosts",
        started_at="2026-01-01T00:00:00+00:00",
        duration_s=1.0,
        clusterctl_version="0",
        interrupted_by_signal=signal,
    )


@pytest.mark.parametrize(
    ("statuses", "verdict", "code"),
    [
        ((Status.PASS,), Verdict.READY, ExitCode.OK),
        ((Status.PASS, Status.WARN, Status.SKIP), Verdict.READY, ExitCode.OK),
        ((Status.PASS, Status.FAIL), Verdict.NOT_READY, ExitCode.FAILED),
        ((Status.PASS, Status.UNKNOWN), Verdict.NOT_READY, ExitCode.UNKNOWN),
        ((Status.UNKNOWN, Status.FAIL), Verdict.NOT_READY, ExitCode.FAILED),
        ((Status.SKIP, Status.SKIP), Verdict.NOT_READY, ExitCode.UNKNOWN),
        ((), Verdict.NOT_READY, ExitCode.UNKNOWN),
    ],
)
def test_verdict(statuses: tuple[Status, ...], verdict: Verdict, code: ExitCode) -> None:
    found = report(*statuses)
    assert (found.verdict, found.exit_code) == (verdict, code)


@pytest.mark.parametrize(("signal", "code"), [(2, 130), (15, 143)])
def test_an_interrupted_examination_is_never_ready(signal: int, code: int) -> None:
    found = report(Status.PASS, signal=signal)
    assert (found.verdict, int(found.exit_code)) == (Verdict.NOT_READY, code)
