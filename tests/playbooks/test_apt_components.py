"""The module that enables components of the archive, with what apt itself says of its sources."""

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQENBF\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----"


def _record(module: ModuleType, entry: str, *values: str) -> str:
    return "|".join([entry, *values]) + "|.\n"


def test_components_are_added_to_the_archives_with_their_mirror_and_key(module: ModuleType) -> None:
    own, security = "http://mirror.example/debian/", "http://mirror.example/security/"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    output = (
        _record(module, "a:1", own, "trixie", "main", "Debian", keyring)
        + _record(module, "a:1", own, "trixie", "contrib", "Debian", keyring)
        + _record(module, "a:2", security, "trixie-security", "main", "Debian-Security", keyring)
        + _record(module, "b:1", "http://x/", "stable", "main", "Docker CE", "$(SIGNED_BY)")
    )
    found, ours = module.archives(output)
    assert ours == []
    assert module.sources(found, ["contrib", "non-free"]) == (
        "# Written by clusterctl provision.\n"
        f"Types: deb\nURIs: {own}\nSuites: trixie\nComponents: non-free\nSigned-By: {keyring}\n\n"
        f"Types: deb\nURIs: {security}\nSuites: trixie-security\n"
        f"Components: contrib non-free\nSigned-By: {keyring}\n"
    )
    assert module.sources(found, ["contrib"]).count("Types:") == 1


def test_what_an_earlier_call_enabled_is_not_counted_as_the_nodes_own(module: ModuleType) -> None:
    archive = ("http://m/debian/", "trixie")
    output = _record(module, "a:1", *archive, "main", "Debian", "$(SIGNED_BY)") + _record(
        module, f"{module.PATH}:1", *archive, "contrib", "Debian", "$(SIGNED_BY)"
    )
    found, ours = module.archives(output)
    assert found == {module.Archive(*archive, ""): {"main"}}
    assert ours == ["contrib"]
    assert "Signed-By" not in module.sources(found, ours)


def test_an_archive_that_has_it_all_needs_no_file(module: ModuleType) -> None:
    found = {module.Archive("http://m/", "trixie", ""): {"main", "contrib"}}
    assert module.sources(found, ["contrib"]) == ""
    assert module.sources({}, ["contrib"]) == ""


@pytest.mark.parametrize("embedded", [False, True])
def test_apt_reads_what_is_written(module: ModuleType, tmp_path: Path, embedded: bool) -> None:
    key = KEY if embedded else "/etc/apt/keyrings/x.asc"
    found = {module.Archive("http://m.example/debian/", "trixie", key): {"main"}}
    path = tmp_path / "components.sources"
    path.write_text(module.sources(found, ["contrib"]))
    options = [f"--option=Dir::Etc::SourceList={path}", "--option=Dir::Etc::SourceParts=-"]
    done = subprocess.run(
        ["apt-get", "update", "--print-uris", *options], capture_output=True, text=True, check=True
    )
    assert "http://m.example/debian/dists/trixie/InRelease" in done.stdout
    assert done.stderr == ""


def test_apt_itself_is_understood(module: ModuleType) -> None:
    """This machine has apt, with sources of its own, whatever they are."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", module.FORMAT, "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    found, _ours = module.archives(done.stdout)
    assert all(archive.uri and archive.suite for archive in found)
