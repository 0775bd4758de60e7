"""See that every kernel that can boot has the NVIDIA driver's module, in the version installed.

"The package is installed" says nothing of this: a module that DKMS could not build, or that an
upgraded kernel never got, is missed first when the node boots. What is missing is built here.
"""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: driver_modules
short_description: See that every kernel that can boot has the NVIDIA driver's module
options:
  name:
    description: Name of the module's file, and of the module in DKMS.
    type: str
    required: true
  version:
    description: Version that it must have; empty for none, when only failed builds are looked for.
    type: str
    default: ""
  kernels:
    description: Kernels that must have it; all that can boot where empty.
    type: list
    elements: str
    default: []
  dkms:
    description: Whether DKMS builds it, and may be asked to.
    type: bool
    default: true
"""

LOG_LINES = 15
CULPRIT = re.compile(r"\berror\b|\*\*\*", re.IGNORECASE)


def bootable(root: Path) -> list[str]:
    """Name the kernels that can boot; where there is none (a container), those with headers."""
    folders = sorted((root / "lib/modules").glob("*"))
    whole = [folder.name for folder in folders if (folder / "kernel").is_dir()]
    return whole or [folder.name for folder in folders if (folder / "build").exists()]


def built(status: str, name: str, version: str) -> set[str]:
    """Read ``dkms status``: the kernels that it says it installed this version for.

    DKMS 3 writes ``NAME/VERSION, KERNEL, ARCH: installed``, DKMS 2 ``NAME, VERSION, KERNEL, ...``.
    """
    pattern = rf"{re.escape(name)}(?:/|, ){re.escape(version)}, ([^,]+), [^:]+: installed"
    return set(re.findall(rf"^{pattern}", status, re.MULTILINE))


def failed_build(root: Path, name: str) -> str:
    """Tell of a build that failed: its kernel, and the end of its log. Empty where none did.

    DKMS moves the folder ``build`` away when it succeeds.
    """
    logs = sorted((root / "var/lib/dkms" / name).glob("*/build/make.log"), key=_age)
    if not logs:
        return ""
    lines = [line for line in logs[-1].read_text(errors="replace").splitlines() if line.strip()]
    header = next((line for line in lines if " for kernel " in line), "")
    kernel = re.search(r"for kernel (\S+)", header)
    guilty = next((line for line in lines if CULPRIT.search(line)), "")
    tail = lines[-LOG_LINES:]
    shown = tail if guilty in tail or not guilty else [guilty, "...", *tail]
    where = f"{name}/{logs[-1].parts[-3]} for {kernel.group(1) if kernel else 'a kernel'}"
    return f"DKMS could not build {where}. {logs[-1]} ends:\n" + "\n".join(shown)


def _age(path: Path) -> float:
    return path.stat().st_mtime


class Driver:
    """The driver's module on this node."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module, self.root = module, Path("/")
        self.name, self.version = module.params["name"], module.params["version"]
        self.dkms = module.params["dkms"]

    def lacking(self, kernels: list[str]) -> dict[str, str]:
        """Give the kernels that have not got the module, and what they have."""
        status = self._run("dkms", "status", "-m", self.name)[1] if self.dkms else ""
        found = built(status, self.name, self.version)
        lacking = {}
        for kernel in kernels:
            _status, output, _complaint = self._run(
                "modinfo", "-k", kernel, "-F", "version", self.name
            )
            version = output.strip()
            if version != self.version:
                lacking[kernel] = f"has {version}" if version else "has none"
            elif self.dkms and kernel not in found:
                lacking[kernel] = "has one that DKMS knows nothing of"
        return lacking

    def build(self, kernel: str) -> None:
        """Let DKMS build the module for a kernel."""
        if not (self.root / "lib/modules" / kernel / "build").exists():
            self.module.fail_json(
                msg=f"{kernel} can boot, and its headers are not installed: no module can be built "
                "for it. Install them, remove that kernel, or leave it out (nvidia_driver_kernels)."
            )
        which = ["-m", self.name, "-v", self.version, "-k", kernel, "--force"]
        status, output, complaint = self._run("dkms", "install", *which)
        if status:
            why = failed_build(self.root, self.name) or (complaint or output).strip()
            self.module.fail_json(msg=why)

    def _run(self, command: str, *arguments: str) -> tuple[int, str, str]:
        found = self.module.get_bin_path(command, opt_dirs=["/sbin", "/usr/sbin"])
        return self.module.run_command([found, *arguments]) if found else (127, "", f"no {command}")


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "default": ""},
            "kernels": {"type": "list", "elements": "str", "default": []},
            "dkms": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    driver = Driver(module)
    if not driver.version:
        module.exit_json(changed=False, failed_build=failed_build(driver.root, driver.name))
    kernels = module.params["kernels"] or bootable(driver.root)
    if not kernels:
        module.fail_json(
            msg="no kernel is installed here, and no headers of one: there is nothing that the "
            "driver's module could be for"
        )
    lacking = driver.lacking(kernels)
    if lacking and driver.dkms and not module.check_mode:
        for kernel in lacking:
            driver.build(kernel)
    left = lacking if module.check_mode else driver.lacking(kernels)
    if left and not module.check_mode:
        told = ", ".join(f"{kernel} {what}" for kernel, what in left.items())
        module.fail_json(msg=f"{driver.name} {driver.version} is not in every kernel: {told}")
    module.exit_json(changed=bool(lacking), kernels=kernels, built=sorted(lacking))


if __name__ == "__main__":
    main()
