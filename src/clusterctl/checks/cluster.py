"""Checks of the cluster as a whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from clusterctl.checks.base import (
    Evidence,
    Level,
    UnjudgedError,
    check,
    fail,
    known,
    ok,
    skip,
    unknown,
    warn,
)
from clusterctl.checks.units import both_rates, number_of, rate, seconds, size
from clusterctl.facts import AllreduceSample, FabricFacts, Unread
from clusterctl.findings import Outcome


@check("cluster.mpi.same", "All nodes run the same MPI", of=Evidence)
def mpi_same(evidence: Evidence) -> Outcome:
    """Compare implementation and version: their launch daemons speak to their own kind only."""
    if len(evidence.names) == 1:
        return skip("a single machine has nothing to compare with")
    versions: dict[tuple[str, str], list[str]] = defaultdict(list)
    unread: list[str] = []
    for name in evidence.names:
        facts = evidence.answered.get(name)
        if facts is None or isinstance(facts.mpi, Unread):
            unread.append(name)
        else:
            versions[facts.mpi.implementation, facts.mpi.version].append(name)
    seen = "; ".join(f"{i} {v} on {_names(of)}" for (i, v), of in versions.items())
    limit = "one implementation, one major.minor version"
    fewest = min(versions.values(), key=lambda names: len(names), default=[])
    remedy = (
        f"clusterctl provision --limit {','.join(fewest)} --tags mpi, "
        "with mpi_version set in the inventory"
    )
    if len({(i, tuple(v.split(".")[:2])) for i, v in versions}) > 1:
        return fail(seen, limit, remedy)
    if unread or not versions:
        return unknown(
            f"{seen}; no MPI known of {_names(unread)}" if seen else "no MPI known of any node"
        )
    if len(versions) > 1:
        return warn(seen, limit, remedy)
    return ok(seen, limit)


@check(
    "cluster.allreduce.correct",
    "An allreduce over all nodes gives the right numbers",
    of=Evidence,
    level=Level.STANDARD,
)
def allreduce_correct(evidence: Evidence) -> Outcome:
    """Look at the verification of every size on every node: wrong numbers train nonsense."""
    fabric, samples = _allreduce(evidence)
    wrong: dict[str, int] = defaultdict(int)
    for sample in samples:
        for name, count in sample.wrong_elements.items():
            wrong[name] += count
    bad = {name: count for name, count in wrong.items() if count}
    limit = "every element of every size equals the exact sum"
    if bad:
        return fail(
            "wrong elements: " + ", ".join(f"{n} on {name}" for name, n in sorted(bad.items())),
            limit,
            f"take {_names(sorted(bad))} out and run again; test its memory: "
            "dmesg | grep -i -e edac -e mce -e 'Hardware Error'",
        )
    sizes = [sample.size_bytes for sample in samples]
    ranks = min(sample.ranks for sample in samples)
    seen = (
        f"{number_of(len(samples), 'size')} from {size(min(sizes))} to {size(max(sizes))} over "
        f"{ranks} ranks on {number_of(len(fabric.nodes), 'node')}: all elements right"
    )
    absent = [name for name in evidence.names if name not in fabric.nodes or name in fabric.lost]
    if absent:
        return unknown(f"{seen}; {_names(absent)} took no part")
    if fabric.incomplete:
        return unknown(f"{seen}; then the measurement ended: {fabric.incomplete}")
    return ok(seen, limit)


@check(
    "cluster.allreduce.bandwidth",
    "An allreduce over all nodes is as fast as wanted",
    of=Evidence,
    level=Level.STANDARD,
)
def allreduce_bandwidth(evidence: Evidence) -> Outcome:
    """Compare the bus bandwidth at the largest size with the inventory's limit, if it has one."""
    _, samples = _allreduce(evidence)
    largest = max(samples, key=lambda sample: sample.size_bytes)
    time_s = median(largest.times_s) if largest.times_s else 0.0
    if time_s <= 0:
        return unknown(f"no time was measured at {size(largest.size_bytes)}")
    algbw = largest.size_bytes / time_s
    busbw = algbw * 2 * (largest.ranks - 1) / largest.ranks
    seen = (
        f"busbw {both_rates(busbw)} (algbw {rate(algbw)}, {seconds(time_s)}) "
        f"at {size(largest.size_bytes)} over {largest.ranks} ranks"
    )
    floor = evidence.limit("allreduce_busbw_min_bytes_per_s", *evidence.wanted)
    if floor is None:
        return skip(
            f"no limit set (inventory: doctor_limits.allreduce_busbw_min_bytes_per_s); {seen}"
        )
    limit = (
        f"at least {both_rates(floor)} (inventory: doctor_limits.allreduce_busbw_min_bytes_per_s)"
    )
    if busbw < floor:
        return fail(
            seen,
            limit,
            "look at node.network.bandwidth and link.bandwidth first: the slowest part of the "
            "ring is the speed of all",
        )
    return ok(seen, limit)


def _allreduce(evidence: Evidence) -> tuple[FabricFacts, list[AllreduceSample]]:
    fabric = known(evidence.fabric, skip=("unsupported",))
    if not fabric.allreduce:
        why = fabric.incomplete or "the measurement gave none"
        raise UnjudgedError(unknown(f"no allreduce was measured: {why}"))
    return fabric, fabric.allreduce


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
