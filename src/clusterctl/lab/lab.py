"""Bringing a lab up, telling how it is, and taking it down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from clusterctl.errors import UserError
from clusterctl.lab import archives, cgroup, host, net, node, preflight, tree
from clusterctl.lab import spec as specs
from clusterctl.lab.command import run
from clusterctl.lab.spec import LabSpec, NodeSpec

Say = Callable[[str], None]
BOOT_DEADLINE_S = 60.0
DEFAULT_NODES = 4


@dataclass(frozen=True)
class Request:
    """What the user asks of ``up``; None leaves what is there, or takes the default."""

    name: str
    nodes: int | None = None
    releases: str | None = None
    nic: str | None = None


def wanted_releases(request: Request, present: list[str]) -> list[str]:
    """The release of each node, in order; the nodes that are present keep theirs."""
    parts = [part.partition(":") for part in (request.releases or "").split(",") if part]
    if any(count for _, _, count in parts):
        if not all(count.isdigit() and int(count) > 0 for _, _, count in parts):
            raise UserError(
                f"{request.releases!r} gives no number of nodes for some release",
                "write it like bookworm:2,trixie:2",
            )
        releases = [release for release, _, count in parts for _ in range(int(count))]
    else:
        if len(parts) > 1:
            raise UserError("how many nodes of each release?", "write it like bookworm:2,trixie:2")
        count = request.nodes or len(present) or DEFAULT_NODES
        release = parts[0][0] if parts else (present[-1] if present else tree.RELEASES[0])
        releases = present[:count] + [release] * (count - len(present))
        if parts and present and set(present) != {release}:
            raise UserError(
                f"the lab's nodes have other releases ({', '.join(sorted(set(present)))})",
                "clusterctl lab down first, or name every node's release",
            )
    _check_count(request, releases, present)
    return releases


def _check_count(request: Request, releases: list[str], present: list[str]) -> None:
    if request.nodes is not None and request.nodes != len(releases):
        raise UserError(
            f"--nodes {request.nodes} and --release {request.releases} ({len(releases)} nodes)"
            " do not agree",
            "leave --nodes out",
        )
    if not 1 <= len(releases) <= specs.MAX_NODES:
        raise UserError(f"a lab has 1 to {specs.MAX_NODES} nodes, not {len(releases)}")
    if releases[: len(present)] != present:
        raise UserError(
            f"the lab is up with {len(present)} nodes ({', '.join(sorted(set(present)))});"
            " it can only grow",
            "clusterctl lab down first",
        )


def up(request: Request, say: Say) -> LabSpec:
    """Bring a lab up, or what is missing of it; interrupted, what this call added goes again."""
    specs.check_name(request.name)
    rate = specs.parse_rate(request.nic) if request.nic else None
    preflight.require_host()
    with specs.locked(say):
        tree.sweep()
        before = specs.load(request.name)
        releases = wanted_releases(
            request, [each.release for each in before.nodes] if before else []
        )
        spec = before or _new(request.name)
        layers = {release: _layers(release, say) for release in dict.fromkeys(releases)}
        known = {each.number: each for each in spec.nodes}
        nodes = tuple(
            known.get(number, NodeSpec(number, release, layers[release]))
            for number, release in enumerate(releases, 1)
        )
        spec = replace(
            spec, nodes=nodes, nic_bits_per_s=rate if request.nic else spec.nic_bits_per_s
        )
        try:
            spec.save()
            _raise(spec, say)
        except BaseException:
            say("taking down what was started")
            _give_back(spec, before)
            raise
    return spec


def _new(name: str) -> LabSpec:
    index = net.free_index(lab.index for lab in specs.load_all())
    return LabSpec(name, index, specs.DEFAULT_NIC_BITS_PER_S, ())


def _layers(release: str, say: Say) -> tuple[str, ...]:
    packages = archives.latest(release)
    base = tree.provide(release, say)
    return (str(packages), str(base)) if packages else (str(base),)


def _raise(spec: LabSpec, say: Say) -> None:
    """Make all that is missing of a lab that is written down, and wait until it answers."""
    began = time.monotonic()
    _write_keys(spec)
    _write_inventory(spec)
    host.prepare(say)
    net.open_lab(spec, say)
    missing = [each for each in spec.nodes if not _runs(spec, each)]
    _stop(spec, missing, discard=False)
    net.plug_in(spec, missing)
    net.shape(spec, [each for each in spec.nodes if each not in missing])
    net.set_loss(spec)
    if not node.resolver_configuration():
        say("this machine's resolver listens on its loopback only: the nodes have no DNS")
    mounted = node.mountpoints()

    def boot(each: NodeSpec) -> None:
        node.provide_disk(spec, each, mounted)
        node.start(spec, each)

    if missing:
        say(f"starting {len(missing)} nodes")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(boot, missing))
    _await(spec, missing)
    for each in missing:
        if "node-frozen" in each.faults:
            cgroup.freeze(spec, each, frozen=True)
    if missing:
        say(f"{len(missing)} nodes up in {time.monotonic() - began:.1f} s")


def _runs(spec: LabSpec, each: NodeSpec) -> bool:
    plugged = spec.port(each) in net.interfaces() and (net.NETNS / spec.port(each)).exists()
    return plugged and node.kept(spec, each) and node.leader(spec, each) is not None


def _await(spec: LabSpec, started: list[NodeSpec]) -> None:
    """Wait until the nodes are ready, except those that were frozen before."""
    expected = [each for each in spec.nodes if each in started or "node-frozen" not in each.faults]
    deadline = time.monotonic() + BOOT_DEADLINE_S + len(expected)

    def silent(each: NodeSpec) -> bool:
        while not node.ready(spec, each):
            if time.monotonic() > deadline or not node.kept(spec, each):
                return True
            time.sleep(0.05)
        return False

    with ThreadPoolExecutor(16) as pool:
        dead = [
            each
            for each, is_silent in zip(expected, pool.map(silent, expected), strict=True)
            if is_silent
        ]
    if dead:
        said = node.console_tail(spec, dead[0])
        raise UserError(
            f"{', '.join(each.name for each in dead)} did not come up; last on the console: {said}"
        )


def _write_keys(spec: LabSpec) -> None:
    """Make the lab's key and the nodes' host keys, those that are missing."""
    paths = [spec.key, *(node.host_key(spec, each) for each in spec.nodes)]
    missing = [path for path in paths if not path.with_suffix(".pub").exists()]

    def generate(path: Path) -> None:
        path.unlink(missing_ok=True)
        run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "clusterctl-lab", "-f", str(path)]
        )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(generate, missing))
    os.chown(spec.key, *specs.owner())
    lines = [
        f"{spec.address(each)} {node.host_key(spec, each).with_suffix('.pub').read_text()}"
        for each in spec.nodes
    ]
    spec.known_hosts.write_text("".join(lines))


def _write_inventory(spec: LabSpec) -> None:
    options = f"-o UserKnownHostsFile={spec.known_hosts} -o GlobalKnownHostsFile=/dev/null"
    everything = {
        "hosts": {each.name: {"ansible_host": spec.address(each)} for each in spec.nodes},
        "vars": {
            "ansible_user": tree.USER,
            "ansible_ssh_private_key_file": str(spec.key),
            "ansible_ssh_common_args": f"{options} -o IdentitiesOnly=yes",
            "ansible_become": True,
            "ansible_python_interpreter": "/usr/bin/python3",
            "fabric_network": str(spec.network),
            "base_memlock": "unlimited",
            "base_nofile": 1048576,
        },
    }
    spec.inventory.write_text(yaml.safe_dump({"all": everything}, sort_keys=False))


def _stop(spec: LabSpec, nodes: list[NodeSpec], discard: bool) -> None:
    """End the nodes and take away all that they have in the kernel, as far as it is there."""
    cgroup.kill(spec, nodes)
    mounted = node.mountpoints()
    if discard:
        _harvest(spec, nodes)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: node.release_disk(spec, each, mounted, discard), nodes))
    net.unplug(spec, nodes)


def _harvest(spec: LabSpec, nodes: list[NodeSpec]) -> None:
    for release in {each.release for each in nodes}:
        uppers = [spec.runtime(each) / "disk/upper" for each in nodes if each.release == release]
        archives.harvest(release, uppers)


def _give_back(spec: LabSpec, before: LabSpec | None) -> None:
    """After a failed ``up``: leave the lab as it was."""
    if before is None:
        _remove(spec.name, spec)
        return
    present = {each.number for each in before.nodes}
    added = [each for each in spec.nodes if each.number not in present]
    _stop(spec, added, discard=True)
    before.save()
    _write_inventory(before)


def down(name: str, say: Say) -> bool:
    """Take a lab down, in whatever state it is; False when there was none."""
    preflight.require_root()
    specs.check_name(name)
    with specs.locked(say):
        tree.sweep()
        spec = specs.load(name)
        _remove(name, spec)
        archives.prune()
    return spec is not None


def _remove(name: str, spec: LabSpec | None) -> None:
    """Remove a lab; ``spec`` is None when no more than files can be left of it."""
    if spec:
        _stop(spec, list(spec.nodes), discard=True)
        cgroup.close_lab(spec)
        net.close_lab(spec)
    if all(other.name == name for other in specs.load_all()):
        net.forget_namespaces()
        host.restore()
    specs.remove_files(name)


def state(spec: LabSpec, each: NodeSpec) -> str:
    """How a node is: ``up``, ``no ssh``, ``frozen`` or ``off``."""
    if node.leader(spec, each) is None:
        return "off"
    if "node-frozen" in each.faults:
        return "frozen"
    return "up" if node.answers(spec, each, timeout_s=2) else "no ssh"


def states(spec: LabSpec) -> dict[str, str]:
    """How every node is."""
    with ThreadPoolExecutor(32) as pool:
        found = pool.map(lambda each: state(spec, each), spec.nodes)
        return {each.name: how for each, how in zip(spec.nodes, found, strict=True)}
