"""A flat repository of Debian packages, signed with a key of its own.

The format is Debian's (https://wiki.debian.org/DebianRepository/Format): ``Packages`` describes
every package, ``Release`` has the checksum of ``Packages``, ``InRelease`` is ``Release`` signed.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from clusterctl.errors import UserError

KEY_FILE = "key.asc"
_KEY_TYPE = "rsa4096"
"""One that apt and dnf of every supported distribution verify."""


@dataclass(frozen=True)
class Package:
    """A package in a repository's folder."""

    control: str
    """The fields that the package itself holds."""
    file: str
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """Its name."""
        return self._field("Package")

    @property
    def version(self) -> str:
        """Its version."""
        return self._field("Version")

    @property
    def architecture(self) -> str:
        """Its architecture; ``all`` for any."""
        return self._field("Architecture")

    def stanza(self) -> str:
        """Give its paragraph in ``Packages``."""
        return (
            f"{self.control.strip()}\nFilename: ./{self.file}\n"
            f"Size: {self.size_bytes}\nSHA256: {self.sha256}\n"
        )

    def _field(self, name: str) -> str:
        found = re.search(rf"^{name}: *(\S+) *$", self.control, re.MULTILINE)
        return found[1] if found else ""


def write_index(folder: Path, release: str, packages: Iterable[Package], key: Key) -> None:
    """Write ``Packages``, ``Release`` and ``InRelease`` beside the packages of a release."""
    listed = sorted(packages, key=lambda package: package.file)
    index = "\n".join(package.stanza() for package in listed).encode()
    files = {"Packages": index, "Packages.gz": gzip.compress(index, mtime=0)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    text = _release(release, {package.architecture for package in listed}, files)
    (folder / "Release").write_text(text)
    (folder / "InRelease").write_text(key.sign(text))


def _release(release: str, architectures: set[str], files: Mapping[str, bytes]) -> str:
    sums = "".join(
        f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n"
        for name, content in files.items()
    )
    return (
        f"Origin: clusterctl\nLabel: clusterctl mirror\nSuite: {release}\n"
        f"Date: {datetime.now(UTC):%a, %d %b %Y %H:%M:%S} UTC\n"
        f"Architectures: {' '.join(sorted(architectures - {'all'}))}\nSHA256:\n{sums}"
    )


class Key:
    """The key that signs one mirror. Its secret part stays in the user's state folder."""

    def __init__(self, fingerprint: str, secret: Path) -> None:
        self.fingerprint = fingerprint
        self._secret = secret

    @classmethod
    def of(cls, mirror: Path, keys: Path) -> Key:
        """Give the key of a mirror: the one that it was made with, if it is in ``keys``.

        A new mirror, or one that was made elsewhere, gets a new key.
        """
        public = mirror / KEY_FILE
        if public.exists():
            with _gpg() as gpg:
                gpg("--import", str(public))
                fingerprint = _fingerprint(gpg)
            secret = keys / f"{fingerprint}.asc"
            if secret.exists():
                return cls(fingerprint, secret)
        return cls._make(public, keys)

    @classmethod
    def _make(cls, public: Path, keys: Path) -> Key:
        keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _gpg() as gpg:
            who = "clusterctl mirror"
            gpg("--passphrase", "", "--quick-generate-key", who, _KEY_TYPE, "sign", "never")
            fingerprint = _fingerprint(gpg)
            secret = keys / f"{fingerprint}.asc"
            secret.touch(mode=0o600)
            secret.write_text(gpg("--armor", "--export-secret-keys"))
            public.write_text(gpg("--armor", "--export"))
        return cls(fingerprint, secret)

    def sign(self, text: str) -> str:
        """Give the text with a signature around it."""
        with _gpg() as gpg:
            gpg("--import", str(self._secret))
            return gpg("--clearsign", text=text)


class _Gpg:
    """GnuPG on a keyring of its own."""

    def __init__(self, program: str, home: str) -> None:
        options = ["--batch", "--quiet", "--pinentry-mode", "loopback"]
        self._argv = [program, "--homedir", home, *options]

    def __call__(self, *arguments: str, text: str = "") -> str:
        done = subprocess.run(
            [*self._argv, *arguments], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise UserError(f"gpg {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def _gpg() -> Iterator[_Gpg]:
    program, control = shutil.which("gpg"), shutil.which("gpgconf")
    if program is None or control is None:
        raise UserError(
            "gpg is not installed here, and a mirror has to be signed", "apt-get install gnupg"
        )
    # Not below a long path: the socket of gpg's agent lies in there.
    with tempfile.TemporaryDirectory(prefix="clusterctl-gpg.", dir="/tmp") as home:
        try:
            yield _Gpg(program, home)
        finally:
            end_agent = [control, "--homedir", home, "--kill", "all"]
            subprocess.run(end_agent, capture_output=True, check=False)


def _fingerprint(gpg: _Gpg) -> str:
    rows = [row.split(":") for row in gpg("--with-colons", "--list-keys").splitlines()]
    return next(row[9] for row in rows if row[0] == "fpr")
