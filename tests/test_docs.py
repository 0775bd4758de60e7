"""Docs that state what the code states must say the same."""

from pathlib import Path

from clusterctl.checks import LIMITS
from clusterctl.findings import ExitCode

GUIDE = (Path(__file__).parents[1] / "docs" / "guide" / "doctor.md").read_text()


def test_every_limit_is_documented() -> None:
    assert all(f"| `{key}` | {meaning} |" in GUIDE for key, meaning in LIMITS.items())


def test_every_exit_code_is_documented() -> None:
    assert all(str(int(code)) in GUIDE.split("## Exit codes")[1] for code in ExitCode)
