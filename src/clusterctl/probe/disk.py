"""Mounted file systems that hold files: disks and network storage, not the kernel's own."""

from __future__ import annotations

import os
from pathlib import Path

from clusterctl.facts import Filesystem
from clusterctl.probe.isolate import note
from clusterctl.probe.reading import Request, text

NETWORK = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "orangefs"),
        *("panfs", "pvfs2", "smb3", "virtiofs", "wekafs"),
    )
)
"""Kept although the kernel lists them as having no device (``nodev``)."""

OTHERS = frozenset({"overlay", "zfs"})
IMAGES = frozenset({"squashfs", "iso9660", "erofs"})
"""Full by nature."""


def read_filesystems(request: Request) -> list[Filesystem]:
    """Read every file system with files on it, once each, that this login can reach."""
    found: dict[str, Filesystem] = {}
    for device, mountpoint, fstype, options in _mounts(request.root):
        bound = "/" in device and any(each.device == device for each in found.values())
        if bound:  # the same files in a second place
            continue
        note(f"statvfs {mountpoint} ({fstype})")
        filesystem = _filesystem(request.root, device, mountpoint, fstype, options)
        if filesystem is not None:
            found[mountpoint] = filesystem
    return list(found.values())


def _filesystem(
    root: Path, device: str, mountpoint: str, fstype: str, options: str
) -> Filesystem | None:
    path = root / mountpoint.lstrip("/")
    try:
        status = os.statvfs(path)
        is_folder = path.is_dir()  # containers have single files of the host mounted in
    except (PermissionError, FileNotFoundError):  # within a folder closed to us, or unmounted
        return None
    if status.f_blocks == 0 or not is_folder:
        return None
    return Filesystem(
        mountpoint=mountpoint,
        device=device,
        fstype=fstype,
        total_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        inodes_total=status.f_files,
        inodes_free=status.f_favail,
        read_only="ro" in options.split(","),
    )


def _mounts(root: Path) -> list[tuple[str, str, str, str]]:
    pseudo = {
        line.split()[1]
        for line in text(root / "proc/filesystems").splitlines()
        if line.startswith("nodev") and len(line.split()) > 1
    }
    unwanted = (pseudo | IMAGES) - NETWORK - OTHERS
    mounts = []
    for line in text(root / "proc/mounts").splitlines():
        device, mountpoint, fstype, options = map(_unescape, line.split()[:4])
        if fstype in unwanted or fstype.startswith("fuse.gvfs") or fstype == "fuse.portal":
            continue
        if mountpoint.startswith("/run/host/"):  # systemd's door between host and container
            continue
        if fstype == "overlay" and mountpoint != "/":  # a container's, on a disk listed already
            continue
        mounts.append((device, mountpoint, fstype, options))
    return mounts


def _unescape(field: str) -> str:
    """Undo the octal escapes of ``/proc/mounts`` (proc(5)): space, tab, newline, backslash."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
