"""What a task's result says: why it failed, what it changes, what is to be noted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

_MESSAGE_LIMIT_CHARS = 4000
_STREAMS = ("stderr", "stdout", "module_stderr", "module_stdout")
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")


def printable(text: str) -> str:
    """Give the text with every control character escaped, but for line ends and tabs."""
    text = text.replace("\r\n", "\n")
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def plain(text: str) -> str:
    """Give what Ansible printed without its colours."""
    return printable(_ESCAPE_SEQUENCE.sub("", text)).strip()


def failure_message(result: Mapping[str, Any]) -> str:
    """Give what a failed task says of itself, the most telling parts that it has."""
    parts = [str(error) for error in result.get("argument_errors", ())]
    if not parts:
        parts = [str(item["msg"]) for item in result.get("results", ()) if item.get("failed")]
    if not parts:
        parts = [str(result.get("msg") or result.get("censored") or "")]
    outputs = (str(result.get(stream) or "").strip() for stream in _STREAMS)
    parts += [next((text for text in outputs if text and text not in parts[-1]), "")]
    text = printable("\n".join(part for part in parts if part)).strip()
    return text[:_MESSAGE_LIMIT_CHARS] or "the task gives no reason"


def messages(result: Mapping[str, Any]) -> list[str]:
    """Give the messages of a result, of each of its items where the task was a loop."""
    return list(_messages(result))


def _messages(result: Mapping[str, Any]) -> Iterator[str]:
    items = result.get("results")
    for item in items if isinstance(items, list) else [result]:
        found = item.get("msg") if isinstance(item, Mapping) else None
        for text in found if isinstance(found, list) else [found]:
            if isinstance(text, str) and text.strip():
                yield printable(text).strip()[:_MESSAGE_LIMIT_CHARS]


def versions(result: Mapping[str, Any]) -> dict[str, str]:
    """Give the version of each package that the result of the module ``promise`` lists."""
    found = result.get("versions")
    if not isinstance(found, Mapping):
        return {}
    return {printable(str(name)): printable(str(value)) for name, value in found.items()}


def diff_text(result: Mapping[str, Any]) -> str:
    """Give what a changed result says of a file's text."""
    if not result.get("changed"):
        return ""
    path = str((result.get("invocation") or {}).get("dest") or result.get("dest") or "")
    found = result.get("diff") or []
    pieces = [piece for piece in (found if isinstance(found, list) else [found]) if piece]
    return printable("".join(_unified(piece, path) for piece in pieces)).strip("\n")


def _unified(piece: Mapping[str, Any], path: str) -> str:
    if "prepared" in piece:
        return str(piece["prepared"])
    before, after = piece.get("before", ""), piece.get("after", "")
    if not isinstance(before, str) or not isinstance(after, str):
        return ""  # attributes of a file, not its text
    name = path or str(piece.get("before_header", ""))
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")
    return "".join(line + "\n" for line in lines)
