"""Which end, or which path, explains a slow pair of nodes.

A transfer is as fast as its slowest part: ``bw(i, j) = min(send(i), receive(j), path(i, j))``.
What a node can do therefore shows with its best partners, and an average over partners would
blame a healthy node for a sick one. Every estimate here is an order statistic over partners,
taken from the side that bad partners do not reach: the upper quartile for bandwidth, the lower
quartile for latency and the lower median for loss, which add up instead.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

from clusterctl.facts import LinkSample, Unread

NOISE_FLOOR = 0.01
"""Least relative noise assumed of a pair, so that quiet data does not make trifles significant."""

MEDIAN_OF_DIFFERENCE = 0.954
"""Median of the absolute difference of two normal values, in standard deviations of one."""

REPEATED_MIN = 10
"""Fewer segments sent again are no loss: TCP repeats some on suspicion alone (RFC 8985)."""

SEGMENT_MAX_BYTES = 65535
"""No TCP segment carries more (RFC 9293), so fewer segments carried something else: RDMA did."""

Pair = tuple[str, str]
Segments = tuple[int, int]


def upper_quartile(values: Iterable[float]) -> float:
    """Give the value at the third quartile, the higher one where it falls between two."""
    ordered = sorted(values)
    return ordered[math.ceil(0.75 * (len(ordered) - 1))]


def lower_quartile(values: Iterable[float]) -> float:
    """Give the value at the first quartile, the lower one where it falls between two."""
    ordered = sorted(values)
    return ordered[math.floor(0.25 * (len(ordered) - 1))]


def upper_median(values: Iterable[float]) -> float:
    """Give the middle value, the higher one of two."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def lower_median(values: Iterable[float]) -> float:
    """Give the middle value, the lower one of two."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


@dataclass(frozen=True)
class Network:
    """What was measured between nodes, by (source, target)."""

    bandwidth: Mapping[Pair, float]
    """Bytes per second; where a pair was measured repeatedly the best counts, since what
    disturbs a measurement makes it slower and nothing makes a slow path fast."""
    latency: Mapping[Pair, float]
    """Seconds, the best likewise; both orders of a pair hold the same figure."""
    segments: Mapping[Pair, Segments | Unread]
    """TCP segments that the source sent, and those of them that it sent again."""

    @classmethod
    def from_samples(cls, samples: Iterable[LinkSample]) -> Network:
        """Gather the samples of each pair."""
        by_pair: dict[Pair, list[LinkSample]] = defaultdict(list)
        for sample in samples:
            by_pair[sample.source, sample.target].append(sample)
        return cls(
            bandwidth={p: max(s.bandwidth_bytes_per_s for s in of) for p, of in by_pair.items()},
            latency={
                pair: min(s.latency_s for s in of + by_pair.get(pair[::-1], []))
                for pair, of in by_pair.items()
            },
            segments={pair: _segments(of) for pair, of in by_pair.items()},
        )

    @cached_property
    def _by_source(self) -> dict[str, list[Pair]]:
        return _group(self.bandwidth, 0)

    @cached_property
    def _by_target(self) -> dict[str, list[Pair]]:
        return _group(self.bandwidth, 1)

    def partners(self, node: str) -> int:
        """Count the nodes that this one was measured with, both ways."""
        return min(len(self._by_source.get(node, ())), len(self._by_target.get(node, ())))

    @cached_property
    def send(self) -> dict[str, float]:
        """What each node can send, in bytes per second."""
        return {
            n: upper_quartile(self.bandwidth[p] for p in of) for n, of in self._by_source.items()
        }

    @cached_property
    def receive(self) -> dict[str, float]:
        """What each node can receive, in bytes per second."""
        return {
            n: upper_quartile(self.bandwidth[p] for p in of) for n, of in self._by_target.items()
        }

    @cached_property
    def usual_send(self) -> float:
        """What nodes of this cluster usually send: the upper median of them."""
        return upper_median(self.send.values())

    @cached_property
    def usual_receive(self) -> float:
        """What nodes of this cluster usually receive: the upper median of them."""
        return upper_median(self.receive.values())

    def expected(self, pair: Pair) -> float:
        """Give the bandwidth that the slower of the two ends allows."""
        source, target = pair
        return min(self.send[source], self.receive[target])

    @cached_property
    def noise(self) -> float:
        """Relative standard deviation of what one pair gives.

        From how far the best partners of a node lie apart, the lower median over the nodes:
        neither slow nodes (all their pairs are slow alike) nor a minority of bad paths can move
        it. Of three nodes each has too few partners; there a pair's two directions are compared.
        """
        spreads = [
            _spread(sorted(self.bandwidth[pair] for pair in of))
            for grouped in (self._by_source, self._by_target)
            for of in grouped.values()
            if len(of) >= 3
        ]
        return max(NOISE_FLOOR, lower_median(spreads or self._asymmetries or [0.0]))

    @cached_property
    def _asymmetries(self) -> list[float]:
        """Standard deviations that the two directions of each pair suggest, relative."""
        return [
            abs(there - back) / max(there, back) / MEDIAN_OF_DIFFERENCE
            for pair, there in self.bandwidth.items()
            if (back := self.bandwidth.get(pair[::-1])) is not None and max(there, back) > 0
        ]

    def node_noise(self, node: str) -> float:
        """Relative standard error of :attr:`send` and :attr:`receive` of a node.

        Of a quartile over m normal values: ``sigma * sqrt(3/16) / (density * sqrt(m))``, with
        the density at the quartile 0.318, hence 1.36 sigma / sqrt(m).
        """
        return 1.36 * self.noise / math.sqrt(max(1, self.partners(node)))

    @cached_property
    def node_latency(self) -> dict[str, float]:
        """Seconds that each node takes with its better partners."""
        return {n: lower_quartile(self.latency[p] for p in of) for n, of in self._by_source.items()}

    @cached_property
    def usual_latency(self) -> float:
        """Seconds that nodes of this cluster usually take: the lower median of them."""
        return lower_median(self.node_latency.values())

    def expected_latency(self, pair: Pair) -> float:
        """Give the latency that the two ends explain: both exceed the usual, and these add."""
        a, b = pair
        usual = self.usual_latency
        return usual + sum(max(0.0, self.node_latency[n] - usual) for n in (a, b))

    def link_loss(self, pair: Pair) -> float | Unread:
        """Share of segments lost between two nodes, both ways together."""
        return _loss(self.segments[p] for p in (pair, pair[::-1]) if p in self.segments)

    @cached_property
    def node_loss(self) -> dict[str, float | Unread]:
        """Share of segments that each node loses with its better partners, both ways together.

        The lower median and not the quartile: losses come in bursts (one frame of a segmenting
        interface is 45 segments), so that a lossy node shows none with some partners.
        """
        return {
            n: _lower_median(self.link_loss(p) for p in of) for n, of in self._by_source.items()
        }

    @cached_property
    def usual_loss(self) -> float | Unread:
        """Share of segments that nodes of this cluster usually lose: the lower median of them."""
        return _lower_median(self.node_loss.values())

    def lost_sending(self, node: str) -> float | Unread:
        """Share of all segments that the node sent which had to be sent again."""
        return _loss(self.segments[p] for p in self._by_source[node])

    def lost_receiving(self, node: str) -> float | Unread:
        """Share of all segments sent to the node which had to be sent again."""
        return _loss(self.segments[p] for p in self._by_target[node])


def _group(pairs: Iterable[Pair], end: int) -> dict[str, list[Pair]]:
    grouped: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        grouped[pair[end]].append(pair)
    return dict(grouped)


def _spread(ordered: list[float]) -> float:
    """Give the standard deviation that the upper half of these values suggests, relative.

    Best minus middle, over the distance of these two in normal order statistics (Blom 1958).
    """
    count, middle = len(ordered), len(ordered) // 2
    best, usual = ordered[-1], ordered[middle]
    if usual <= 0:
        return 0.0
    return (best / usual - 1) / (_blom(count, count) - _blom(middle + 1, count))


def _blom(rank: int, count: int) -> float:
    return NormalDist().inv_cdf((rank - 0.375) / (count + 0.25))


def _segments(samples: Iterable[LinkSample]) -> Segments | Unread:
    sent = repeated = 0
    for sample in samples:
        if isinstance(sample.segments_sent, Unread):
            return sample.segments_sent
        if isinstance(sample.segments_retransmitted, Unread):
            return sample.segments_retransmitted
        if sample.segments_sent < sample.bytes_sent / SEGMENT_MAX_BYTES:
            return Unread("unsupported", "the data did not travel over TCP")
        sent += sample.segments_sent
        repeated += sample.segments_retransmitted
    return sent, repeated


def _loss(counts: Iterable[Segments | Unread]) -> float | Unread:
    sent = repeated = 0
    for count in counts:
        if isinstance(count, Unread):
            return count
        sent += count[0]
        repeated += count[1]
    return repeated / sent if sent and repeated >= REPEATED_MIN else 0.0


def _lower_median(shares: Iterable[float | Unread]) -> float | Unread:
    read: list[float] = []
    for share in shares:
        if isinstance(share, Unread):
            return share
        read.append(share)
    return lower_median(read)
