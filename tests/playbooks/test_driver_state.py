"""What driver_state makes of what a node has."""

from pathlib import Path
from types import ModuleType

import pytest

PACKAGES = """\
nvidia-kernel-dkms|535.309.01-0+deb12u1|installed
libcuda1|535.309.01-0+deb12u1|installed
nvidia-persistenced|535.171.04-1~deb12u1|installed
linux-image-amd64|6.1.192-2|installed
linux-image-6.1.0-56-amd64|6.1.192-2|installed
linux-image-cloud-amd64|6.1.192-2|config-files
bash|5.2|installed
"""


def test_packages_of_the_drivers_version_move_together(module: ModuleType) -> None:
    found = module.versions(PACKAGES)
    assert module.same_version(found, "535.309.01") == ["libcuda1", "nvidia-kernel-dkms"]
    assert module.same_version(found, "") == []


def test_kinds_of_kernel_are_those_that_are_followed(module: ModuleType) -> None:
    assert module.flavours(module.versions(PACKAGES)) == ["amd64"]
    ubuntu = ["linux-image-generic-hwe-22.04", "linux-image-unsigned-6.8.0-1-generic"]
    assert module.flavours(dict.fromkeys(ubuntu, "1")) == ["generic-hwe-22.04"]


@pytest.mark.parametrize(
    ("version", "upstream"),
    [
        ("535.309.01-0+deb12u1", "535.309.01"),
        ("3:580.178.04-1.el9", "580.178.04"),
        ("580.178.04-0ubuntu0.24.04.1", "580.178.04"),
        ("20220217+3~deb12u1", ""),
    ],
)
def test_the_version_is_nvidias(module: ModuleType, version: str, upstream: str) -> None:
    assert module.upstream(version) == upstream


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        ("libcuda1", []),
        ("libcuda1=535[.-]*", []),
        ("libcuda1=535.3[.-]*", ["libcuda1"]),
        ("libcuda1=535.309.01-0+deb12u1", []),
        ("nvidia-smi", ["nvidia-smi"]),
    ],
)
def test_a_version_is_compared_up_to_a_boundary(
    module: ModuleType, wanted: str, missing: list[str]
) -> None:
    assert module.missing([wanted], module.versions(PACKAGES)) == missing


def test_who_holds_a_device_is_found_with_the_unit(module: ModuleType, tmp_path: Path) -> None:
    for pid, name, path, group in (
        (12, "python3", "/dev/nvidia0", "0::/user.slice/user-0.slice/session-3.scope"),
        (13, "nvidia-persiste", "/dev/nvidiactl", "0::/system.slice/nvidia-persistenced.service"),
        (14, "sshd", "/dev/null", "0::/system.slice/ssh.service"),
    ):
        process = tmp_path / f"proc/{pid}"
        (process / "fd").mkdir(parents=True)
        (process / "fd/3").symlink_to(path)
        (process / "comm").write_text(f"{name}\n")
        (process / "cgroup").write_text(f"{group}\n")
    assert module.users(tmp_path) == [
        (12, "python3", "session-3.scope"),
        (13, "nvidia-persiste", "nvidia-persistenced.service"),
    ]


def test_kernels_that_nothing_can_be_built_for_are_found(
    module: ModuleType, tmp_path: Path
) -> None:
    for folder in ("6.1.0-55-amd64/kernel", "6.1.0-56-amd64/kernel", "6.1.0-56-amd64/build"):
        (tmp_path / "lib/modules" / folder).mkdir(parents=True)
    assert module.kernels_without_headers(tmp_path) == ["6.1.0-55-amd64"]
