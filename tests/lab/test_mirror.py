"""A mirror made through one node of each release provisions bare nodes that reach nothing else."""

import functools
import json
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ONLINE, CUT_OFF = ("node1", "node3"), ("node2", "node4")
UNTOUCHED = "find /etc/apt /var/lib/apt/lists -type f -exec sha256sum {} + | sort"


class Requests(SimpleHTTPRequestHandler):
    """Serves files, and keeps what was asked for."""

    asked: list[str] = []  # noqa: RUF012 - one list for all requests

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name there
        self.asked.append(self.path)


@pytest.fixture(scope="module")
def lab(own_lab: Callable[..., Any]) -> Any:
    lab = own_lab("mirror-test", "--nodes", "4", "--release", "bookworm:2,trixie:2")
    for node in CUT_OFF:
        # Packages that nodes of earlier labs downloaded would do as well.
        lab.root(node, "ip route del default; rm -f /var/cache/apt/archives/*.deb")
    return lab


@pytest.fixture(scope="module")
def folder(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mirror's folder."""
    folder = tmp_path_factory.mktemp("mirror")
    limit = ",".join(ONLINE)
    said = lab.provision("mirror", "--limit", limit, str(folder), exit_code=2)
    assert "it was not provisioned" in said
    lab.provision("--limit", limit)
    before = [lab.root(node, UNTOUCHED) for node in ONLINE]
    said = lab.provision("mirror", "--limit", limit, str(folder))
    assert f"{folder}/Debian-12: " in said
    assert f"{folder}/Debian-13: " in said
    assert json.loads((folder / "manifest.json").read_text())["key"] in said
    assert [lab.root(node, UNTOUCHED) for node in ONLINE] == before
    return folder


@pytest.fixture(scope="module")
def url(lab: Any, folder: Path) -> Iterator[str]:
    """The address at which the nodes find it: this machine's on the lab's bridge."""
    gateway = lab.root("node1", "ip -4 route show default").split()[2]
    handler = functools.partial(Requests, directory=str(folder))
    with ThreadingHTTPServer((gateway, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{gateway}:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def inventory(lab: Any, folder: Path, url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nodes that reach nothing but the mirror."""
    key = json.loads((folder / "manifest.json").read_text())["key"]

    def edit(everything: dict[str, Any]) -> None:
        everything["hosts"] = {name: everything["hosts"][name] for name in CUT_OFF}
        everything["vars"] |= {"mirror_url": url, "mirror_key": key}

    edited: Path = lab.edited(tmp_path_factory.mktemp("inventory"), edit)
    return edited


def test_a_wrong_key_is_refused_before_anything_is_installed(
    lab: Any, inventory: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "hosts.yml"
    key = inventory.read_text().partition("mirror_key: ")[2].split()[0]
    other = "F" * 40
    wrong.write_text(inventory.read_text().replace(key, other))
    said = lab.provision(inventory=wrong, exit_code=1)
    assert f"key.asc is {key}, and accepted are {other}" in said.replace("\n", " ")
    assert lab.root("node2", "command -v chronyd mpirun", check=False) == ""


def test_nodes_that_are_cut_off_are_provisioned_from_the_mirror(lab: Any, inventory: Path) -> None:
    before = [lab.root(node, UNTOUCHED) for node in CUT_OFF]
    said = lab.provision(inventory=inventory)
    assert "2 nodes provisioned: " in said
    for node in CUT_OFF:
        assert "mpirun (Open MPI)" in lab.root(node, "mpirun --version")
        assert ",Normal" in lab.root(node, "chronyc -n -c tracking")
    assert [lab.root(node, UNTOUCHED) for node in CUT_OFF] == before
    assert any(path.endswith("_amd64.deb") for path in Requests.asked)


def test_a_second_run_changes_nothing(lab: Any, inventory: Path) -> None:
    assert "Nothing to change: 2 nodes are as wanted." in lab.provision(inventory=inventory)


def test_an_address_without_a_mirror_is_named(lab: Any, inventory: Path, tmp_path: Path) -> None:
    gone = tmp_path / "hosts.yml"
    text = inventory.read_text()
    url = text.partition("mirror_url: ")[2].split()[0]
    gone.write_text(text.replace(url, f"{url}/nothing-here"))
    said = lab.provision("--limit", "node2", inventory=gone, exit_code=1)
    assert f"{url}/nothing-here/Debian-12 cannot be used" in said.replace("\n", " ")
