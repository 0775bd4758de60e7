"""What runs first on a node: makes the payload present there and runs a module from it.

Travels as the text of ``python -c``, so it stands alone. Both directions of the talk are described
in payload.py. Imports are few and late: each costs milliseconds on every node at every run.
"""

# pathlib is one of those imports; the shared folders are checked before they are used.
# ruff: noqa: PTH103, PTH104, PTH111, PTH112, PTH118, PTH120, PTH123, PTH208, S108

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

CANDIDATES = ("/var/tmp", "$XDG_RUNTIME_DIR", "/dev/shm")
LAST_RESORT = "~/.cache"
PRUNE_AFTER_S = 86400
PREFIX = f".clusterctl-{os.geteuid()}-"


def say(nonce: str, **answer: object) -> None:
    """Write one framed line to the controller."""
    os.write(1, f"\n{nonce} {json.dumps(answer)}\n".encode())


def read_exactly(count: int) -> bytes:
    """Read from the controller without taking what is meant for the module."""
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_line() -> dict[str, Any]:
    """Read one line from the controller, byte by byte for the same reason."""
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(1)
    message: dict[str, Any] = json.loads(line.decode())
    return message


def tiers() -> Iterator[list[str]]:
    """Give the folders that may hold ours, the best first.

    From one that is mounted noexec psutil's library does not load. A home may lie on a file
    server that hangs, so it is not even looked at while there is another.
    """
    near = safe(CANDIDATES)
    runs = [base for base in near if not is_noexec(base)]
    yield runs
    yield safe((LAST_RESORT,))
    yield [base for base in near if base not in runs]


def safe(names: tuple[str, ...]) -> list[str]:
    """Give those of the folders that exist and that others cannot change, resolved."""
    expanded = (os.path.expandvars(os.path.expanduser(name)) for name in names)
    real = [os.path.realpath(path) for path in expanded if path.startswith("/")]
    return [base for base in real if is_safe(base)]


def is_safe(base: str) -> bool:
    """Say whether nobody else can put another folder in the place of ours."""
    try:
        info = os.lstat(base)
    except OSError:
        return False
    shared = info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX
    return stat.S_ISDIR(info.st_mode) and info.st_uid in (0, os.geteuid()) and not shared


def is_noexec(base: str) -> bool:
    """Say whether programs and libraries may not be loaded from there."""
    return bool(os.statvfs(base).f_flag & os.ST_NOEXEC)


def is_ours(folder: str) -> bool:
    """Say whether the folder is a real one, ours, and closed to others."""
    try:
        info = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o077


def content_hash(folder: str) -> str:
    """Hash every file below the folder with its path, as Bundle.hash does."""
    rows = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            rows.append(f"{os.path.relpath(path, folder)} {digest}\n")
    return hashlib.sha256("".join(sorted(rows)).encode()).hexdigest()


def find(wanted: str) -> str | None:
    """Give the folder of the best tier that already holds the wanted content, or None."""
    best = next(filter(None, tiers()), [])
    return next((folder for base in best if (folder := held(base, wanted))), None)


def held(base: str, wanted: str) -> str | None:
    """Give our folder there if it holds the wanted content; one that does not is removed."""
    folder = os.path.join(base, PREFIX + wanted[:24])
    if not is_ours(folder):
        return None
    try:
        if content_hash(folder) == wanted:
            os.utime(folder)  # spares it from pruning
            return folder
    except OSError:
        pass
    remove(folder)
    return None


def unpack(wanted: str, archive: bytes) -> tuple[str | None, list[str]]:
    """Put the content into a folder of its own and give it, or the reasons why not."""
    import io  # here, since a node that has the content need not wait for these
    import tarfile
    import tempfile

    reasons = []
    for base in (base for tier in tiers() for base in tier):
        new = None
        try:
            new = tempfile.mkdtemp(prefix=PREFIX, dir=base)
            with tarfile.open(fileobj=io.BytesIO(archive)) as files:
                for member in files.getmembers():
                    data = files.extractfile(member)
                    if data is not None:
                        write(os.path.join(new, member.name), data.read())
            if content_hash(new) != wanted:
                raise OSError("what was written there does not read back the same")
            prune(base)
            folder = os.path.join(base, PREFIX + wanted[:24])
            os.rename(new, folder)
            return folder, []
        except (OSError, tarfile.TarError) as error:
            if new is not None:
                remove(new)
            if other := held(base, wanted):
                return other, []  # another run of ours was faster
            reasons.append(f"{base}: {getattr(error, 'strerror', None) or error}")
    return None, reasons or [f"{', '.join(CANDIDATES)}: none that others cannot change"]


def write(path: str, data: bytes) -> None:
    """Write one file and the folders above it."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        os.makedirs(folder)
    with open(path, "wb") as file:
        file.write(data)


def remove(folder: str) -> None:
    """Remove a folder of ours; what cannot be removed stays."""
    import shutil  # here, for the same reason

    shutil.rmtree(folder, ignore_errors=True)


def prune(base: str) -> None:
    """Remove what older versions of us have left, except what was used within the last day."""
    for name in os.listdir(base):
        folder = os.path.join(base, name)
        ours = name.startswith(PREFIX) and is_ours(folder)
        if ours and os.lstat(folder).st_mtime < time.time() - PRUNE_AFTER_S:
            remove(folder)


def libc() -> str:
    """Give ``glibc``, or nothing for another."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[0]
    except (AttributeError, OSError, ValueError):
        return ""


def main(nonce: str, module: str, *arguments: str) -> None:
    """Talk to the controller, then become the module."""
    version = ".".join(map(str, sys.version_info[:3]))
    say(nonce, python=version, machine=os.uname()[4], libc=libc())
    wanted = read_line()
    folder = find(wanted["hash"])
    if folder is None:
        say(nonce, need=wanted["hash"])
        folder, reasons = unpack(wanted["hash"], read_exactly(read_line()["bytes"]))
        if folder is None:
            say(nonce, disk=reasons)
            return
    say(nonce, ready=folder)
    run(folder, module, arguments)


def run(folder: str, module: str, arguments: tuple[str, ...]) -> None:
    """Run the module as ``python -m`` would, in this process: a second start costs 20 ms.

    Nor does it go through runpy, whose own imports take 4 ms.
    """
    path = os.path.join(folder, *module.split("."))
    package = module if os.path.isdir(path) else module.rpartition(".")[0]
    file = os.path.join(path, "__main__.py") if os.path.isdir(path) else path + ".py"
    with open(file, "rb") as source:
        code = compile(source.read(), file, "exec")
    main = type(sys)("__main__")
    main.__dict__.update(__file__=file, __package__=package)
    sys.modules["__main__"] = main
    sys.path.insert(0, folder)
    sys.argv = [file, *arguments]
    exec(code, main.__dict__)  # noqa: S102 - the code that was sent to be run
