from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusterctl import bootstrap, payload, wheels
from clusterctl.errors import UserError
from clusterctl.inventory import Become, Node
from clusterctl.payload import Bundle, Interpreter
from clusterctl.ssh import Connection, NodeFailure, connect, fan_out

HELLO = Bundle(
    {
        "hello/__init__.py": b"",
        "hello/__main__.py": b"import sys\nprint(sys.argv[1:], sys.stdin.readline().strip())\n",
        "hello/where.py": b"print(__file__)\n",
    }
)
NODE = Node("here", "localhost", local=True)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for /var/tmp, the only one that the node has."""
    folder = tmp_path / "var-tmp"
    folder.mkdir(mode=0o700)
    text = payload.bootstrap_text()
    assert text.count("CANDIDATES = ") == 1
    changed = text.replace("\nCANDIDATES = ", f"\nCANDIDATES = ({str(folder)!r},)\n_OTHERS = ")
    changed = changed.replace('LAST_RESORT = "~/.cache"', 'LAST_RESORT = "/nonexistent"')
    monkeypatch.setattr(payload, "bootstrap_text", lambda: changed)
    return folder


@pytest.fixture
def connection(base: Path) -> Iterator[Connection]:
    opened = connect(NODE)
    yield opened
    opened.close()


def start(connection: Connection, module: str = "hello", *args: str, **options: Any) -> Any:
    return payload.start(connection, lambda _: HELLO, module, args, timeout_s=20, **options)


def error_of(connection: Connection, **options: Any) -> Any:
    with pytest.raises(NodeFailure) as caught:
        start(connection, **options)
    return caught.value.error


def where(connection: Connection) -> Path:
    """Give the cache folder that a module runs from."""
    process = start(connection, "hello.where")
    return Path(process.read_line(10).decode()).parent.parent


def test_module_runs_with_its_arguments_and_input(connection: Connection) -> None:
    process = start(connection, "hello", "a b", "'c'\n")
    process.write(b"input\n")
    assert process.read_line(10) == b"['a b', \"'c'\\n\"] input"
    assert process.wait(10) == 0


def test_content_is_sent_once(connection: Connection, base: Path) -> None:
    written: list[int] = []
    for _ in range(2):
        process = start(connection, "hello.where")
        folder = Path(process.read_line(10).decode()).parent.parent
        written.append((folder / "hello" / "__main__.py").stat().st_mtime_ns)
    assert written[0] == written[1]
    assert folder == base / f".clusterctl-{os.geteuid()}-{HELLO.hash[:24]}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in base.iterdir()] == [folder.name]


@pytest.mark.parametrize("damage", ["change", "add", "remove"])
def test_content_that_was_tampered_with_is_replaced(
    connection: Connection, base: Path, damage: str
) -> None:
    folder = where(connection)
    target = folder / "hello" / "__main__.py"
    if damage == "change":
        target.write_text("print('evil')\n")
    elif damage == "add":
        (folder / "json.py").write_text("print('evil')\n")
    else:
        target.unlink()
    process = start(connection)
    process.write(b"x\n")
    assert process.read_line(10) == b"[] x"
    assert not (folder / "json.py").exists()


@pytest.mark.parametrize("trick", ["link", "open", "file"])
def test_folder_that_is_not_ours_alone_is_not_used(
    connection: Connection, base: Path, tmp_path: Path, trick: str
) -> None:
    folder = where(connection)
    if trick == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif trick == "open":
        folder.chmod(0o777)
    else:
        folder.rename(tmp_path / "elsewhere")
        folder.write_text("")
    error = error_of(connection)
    assert error.kind == "disk"
    assert str(base) in error.why


def test_base_that_others_may_change_is_not_used(connection: Connection, base: Path) -> None:
    base.chmod(0o777)
    assert error_of(connection).kind == "disk"
    base.chmod(0o1777)
    assert where(connection).parent == base


def test_full_disk(connection: Connection, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = payload.bootstrap_text().replace(
        "def write(path",
        "def write(path, data):\n    raise OSError(28, os.strerror(28))\ndef _w(path",
    )
    monkeypatch.setattr(payload, "bootstrap_text", lambda: text)
    error = error_of(connection)
    assert error.kind == "disk"
    assert f"{base}: No space left on device" in error.why
    assert list(base.iterdir()) == []


def test_noexec_folders_come_after_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CANDIDATES", ("/a", "/b", "/c"))
    monkeypatch.setattr(bootstrap, "LAST_RESORT", "/home")
    monkeypatch.setattr(bootstrap, "is_safe", lambda base: base != "/c")
    monkeypatch.setattr(bootstrap, "is_noexec", lambda base: base == "/a")
    assert list(bootstrap.tiers()) == [["/b"], ["/home"], ["/a"]]


def test_home_is_not_looked_at_while_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(bootstrap, "CANDIDATES", ("/a",))
    monkeypatch.setattr(bootstrap, "LAST_RESORT", "/home")
    monkeypatch.setattr(bootstrap, "is_safe", lambda base: looked.append(base) or True)
    monkeypatch.setattr(bootstrap, "is_noexec", lambda base: False)
    assert bootstrap.find("0" * 64) is None
    assert looked == ["/a"]


def test_old_content_is_pruned(connection: Connection, base: Path) -> None:
    prefix = f".clusterctl-{os.geteuid()}-"
    old, recent, foreign = base / f"{prefix}old", base / f"{prefix}recent", base / "other"
    for folder in (old, recent, foreign):
        folder.mkdir(mode=0o700)
    for folder in (old, foreign):
        os.utime(folder, (time.time() - 2 * 86400,) * 2)
    where(connection)
    assert not old.exists()
    assert recent.exists()
    assert foreign.exists()


def test_several_at_once(base: Path) -> None:
    nodes = [replace(NODE, name=f"n{index}") for index in range(6)]
    results = fan_out(nodes, lambda node: where(connect(node)), deadline_s=60)
    assert len(set(results.values())) == 1
    assert len(list(base.iterdir())) == 1


def test_under_another_user() -> None:
    node = replace(NODE, become=Become(method="su", user="nobody"), python="/usr/bin/python3")
    opened = connect(node)
    process = start(opened, "hello.where", become=True)
    folder = Path(process.read_line(10).decode()).parent.parent
    assert folder.owner() == "nobody"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    shutil.rmtree(folder)
    opened.close()


def test_python_that_is_too_old(connection: Connection, tmp_path: Path) -> None:
    old = tmp_path / "python3.6"
    old.write_text("#!/bin/sh\necho Python 3.6.8\n")
    old.chmod(0o755)
    error = error_of(connection, python=str(old))
    assert error.kind == "python"
    assert f"{old} is Python 3.6.8; 3.9 or newer is needed" in error.why


@pytest.mark.parametrize(
    ("answer", "fine"),
    [
        ("Python 2.7.18", False),
        ("Python 3.8.20", False),
        ("Python 3.9.2", True),
        ("Python 3.10.0", True),
        ("Python 3.14.0rc1", True),
        ("Python 4.0.0", True),
        ("gibberish", False),
    ],
)
def test_versions(connection: Connection, tmp_path: Path, answer: str, fine: bool) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -V ] && echo "{answer}" && exit\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    if fine:
        start(connection, python=str(python)).kill()
    else:
        assert error_of(connection, python=str(python)).kind == "python"


def test_python_that_does_not_start(connection: Connection, tmp_path: Path) -> None:
    shim = tmp_path / "shim"
    shim.write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    error = error_of(connection, python=str(shim))
    assert (error.kind, "does not start" in error.why) == ("python", True)


def test_no_python(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "PYTHONS", ("no-such-python",))
    monkeypatch.setattr(sys, "executable", "")
    error = error_of(connection)
    assert (error.kind, error.why) == ("python", "there is no Python")


@pytest.mark.parametrize(
    "answer",
    ["'[]'", "'{'", "'{}'", "'{\"python\": 3}'", "'[' * 5000", "'null'", "'x' * 200_000"],
)
def test_node_that_lies(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    text = f"import sys\nprint('\\n' + sys.argv[1] + ' ' + {answer})\n"
    monkeypatch.setattr(payload, "bootstrap_text", lambda: text)
    assert error_of(connection).kind == "protocol"


def test_node_that_stays_silent(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "bootstrap_text", lambda: "import time\ntime.sleep(60)\n")
    with pytest.raises(NodeFailure) as caught:
        payload.start(connection, lambda _: HELLO, "hello", [], timeout_s=0.5)
    assert caught.value.error.kind == "timeout"


def test_both_sides_hash_alike(tmp_path: Path) -> None:
    for path, data in HELLO.files.items():
        bootstrap.write(str(tmp_path / path), data)
    (tmp_path / "hello" / "__pycache__").mkdir()
    (tmp_path / "hello" / "__pycache__" / "x.pyc").write_bytes(b"cache")
    assert bootstrap.content_hash(str(tmp_path)) == HELLO.hash


def test_probe_holds_what_it_needs() -> None:
    bundle = payload.PROBE(Interpreter("3.9.2", "x86_64", "glibc"))
    assert {
        "clusterctl/__init__.py",
        "clusterctl/facts.py",
        "clusterctl/probe/__init__.py",
        "pynvml.py",
        "psutil/__init__.py",
        "psutil/_psutil_linux.abi3.so",
    } <= set(bundle.files)
    assert not {path for path in bundle.files if "checks" in path or "inventory" in path}
    assert payload.PROBE(Interpreter("3.13.0", "x86_64", "glibc")) is bundle


def test_probe_goes_without_psutil_where_it_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    bundle = payload.PROBE(Interpreter("3.11.2", "s390x", "glibc"))
    assert "pynvml.py" in bundle.files
    assert not [path for path in bundle.files if path.startswith("psutil")]


def test_fabric_of_this_interpreter() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    bundle = payload.fabric(version, os.uname().machine)(Interpreter(version, "", ""))
    assert "mpi4py/__init__.py" in bundle.files
    assert "clusterctl/fabric/worker.py" in bundle.files
    assert "clusterctl/fabric/launch.py" not in bundle.files
    assert [path for path in bundle.files if path.startswith("mpi4py/MPI.")]


def test_fabric_that_cannot_be_had_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(UserError) as caught:
        payload.fabric("3.12", "s390x")
    assert "pip download" in caught.value.next_step
    assert "--python-version=3.12" in caught.value.next_step


def test_wheel_compiled_here_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local:
        files = ("psutil/__init__.py",)

        def read_text(self, name: str) -> str:
            return "Tag: cp311-abi3-linux_x86_64\n"

    monkeypatch.setattr(wheels, "distribution", lambda name: Local())
    assert wheels._installed(wheels.PSUTIL, os.uname().machine, "glibc") is None
