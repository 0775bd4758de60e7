"""What slurm_node reads of Slurm, and what it tells it."""

from types import ModuleType

import pytest

SHOWN = """\
NodeName=node1 Arch=x86_64 CoresPerSocket=1
   State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   Comment=State=IDLE
   Reason={reason} [root@2026-11-25T01:00:00]
"""


@pytest.mark.parametrize(
    ("wanted", "state", "reason", "update"),
    [
        ("drained", "IDLE", "", "drain"),
        ("drained", "MIXED", "", "drain"),
        ("drained", "IDLE+DRAIN", "bad fan", ""),
        ("drained", "DOWN*+DRAIN", "clusterctl provision 1", ""),
        ("resumed", "IDLE+DRAIN", "bad fan", ""),
        ("resumed", "IDLE+DRAIN", "clusterctl provision 20261125-01", "resume"),
        ("resumed", "DOWN+DRAIN", "clusterctl provision", "resume"),
        ("resumed", "IDLE", "", ""),
        ("seen", "IDLE", "", ""),
    ],
)
def test_only_what_we_drained_is_resumed(
    module: ModuleType, wanted: str, state: str, reason: str, update: str
) -> None:
    name, words, found = module.node(SHOWN.format(state=state, reason=reason))
    assert (name, found) == ("node1", reason)
    assert module.wanted_update(wanted, words, found) == update


def test_a_node_without_a_reason_has_none(module: ModuleType) -> None:
    assert module.node("NodeName=n State=IDLE x\n   Partitions=all\n") == ("n", {"IDLE"}, "")
