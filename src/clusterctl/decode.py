"""What a node sent, as facts: a node is not trusted, so strict, bounded, and shown escaped."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from clusterctl.facts import WIRE_VERSION, NodeFacts
from clusterctl.findings import NodeError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

LINE_LIMIT_BYTES = 1 << 20
"""A node with hundreds of interfaces and mounts sends some 200 kB."""

STRING_LIMIT = 4096
LENGTH_LIMIT = 10_000
DEPTH_LIMIT = 16
NUMBER_LIMIT = 2**64
"""Kernel counters are unsigned 64-bit integers; nothing that a node tells is larger."""


def node_facts(data: bytes) -> NodeFacts | NodeError:
    """Decode the JSON text of one node's facts.

    Anything but exactly the fields of :class:`~clusterctl.facts.NodeFacts`, of their types and
    within the bounds of this module, is a NodeError of kind ``protocol``.
    """
    from pydantic import ValidationError

    if len(data) > LINE_LIMIT_BYTES:
        return _refuse(f"more than {LINE_LIMIT_BYTES} bytes")
    try:
        value = json.loads(data, parse_constant=_no_constant)
        _check_bounds(value)
        if value.get("wire_version") != WIRE_VERSION:
            return _refuse(f"version {value.get('wire_version')} of the wire, not {WIRE_VERSION}")
        facts: NodeFacts = _adapter().validate_json(b"[" + data + b"]")[0]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _refuse(f"{where}: {first['msg']}")
    except RecursionError:
        return _refuse("nested too deeply")
    except (ValueError, AttributeError) as error:  # not JSON, not text, or not an object
        return _refuse(str(error))
    return facts


def show(text: str) -> str:
    """Make text from a node safe for a terminal: whatever is not printable is escaped.

    Takes the effect of ANSI sequences, newlines and bidirectional overrides; spaces stay.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _refuse(why: str) -> NodeError:
    return NodeError(
        kind="protocol",
        why=f"the node's answer is not facts: {show(why)[:500]}",
        next_step="run it again; if it stays, look at what else runs in this login's sessions",
    )


@functools.cache
def _adapter() -> TypeAdapter[tuple[NodeFacts]]:
    # Building it takes longer than decoding a hundred nodes. Pydantic refuses a configuration for
    # a bare dataclass; that of the tuple around it reaches the dataclasses inside.
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return TypeAdapter(tuple[NodeFacts], config=config)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _check_bounds(value: Any, depth: int = 0) -> None:
    if depth > DEPTH_LIMIT:
        raise ValueError(f"nested deeper than {DEPTH_LIMIT}")
    if isinstance(value, str):
        if len(value) > STRING_LIMIT:
            raise ValueError(f"a text of {len(value)} characters")
    elif isinstance(value, (int, float)):
        if not abs(value) <= NUMBER_LIMIT:  # not-a-number is not, either
            raise ValueError("a number beyond 64 bits")
    elif isinstance(value, (list, dict)):
        if len(value) > LENGTH_LIMIT:
            raise ValueError(f"a list of {len(value)} entries")
        for item in value:
            _check_bounds(item, depth + 1)
        if isinstance(value, dict):
            for item in value.values():
                _check_bounds(item, depth + 1)
