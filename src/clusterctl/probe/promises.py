"""What the roles say that they established on this node: their record, and what is there."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

from clusterctl.facts import Promise, Provisioned, Unread
from clusterctl.probe import state
from clusterctl.probe.reading import Request

FOLDER = "etc/clusterctl/provisioned"
FILES_LIMIT = 64
FILE_LIMIT_BYTES = 256 * 1024
PROMISES_LIMIT = 2000
TEXT_LIMIT = 2000

KINDS: Mapping[str, Callable[[Request, Sequence[str]], Mapping[str, str | Unread]]] = {
    "package": state.packages,
    "hold": state.holds,
    "service": state.services,
    "sysctl": state.kernel_parameters,
    "file": state.files,
    "module": state.modules,
    "module_option": state.module_options,
}
"""Kind of promise -> what finds, for all names of the kind at once, what is there."""


def read_promises(request: Request) -> Provisioned | Unread:
    """Read the records that only root can have written, and look for what they promise."""
    folder = request.root / FOLDER
    try:
        _only_roots(os.lstat(folder), folder, stat.S_ISDIR)
    except FileNotFoundError:
        return Unread("absent", f"{folder}: no role has ever finished here")
    records = [_record(path) for path in sorted(folder.glob("*.json"))[: FILES_LIMIT + 1]]
    listed = [entry for record in records for entry in record["promises"]]
    if len(records) > FILES_LIMIT or len(listed) > PROMISES_LIMIT:
        return Unread("failed", f"{folder}: more than {PROMISES_LIMIT} promises")
    if not records:
        return Unread("absent", f"{folder}: no role has ever finished here")
    return Provisioned(
        variables={record["role"]: record["variables"] for record in records},
        promises=_promises(request, listed),
    )


def _promises(request: Request, listed: Sequence[dict[str, str]]) -> list[Promise]:
    found: dict[str, Mapping[str, str | Unread]] = {}
    for kind, find in KINDS.items():
        names = list(dict.fromkeys(entry["name"] for entry in listed if entry["kind"] == kind))
        if names:
            found[kind] = _attempt(find, request, names)
    nothing = Unread("unsupported", "this version of clusterctl does not know such a promise")
    return [
        Promise(found=found.get(entry["kind"], {}).get(entry["name"], nothing), **entry)
        for entry in listed
    ]


def _attempt(
    find: Callable[[Request, Sequence[str]], Mapping[str, str | Unread]],
    request: Request,
    names: Sequence[str],
) -> Mapping[str, str | Unread]:
    """Find what is there; a manager of packages that does not answer costs its own kind alone."""
    try:
        return find(request, names)
    except TimeoutError as error:
        return dict.fromkeys(names, Unread("timeout", str(error)))
    except OSError as error:
        return dict.fromkeys(names, Unread("failed", str(error)))


def _record(path: Path) -> dict[str, Any]:
    """Read one role's record: strictly, since what it says is asked of the node's programs."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        _only_roots(os.fstat(handle), path, stat.S_ISREG)
        data = file.read(FILE_LIMIT_BYTES + 1)
    if len(data) > FILE_LIMIT_BYTES:
        raise ValueError(f"{path}: more than {FILE_LIMIT_BYTES} bytes")
    record = json.loads(data)
    role, variables = _text(record["role"], path), dict(record["variables"])
    return {
        "role": role,
        "variables": {
            _text(name, path): _text(json.dumps(value, sort_keys=True), path)
            for name, value in variables.items()
        },
        "promises": [
            {
                "role": role,
                **{key: _text(entry[key], path) for key in ("kind", "name", "wanted", "variable")},
            }
            for entry in record["promises"]
        ],
    }


def _text(value: object, path: Path) -> str:
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        raise ValueError(f"{path}: what should be a short text is not: {str(value)[:80]}")
    return value


def _only_roots(status: os.stat_result, path: Path, is_kind: Callable[[int], bool]) -> None:
    """Raise PermissionError unless root owns it and nobody else may write it."""
    if not is_kind(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise PermissionError(
            0, "not root's alone to write, so it proves nothing (chown root, chmod go-w)", str(path)
        )
