"""What nodes send: facts, and everything else that a sick or hostile node could send."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl import decode
from clusterctl.decode import node_facts, show
from clusterctl.facts import (
    Cpu,
    Gpu,
    Gpus,
    Memory,
    Names,
    Nic,
    NodeFacts,
    NumaNode,
    NvidiaDriver,
    Promise,
    Provisioned,
    System,
    TimeSync,
    Unread,
    to_json,
)
from clusterctl.findings import NodeError

ABSENT = Unread("absent", "not there")
FACTS = NodeFacts(
    system=System("node7", "debian", "12", "Debian", "6.1", "x86_64", "3.11.2", "id", 1.5, "none"),
    cpu=Cpu("EPYC", 1, 2, 2, ABSENT, 0.5, [NumaNode(0, "0-1", 1 << 30)]),
    memory=Memory(1 << 40, 1 << 39, 0, 0),
    filesystems=Unread("timeout", "statvfs /mnt/far (nfs4): no answer within 10 seconds"),
    nics=[
        Nic("eth0", True, 9000, 100_000_000_000, "mlx5_core", ["198.18.0.1/24"], *range(1, 9)),
        Nic("lo", True, 65536, ABSENT, ABSENT, [], 0, 0, 0, 0, 0, 0, 0, 2**64 - 1),
    ],
    time_sync=TimeSync("chrony", True, -0.0001, "198.18.0.2"),
    limits=Unread("failed", "x"),
    names=Names({"node8": "", "node9": "198.18.0.3"}, {"node8": "Name or service not known"}),
    mpi=ABSENT,
    nvidia_driver=NvidiaDriver(ABSENT, "550.54.15", "550.54.15"),
    gpus=Gpus(8, "550", [Gpu(0, "GPU-0", "H100", "0:0", 1 << 36, 30, 71.5, ABSENT)], False, {}),
    provisioned=Provisioned(
        {"mpi": {"mpi_version": '"4.1"'}},
        [Promise("mpi", "package", "openmpi-bin", "4.1", "mpi_version", ABSENT)],
    ),
)
VALUE: dict[str, Any] = to_json(FACTS)
LINE = json.dumps(VALUE).encode()


def assert_refused(data: bytes, *words: str) -> None:
    answer = node_facts(data)
    assert isinstance(answer, NodeError)
    assert answer.kind == "protocol"
    assert answer.next_step
    assert answer.why == show(answer.why)
    for word in words:
        assert word in answer.why


def changed(*path: str | int, to: object) -> bytes:
    """The line with another value at a place."""
    value: Any = copy.deepcopy(VALUE)
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(value).encode()


def test_facts_come_back_as_they_were() -> None:
    assert node_facts(LINE) == FACTS


def test_hostile_text_is_kept_as_it_is() -> None:
    hostile = "node\x1b[2J\n\u202egnp.exe [bold]"
    answer = node_facts(changed("system", "hostname", to=hostile))
    assert isinstance(FACTS.system, System)
    assert answer == replace(FACTS, system=replace(FACTS.system, hostname=hostile))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\u202eback", "\\u202eback"),
        ("\x00\x7f\u200b", "\\x00\\x7f\\u200b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_show(text: str, shown: str) -> None:
    assert show(text) == shown


@given(st.text())
def test_what_is_shown_is_printable(text: str) -> None:
    assert show(text).isprintable()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ()),
        (b"null", ()),
        (b"[]", ()),
        (b"7", ()),
        (LINE + LINE, ()),
        (LINE + b"," + LINE, ()),
        (b"[" * 100_000, ("nested",)),
        (b'{"a":' * 100_000, ("nested",)),
        (b'{"system":' + b"[" * 30 + b"]" * 30 + b"}", ("nested",)),
        (bytes(range(256)), ()),
        (b"x" * (decode.LINE_LIMIT_BYTES + 1), ("bytes",)),
        (LINE.replace(b"0.5", b"NaN"), ("NaN",)),
        (LINE.replace(b"0.5", b"Infinity"), ("Infinity",)),
        (LINE.replace(b"0.5", b"1e999"), ("number",)),
        (LINE.replace(b"9000", b"9" * 400), ("number",)),
        (LINE.replace(b"9000", b"9" * 5000), ()),
        (changed("wire_version", to=3), ("version 3",)),
        (changed("wire_version", to="\x1b[2J"), ("version",)),
        (changed("extra", to=1), ("extra",)),
        (changed("system", "extra", to=1), ("extra",)),
        (changed("nics", 0, "extra", to=1), ("extra",)),
        (changed("memory", "total_bytes", to="1"), ("total_bytes",)),
        (changed("memory", "total_bytes", to=1.0), ("total_bytes",)),
        (changed("memory", "total_bytes", to=True), ("total_bytes",)),
        (changed("memory", "total_bytes", to=None), ("total_bytes",)),
        (changed("nics", 0, "mtu_bytes", to={"unread": "absent", "why": ""}), ("mtu_bytes",)),
        (changed("nics", 0, "up", to=1), ("up",)),
        (changed("nics", to={}), ("nics",)),
        (changed("mpi", "unread", to="broken"), ("mpi",)),
        (changed("system", "hostname", to="x" * 5000), ("5000",)),
        (changed("names", "resolved", "y" * 5000, to=""), ("5000",)),
        (changed("nics", 0, "addresses", to=[""] * 20_000), ("20000",)),
    ],
)
def test_anything_else_is_refused(data: bytes, words: tuple[str, ...]) -> None:
    assert_refused(data, *words)


@pytest.mark.parametrize("field", sorted(set(VALUE) - {"wire_version"}))
def test_a_missing_section_is_refused(field: str) -> None:
    assert_refused(json.dumps({k: v for k, v in VALUE.items() if k != field}).encode(), field)


def test_every_truncation_is_refused() -> None:
    for length in range(0, len(LINE), 7):
        assert_refused(LINE[:length])


@given(st.binary())
def test_any_bytes_give_a_value(data: bytes) -> None:
    assert_refused(data)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    found = [path] if path else []
    for key, child in children:
        found += places(child, (*path, key))
    return found


@given(st.sampled_from(places(VALUE)), JUNK)
def test_junk_in_any_place_gives_a_value(path: tuple[Any, ...], junk: Any) -> None:
    answer = node_facts(changed(*path, to=junk))
    assert isinstance(answer, (NodeFacts, NodeError))
    if isinstance(answer, NodeFacts):  # it was of the right type
        assert node_facts(json.dumps(to_json(answer)).encode()) == answer


@given(st.integers(0, len(LINE) - 1), st.binary(max_size=4))
def test_a_flipped_byte_gives_a_value(index: int, junk: bytes) -> None:
    answer = node_facts(LINE[:index] + junk + LINE[index + 1 :])
    assert isinstance(answer, (NodeFacts, NodeError))
