"""The schedule of pairs, as properties."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from clusterctl.fabric.schedule import REPEAT_ROUNDS, disjoint, repeats, rounds
from clusterctl.facts import LinkSample

names = st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=17)


@given(names)
def test_every_pair_meets_exactly_once(nodes):
    met = [frozenset(pair) for pairs in rounds(nodes) for pair in pairs]
    assert sorted(map(sorted, met)) == sorted(map(sorted, combinations(nodes, 2)))


@given(names)
def test_the_pairs_of_a_round_are_disjoint(nodes):
    for pairs in rounds(nodes):
        talking = [name for pair in pairs for name in pair]
        assert len(talking) == len(set(talking))


@given(names.filter(lambda nodes: len(nodes) > 1))
def test_rounds_are_as_few_as_can_be(nodes):
    even = len(nodes) % 2 == 0
    schedule = rounds(nodes)
    assert len(schedule) == (len(nodes) - 1 if even else len(nodes))
    assert all(len(pairs) == len(nodes) // 2 for pairs in schedule)


def test_a_lone_node_has_nobody_to_talk_to():
    assert rounds([]) == rounds(["a"]) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda p: p[0] != p[1])))
def test_packed_pairs_are_disjoint_and_the_first_is_kept(pairs):
    packed = disjoint(pairs, 3)
    assert len(packed) <= 3
    for members in packed:
        busy = [end for pair in members for end in pair]
        assert len(busy) == len(set(busy))
    if pairs:
        assert packed[0][0] == pairs[0]


def links(nodes, rate, rounds_of_it=1):
    """Samples of every direction; ``rate`` gives the bandwidth of one."""
    return [
        LinkSample(a, b, 1e-5, float(rate(a, b)), 1 << 20, index)
        for index in range(rounds_of_it)
        for a in nodes
        for b in nodes
        if a != b
    ]


NODES = [f"node{i}" for i in range(1, 9)]


def test_a_healthy_network_is_not_measured_again():
    noisy = {pair: 100 - index % 9 for index, pair in enumerate(combinations(NODES, 2))}
    assert repeats(links(NODES, lambda a, b: noisy.get((a, b), 97))) == []


def test_one_slow_direction_is_measured_again_and_nothing_else():
    slow = links(NODES, lambda a, b: 50 if (a, b) == ("node5", "node2") else 100)
    assert repeats(slow) == [[("node2", "node5")]]


def test_a_slow_node_is_confirmed_with_a_few_partners():
    again = repeats(links(NODES, lambda a, b: 20 if "node3" in (a, b) else 100))
    assert 1 <= len(again) <= REPEAT_ROUNDS
    assert all("node3" in pair for pairs in again for pair in pairs)


def test_what_stays_slow_is_believed_in_the_end():
    slow_node = links(NODES, lambda a, b: 20 if "node3" in (a, b) else 100, rounds_of_it=2)
    assert repeats(slow_node) == []
    slow_pair = links(NODES, lambda a, b: 50 if (a, b) == ("node5", "node2") else 100, 4)
    assert repeats(slow_pair) == []


def test_a_hiccup_is_forgotten_once_a_repetition_was_well():
    samples = links(NODES, lambda a, b: 10 if (a, b) == ("node1", "node2") else 100)
    assert repeats(samples) == [[("node1", "node2")]]
    assert repeats([*samples, LinkSample("node1", "node2", 1e-5, 12.0, 1, 7)]) == repeats(samples)
    assert repeats([*samples, LinkSample("node1", "node2", 1e-5, 100.0, 1, 7)]) == []


def test_two_nodes_are_judged_against_each_other():
    assert repeats(links(NODES[:2], lambda a, b: 100 if a < b else 30)) == [[("node1", "node2")]]


def test_no_samples_ask_for_nothing():
    assert repeats([]) == []
