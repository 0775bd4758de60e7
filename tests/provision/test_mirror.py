import io
import json
import re
import tarfile
from pathlib import Path
from typing import IO, Any, cast

import pytest

from clusterctl.provision.mirror import choose
from clusterctl.provision.mirror_source import Promised, parse, receive
from clusterctl.ssh import NodeFailure

CONTROL = "Package: one\nVersion: 1:2-3\nArchitecture: amd64\nDescription: it\n more of it\n"


def _answer(*promises: tuple[str, str, str], source: str = "distro") -> str:
    role = {
        "role": "r",
        "variables": {"r_source": source},
        "promises": [
            {"kind": kind, "name": name, "wanted": wanted, "variable": ""}
            for kind, name, wanted in promises
        ],
    }
    text = json.dumps(role, indent=2) + "\n"
    return f"debian 12\none 1:2-3 two 7 \n{text}{json.dumps({**role, 'promises': []})}\n"


def test_a_version_that_was_asked_for_is_mirrored_as_it_is_installed() -> None:
    promised = parse(_answer(("package", "one", "2"), ("package", "two", ""), ("sysctl", "x", "1")))
    assert promised.release == "Debian-12"
    assert promised.packages == {"one": "1:2-3", "two": ""}
    assert promised.requests == ["python3-apt", "one=1:2-3", "two"]
    assert not promised.vendor


def test_a_held_package_stays_in_its_version() -> None:
    promised = parse(_answer(("package", "one", ""), ("hold", "one", "held")))
    assert promised.packages == {"one": "1:2-3"}


def test_a_vendor_s_packages_are_known_by_their_source() -> None:
    assert parse(_answer(("package", "one", ""), source="vendor")).vendor


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("rocky 9.4\n\n", "rocky 9.4 is no Debian or Ubuntu"),
        ("\x1b[2J\n\n", r"\x1b[2J is no Debian or Ubuntu"),
        ("", "is no Debian or Ubuntu"),
        ("debian 12\none 1 \n", "was not provisioned"),
        ("debian 12\none 1 \n{half", "is spoilt"),
        ('debian 12\none 1 \n{"promises": 7}', "is spoilt"),
        ("debian 12\nodd\n{}", "is spoilt"),
        (_answer(("package", "-o", "")), "was not provisioned"),
        (_answer(("package", "one two", "")), "was not provisioned"),
    ],
)
def test_a_node_that_cannot_be_a_source_says_why(answer: str, why: str) -> None:
    with pytest.raises(NodeFailure, match=re.escape(why)) as raised:
        parse(answer)
    assert raised.value.error.next_step


def test_one_node_of_each_release_is_asked_for_what_all_of_them_have() -> None:
    small = Promised("Debian-12", {"one": "", "extra": ""})
    large = Promised("Debian-12", {"one": "1", "two": "", "three": ""}, vendor=True)
    other = Promised("Debian-13", {"one": ""})
    chosen = choose({"a": small, "b": large, "c": other})
    assert list(chosen) == ["b", "c"]
    assert chosen["b"].packages == {"one": "1", "two": "", "three": "", "extra": ""}
    assert chosen["b"].vendor


def _archive(*members: tuple[str, bytes], edit: Any = None) -> IO[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if edit:
                edit(info)
            archive.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    return cast("IO[bytes]", buffer)


def test_packages_are_kept_under_the_names_that_archives_give_them(tmp_path: Path) -> None:
    name = "one_1%3a2-3_amd64.deb"
    archive = _archive((name, b"content"), (f"{name}.control", CONTROL.encode()))
    (package,) = receive(archive, tmp_path)
    assert (package.name, package.version, package.architecture) == ("one", "1:2-3", "amd64")
    assert (tmp_path / "one_2-3_amd64.deb").read_bytes() == b"content"
    assert "Filename: ./one_2-3_amd64.deb\nSize: 7\nSHA256: " in package.stanza()


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped_1_all.deb", b"x")],
        [("/etc/cron.d/x.deb", b"x")],
        [("one_1_all.deb", b"x")],
        [("one_1_all.deb.control", b"x")],
        [("one_1_all.sh", b"x")],
        [("one_1_all.deb.control", b"x" * (1 << 20 | 1))],
        [],
    ],
)
def test_anything_else_that_a_node_sends_is_refused(
    members: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(tarfile.TarError):
        receive(_archive(*members), tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_link_is_refused(tmp_path: Path) -> None:
    def link(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/shadow", 0

    with pytest.raises(tarfile.TarError):
        receive(_archive(("one_1_all.deb", b""), edit=link), tmp_path)


def test_an_answer_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    whole = _archive(("one_1_all.deb", b"x" * 5000)).read()
    with pytest.raises(tarfile.TarError):
        receive(cast("IO[bytes]", io.BytesIO(whole[:2000])), tmp_path)
