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
    from typing import Any

NETWORK_FILESYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse",
    "9p",
    "afs",
)
CANDIDATES = ("/var/tmp", "$XDG_RUNTIME_DIR", "/dev/shm", "~/.cache")
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


def bases() -> list[str]:
    """Give the folders that may hold ours, the best first."""
    expanded = (os.path.expandvars(os.path.expanduser(name)) for name in CANDIDATES)
    real = [os.path.realpath(path) for path in expanded if path.startswith("/")]
    found = [base for base in real if is_safe(base)]
    # Without execution psutil's library does not load, over a network the probe could hang.
    return sorted(found, key=lambda base: (is_noexec(base), is_remote(base)))


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


def is_remote(base: str) -> bool:
    """Say whether the folder lies on a network file system."""
    best = ("", "")
    try:
        with open("/proc/self/mounts") as mounts:
            for row in mounts:
                point, kind = row.split()[1:3]
                inside = (base + "/").startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best[0]):
                    best = (point, kind)
    except (OSError, ValueError):
        return False
    return best[1].startswith(NETWORK_FILESYSTEMS)


def is_ours(folder: str) -> bool:
    """Say whether the folder is a real one, ours, and closed to others."""
    try:
        info = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o077


def content_hash(folder: str) -> str:
    """Hash every file below the folder with its path, as Payload.hash does."""
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
    """Give the folder that already holds the wanted content, or None."""
    for base in bases():
        folder = os.path.join(base, PREFIX + wanted[:24])
        if is_ours(folder):
            try:
                if content_hash(folder) == wanted:
                    os.utime(folder)
                    return folder
                remove(folder)
            except OSError:
                continue
    return None


def unpack(wanted: str, archive: bytes) -> tuple[str | None, list[str]]:
    """Put the content into a folder of its own and give it, or the reasons why not."""
    import io  # here, since a node that has the content need not wait for these
    import tarfile
    import tempfile

    reasons = []
    for base in bases():
        folder = os.path.join(base, PREFIX + wanted[:24])
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
            os.rename(new, folder)
            return folder, []
        except (OSError, tarfile.TarError) as error:
            if new is not None:
                remove(new)
            if is_ours(folder) and content_hash(folder) == wanted:
                return folder, []  # another run of ours was faster
            reasons.append(f"{base}: {getattr(error, 'strerror', None) or error}")
    return None, reasons or [
        "none of /var/tmp, /dev/shm, ~/.cache is a folder that others cannot change"
    ]


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
