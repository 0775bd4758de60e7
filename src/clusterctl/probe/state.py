"""Packages, services, kernel parameters, files and kernel modules: what is there, by name.

Each function answers for all names at once: a program that is asked costs the same for one.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from clusterctl.facts import Unread
from clusterctl.probe.reading import Request, command, find_command, text, text_or

FILE_LIMIT_BYTES = 4 << 20
VERSION_LOCKS = ("etc/dnf/plugins/versionlock.list", "etc/yum/pluginconf.d/versionlock.list")
NAME = re.compile(r"[A-Za-z0-9][\w.+@:\\-]*")
"""What may be handed to a program as a name: never an option."""

Found = dict[str, "str | Unread"]


def packages(request: Request, names: Sequence[str]) -> Found:
    """Give the installed version of each package, of dpkg or rpm."""
    if dpkg := find_command("dpkg-query"):
        return {
            name: version if status == "installed" else Unread("absent", status)
            for name, version, status, _want in _dpkg(request, dpkg, names)
        }
    if rpm := find_command("rpm"):
        return _rpm(request, rpm, names)
    return dict.fromkeys(names, Unread("unsupported", "neither dpkg-query nor rpm is here"))


def holds(request: Request, names: Sequence[str]) -> Found:
    """Give ``held`` or ``not held`` for each package: a dpkg selection, or a lock of dnf's."""
    if dpkg := find_command("dpkg-query"):
        return {
            name: "held" if want == "hold" else "not held"
            for name, _version, _status, want in _dpkg(request, dpkg, names)
        }
    locks = [line for path in VERSION_LOCKS for line in _lines(request.root / path)]
    return {
        name: "held" if any(_locks(lock, name) for lock in locks) else "not held" for name in names
    }


def services(request: Request, names: Sequence[str]) -> Found:  # noqa: ARG001 - as the others
    """Give what systemd says of each unit: ``enabled active``, ``disabled inactive``, ..."""
    systemctl = find_command("systemctl")
    if systemctl is None:
        return dict.fromkeys(names, Unread("unsupported", "no systemctl: systemd is not here"))
    properties = "--property=LoadState,UnitFileState,ActiveState"
    output = command(systemctl, "show", properties, "--", *_safe(names))
    blocks = output.stdout.strip("\n").split("\n\n")
    if output.exit_status != 0 or len(blocks) != len(names):
        return dict.fromkeys(names, Unread("failed", f"systemctl show: {output.complaint}"))
    return dict(zip(names, map(_unit, blocks)))


def kernel_parameters(request: Request, names: Sequence[str]) -> Found:
    """Give each parameter's value, and whether the kernel lets root change it."""
    return {name: _kernel_parameter(request.root / "proc/sys", name) for name in names}


def files(request: Request, names: Sequence[str]) -> Found:
    """Give each file's SHA-256."""
    return {name: _sha256(request.root / name.lstrip("/")) for name in names}


def modules(request: Request, names: Sequence[str]) -> Found:
    """Give each module's version in every kernel that can boot: ``KERNEL=VERSION ...``."""
    kernels = bootable_kernels(request.root)
    if not kernels:
        return dict.fromkeys(names, Unread("absent", "no kernel under /lib/modules"))
    modinfo = find_command("modinfo")
    if modinfo is None:
        return dict.fromkeys(names, Unread("failed", "no modinfo to read modules with"))
    versions = {kernel: _module_versions(request, modinfo, kernel, names) for kernel in kernels}
    return {
        name: " ".join(f"{kernel}={versions[kernel].get(name, 'none')}" for kernel in kernels)
        for name in names
    }


def module_options(request: Request, names: Sequence[str]) -> Found:
    """Give each ``MODULE OPTION`` as the kernel has it, or as the next loading would set it."""
    configured: dict[str, str] | None = None
    found: Found = {}
    for name in names:
        module, _, option = name.partition(" ")
        loaded = _loaded_option(request.root, module, option)
        if loaded is None and configured is None:
            configured = _configured_options()
        absent = Unread("absent", f"nothing sets {option} of {module}")
        key = f"{_plain(module)} {option}"
        found[name] = loaded if loaded is not None else (configured or {}).get(key, absent)
    return found


def bootable_kernels(root: Path) -> list[str]:
    """Name the kernels that have modules; where none has (headers alone), those to build for."""
    folders = sorted((root / "lib/modules").glob("*"))
    return [path.name for path in folders if (path / "kernel").is_dir()] or [
        path.name for path in folders if os.path.lexists(path / "build")
    ]


def _safe(names: Sequence[str]) -> list[str]:
    for name in names:
        if not NAME.fullmatch(name):
            raise OSError(f"{name[:80]!r} is not a name to ask for")
    return list(names)


def _dpkg(request: Request, dpkg: str, names: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """Give (name, version, status, selection) of each package, once."""
    form = "${Package}|${Version}|${db:Status-Status}|${db:Status-Want}\n"
    admin = f"--admindir={request.root / 'var/lib/dpkg'}"
    # It answers for those that it knows, and complains about the others.
    output = command(dpkg, admin, "--show", f"--showformat={form}", "--", *_safe(names))
    if output.exit_status not in (0, 1):
        raise OSError(f"dpkg-query: {output.complaint}")
    rows: dict[str, list[str]] = {}
    for line in output.stdout.splitlines():
        name, *row = line.split("|")
        if len(row) == 3 and rows.get(name, ["", ""])[1] != "installed":
            rows[name] = row  # of several architectures, the one that is installed
    for name in names:
        version, status, want = rows.get(name.partition(":")[0], ["", "not installed", "unknown"])
        status = "not installed" if status in ("not-installed", "config-files") else status
        yield name, version, status, want


def _rpm(request: Request, rpm: str, names: Sequence[str]) -> Found:
    form = "%{NAME}|%{EPOCH}:%{VERSION}-%{RELEASE}\n"
    root = f"--root={request.root}"
    output = command(rpm, root, "--query", f"--queryformat={form}", "--", *_safe(names))
    found: Found = {name: Unread("absent", "not installed") for name in names}
    for line in output.stdout.splitlines():
        name, separator, version = line.partition("|")
        if separator and name in found:
            found[name] = version[7:] if version.startswith("(none):") else version
    return found


def _lines(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text_or(path, "").splitlines())
    return [line for line in lines if line and not line.startswith("!")]


def _locks(lock: str, name: str) -> bool:
    """Say whether a line ``[EPOCH:]NAME-[EPOCH:]VERSION-RELEASE.ARCH`` is about this package."""
    return re.match(rf"(\d+:)?{re.escape(name)}($|\*|-(\d+:)?[\d*])", lock) is not None


def _unit(block: str) -> str | Unread:
    properties = dict(line.partition("=")[::2] for line in block.splitlines())
    if properties.get("LoadState") == "not-found":
        return Unread("absent", "there is no such unit")
    words = (properties.get("UnitFileState", ""), properties.get("ActiveState", ""))
    return " ".join(filter(None, words))


def _kernel_parameter(folder: Path, name: str) -> str | Unread:
    # sysctl(8): the first separator decides what stands for a slash, the other is part of names.
    dots = re.match(r"[^./]*\.", name) is not None
    path = folder / (name.translate(str.maketrans("./", "/.")) if dots else name).lstrip("/")
    if ".." in path.parts:
        return Unread("failed", f"{name[:80]!r} is not a parameter")
    try:
        value = " ".join(text(path).split())
    except FileNotFoundError:
        return Unread("absent", "this kernel has no such parameter")
    except PermissionError as error:
        return Unread("denied", str(error))
    fixed = os.statvfs(path).f_flag & os.ST_RDONLY
    return f"{value} (read-only)" if fixed else value


def _sha256(path: Path) -> str | Unread:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return Unread("absent", "there is no such file")
    except PermissionError as error:
        return Unread("denied", str(error))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_LIMIT_BYTES:
            return Unread("unsupported", f"{path}: not a file of at most {FILE_LIMIT_BYTES} bytes")
        return hashlib.sha256(file.read()).hexdigest()


def _module_versions(
    request: Request, modinfo: str, kernel: str, names: Sequence[str]
) -> dict[str, str]:
    """Give the version of each module that this kernel has; modinfo complains about the others."""
    output = command(modinfo, f"--basedir={request.root}", "-k", kernel, *_safe(names))
    versions: dict[str, str] = {}
    wanted = {_plain(name): name for name in names}
    name = ""
    for line in output.stdout.splitlines():
        key, _, value = line.partition(":")
        if key == "filename":
            name = wanted.get(_plain(value.strip().rpartition("/")[2].partition(".ko")[0]), "")
            versions[name] = "unversioned"
        elif key == "version":
            versions[name] = value.strip()
    return versions


def _loaded_option(root: Path, module: str, option: str) -> str | None:
    """Give the value in the loaded module; NVIDIA's driver shows its own in a place of its own."""
    value = text_or(root / "sys/module" / _plain(module) / "parameters" / option, "")
    if value or not module.startswith("nvidia"):
        return value or None
    for line in text_or(root / "proc/driver/nvidia/params", "").splitlines():
        name, _, given = line.partition(":")
        if name == option.replace("NVreg_", "", 1):
            return given.strip().strip('"')
    return None


def _configured_options() -> dict[str, str]:
    """Give ``MODULE OPTION`` -> value from modprobe's configuration; the last line counts."""
    modprobe = find_command("modprobe")
    if modprobe is None:
        raise OSError("no modprobe to read the options of modules with")
    found = {}
    for line in command(modprobe, "--showconfig").stdout.splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "options":
            for setting in words[2:]:
                option, _, value = setting.partition("=")
                found[f"{_plain(words[1])} {option}"] = value.strip('"')
    return found


def _plain(module: str) -> str:
    return module.replace("-", "_")
