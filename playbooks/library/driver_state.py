"""Read what concerns the NVIDIA driver on a node, in one round trip: packages, users, kernels.

It changes nothing, and needs no GPU, no driver and no package that a bare node lacks.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: driver_state
short_description: Read what concerns the NVIDIA driver on a node
options:
  packages:
    description: The driver's packages, each with an optional C(=VERSION) where C(*) is anything.
    type: list
    elements: str
    default: []
  services:
    description: Units that use the driver and may be stopped while it changes.
    type: list
    elements: str
    default: []
  key:
    description: Public key that DKMS signs modules with.
    type: path
    default: /var/lib/dkms/mok.pub
"""

FLAVOUR = re.compile(r"linux-image-(?!unsigned-|extra-)([a-z][a-z0-9.+-]*)")
"""Debian's and Ubuntu's packages that follow a kind of kernel are named without its version."""

QUERIES = {
    "dpkg": "dpkg-query --show --showformat=${Package}|${Version}|${db:Status-Status}\\n",
    "rpm": "rpm --query --all --queryformat=%{NAME}|%{EPOCH}:%{VERSION}-%{RELEASE}|installed\\n",
}


def versions(output: str) -> dict[str, str]:
    """Give package -> version of those that are installed in full."""
    rows = (line.split("|") for line in output.splitlines())
    found = {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"}
    return {name: version.replace("(none):", "") for name, version in found.items()}


def upstream(version: str) -> str:
    """Give NVIDIA's part of a package's version: 535.309.01 of 1:535.309.01-0+deb12u1."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)+)", version)
    return found.group(1) if found else ""


def missing(wanted: list[str], found: dict[str, str]) -> list[str]:
    """Give the packages that are not installed, or not in their version."""
    pairs = (name.partition("=") for name in wanted)
    return [
        package
        for package, _, version in pairs
        if not fnmatch.fnmatchcase(found.get(package, ""), version or "?*")
    ]


def same_version(found: dict[str, str], version: str) -> list[str]:
    """Give the packages that are of this driver's version: NVIDIA wants them to move together."""
    return sorted(name for name, each in found.items() if version and upstream(each) == version)


def flavours(found: dict[str, str]) -> list[str]:
    """Give the kinds of kernel that the node follows: C(amd64), C(generic-hwe-22.04)."""
    kinds = (FLAVOUR.fullmatch(name) for name in found)
    return sorted(kind.group(1) for kind in kinds if kind)


def kernels_without_headers(root: Path) -> list[str]:
    """Name the kernels that can boot, and that no module can be built for."""
    folders = sorted((root / "lib/modules").glob("*"))
    return [f.name for f in folders if (f / "kernel").is_dir() and not (f / "build").exists()]


def users(root: Path) -> list[tuple[int, str, str]]:
    """Give the processes that hold a device of the driver: pid, name, systemd unit."""
    found = []
    for folder in (root / "proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if any(_opened(each).startswith("/dev/nvidia") for each in (folder / "fd").iterdir()):
                name = (folder / "comm").read_text().strip()
                found.append((int(folder.name), name, _unit(folder)))
    return sorted(found)


def _opened(handle: Path) -> str:
    try:
        return str(handle.readlink())
    except OSError:  # closed meanwhile
        return ""


def _unit(process: Path) -> str:
    """Give the systemd unit that a process belongs to."""
    names = re.findall(r"[^/\n]+\.(?:service|scope)", (process / "cgroup").read_text())
    return names[-1] if names else ""


def main() -> None:
    """Answer Ansible."""
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "packages": names,
            "services": names,
            "key": {"type": "path", "default": "/var/lib/dkms/mok.pub"},
        },
        supports_check_mode=True,
    )
    root, params = Path("/"), module.params
    query = QUERIES["dpkg" if module.get_bin_path("dpkg-query") else "rpm"]
    _status, output, _complaints = module.run_command(query.split(), check_rc=True)
    found = versions(output)
    packages = [name.partition("=")[0] for name in params["packages"]]
    version = next((upstream(found[name]) for name in packages if name in found), "")
    held = users(root)
    module.exit_json(
        version=version,
        missing=missing(params["packages"], found),
        set=same_version(found, version),
        flavours=flavours(found),
        kernels_without_headers=kernels_without_headers(root),
        services=sorted({unit for _, _, unit in held if unit in params["services"]}),
        users=[f"{name} (pid {pid})" for pid, name, unit in held if unit not in params["services"]],
        library=_library(module),
        loaded=_text(root / "sys/module/nvidia/version"),
        key_enrolled=_key_enrolled(module, params["key"]),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _library(module: AnsibleModule) -> str:
    """Give the version of libnvidia-ml that programs get; NVIDIA has it in the file's name."""
    ldconfig = module.get_bin_path("ldconfig", opt_dirs=["/sbin", "/usr/sbin"])
    _status, output, _complaint = module.run_command([ldconfig, "-p"]) if ldconfig else (1, "", "")
    found = re.search(r"libnvidia-ml\.so\.1 \(libc6,(?!x32).*=> (\S+)", output)
    return Path(found.group(1)).resolve().name.partition(".so.")[2] if found else ""


def _key_enrolled(module: AnsibleModule, key: str) -> bool:
    if not module.get_bin_path("mokutil") or not Path(key).exists():
        return False
    _status, output, _complaints = module.run_command(["mokutil", "--test-key", key])
    return "already enrolled" in output


if __name__ == "__main__":
    main()
