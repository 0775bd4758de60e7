"""The last line before a secret reaches a record or the terminal.

Tasks that handle secrets say ``no_log``, and Ansible then reports nothing of them. Where one
forgets, or a program on a node repeats a password in its error message, the value is blanked here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clusterctl.inventory import Node, Secret

_SHORTEST_CHARS = 6
"""A shorter text would be blanked where it is no secret but a part of a word."""


class Redaction:
    """Blanks the secrets of nodes in lines of JSON."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        texts = {text for node in nodes for text in _secrets(_values(node))}
        # A program's output is reported by its lines as well.
        texts |= {line for text in texts for line in text.splitlines()}
        self._written = sorted(
            (json.dumps(text)[1:-1].encode() for text in texts if len(text) >= _SHORTEST_CHARS),
            key=len,
            reverse=True,  # what contains another first
        )

    def __call__(self, line: bytes) -> bytes:
        """Give the line with ``***`` in the place of each secret."""
        for written in self._written:
            line = line.replace(written, b"***")
        return line


def _values(node: Node) -> list[Any]:
    return [node.wanted, node.password, node.become.password if node.become else None]


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _secrets(item)
