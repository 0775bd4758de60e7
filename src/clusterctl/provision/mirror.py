"""A mirror for sites without a way out: what provisioned nodes have, with all that it needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clusterctl.errors import UserError
from clusterctl.findings import NodeError
from clusterctl.inventory import Cluster, Node
from clusterctl.provision.mirror_source import Promised, ask, fetch
from clusterctl.provision.repository import Key, Package, write_index
from clusterctl.ssh import fan_out

MANIFEST = "manifest.json"
ASK_TIMEOUT_S = 60
FETCH_TIMEOUT_S = 6 * 3600


@dataclass(frozen=True)
class Mirrored:
    """What a mirror has of one release."""

    promised: Promised
    node: str
    """The node through whose apt it came."""
    packages: tuple[Package, ...]

    @property
    def release(self) -> str:
        """Name of the release, and of its folder."""
        return self.promised.release

    @property
    def size_bytes(self) -> int:
        """Size of the packages."""
        return sum(package.size_bytes for package in self.packages)


@dataclass(frozen=True)
class Mirror:
    """A mirror that was made."""

    fingerprint: str
    releases: tuple[Mirrored, ...]
    trouble: Mapping[str, NodeError]
    """Nodes that gave nothing, and why."""


def make(cluster: Cluster, folder: Path, keys: Path, say: Callable[[str], None]) -> Mirror:
    """Make or renew a mirror in ``folder`` of what the cluster's provisioned nodes have.

    ``keys`` is where secret keys are kept. Nodes that give nothing are named in the result; a
    release that could not be fetched stays as it was. :class:`UserError`: none could.
    """
    answers = fan_out(cluster.nodes, ask, deadline_s=ASK_TIMEOUT_S)
    sources = choose({name: seen for name, seen in answers.items() if isinstance(seen, Promised)})
    folder.mkdir(parents=True, exist_ok=True)

    def mirror(node: Node) -> Mirrored:
        seen = sources[node.name]
        say(f"{node.name}, {seen.release}: {len(seen.packages)} packages and what they need")
        return Mirrored(seen, node.name, fetch(node, seen.requests, _aside(folder, seen.release)))

    nodes = [node for node in cluster.nodes if node.name in sources]
    fetched = fan_out(nodes, mirror, deadline_s=FETCH_TIMEOUT_S)
    made = tuple(one for one in fetched.values() if isinstance(one, Mirrored))
    trouble = {
        name: seen for name, seen in {**answers, **fetched}.items() if isinstance(seen, NodeError)
    }
    if not made:
        name, error = next(iter(trouble.items()))
        raise UserError(f"nothing to mirror: {name}: {error.why}", error.next_step)
    key = Key.of(folder, keys)
    for one in made:
        _publish(folder, one, key)
    _write_manifest(folder, made, key.fingerprint)
    return Mirror(key.fingerprint, made, trouble)


def choose(answers: Mapping[str, Promised]) -> dict[str, Promised]:
    """Choose a node of each release, the one with most packages, and ask it for all of them."""
    chosen = {}
    for release in sorted({seen.release for seen in answers.values()}):
        alike = {name: seen for name, seen in answers.items() if seen.release == release}
        name = max(alike, key=lambda name: len(alike[name].packages))
        asked = {package: ask for seen in alike.values() for package, ask in seen.packages.items()}
        vendor = any(seen.vendor for seen in alike.values())
        chosen[name] = replace(alike[name], packages=asked | alike[name].packages, vendor=vendor)
    return chosen


def _aside(folder: Path, release: str) -> Path:
    return folder / f".{release}.new"


def _publish(folder: Path, mirrored: Mirrored, key: Key) -> None:
    """Complete a release aside, then let it take the place of the one before."""
    aside, place = _aside(folder, mirrored.release), folder / mirrored.release
    write_index(aside, mirrored.release, mirrored.packages, key)
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)


def _write_manifest(folder: Path, made: tuple[Mirrored, ...], fingerprint: str) -> None:
    path = folder / MANIFEST
    before = json.loads(path.read_text())["releases"] if path.exists() else {}
    releases = {
        one.release: {
            "node": one.node,
            "wanted": sorted(one.promised.requests),
            "packages": [
                {
                    "name": package.name,
                    "version": package.version,
                    "architecture": package.architecture,
                    "file": f"{one.release}/{package.file}",
                    "size_bytes": package.size_bytes,
                    "sha256": package.sha256,
                }
                for package in one.packages
            ],
        }
        for one in made
    }
    content = {"key": fingerprint, "releases": before | releases}
    path.write_text(json.dumps(content, indent=2) + "\n")
