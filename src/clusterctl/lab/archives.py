"""Packages that nodes downloaded, kept for the nodes of later labs.

They reach nodes as a read-only layer. What is mounted must not change, so each harvest makes a
new folder (hard links to the files of the one before), and a folder that no lab uses goes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from clusterctl.lab import spec as specs

FOLDER = Path("var/cache/apt/archives")


def latest(release: str) -> Path | None:
    """The newest layer of a release, if there is one."""
    found = _layers(release)
    return found[-1] if found else None


def harvest(release: str, uppers: list[Path]) -> None:
    """Keep the packages in the nodes' upper layers. The lab's lock must be held."""
    debs = {deb.name: deb for upper in uppers for deb in (upper / FOLDER).glob("*.deb")}
    before = latest(release)
    kept = {deb.name: deb for deb in (before / FOLDER).glob("*.deb")} if before else {}
    new = {name: deb for name, deb in debs.items() if name not in kept and deb.stat().st_size}
    if not new:
        return
    number = int(before.name.rpartition("-")[2]) + 1 if before else 1
    aside = specs.CACHE / ".packages"
    shutil.rmtree(aside, ignore_errors=True)
    (aside / FOLDER).mkdir(parents=True)
    for name, deb in kept.items():
        os.link(deb, aside / FOLDER / name)
    for name, deb in new.items():
        shutil.copyfile(deb, aside / FOLDER / name)
    aside.rename(specs.CACHE / f"packages-{release}-{number}")


def prune() -> None:
    """Remove layers that neither a lab uses nor the next one will."""
    shutil.rmtree(specs.CACHE / ".packages", ignore_errors=True)
    used = {layer for lab in specs.load_all() for node in lab.nodes for layer in node.layers}
    for release in {path.name.split("-")[1] for path in specs.CACHE.glob("packages-*-*")}:
        for layer in _layers(release)[:-1]:
            if str(layer) not in used:
                shutil.rmtree(layer, ignore_errors=True)


def _layers(release: str) -> list[Path]:
    found = specs.CACHE.glob(f"packages-{release}-*")
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))
