"""OpenSSH's known_hosts files: which keys are a host's own, and which are revoked.

The format is that of sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT": names may be hashed, hold ``*`` and
``?``, be negated with ``!``; a line may be marked ``@revoked`` or ``@cert-authority``.
"""

from __future__ import annotations

import base64
import fnmatch
import functools
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One line of a known_hosts file."""

    marker: str
    names: str
    key_type: str
    key: bytes
    place: str
    """``file:line``, for messages."""

    def matches(self, name: str) -> bool:
        """Say whether the line is about this host (``host`` or ``[host]:port``)."""
        if self.names.startswith("|1|"):
            return _hash_matches(self.names, name)
        matched = False
        for pattern in self.names.split(","):
            negated = pattern.startswith("!")
            if _glob(pattern.removeprefix("!").lower()).match(name):
                if negated:
                    return False
                matched = True
        return matched


@dataclass(frozen=True)
class Known:
    """What the files say of one host."""

    keys: tuple[Line, ...]
    revoked: tuple[Line, ...]
    authorities: tuple[Line, ...]


def look_up(files: Iterable[Path], names: Iterable[str]) -> Known:
    """Collect the lines about a host known under any of the names; the first known name wins."""
    lines = [line for path in files for line in _read(path)]
    names = tuple(names)
    revoked = [line for line in lines if line.marker == "@revoked" and _any(line, names)]
    authorities = [line for line in lines if line.marker == "@cert-authority" and _any(line, names)]
    keys: list[Line] = []
    for name in names:
        keys = [line for line in lines if not line.marker and line.matches(name)]
        if keys:
            break
    return Known(tuple(keys), tuple(revoked), tuple(authorities))


def fingerprint(key: bytes) -> str:
    """Give a key's fingerprint as ``ssh-keygen -l`` shows it."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def _any(line: Line, names: tuple[str, ...]) -> bool:
    return any(line.matches(name) for name in names)


def _read(path: Path) -> tuple[Line, ...]:
    try:
        stat = path.stat()
        return _parse(path, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return ()


@functools.lru_cache(maxsize=64)
def _parse(path: Path, _mtime_ns: int, _size: int) -> tuple[Line, ...]:
    lines = []
    for number, text in enumerate(path.read_text(errors="replace").splitlines(), 1):
        words = text.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if len(words) < 3:
            continue
        try:
            key = base64.b64decode(words[2], validate=True)
        except ValueError:  # not base64, or not even ASCII
            continue
        lines.append(Line(marker, words[0], words[1], key, f"{path}:{number}"))
    return tuple(lines)


def _hash_matches(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in hashed.split("|")[2:4])
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)


@functools.lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    # fnmatch knows [sets], known_hosts does not: [host]:port is literal.
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
