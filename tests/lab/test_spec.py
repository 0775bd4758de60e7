from pathlib import Path

import pytest

from clusterctl.errors import UserError
from clusterctl.lab import cgroup, faults, host, lab, tree
from clusterctl.lab.spec import LabSpec, NodeSpec, check_name, format_rate, parse_rate

HYBRID = """\
30 24 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
"""
UNIFIED = "31 30 0:27 / /sys/fs/cgroup rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("text", "bits_per_s"),
    [("200mbit", 200_000_000), ("1.5gbit", 1_500_000_000), ("64kbit", 64_000), ("none", None)],
)
def test_rates_are_read_and_written_alike(text: str, bits_per_s: int | None) -> None:
    assert parse_rate(text) == bits_per_s
    assert parse_rate(format_rate(bits_per_s)) == bits_per_s


@pytest.mark.parametrize("text", ["200", "mbit", "-1mbit", "0mbit", "1kbit", "200 mbit; rm"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_rate(text)


@pytest.mark.parametrize("name", ["", "..", "a/b", "Lab", "-x", "x" * 32, "a b"])
def test_names_that_would_leave_the_labs_folder_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        check_name(name)


def test_each_lab_has_its_own_network() -> None:
    node = NodeSpec(3, "bookworm")
    first, last = (LabSpec("x", index, None, (node,)) for index in (0, 511))
    assert (str(first.network), first.address(node)) == ("198.18.0.0/24", "198.18.0.3")
    assert (str(last.network), last.gateway) == ("198.19.255.0/24", "198.19.255.254")
    assert len(last.port(NodeSpec(200, "bookworm"))) < 16, "longer than an interface's name may be"


@pytest.mark.parametrize(
    ("nodes", "release", "present", "expected"),
    [
        (None, None, [], ["bookworm"] * 4),
        (2, "trixie", [], ["trixie"] * 2),
        (None, "bookworm:1,trixie:2", [], ["bookworm", "trixie", "trixie"]),
        (None, None, ["trixie"] * 3, ["trixie"] * 3),
        (4, None, ["bookworm", "trixie"], ["bookworm", "trixie", "trixie", "trixie"]),
        (None, "bookworm:1,trixie:2", ["bookworm"], ["bookworm", "trixie", "trixie"]),
    ],
)
def test_wanted_releases(
    nodes: int | None, release: str | None, present: list[str], expected: list[str]
) -> None:
    assert lab.wanted_releases(lab.Request("x", nodes, release), present) == expected


@pytest.mark.parametrize(
    ("nodes", "release", "present"),
    [
        (3, "bookworm:1,trixie:1", []),
        (None, "bookworm,trixie", []),
        (None, "bookworm:0", []),
        (None, "bookworm:999", []),
        (1, None, ["bookworm"] * 2),
        (None, "trixie", ["bookworm"]),
        (None, "trixie:2", ["bookworm"]),
    ],
)
def test_contradictions_are_usage_errors(
    nodes: int | None, release: str | None, present: list[str]
) -> None:
    with pytest.raises(UserError):
        lab.wanted_releases(lab.Request("x", nodes, release), present)


def test_cgroup_hierarchies_of_both_layouts() -> None:
    hybrid = cgroup.hierarchies(HYBRID)
    assert [each.kind for each in hybrid] == ["cgroup2", "cgroup", "cgroup"]
    assert "cpuset" in hybrid[2].options
    assert [str(each.mountpoint) for each in cgroup.hierarchies(UNIFIED)] == ["/sys/fs/cgroup"]


def test_the_tree_is_named_after_its_recipe() -> None:
    one = tree.Recipe("bookworm", tree.Mirror(), "", {})
    assert one.path == tree.Recipe("bookworm", tree.Mirror(), "", {}).path
    assert one.path != tree.Recipe("bookworm", tree.Mirror(), "", {"ca.crt": "x"}).path
    assert one.path != tree.Recipe("trixie", tree.Mirror(), "", {}).path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("slow-link", "50mbit"),
        ("slow-link=1gbit", "1gbit"),
        ("lossy-link=2.5%", "2.5"),
        ("disk-full=8MB", "8M"),
        ("clock-skew=-0.5", "-0.5s"),
        ("sshd-down", ""),
    ],
)
def test_fault_values(text: str, value: str) -> None:
    assert faults.parse(text)[1] == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "slow-link=none",
        "slow-link=",
        "lossy-link=0",
        "lossy-link=101",
        "disk-full=-1",
        "clock-skew='; reboot",
        "sshd-down=1",
    ],
)
def test_unusable_faults_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        faults.parse(text)


def test_settings_are_raised_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "PROC", tmp_path)
    monkeypatch.setattr(host, "MINIMA", {"low": 10, "high": 10, "touched": 10})
    monkeypatch.setattr(host, "_RECORD", tmp_path / "record.json")
    for name, value in (("low", 1), ("high", 99), ("touched", 2)):
        (tmp_path / name).write_text(f"{value}\n")
    said: list[str] = []
    host.prepare(said.append)
    host.prepare(said.append)
    assert len(said) == 1
    assert [int((tmp_path / name).read_text()) for name in ("low", "high", "touched")] == [
        10,
        99,
        10,
    ]
    (tmp_path / "touched").write_text("50")
    host.restore()
    assert [int((tmp_path / name).read_text()) for name in ("low", "high", "touched")] == [
        1,
        99,
        50,
    ]
    assert not (tmp_path / "record.json").exists()
