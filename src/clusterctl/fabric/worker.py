"""Measures links and collectives. Runs under MPI, one process a rank, started by ``mpirun``.

Rank 0 reads orders from standard input, one JSON object a line, and prints answers, each a line
that starts with the marker given as the only argument::

    {"pairs": [[rank, rank], ...]}      -> {"pair": [...]} as each is done, then {"round": true}
    {"allreduce": {"budget_s": s, "max_bytes": n}}
                                        -> {"allreduce": {...}} a size, then {"swept": true}
    {"end": true}                       -> all ranks leave

The first line it prints is ``{"nodes": [...], "mpi": ...}``: each rank's node, by the name that
the node's supervisor put into its environment. Python 3.9; needs mpi4py and nothing else.
"""

from __future__ import annotations

import array
import itertools
import json
import math
import os
import socket
import statistics
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mpi4py import MPI

from clusterctl.fabric.supervise import tcp_segments

NODE_VARIABLE = "CLUSTERCTL_NODE"

ORDER, RESULT, PING, CHUNK, COUNT, ACK = range(1, 7)
"""Message tags."""

IDLE_S = 0.0005
"""Pause between looks for a message while waiting for orders: MPI's own waiting spins, and on a
machine whose ranks share cores that would take time from those that are being measured."""

LATENCY_BUDGET_S = 0.02
LATENCY_MIN_ROUND_TRIPS = 20
LATENCY_MAX_ROUND_TRIPS = 1000

STREAM_BUDGET_S = 0.18
"""How long one direction of a pair is measured for."""
FIRST_STREAM_BYTES = 1 << 18
STREAM_GROWTH = 4
"""Streams grow by at most this factor until one takes about the budget. The ones before it are
the warm-up: they bring connections up, register buffers, and empty what shapers and clouds let
through at once (token buckets, 256 kB in common ones), which would otherwise count as speed."""
LAST_STREAM_BYTES = 1 << 34
CREDIBLE_SHARE = 0.6
"""A stream slower than this share of the one before it is sent once more and the better one
counts: a process that had to wait for its core must not pass for a slow network."""
CHUNK_MIN_BYTES = 1 << 16
CHUNK_MAX_BYTES = 1 << 20
CHUNKS_WANTED = 64
WINDOW = 8
"""Messages in flight, so that the link is never idle between two of them."""

ALLREDUCE_FIRST_BYTES = 8
ALLREDUCE_STEP = 4
ALLREDUCE_MIN_REPETITIONS = 3
ALLREDUCE_MAX_REPETITIONS = 20
PATTERN_ELEMENTS = 257
"""Period of the reduced data: a prime, so that a block that lands elsewhere shows."""


def measure_latency(comm: MPI.Comm, peer: int, leads: bool) -> float:
    """Give half of the 10th-percentile round trip of 1 byte, in seconds (0.0 if not leading).

    The low percentile is the link's time; the median of ranks that share cores with others is
    mostly the time until they are scheduled.
    """
    ping, pong = bytearray(1), bytearray(1)
    send, receive = [ping, 1, MPI.BYTE], [pong, 1, MPI.BYTE]
    trips: list[float] = []
    if not leads:
        while True:
            comm.Recv(receive, source=peer, tag=PING)
            comm.Send(receive, dest=peer, tag=PING)
            if pong[0]:
                return 0.0
    until = time.perf_counter() + LATENCY_BUDGET_S
    while not ping[0]:
        start = time.perf_counter()
        enough = start > until and len(trips) >= LATENCY_MIN_ROUND_TRIPS
        ping[0] = enough or len(trips) >= LATENCY_MAX_ROUND_TRIPS
        comm.Send(send, dest=peer, tag=PING)
        comm.Recv(receive, source=peer, tag=PING)
        trips.append(time.perf_counter() - start)
    return statistics.quantiles(trips, n=10)[0] / 2


class Stream(NamedTuple):
    """One direction of a pair."""

    bytes_per_s: float
    bytes_sent: int
    segments: list[int] | None
    """TCP segments [sent, sent again] by the sender meanwhile; None where they are not counted."""


def send_stream(comm: MPI.Comm, peer: int, buffer: memoryview) -> Stream:
    """Send to ``peer`` for about :data:`STREAM_BUDGET_S`, warm-up not counted.

    The rate is the payload over the time from the first send to the acknowledgement that all of
    it was received (osu_bw counts so too), hence buffers on the way cannot inflate it.
    """
    before = tcp_segments()
    size = FIRST_STREAM_BYTES
    previous, doubtful = math.inf, 0.0
    while True:
        sent, elapsed = send_once(comm, peer, size, buffer)
        rate = sent / elapsed
        if elapsed < STREAM_BUDGET_S / 2 and size < LAST_STREAM_BYTES:
            size = int(min(rate * STREAM_BUDGET_S, size * STREAM_GROWTH))
            previous, doubtful = rate, 0.0
        elif rate > CREDIBLE_SHARE * previous or doubtful:
            break
        else:
            doubtful = rate
    comm.Send([struct.pack("qq", 0, 0), 16, MPI.BYTE], dest=peer, tag=COUNT)
    after = tcp_segments()
    segments = [b - a for a, b in zip(before, after)] if before and after else None
    return Stream(max(rate, doubtful), sent, segments)


def send_once(comm: MPI.Comm, peer: int, size: int, buffer: memoryview) -> tuple[int, float]:
    """Send about ``size`` bytes; give how many and the seconds until they were acknowledged."""
    chunk = CHUNK_MIN_BYTES
    while chunk < CHUNK_MAX_BYTES and chunk * CHUNKS_WANTED < size:
        chunk *= 2
    count = max(1, round(size / chunk))
    comm.Send([struct.pack("qq", count, chunk), 16, MPI.BYTE], dest=peer, tag=COUNT)
    start = time.perf_counter()
    for request in in_window(comm.Isend, count, chunk, peer, buffer):
        request.Wait()
    comm.Recv([bytearray(1), 1, MPI.BYTE], source=peer, tag=ACK)
    return count * chunk, time.perf_counter() - start


def receive_streams(comm: MPI.Comm, peer: int, buffer: memoryview) -> None:
    """Receive and acknowledge what :func:`send_stream` sends, until it says that it is done."""
    order = bytearray(16)
    while True:
        comm.Recv([order, 16, MPI.BYTE], source=peer, tag=COUNT)
        count, chunk = struct.unpack("qq", order)
        if not count:
            return
        for request in in_window(comm.Irecv, count, chunk, peer, buffer):
            request.Wait()
        comm.Send([bytearray(1), 1, MPI.BYTE], dest=peer, tag=ACK)


def in_window(
    start: Callable[..., MPI.Request], count: int, chunk: int, peer: int, buffer: memoryview
) -> Iterator[MPI.Request]:
    """Start ``count`` messages and give them in order, at most :data:`WINDOW` at a time."""
    window: deque[MPI.Request] = deque()
    for index in range(count):
        if len(window) == WINDOW:
            yield window.popleft()
        at = index % WINDOW * chunk
        window.append(start([buffer[at : at + chunk], chunk, MPI.BYTE], peer, CHUNK))
    yield from window


def measure_pair(comm: MPI.Comm, peer: int, buffer: memoryview) -> list[Any]:
    """Measure a pair; the lower rank gives [rank, peer, latency, there, back]."""
    leads = comm.rank < peer
    latency_s = measure_latency(comm, peer, leads)
    if leads:
        there = send_stream(comm, peer, buffer)
        receive_streams(comm, peer, buffer)
        back = Stream(*comm.recv(source=peer, tag=RESULT))
        return [comm.rank, peer, latency_s, list(there), list(back)]
    receive_streams(comm, peer, buffer)
    comm.send(send_stream(comm, peer, buffer), dest=peer, tag=RESULT)
    return []


def reduce_sum(comm: MPI.Comm, send: memoryview, receive: bytearray, count: int) -> None:
    """Sum ``count`` float32 of every rank into every rank's ``receive``."""
    comm.Allreduce([send, count, MPI.FLOAT], [receive, count, MPI.FLOAT], op=MPI.SUM)


def pattern(rank: int) -> list[int]:
    """Give one period of what ``rank`` contributes: small whole numbers.

    Their float32 sums are exact in whatever order they are taken, as long as these stay below
    2**24, that is for up to half a million ranks.
    """
    return [(position * (rank % 7 + 1) + 3 * rank) % 31 for position in range(PATTERN_ELEMENTS)]


def periodic(period: list[int], count: int) -> memoryview:
    """Give ``count`` float32 and one period more, so that any shift of it can be cut out."""
    encoded = struct.pack(f"{len(period)}f", *period)
    return memoryview(encoded * (count // len(period) + 2))


class Sweep(NamedTuple):
    """An allreduce at one size: its times and, per rank, the wrong elements."""

    size_bytes: int
    times_s: list[float]
    wrong: list[int]


def sweep_allreduce(comm: MPI.Comm, budget_s: float, max_bytes: int) -> Iterator[Sweep]:
    """Allreduce at growing sizes, each result compared bit for bit with the exact sum.

    Sizes grow until ``max_bytes``, or until a repetition of the next one is
    expected to exceed ``budget_s``, which is also about what a size may take.
    Every repetition reduces other numbers, so that an old result cannot pass for a new one.
    """
    own = pattern(comm.rank)
    total = [sum(column) for column in zip(*map(pattern, range(comm.size)))]
    size = ALLREDUCE_FIRST_BYTES
    while size <= max_bytes:
        count = size // 4
        send, expected = periodic(own, count), periodic(total, count)
        receive = bytearray(size)
        times = array.array("d")
        wrong = 0
        repetitions = ALLREDUCE_MIN_REPETITIONS
        for repetition in range(ALLREDUCE_MAX_REPETITIONS + 1):
            shift = repetition % PATTERN_ELEMENTS * 4
            comm.Barrier()
            start = time.perf_counter()
            reduce_sum(comm, send[shift:], receive, count)
            times.append(time.perf_counter() - start)
            if receive != expected[shift : shift + size]:
                wrong += wrong_elements(receive, expected[shift : shift + size])
            if repetition == 0:
                fitting = int(budget_s / comm.allreduce(times[0], op=MPI.MAX))
                repetitions = min(max(fitting, repetitions), ALLREDUCE_MAX_REPETITIONS)
            elif repetition == repetitions:
                break
        comm.Allreduce(MPI.IN_PLACE, [times, len(times), MPI.DOUBLE], op=MPI.MAX)
        yield Sweep(size, times[1:].tolist(), comm.gather(wrong) or [])
        if statistics.median(times[1:]) * ALLREDUCE_STEP > budget_s:
            return
        size *= ALLREDUCE_STEP


def wrong_elements(got: bytearray, expected: memoryview) -> int:
    """Count elements that differ in any bit."""
    pairs = zip(memoryview(got).cast("I"), expected.cast("I"))
    return sum(one != other for one, other in pairs)


class Rank0:
    """What only rank 0 does: read orders, pass them on, print answers."""

    def __init__(self, comm: MPI.Comm, marker: str) -> None:
        self.comm = comm
        self.marker = marker

    def say(self, answer: dict[str, Any]) -> None:
        """Print one answer at once."""
        sys.stdout.write(f"{self.marker}{json.dumps(answer)}\n")
        sys.stdout.flush()

    def orders(self) -> Iterator[dict[str, Any]]:
        """Give each order after having sent it to all; the last one ends everything."""
        for line in itertools.chain(iter(sys.stdin.readline, ""), ['{"end": true}']):
            order = json.loads(line)
            for rank in range(1, self.comm.size):
                self.comm.send(order, dest=rank, tag=ORDER)
            yield order
            if "end" in order:
                return


def received_orders(comm: MPI.Comm) -> Iterator[dict[str, Any]]:
    """Give the orders that rank 0 sends, sleeping in between."""
    while True:
        wait_for(comm, 0, ORDER)
        order = comm.recv(source=0, tag=ORDER)
        yield order
        if "end" in order:
            return


def wait_for(comm: MPI.Comm, source: int, tag: int) -> None:
    """Sleep until there is a message."""
    while not comm.iprobe(source=source, tag=tag):
        time.sleep(IDLE_S)


def run(comm: MPI.Comm, marker: str) -> None:
    """Follow orders until the last."""
    nodes = comm.gather(os.environ.get(NODE_VARIABLE) or socket.gethostname())
    first = Rank0(comm, marker) if comm.rank == 0 else None
    if first:
        first.say({"nodes": nodes, "mpi": MPI.Get_library_version()})
    buffer = memoryview(bytearray(WINDOW * CHUNK_MAX_BYTES))
    for order in first.orders() if first else received_orders(comm):
        if "pairs" in order:
            measure_round(comm, first, order["pairs"], buffer)
        elif "allreduce" in order:
            for sample in sweep_allreduce(comm, **order["allreduce"]):
                if first:
                    first.say({"allreduce": sample._asdict()})
            if first:
                first.say({"swept": True})


def measure_round(
    comm: MPI.Comm, first: Rank0 | None, pairs: list[list[int]], buffer: memoryview
) -> None:
    """Measure disjoint pairs at the same time; rank 0 prints each as it is done."""
    result: list[Any] = []
    for a, b in pairs:
        if comm.rank in (a, b):
            result = measure_pair(comm, b if comm.rank == a else a, buffer)
    if first is None:
        if result:
            comm.send(result, dest=0, tag=RESULT)
        return
    if result:
        first.say({"pair": result})
    for _ in range(sum(1 for pair in pairs if 0 not in pair)):
        wait_for(comm, MPI.ANY_SOURCE, RESULT)
        first.say({"pair": comm.recv(source=MPI.ANY_SOURCE, tag=RESULT)})
    first.say({"round": True})


def main() -> None:
    """Run, and let no rank wait for one that failed."""
    try:
        run(MPI.COMM_WORLD, sys.argv[1])
    except BaseException:  # noqa: BLE001 - whatever it was, the other ranks must not wait
        traceback.print_exc()
        MPI.COMM_WORLD.Abort(1)


if __name__ == "__main__":
    main()
