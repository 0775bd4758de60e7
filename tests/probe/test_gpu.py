"""GPUs: a real shared library that answers as NVML does, and captured PCI and driver trees."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterctl.facts import Gpu, Gpus, NodeFacts, Unread
from clusterctl.probe.gpu import read_driver, read_gpus
from clusterctl.probe.reading import Request

KERNEL = {"proc/sys/kernel/osrelease": "6.1.0-18-amd64\n"}


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library that pynvml loads."""
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml.c")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-Wall", "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


@pytest.fixture
def gpus(nvml: Path, read: Callable[..., NodeFacts]) -> Callable[..., Gpus]:
    """Read the GPUs of that library with some trouble."""

    def _gpus(trouble: str = "", *arguments: str) -> Gpus:
        environment = {"LD_LIBRARY_PATH": str(nvml), "NVML_TROUBLE": trouble}
        facts = read(*arguments, environment=environment)
        assert isinstance(facts.gpus, Gpus), facts.gpus
        return facts.gpus

    return _gpus


HEALTHY = Gpu(
    index=1,
    uuid="GPU-00000000-0000-0000-0000-000000000001",
    name="NVIDIA H100 80GB HBM3",
    pci_bus_id="00000000:1C:00.0",
    memory_total_bytes=85520809984,
    temperature_c=41,
    power_w=71.5,
    ecc_uncorrected_volatile=3,
)


def test_healthy(gpus: Callable[..., Gpus]) -> None:
    answer = gpus()
    assert answer.driver_version == "550.54.15"
    assert not answer.simulated
    assert answer.lost == {}
    assert isinstance(answer.nvml, list)
    assert [gpu.index for gpu in answer.nvml] == [0, 1]
    assert answer.nvml[1] == HEALTHY


def test_a_lost_gpu_is_named_and_the_other_read(gpus: Callable[..., Gpus]) -> None:
    answer = gpus("lost")
    assert isinstance(answer.nvml, list)
    assert [gpu.index for gpu in answer.nvml] == [0]
    assert "GPU is lost" in answer.lost["1"]


@pytest.mark.parametrize("kind", ["unsupported", "denied"])
def test_a_field_that_a_gpu_does_not_give(gpus: Callable[..., Gpus], kind: str) -> None:
    answer = gpus(kind)
    assert isinstance(answer.nvml, list)
    first, second = answer.nvml
    assert first.temperature_c == 41
    for value in (second.temperature_c, second.power_w, second.ecc_uncorrected_volatile):
        assert isinstance(value, Unread)
        assert value.unread == kind
    assert second.name == HEALTHY.name


def test_a_call_that_hangs_is_named(gpus: Callable[..., Gpus]) -> None:
    answer = gpus("hang", "--deadline", "2")
    assert isinstance(answer.nvml, Unread)
    assert answer.nvml.unread == "timeout"
    assert answer.nvml.why.startswith("nvmlDeviceGetPowerUsage of GPU 1: no answer")
    assert answer.driver_version == answer.nvml


def test_a_call_that_crashes_is_named(gpus: Callable[..., Gpus]) -> None:
    answer = gpus("crash")
    assert isinstance(answer.nvml, Unread)
    assert answer.nvml.unread == "failed"
    assert "GPU 1" in answer.nvml.why
    assert "SIGABRT" in answer.nvml.why


def test_a_library_without_its_driver(gpus: Callable[..., Gpus]) -> None:
    answer = gpus("no-driver")
    assert answer.nvml == Unread("failed", "nvmlInit: Driver Not Loaded")


def test_a_count_that_fails(gpus: Callable[..., Gpus]) -> None:
    answer = gpus("no-count")
    assert isinstance(answer.nvml, Unread)
    assert answer.driver_version == "550.54.15"


def test_a_simulation_says_so(gpus: Callable[..., Gpus]) -> None:
    assert gpus("simulated").simulated


def test_no_library_is_absent(read: Callable[..., NodeFacts]) -> None:
    facts = read()
    assert isinstance(facts.gpus, Gpus)
    no_library = isinstance(facts.gpus.nvml, Unread) and facts.gpus.nvml.unread == "absent"
    assert no_library is (ctypes.util.find_library("nvidia-ml") is None)


def test_gpus_are_counted_on_the_bus(tree: Callable[..., Path]) -> None:
    bus = "sys/bus/pci/devices"
    functions = {
        "0000:1b:00.0": ("0x10de", "0x030200"),
        "0000:1c:00.0": ("0x10de", "0x030000"),
        "0000:1c:00.1": ("0x10de", "0x040300"),  # its sound
        "0000:05:00.0": ("0x10de", "0x068000"),  # an NVSwitch
        "0000:03:00.0": ("0x1a03", "0x030000"),  # the board's own display
    }
    files = {}
    for address, (vendor, kind) in functions.items():
        files[f"{bus}/{address}/vendor"] = f"{vendor}\n"
        files[f"{bus}/{address}/class"] = f"{kind}\n"
    assert read_gpus(Request(root=tree(files))).pci_count == 2


def test_no_bus_is_not_no_gpu(tree: Callable[..., Path]) -> None:
    assert isinstance(read_gpus(Request(root=tree(KERNEL))).pci_count, Unread)


@pytest.mark.parametrize(
    "files",
    [
        {"sys/module/nvidia/version": "535.183.01\n"},
        {
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  "
            "535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:  gcc version 12.2.0\n"
        },
        {
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64"
            "  535.183.01  Release Build  (dvs-builder@U16)\n"
        },
    ],
)
def test_the_loaded_driver(tree: Callable[..., Path], files: dict[str, str]) -> None:
    assert read_driver(Request(root=tree(files))).loaded_version == "535.183.01"


def test_no_driver(tree: Callable[..., Path]) -> None:
    found = read_driver(Request(root=tree(KERNEL)))
    assert isinstance(found.loaded_version, Unread)
    assert isinstance(found.installed_version, Unread)
    assert (found.loaded_version.unread, found.installed_version.unread) == ("absent", "absent")


def library(root: Path) -> str | Unread:
    return read_driver(Request(root=root)).library_version


@pytest.mark.parametrize("folder", [f"usr/lib/{os.uname().machine}-linux-gnu", "usr/lib64"])
def test_the_libraries(tree: Callable[..., Path], folder: str) -> None:
    links = {f"{folder}/libnvidia-ml.so.535.247.01": "", f"{folder}/libnvidia-ml.so.550.1": ""}
    target = "-> libnvidia-ml.so.535.247.01"
    assert library(tree({**links, f"{folder}/libnvidia-ml.so.1": target})) == "535.247.01"


def test_libraries_behind_several_links(tree: Callable[..., Path]) -> None:
    place = "usr/lib/nvidia"
    root = tree({
        "usr/lib64/libnvidia-ml.so.1": "-> ../nvidia/libnvidia-ml.so.1",
        f"{place}/libnvidia-ml.so.535.1": "",
    })  # fmt: skip
    (root / "usr/nvidia").symlink_to("lib/nvidia")
    (root / place / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.535.1")
    assert library(root) == "535.1"


@pytest.mark.parametrize(
    ("files", "why"), [({}, "absent"), ({"libnvidia-ml.so.1": ""}, "unsupported")]
)
def test_libraries_without_a_version(
    tree: Callable[..., Path], files: dict[str, str], why: str
) -> None:
    found = library(tree({**KERNEL, **{f"usr/lib64/{k}": v for k, v in files.items()}}))
    assert isinstance(found, Unread)
    assert found.unread == why


@pytest.mark.parametrize(
    ("modules", "version"),
    [
        (["6.1.0-18-amd64/updates/dkms/nvidia-current.ko"], "1"),
        # The running kernel counts before a newer one, a newer before an older.
        (["6.1.0-18-amd64/updates/dkms/nvidia.ko.xz", "6.9.0-1-amd64/extra/nvidia.ko"], "1"),
        (["6.2.0-9-amd64/updates/nvidia.ko", "6.10.0-1-amd64/kernel/drivers/video/nvidia.ko"], "2"),
    ],
)
def test_the_installed_driver(
    tree: Callable[..., Path],
    commands: Callable[..., None],
    modules: list[str],
    version: str,
) -> None:
    root = tree({**KERNEL, **{f"lib/modules/{module}": "" for module in modules}})
    # Says where the version of which file is read from: real modules are 50 MB.
    script = 'case "$3" in *6.1.0-18*) echo 1;; *6.10*) echo 2;; *) echo 3;; esac'
    commands({"modinfo": script})
    found = read_driver(Request(root=root))
    assert found.installed_version == version
