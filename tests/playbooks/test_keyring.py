"""The module that keeps a repository's key, with keys that GnuPG made."""

import subprocess
from pathlib import Path
from types import ModuleType

import pytest


class Gpg:
    """GnuPG on a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)

    def __call__(self, *arguments: str) -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", *arguments]
        return subprocess.run(argv, capture_output=True, check=True).stdout

    def key(self, name: str, kind: str) -> str:
        """Make a key and give its fingerprint, as GnuPG says it."""
        self("--passphrase", "", "--quick-generate-key", name, kind, "default", "never")
        listed = self("--with-colons", "--list-keys", f"={name}").decode().splitlines()
        return next(line.split(":")[9] for line in listed if line.startswith("fpr:"))


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Gpg:
    return Gpg(tmp_path_factory.mktemp("keys") / "gnupg")


@pytest.fixture(scope="module")
def keys(gpg: Gpg) -> dict[str, str]:
    return {
        name: gpg.key(name, kind)
        for name, kind in (("rsa", "rsa2048"), ("dsa", "dsa2048"), ("ed", "future-default"))
    }


@pytest.mark.parametrize("name", ["rsa", "dsa", "ed"])
@pytest.mark.parametrize("form", [["--armor"], []])
def test_a_fingerprint_is_the_one_that_gpg_computes(
    module: ModuleType, gpg: Gpg, keys: dict[str, str], name: str, form: list[str]
) -> None:
    key = gpg(*form, "--export", f"={name}")
    assert module.fingerprints(key) == [keys[name]]
    assert module.strangers(key, [keys[name].lower()]) == []
    assert module.strangers(key, ["0" * 40]) == [keys[name]]


def test_a_binary_key_becomes_one_that_gpg_reads_as_text(
    module: ModuleType, gpg: Gpg, keys: dict[str, str], tmp_path: Path
) -> None:
    binary = gpg("--export", "=rsa")
    armored = module.armored(binary)
    assert module.armored(armored) == armored
    assert module.dearmored(armored) == binary
    (tmp_path / "key.asc").write_bytes(armored)
    assert gpg("--dearmor", "--output", "-", str(tmp_path / "key.asc")) == binary


def test_every_key_of_a_keyring_must_be_known(
    module: ModuleType, gpg: Gpg, keys: dict[str, str]
) -> None:
    both = gpg("--armor", "--export", "=rsa", "=ed")
    apart = gpg("--armor", "--export", "=rsa") + gpg("--armor", "--export", "=ed")
    for key in (both, apart):
        assert set(module.fingerprints(key)) == {keys["rsa"], keys["ed"]}
        assert module.strangers(key, [keys["rsa"]]) == [keys["ed"]]


def test_a_key_is_fetched_again_while_another_one_is_accepted_too(
    module: ModuleType, gpg: Gpg, keys: dict[str, str]
) -> None:
    key = gpg("--armor", "--export", "=rsa")
    spaced = " ".join(keys["rsa"][at : at + 4] for at in range(0, 40, 4))
    assert module.complete(key, [spaced])
    assert not module.complete(key, [keys["rsa"], keys["ed"]])
    assert not module.complete(b"", [keys["rsa"]])


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"<html>404 Not Found</html>",
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!!\n-----END PGP",
        b"\x99\xff\xff\x04",
        b"\x99\x00\x05\x03abcd",
        b"\xc6\xe0aaaa",
        b"\x9babcdef",
    ],
)
def test_what_is_no_key_is_refused(module: ModuleType, nonsense: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        module.strangers(nonsense, ["0" * 40])
