"""NVIDIA GPUs: on the PCI bus, as NVML sees them, and their driver."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any, Callable

from clusterctl.facts import Gpu, Gpus, NvidiaDriver, Unread
from clusterctl.probe.isolate import apart, note
from clusterctl.probe.reading import Request, command, find_command, text_or

NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")
"""VGA and 3D controllers; NVIDIA's audio functions, bridges and switches are other classes."""

NVML_LIBRARY = "libnvidia-ml.so.1"
MODULE_NAMES = ("nvidia", "nvidia-current", "nvidia-current-open", "nvidia-open")
MODULE_FOLDERS = ("updates", "extra", "weak-updates", "kernel")


def read_gpus(request: Request) -> Gpus:
    """Count GPUs on the bus and ask NVML, each on its own: a driver that hangs hides neither."""
    pci_count = _pci_count(request.root / "sys/bus/pci/devices")
    answer = apart("NVML", _ask_nvml, request.deadline_s * 0.8)
    if isinstance(answer, Unread):
        return Gpus(pci_count=pci_count, driver_version=answer, nvml=answer, simulated=False)
    return Gpus(pci_count=pci_count, **answer)


def read_driver(request: Request) -> NvidiaDriver:
    """Read the versions of the loaded module, of the next boot's, and of the libraries."""
    return NvidiaDriver(
        loaded_version=_loaded(request.root),
        installed_version=_installed(request.root),
        library_version=_library(request.root),
    )


def _pci_count(devices: Path) -> int | Unread:
    if not devices.is_dir():
        return Unread("absent", f"{devices}: no PCI bus")
    return sum(
        text_or(device / "vendor", "") == NVIDIA_VENDOR
        and text_or(device / "class", "").startswith(DISPLAY_CLASSES)
        for device in devices.iterdir()
    )


def _ask_nvml() -> dict[str, Any] | Unread:
    try:
        ctypes.CDLL(NVML_LIBRARY)  # much cheaper than pynvml, and most nodes without GPUs end here
    except OSError as error:
        return Unread("absent", str(error))
    import pynvml

    try:
        note("nvmlInit")
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _reason(error, "nvmlInit")
    driver = _try("nvmlSystemGetDriverVersion", pynvml.nvmlSystemGetDriverVersion)
    count = _try("nvmlDeviceGetCount", pynvml.nvmlDeviceGetCount)
    answers = [] if isinstance(count, Unread) else [_gpu(index) for index in range(count)]
    return {
        "driver_version": driver,
        "nvml": count
        if isinstance(count, Unread)
        else [answer for answer in answers if isinstance(answer, Gpu)],
        "lost": {
            str(index): answer.why
            for index, answer in enumerate(answers)
            if isinstance(answer, Unread)
        },
        "simulated": isinstance(driver, str) and "simulated" in driver,
    }


def _gpu(index: int) -> Gpu | Unread:
    import pynvml as nvml

    def ask(function: Callable[..., Any], *arguments: Any) -> Any:
        return _try(f"{function.__name__} of GPU {index}", function, *arguments)

    handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
    if isinstance(handle, Unread):
        return handle
    identity = [
        ask(nvml.nvmlDeviceGetUUID, handle),
        ask(nvml.nvmlDeviceGetName, handle),
        ask(nvml.nvmlDeviceGetPciInfo, handle),
        ask(nvml.nvmlDeviceGetMemoryInfo, handle),
    ]
    for value in identity:
        if isinstance(value, Unread):
            return value
    uuid, name, pci, memory = identity
    power_mw = ask(nvml.nvmlDeviceGetPowerUsage, handle)
    return Gpu(
        index=index,
        uuid=_string(uuid),
        name=_string(name),
        pci_bus_id=_string(pci.busId),
        memory_total_bytes=memory.total,
        temperature_c=ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        power_w=power_mw if isinstance(power_mw, Unread) else power_mw / 1000,
        ecc_uncorrected_volatile=ask(
            nvml.nvmlDeviceGetTotalEccErrors,
            handle,
            nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            nvml.NVML_VOLATILE_ECC,
        ),
    )


def _try(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call NVML: its value, or why there is none."""
    import pynvml

    note(what)
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        return _reason(error, what)


def _reason(error: Any, what: str) -> Unread:
    import pynvml

    why = f"{what}: {error}"
    if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
        return Unread("unsupported", why)
    if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
        return Unread("denied", why)
    if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return Unread("absent", why)
    return Unread("failed", why)


def _string(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _loaded(root: Path) -> str | Unread:
    version = text_or(root / "sys/module/nvidia/version", "")
    if version:
        return version
    banner = text_or(root / "proc/driver/nvidia/version", "")
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", banner)
    return found[1] if found else Unread("absent", "the nvidia module is not loaded")


def _installed(root: Path) -> str | Unread:
    module = _module_file(root)
    if module is None:
        return Unread("absent", "no nvidia module under /lib/modules")
    modinfo = find_command("modinfo")
    if modinfo is None:
        return Unread("failed", f"{module}: no modinfo to read its version with")
    try:
        output = command(modinfo, "-F", "version", str(module))
    except TimeoutError as error:
        return Unread("timeout", str(error))
    version = output.stdout.strip()
    return version or Unread("failed", f"modinfo {module}: {output.complaint}")


def _module_file(root: Path) -> Path | None:
    """Find the module of the running kernel, else of the newest kernel that has one."""
    running = text_or(root / "proc/sys/kernel/osrelease", "")
    kernels = sorted((root / "lib/modules").glob("*"), key=_natural, reverse=True)
    for kernel in sorted(kernels, key=lambda path: path.name != running):
        for folder in MODULE_FOLDERS:
            for name in MODULE_NAMES:
                found = sorted((kernel / folder).rglob(f"{name}.ko*"))
                if found:
                    return found[0]
    return None


def _library(root: Path) -> str | Unread:
    """Give the version in the name of the file that programs load as the NVML library."""
    triple = f"{os.uname().machine}-linux-gnu"
    for folder in (f"usr/lib/{triple}", "usr/lib64", "usr/lib", f"usr/lib/{triple}/nvidia/current"):
        link = root / folder / NVML_LIBRARY
        if link.exists():
            name = link.resolve().name
            found = re.fullmatch(r"libnvidia-ml\.so\.(\d+\.[\d.]+)", name)
            return found[1] if found else Unread("unsupported", f"{link} leads to {name}")
    return Unread("absent", f"no {NVML_LIBRARY} in the system's folders")


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part or 0), rest) for part, rest in re.findall(r"(\d*)(\D*)", path.name)]
