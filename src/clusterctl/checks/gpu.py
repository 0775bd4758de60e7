"""Checks of a node's GPUs."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.checks.base import (
    NodeView,
    check,
    fail,
    known,
    number,
    ok,
    skip,
    unknown,
    warn,
)
from clusterctl.facts import Gpus, Unread
from clusterctl.findings import Outcome


@check("node.gpu.count", "Every GPU is there and answers", of=NodeView)
def gpu_count(node: NodeView) -> Outcome:
    """Compare what the inventory wants with the PCI bus and with what NVML answers for."""
    wanted = node.wanted.get("gpu_count")
    expected = 0 if wanted is None else int(number(wanted, "gpu_count"))
    gpus = known(node.facts.gpus)
    on_pci = None if isinstance(gpus.pci_count, Unread) else gpus.pci_count
    answering = None if isinstance(gpus.nvml, Unread) else len(gpus.nvml)
    seen = _seen(gpus)
    limit = f"{expected} GPUs (inventory: gpu_count)" if expected else "no GPU is asked for"
    if on_pci is None and answering is None:
        return unknown(f"neither PCI nor NVML could be read: {seen}")
    if gpus.lost:
        return _lost(node, gpus, seen, limit)
    present = max(on_pci or 0, answering or 0)
    if answering is not None and answering >= max(present, expected, 1):
        if wanted is not None and answering > expected:
            return warn(seen, limit, f"inventory: set gpu_count of {node.name} to {answering}")
        return ok(seen, limit)
    if present == 0 and expected == 0:
        if on_pci is None:
            return unknown(f"the PCI bus could not be read: {seen}")
        why = "not set" if wanted is None else "0"
        return skip(f"no GPU expected (inventory: gpu_count is {why}) and none found")
    return _missing(node, gpus, expected, seen, limit)


@check("node.gpu.driver", "The driver's modules and libraries are of one version", of=NodeView)
def driver(node: NodeView) -> Outcome:
    """Compare the loaded module, the one that the next boot loads, and the libraries."""
    found = known(node.facts.nvidia_driver)
    values = {
        "loaded module": found.loaded_version,
        "installed module": found.installed_version,
        "libraries": found.library_version,
    }
    if node.contained and not isinstance(found.installed_version, Unread):
        del values["loaded module"]  # the host's, which loads another than is built in here
    versions = {what: v for what, v in values.items() if not isinstance(v, Unread)}
    seen = ", ".join(
        f"{what} {value.why if isinstance(value, Unread) else value}"
        for what, value in values.items()
    )
    limit = "one version"
    if len(set(versions.values())) > 1:
        return fail(seen, limit, _reunite(node, versions))
    for value in values.values():
        if isinstance(value, Unread) and value.unread != "absent":
            known(value)
    if not versions:
        return skip("no NVIDIA driver here")
    if "installed module" not in versions and "loaded module" in versions and not node.contained:
        return fail(f"{seen}: the next boot comes without a driver", limit, _provision(node))
    return ok(seen, limit)


def _reunite(node: NodeView, versions: Mapping[str, str]) -> str:
    """Say what brings them together: what is installed agrees, or it does not."""
    if versions.get("installed module") == versions.get("libraries"):
        return f"drain {node.name}, then reboot it: the new driver is installed and not loaded"
    return f"{_provision(node)}; then drain and reboot it if the loaded module is another"


def _provision(node: NodeView) -> str:
    return f"clusterctl provision --limit {node.name} --tags nvidia_driver"


def _lost(node: NodeView, gpus: Gpus, seen: str, limit: str) -> Outcome:
    reasons = ", ".join(f"GPU {index}: {why}" for index, why in sorted(gpus.lost.items()))
    return fail(
        f"{seen}; some do not answer at all: {reasons}",
        limit,
        f"on {node.name}: dmesg | grep -i -e NVRM -e Xid; drain it, then reboot",
    )


def _missing(node: NodeView, gpus: Gpus, expected: int, seen: str, limit: str) -> Outcome:
    """Say which layer lost them: the bus, the driver, or the driver's grip on single ones."""
    if isinstance(gpus.nvml, Unread):
        if not isinstance(gpus.pci_count, Unread) and gpus.pci_count < max(expected, 1):
            return fail(
                f"{seen}: not on the bus, so no driver can help",
                limit,
                f"on {node.name}: lspci -d 10de: ; dmesg | grep -i -e NVRM -e pcieport; "
                "power off, reseat, power on",
            )
        return fail(
            f"{seen}: the driver is not installed, not loaded, or does not answer",
            limit,
            f"on {node.name}: nvidia-smi; modinfo nvidia; dmesg | grep -i NVRM",
        )
    if not isinstance(gpus.pci_count, Unread) and gpus.pci_count > len(gpus.nvml):
        return fail(
            f"{seen}: on the bus, but the driver lost it or cannot start it",
            limit,
            f"on {node.name}: dmesg | grep -i -e NVRM -e Xid; nvidia-smi; then reset or reboot",
        )
    return fail(
        f"{seen}: it fell off the bus or was never there",
        limit,
        f"on {node.name}: dmesg | grep -i -e 'fallen off the bus' -e Xid; power off, reseat, "
        "power on",
    )


def _seen(gpus: Gpus) -> str:
    pci = gpus.pci_count
    bus = f"PCI not read ({pci.why})" if isinstance(pci, Unread) else f"{pci} on PCI"
    nvml = gpus.nvml
    if isinstance(nvml, Unread):
        return f"{bus}, NVML does not answer ({nvml.why})"
    simulated = " (simulated)" if gpus.simulated else ""
    return f"{bus}, {len(nvml)} answer NVML{simulated}"
