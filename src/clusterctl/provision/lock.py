"""One run at a time on one inventory.

The lock is the kernel's (flock), so a run that is killed gives it up. Runs are told apart by the
inventory's real path, and see each other when they belong to the same user on the same machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clusterctl.errors import UserError
from clusterctl.provision.record import runs_folder


@contextmanager
def held(inventory: str) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """Hold the inventory's lock; give the function that writes into it who holds it.

    Raises :class:`UserError` that names the holder when another run has the lock.
    """
    folder = runs_folder().with_name("locks")
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / hashlib.sha256(inventory.encode()).hexdigest()[:16]
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(path, inventory) from None
        file.truncate(0)

        def sign(holder: Mapping[str, object]) -> None:
            file.write(json.dumps(holder))
            file.flush()

        yield sign


def _refusal(path: Path, inventory: str) -> UserError:
    try:
        holder = json.loads(path.read_text())
        who = "{user} on {host}, process {pid}, since {since}, run {run}".format(**holder)
    except (OSError, ValueError, KeyError):
        who = "it has just begun"  # and has not yet written who it is
    return UserError(
        f"another run provisions {inventory}: {who}",
        "wait until it has ended; clusterctl provision history lists the runs",
    )
