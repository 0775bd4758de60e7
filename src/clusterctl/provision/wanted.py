"""What an inventory asked of its nodes at the time of a run, without its secrets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from clusterctl.inventory import Node

Wanted = Mapping[str, Mapping[str, Any]]
"""Node -> its variables; in the place of a secret stands ``***``."""

_TEXT_LIMIT_CHARS = 60


def snapshot(nodes: Iterable[Node]) -> Wanted:
    """Give the wanted state of the nodes as it is kept in the record of a run.

    Of a secret nothing is kept, no digest either: a short one could be guessed from it.
    """
    wanted = {node.name: node.wanted for node in nodes}
    loaded: Wanted = json.loads(json.dumps(wanted, default=str, sort_keys=True))
    return loaded


def digest(wanted: Wanted) -> str:
    """Give the digest that is the same for the same wanted state."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: Wanted, after: Wanted) -> dict[str, list[str]]:
    """Give each difference in words, and the nodes that it is on."""
    found: dict[str, list[str]] = {}
    for node in sorted({*before, *after}):
        for words in _of_one(before.get(node), after.get(node)):
            found.setdefault(words, []).append(node)
    return found


def _of_one(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str]:
    if before is None:
        return ["is new"]
    if after is None:
        return ["is no longer there"]
    return [
        f"{name}: {_text(before, name)} -> {_text(after, name)}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _text(variables: Mapping[str, Any], name: str) -> str:
    if name not in variables:
        return "not set"
    text = json.dumps(variables[name], ensure_ascii=False)
    return text if len(text) <= _TEXT_LIMIT_CHARS else text[:_TEXT_LIMIT_CHARS] + "..."
