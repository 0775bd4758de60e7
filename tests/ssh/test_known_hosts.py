from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.ssh.known_hosts import look_up

KEY = base64.b64encode(b"key").decode()


def known(tmp_path: Path, text: str, *names: str) -> list[str]:
    file = tmp_path / "known_hosts"
    file.write_text(text)
    return [line.key_type for line in look_up([file], names).keys]


@pytest.mark.parametrize(
    ("names", "name", "matches"),
    [
        ("node1", "node1", True),
        ("node1", "node10", False),
        ("Node1", "node1", True),
        ("a,node1,b", "node1", True),
        ("node*", "node12", True),
        ("node?", "node1", True),
        ("node?", "node12", False),
        ("*.lab,!bad.lab", "good.lab", True),
        ("*.lab,!bad.lab", "bad.lab", False),
        ("[node1]:2222", "[node1]:2222", True),
        ("[node1]:2222", "n", False),
        ("[node*]:2222", "[node7]:2222", True),
        ("10.0.0.1", "10x0x0x1", False),
        ("|1|bad|hash", "node1", False),
    ],
)
def test_names(tmp_path: Path, names: str, name: str, matches: bool) -> None:
    assert bool(known(tmp_path, f"{names} t {KEY}\n", name)) is matches


def test_the_exact_name_wins(tmp_path: Path) -> None:
    text = f"[node1]:22022 exact {KEY}\nnode1 plain {KEY}\n"
    assert known(tmp_path, text, "[node1]:22022", "node1") == ["exact"]
    assert known(tmp_path, text, "[node1]:1", "node1") == ["plain"]


def test_broken_lines_are_passed_over(tmp_path: Path) -> None:
    text = f"# comment\n\nnode1\nnode1 t not-base64!\n@revoked\nnode1 good {KEY} comment\n"
    assert known(tmp_path, text, "node1") == ["good"]


def test_missing_files(tmp_path: Path) -> None:
    assert look_up([tmp_path / "none"], ["node1"]).keys == ()


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    file = Path("/dev/shm") / "clusterctl-test-known-hosts"
    file.write_text(text)
    look_up([file], ["node1"])
    file.unlink()
