"""Who talks to whom, and who has to say it again. Pure; standard library, Python 3.9."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from clusterctl.facts import LinkSample

Pair = tuple[str, str]
"""Two nodes that measure each other, in both directions."""

LOW = 0.8
"""A direction or node below this share of what its peers reach is measured again."""

REPEATED_PAIRS_PER_NODE = 3
"""Pairs with which a slow node is confirmed: all of its pairs would take a round each."""

MOST_SAMPLES = 4
"""A direction that is still low after so many measurements is low."""

REPEAT_ROUNDS = 6
"""Most rounds that one repetition of suspicious pairs may take."""


def rounds(names: Sequence[str]) -> list[list[Pair]]:
    """Give rounds of disjoint pairs in which every pair of ``names`` meets exactly once.

    The circle method: the first stays, the others turn. N-1 rounds for even N; N rounds, each
    with one idle, for odd N.
    """
    circle: list[str | None] = list(names)
    if len(circle) % 2:
        circle.append(None)
    half = len(circle) // 2
    schedule = []
    for _ in range(len(circle) - 1):
        facing = zip(circle[:half], reversed(circle[half:]))
        schedule.append([(a, b) for a, b in facing if a is not None and b is not None])
        circle.insert(1, circle.pop())
    return schedule if half > 0 and len(names) > 1 else []


def disjoint(pairs: Iterable[Pair], limit: int) -> list[list[Pair]]:
    """Pack pairs into at most ``limit`` rounds of disjoint pairs, the first ones first.

    What does not fit is left out.
    """
    packed: list[list[Pair]] = []
    busy: list[set[str]] = []
    for pair in pairs:
        for members, taken in zip(packed, busy):
            if taken.isdisjoint(pair):
                members.append(pair)
                taken.update(pair)
                break
        else:
            if len(packed) < limit:
                packed.append([pair])
                busy.append(set(pair))
    return packed


def repeats(samples: Iterable[LinkSample]) -> list[list[Pair]]:
    """Give the rounds that are worth measuring again, so that one hiccup blames nobody.

    A direction counts with its best measurement, as it does for the judges: a disturbance only
    slows. It is suspicious when that is below :data:`LOW` of what the slower of its
    ends reaches with others (the upper quartile over its partners: a pair's bandwidth is the
    minimum of its ends, so partners can only pull a node down). A node is suspicious when that
    quartile is below :data:`LOW` of the nodes' median; it is confirmed with a few partners.
    """
    measured: dict[Pair, list[float]] = defaultdict(list)
    for sample in samples:
        measured[sample.source, sample.target].append(sample.bandwidth_bytes_per_s)
    rate = {direction: max(values) for direction, values in measured.items()}
    sends: dict[str, list[float]] = defaultdict(list)
    receives: dict[str, list[float]] = defaultdict(list)
    for (source, target), value in rate.items():
        sends[source].append(value)
        receives[target].append(value)
    out = {name: _upper_quartile(values) for name, values in sends.items()}
    into = {name: _upper_quartile(values) for name, values in receives.items()}

    ranked = []
    for (source, target), value in rate.items():
        expected = min(out[source], into[target])
        if value < LOW * expected and len(measured[source, target]) < MOST_SAMPLES:
            ranked.append((value / expected, _pair(source, target)))
    suspicious = [pair for _, pair in sorted(ranked)]
    for name in sorted(_slow(out) | _slow(into)):
        partners = sorted(
            (pair for pair in rate if name in pair), key=lambda pair: rate[pair], reverse=True
        )
        chosen = list(dict.fromkeys(_pair(*pair) for pair in partners))[:REPEATED_PAIRS_PER_NODE]
        suspicious += [pair for pair in chosen if len(measured[pair]) == 1]
    return disjoint(dict.fromkeys(suspicious), REPEAT_ROUNDS)


def _pair(a: str, b: str) -> Pair:
    return (a, b) if a <= b else (b, a)


def _slow(reached: dict[str, float]) -> set[str]:
    usual = statistics.median(reached.values()) if reached else 0.0
    return {name for name, value in reached.items() if value < LOW * usual}


def _upper_quartile(values: list[float]) -> float:
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=4, method="inclusive")[2]
