"""Why a node must reboot, and why not."""

from pathlib import Path
from types import ModuleType

import pytest


def _kernel(root: Path, name: str, *, boots: bool = True) -> None:
    (root / "lib/modules" / name / "kernel").mkdir(parents=True)
    (root / "boot").mkdir(exist_ok=True)
    if boots:
        (root / "boot" / f"vmlinuz-{name}").touch()


@pytest.mark.parametrize(
    ("running", "must"),
    [
        ("6.1.0-9-amd64", True),
        ("6.1.0-56-amd64", False),
        ("6.1.0-56-cloud-amd64", False),
        ("6.12.107+deb12-amd64", False),
    ],
)
def test_a_newer_kernel_is_a_reason(
    module: ModuleType, tmp_path: Path, running: str, must: bool
) -> None:
    _kernel(tmp_path, "6.1.0-56-amd64")
    _kernel(tmp_path, "6.1.0-10-amd64")
    _kernel(tmp_path, "6.99.0-1-amd64", boots=False)
    found = module.reasons(tmp_path, running, None)
    wanted = [f"kernel 6.1.0-56-amd64 is installed and {running} runs"] if must else []
    assert found == wanted


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("6.1.0-9-amd64", "6.1.0-56-amd64"),
        ("6.12.107+deb13-amd64", "6.12.117+deb13-amd64"),
        ("5.15.0-99-generic", "5.15.0-204-generic"),
        ("5.14.0-503.11.1.el9_5.x86_64", "5.14.0-570.12.1.el9_6.x86_64"),
    ],
)
def test_kernels_are_ordered_by_their_numbers(module: ModuleType, older: str, newer: str) -> None:
    assert module.release(older) < module.release(newer)


@pytest.mark.parametrize(
    ("loaded", "installed", "must"),
    [
        ("535.261.03", "535.309.01", True),
        ("535.309.01", "535.309.01", False),
        ("", "535.309.01", False),
        ("535.309.01", "", False),
    ],
)
def test_another_driver_than_the_installed_one_is_a_reason(
    module: ModuleType, tmp_path: Path, loaded: str, installed: str, must: bool
) -> None:
    if loaded:
        (tmp_path / "sys/module/nvidia").mkdir(parents=True)
        (tmp_path / "sys/module/nvidia/version").write_text(f"{loaded}\n")
    assert bool(module.reasons(tmp_path, "1", installed)) is must
    assert module.reasons(tmp_path, "1", None) == []


def test_nouveau_is_a_reason_where_the_driver_is_wanted(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "sys/module/nouveau").mkdir(parents=True)
    assert "nouveau is loaded" in module.reasons(tmp_path, "1", "535")[0]
    assert module.reasons(tmp_path, "1", None) == []


def test_packages_that_ask_for_a_reboot_are_named(module: ModuleType, tmp_path: Path) -> None:
    assert module.asked_for(tmp_path) == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run/reboot-required").touch()
    assert module.asked_for(tmp_path) == ["asked for by /run/reboot-required"]
    (tmp_path / "run/reboot-required.pkgs").write_text("libc6\nlinux-image-amd64\nlibc6\n")
    assert module.asked_for(tmp_path) == ["asked for by libc6, linux-image-amd64"]
