import gzip
import hashlib
import subprocess
from pathlib import Path

import pytest

from clusterctl.errors import UserError
from clusterctl.provision.repository import KEY_FILE, Key, Package, write_index


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mirror")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "keys"


@pytest.fixture(scope="module")
def key(folder: Path, keys: Path) -> Key:
    return Key.of(folder, keys)


def _package(name: str, architecture: str = "amd64") -> Package:
    control = f"Package: {name}\nVersion: 1\nArchitecture: {architecture}\n"
    return Package(control, f"{name}_1_{architecture}.deb", 3, "ab" * 32)


def test_the_secret_key_is_kept_out_of_the_mirror(folder: Path, keys: Path, key: Key) -> None:
    assert "PUBLIC KEY" in (folder / KEY_FILE).read_text()
    assert [path.name for path in folder.iterdir()] == [KEY_FILE]
    (secret,) = keys.iterdir()
    assert secret.stat().st_mode & 0o777 == 0o600
    assert keys.stat().st_mode & 0o777 == 0o700


def test_a_mirror_that_is_renewed_keeps_its_key(folder: Path, keys: Path, key: Key) -> None:
    assert Key.of(folder, keys).fingerprint == key.fingerprint


def test_the_index_is_signed_and_every_sum_is_right(folder: Path, key: Key, tmp_path: Path) -> None:
    write_index(tmp_path, "Debian-12", [_package("two"), _package("one", "all")], key)
    index = (tmp_path / "Packages").read_bytes()
    assert [line for line in index.decode().splitlines() if line.startswith("Package:")] == [
        "Package: one",
        "Package: two",
    ]
    assert gzip.decompress((tmp_path / "Packages.gz").read_bytes()) == index
    release = (tmp_path / "Release").read_text()
    assert "Architectures: amd64\n" in release
    assert f" {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n" in release
    keyring = tmp_path / "key.gpg"
    dearmor = ["gpg", "--dearmor", "--output", keyring, folder / KEY_FILE]
    subprocess.run(dearmor, check=True, capture_output=True)
    verify = ["gpgv", "--keyring", keyring, tmp_path / "InRelease"]
    verified = subprocess.run(verify, check=False, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr
    assert key.fingerprint in verified.stderr.replace(" ", "")


def test_without_gpg_it_says_what_to_install(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="gpg is not installed here") as raised:
        Key.of(tmp_path, keys)
    assert raised.value.next_step == "apt-get install gnupg"
