"""Say why a node must reboot; nothing to say means that it need not."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: reboot_reasons
short_description: Say why a node must reboot
options:
  container:
    description: Whether the kernel is that of another machine, and not the node's to choose.
    type: bool
    default: false
  driver:
    description: Whether NVIDIA's driver is to drive this node's GPUs.
    type: bool
    default: false
"""


def release(kernel: str) -> tuple[int, ...]:
    """Give the numbers of a kernel's release, which order kernels: 6.1.0-56 of 6.1.0-56-amd64."""
    leading = re.match(r"[\d.+-]+", kernel.replace("+deb", "-"))
    return tuple(int(number) for number in re.findall(r"\d+", leading.group() if leading else ""))


def newest(root: Path) -> str:
    """Name the newest kernel that can boot; empty where there is none."""
    folders = (root / "lib/modules").glob("*")
    kernels = [
        folder.name
        for folder in folders
        if (folder / "kernel").is_dir() and (root / "boot" / f"vmlinuz-{folder.name}").exists()
    ]
    return max(kernels, key=release, default="")


def reasons(root: Path, running: str, driver: str | None) -> list[str]:
    """Give the reasons of a machine. ``driver``: version of the module's file; None if not ours."""
    found = []
    latest = newest(root)
    if latest and release(latest) > release(running):
        found.append(f"kernel {latest} is installed and {running} runs")
    if driver is not None:
        loaded = _text(root / "sys/module/nvidia/version")
        if (root / "sys/module/nouveau").is_dir():
            found.append("nouveau is loaded and keeps the NVIDIA driver from the GPUs")
        if loaded and driver and loaded != driver:
            found.append(f"the NVIDIA driver {loaded} is loaded and {driver} is installed")
    return found


def asked_for(root: Path) -> list[str]:
    """Give what Debian's and Ubuntu's packages left as a request."""
    if not (root / "run/reboot-required").exists():
        return []
    packages = sorted(set(_text(root / "run/reboot-required.pkgs").split()))
    return [f"asked for by {', '.join(packages) or '/run/reboot-required'}"]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "container": {"type": "bool", "default": False},
            "driver": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    root = Path("/")
    found = asked_for(root)
    if not module.params["container"]:
        driver = _installed(module) if module.params["driver"] else None
        found += reasons(root, platform.release(), driver)
    module.exit_json(changed=False, reasons=found)


def _installed(module: AnsibleModule) -> str:
    """Give the version of the module that would be loaded; Debian renames the file."""
    modinfo = module.get_bin_path("modinfo", opt_dirs=["/sbin", "/usr/sbin"])
    for name in ("nvidia", "nvidia-current", "nvidia-current-open") if modinfo else ():
        status, output, _complaint = module.run_command([modinfo, "-F", "version", name])
        if status == 0 and output.strip():
            return output.strip()
    return ""


if __name__ == "__main__":
    main()
