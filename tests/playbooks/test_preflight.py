"""What preflight sees on nodes that are folders here."""

import base64
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

WANTED: dict[str, Any] = {
    "now_s": 0.0,
    "clock_max_s": 60,
    "free_min_bytes": {},
    "gpu_count": 0,
    "hca_count": 0,
    "driver": "auto",
    "driver_source": "distro",
}
V100, A100, H100, GH200, B200 = "0x1db1", "0x20b0", "0x2330", "0x2342", "0x2901"


def _node(root: Path, files: dict[str, str]) -> Path:
    base = {"etc/os-release": 'ID=debian\nVERSION_ID="12"\n', "run/systemd/system/x": ""}
    for name, content in {**base, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def _gpus(*devices: str) -> dict[str, str]:
    return {
        f"sys/bus/pci/devices/0000:0{at}:00.0/{name}": f"{value}\n"
        for at, device in enumerate(devices)
        for name, value in (("vendor", "0x10de"), ("class", "0x030200"), ("device", device))
    }


def _problems(module: ModuleType, root: Path, **wanted: object) -> str:
    node = module.Node(str(root))
    asked = {**WANTED, "now_s": time.time(), **wanted}
    return "\n".join(module.problems(node, asked, node.state()))


def test_a_bare_node_has_no_problem(module: ModuleType, tmp_path: Path) -> None:
    assert _problems(module, _node(tmp_path, {})) == ""


@pytest.mark.parametrize(
    ("devices", "flavours"),
    [
        ([], ["open", "proprietary"]),
        ([V100], ["proprietary"]),
        ([A100, H100], ["open", "proprietary"]),
        ([V100, A100], ["proprietary"]),
        ([B200], ["open"]),
        ([GH200], ["open"]),
        ([V100, B200], []),
    ],
)
def test_the_gpus_decide_which_modules_will_do(
    module: ModuleType, tmp_path: Path, devices: list[str], flavours: list[str]
) -> None:
    node = module.Node(str(_node(tmp_path, _gpus(*devices))))
    assert node.state()["gpus"] == len(devices)
    assert node.gpu_flavours() == flavours


def test_switches_of_nvlink_5_show_in_an_adapters_data(module: ModuleType, tmp_path: Path) -> None:
    vpd = "sys/class/infiniband/mlx5_4/device/vpd"
    assert module.Node(str(_node(tmp_path, {vpd: "PN MCX750500B"}))).nvlink5() is False
    assert module.Node(str(_node(tmp_path, {vpd: "\0SW_MNG\0"}))).nvlink5() is True


def test_gpus_that_no_driver_drives_together_are_a_problem(
    module: ModuleType, tmp_path: Path
) -> None:
    assert "no driver has both" in _problems(module, _node(tmp_path, _gpus(V100, B200)))


def test_a_gpu_that_is_not_on_the_bus_is_a_problem(module: ModuleType, tmp_path: Path) -> None:
    root = _node(tmp_path, _gpus(H100))
    assert "gpu_count: 2, and 1 is on the bus" in _problems(module, root, gpu_count=2)
    assert _problems(module, root, gpu_count=1) == ""


def test_an_adapter_that_is_not_on_the_bus_is_a_problem(module: ModuleType, tmp_path: Path) -> None:
    nic = "sys/bus/pci/devices/0000:41:00.0"
    root = _node(tmp_path, {f"{nic}/vendor": "0x15b3\n", f"{nic}/class": "0x020700\n"})
    assert "hca_count: 2, and 1 is on the bus" in _problems(module, root, hca_count=2)
    assert _problems(module, root, hca_count=1) == ""


@pytest.mark.parametrize(("value", "on"), [(b"\x06\0\0\0\x01", True), (b"\x06\0\0\0\0", False)])
def test_secure_boot_is_what_the_firmware_says(
    module: ModuleType, tmp_path: Path, value: bytes, on: bool
) -> None:
    root = _node(tmp_path, {"sys/firmware/efi/efivars/x": ""})
    (root / "sys/firmware/efi/efivars/SecureBoot-8be4df61").write_bytes(value)
    assert module.Node(str(root)).secure_boot() is on


CUDA = "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/"
FOREIGN = {
    "list": ("etc/apt/sources.list.d/cuda.list", f"deb [signed-by=/x] {CUDA} /\n"),
    "deb822": ("etc/apt/sources.list.d/c.sources", f"Types: deb\nURIs: {CUDA}\nSuites: /\n"),
    "main": (
        "etc/apt/sources.list",
        f"deb http://mirror.example/debian bookworm main\ndeb {CUDA} /",
    ),
    "yum": ("etc/yum.repos.d/cuda.repo", f"[cuda]\nbaseurl={CUDA}\nenabled=1\n"),
}
HARMLESS = {
    "comment": ("etc/apt/sources.list.d/cuda.list", f"# deb {CUDA} /\n"),
    "disabled": ("etc/apt/sources.list.d/c.sources", f"Enabled: no\nURIs: {CUDA}\n"),
    "yum off": (
        "etc/yum.repos.d/c.repo",
        f"[a]\nenabled=1\nbaseurl=x\n[b]\nenabled=0\nbaseurl={CUDA}",
    ),
    "ours": ("etc/apt/sources.list.d/clusterctl-cuda.sources", f"Types: deb\nURIs: {CUDA}\n"),
    "other": ("etc/apt/sources.list.d/docker.list", "deb https://download.docker.com/ x stable\n"),
}


@pytest.mark.parametrize("source", FOREIGN)
def test_a_foreign_repository_of_the_driver_is_a_problem(
    module: ModuleType, tmp_path: Path, source: str
) -> None:
    path, content = FOREIGN[source]
    root = _node(tmp_path, {path: content})
    found = _problems(module, root, driver="True")
    assert f"/{path} adds NVIDIA's repository" in found
    assert "purge cuda-keyring" in found
    assert _problems(module, root, driver="auto") == ""
    assert _problems(module, root, driver="true", driver_source="mirror") == ""


@pytest.mark.parametrize("source", HARMLESS)
def test_other_sources_are_none(module: ModuleType, tmp_path: Path, source: str) -> None:
    path, content = HARMLESS[source]
    assert _problems(module, _node(tmp_path, {path: content}), driver="true") == ""


def test_the_revoked_key_is_a_problem_armored_or_not(module: ModuleType, tmp_path: Path) -> None:
    key = b"\x99\x01\x0d" + os.urandom(20) + module.REVOKED + os.urandom(20)
    armored = base64.encodebytes(key).decode()
    edge = "PGP PUBLIC KEY BLOCK-----"
    text = f"-----BEGIN {edge}\n\n{armored}=abcd\n-----END {edge}\n"
    root = _node(tmp_path, {"etc/apt/trusted.gpg.d/cuda.asc": text})
    (root / "etc/apt/trusted.gpg").write_bytes(key)
    (root / "etc/apt/trusted.gpg.d/debian.gpg").write_bytes(os.urandom(60))
    found = _problems(module, root, driver="true")
    assert found.count("revoked in 2022") == 2
    assert "rm /etc/apt/trusted.gpg.d/cuda.asc" in found


def test_a_driver_from_a_runfile_is_a_problem(module: ModuleType, tmp_path: Path) -> None:
    root = _node(tmp_path, {"usr/bin/nvidia-uninstall": ""})
    assert "nvidia-uninstall --silent" in _problems(module, root, driver="true")
    assert _problems(module, root) == ""


def test_a_node_without_systemd_and_with_a_wrong_clock_has_both_problems_named(
    module: ModuleType, tmp_path: Path
) -> None:
    root = _node(tmp_path, {})
    (root / "run/systemd/system/x").unlink()
    (root / "run/systemd/system").rmdir()
    found = _problems(module, root, now_s=time.time() + 3600)
    assert "systemd is not running" in found
    assert "behind the controller's" in found


def test_a_full_disk_is_a_problem(module: ModuleType, tmp_path: Path) -> None:
    root = _node(tmp_path, {})
    found = _problems(module, root, free_min_bytes={"/": 10**18, "/no-such-folder": 10**18})
    assert found.startswith("/ has ")
    assert "free some" in found


@pytest.mark.parametrize(
    ("files", "broken"),
    [
        ({"var/lib/dpkg/status": "Package: a\nStatus: install ok installed\n"}, False),
        ({"var/lib/dpkg/status": "Package: a\nStatus: deinstall ok config-files\n"}, False),
        ({"var/lib/dpkg/status": "Package: a\nStatus: install ok half-configured\n"}, True),
        ({"var/lib/dpkg/updates/0001": "Package: a\n"}, True),
    ],
)
def test_an_interrupted_dpkg_is_seen(
    module: ModuleType, tmp_path: Path, files: dict[str, str], broken: bool
) -> None:
    assert module.Node(str(_node(tmp_path, files))).packages_broken() is broken


def test_an_unsupported_release_is_a_problem(module: ModuleType, tmp_path: Path) -> None:
    root = _node(
        tmp_path, {"etc/os-release": 'ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian 11"'}
    )
    assert "Debian 11 is not supported" in _problems(module, root)
