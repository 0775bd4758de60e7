"""The record of what the roles established, and what is there: on captured trees, and for real."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterctl.facts import NodeFacts, Promise, Provisioned, Unread
from clusterctl.probe import state
from clusterctl.probe.promises import FOLDER, read_promises
from clusterctl.probe.reading import Request

Tree = Callable[..., Path]
Commands = Callable[..., None]

DPKG_STATUS = """\
Package: chrony
Status: install ok installed
Architecture: amd64
Version: 4.3-2+deb12u1

Package: nvidia-driver
Status: hold ok installed
Architecture: amd64
Version: 535.247.01-1~deb12u1

Package: half-done
Status: install ok half-configured
Architecture: amd64
Version: 1.0

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
"""


def record(
    role: str = "base", promises: list[dict[str, str]] | None = None, **variables: Any
) -> str:
    return json.dumps({"role": role, "variables": variables, "promises": promises or []})


def entry(kind: str, name: str, wanted: str = "", variable: str = "") -> dict[str, str]:
    return {"kind": kind, "name": name, "wanted": wanted, "variable": variable}


def found(root: Path, kind: str, *names: str) -> dict[str, str | Unread]:
    """What the probe finds in the tree for promises of this kind."""
    path = root / FOLDER / "base.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record(promises=[entry(kind, name) for name in names]))
    provisioned = read_promises(Request(root=root))
    assert isinstance(provisioned, Provisioned), provisioned
    return {promise.name: promise.found for promise in provisioned.promises}


def kinds(values: dict[str, str | Unread]) -> dict[str, str]:
    return {k: v.unread if isinstance(v, Unread) else v for k, v in values.items()}


def test_a_record_is_read(tree: Tree) -> None:
    promises = [entry("file", "/etc/x", "5e1f", "base_x")]
    files = {f"{FOLDER}/base.json": record(promises=promises, base_x=[1, "a"]), "etc/x": "text"}
    provisioned = read_promises(Request(root=tree(files)))
    digest = hashlib.sha256(b"text").hexdigest()
    assert provisioned == Provisioned(
        {"base": {"base_x": '[1, "a"]'}},
        [Promise("base", "file", "/etc/x", "5e1f", "base_x", digest)],
    )


@pytest.mark.parametrize("files", [{"etc/os-release": ""}, {f"{FOLDER}/notes": "no record"}])
def test_no_record_is_never_provisioned(tree: Tree, files: dict[str, str]) -> None:
    provisioned = read_promises(Request(root=tree(files)))
    assert isinstance(provisioned, Unread)
    assert provisioned.unread == "absent"


@pytest.mark.parametrize(
    ("path", "mode", "owner"),
    [
        (FOLDER, 0o777, 0),
        (FOLDER, 0o755, 1000),
        (f"{FOLDER}/base.json", 0o664, 0),
        (f"{FOLDER}/base.json", 0o644, 1000),
    ],
)
def test_a_record_that_others_can_write_proves_nothing(
    read: Callable[..., NodeFacts], tree: Tree, path: str, mode: int, owner: int
) -> None:
    root = tree({f"{FOLDER}/base.json": record()})
    (root / path).chmod(mode)
    os.chown(root / path, owner, 0)
    provisioned = read("--root", str(root)).provisioned
    assert isinstance(provisioned, Unread)
    assert provisioned.unread == "denied"
    assert "not root's alone to write" in provisioned.why


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        record(role="b" * 5000),
        record(base_x="b" * 5000),
        record(promises=[{"kind": "file"}]),
        record(promises=[{**entry("file", "x"), "wanted": 1}]),
        record(promises=[entry("file", "x")] * 3000),
        " " * 500_000,
    ],
    ids=range(9),
)
def test_a_record_that_is_none_is_said_to_be(
    read: Callable[..., NodeFacts], tree: Tree, content: str
) -> None:
    provisioned = read("--root", str(tree({f"{FOLDER}/base.json": content}))).provisioned
    assert isinstance(provisioned, Unread)
    assert provisioned.unread == "failed"


def test_a_record_that_is_a_link_is_not_followed(
    read: Callable[..., NodeFacts], tree: Tree
) -> None:
    root = tree({"elsewhere.json": record(), f"{FOLDER}/base.json": "-> ../../../elsewhere.json"})
    assert isinstance(read("--root", str(root)).provisioned, Unread)


def test_a_kind_of_a_newer_version(tree: Tree) -> None:
    assert kinds(found(tree({"etc/x": ""}), "firmware", "ConnectX-7")) == {
        "ConnectX-7": "unsupported"
    }


def test_packages_of_dpkg(tree: Tree) -> None:
    root = tree({"var/lib/dpkg/status": DPKG_STATUS})
    names = ("chrony", "nvidia-driver", "half-done", "gone", "never-there")
    values = found(root, "package", *names)
    assert kinds(values) == {
        "chrony": "4.3-2+deb12u1",
        "nvidia-driver": "535.247.01-1~deb12u1",
        "half-done": "absent",
        "gone": "absent",
        "never-there": "absent",
    }
    assert "half-configured" in values["half-done"].why


def test_holds_of_dpkg(tree: Tree) -> None:
    root = tree({"var/lib/dpkg/status": DPKG_STATUS})
    assert found(root, "hold", "nvidia-driver", "chrony") == {
        "nvidia-driver": "held",
        "chrony": "not held",
    }


def test_a_name_is_never_an_option(tree: Tree) -> None:
    assert kinds(found(tree({"etc/x": ""}), "package", "--admindir=/tmp")) == {
        "--admindir=/tmp": "failed"
    }


@pytest.fixture
def rpm(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose packages are rpm's."""
    rows = r"nvidia-driver|3:550.54.15-1.el9\nchrony|(none):4.5-1.el9\n"
    commands({"rpm": f"printf '{rows}'; echo package gone is not installed; exit 1"})
    real = state.find_command
    monkeypatch.setattr(state, "find_command", lambda n: None if n == "dpkg-query" else real(n))


def test_packages_of_rpm(tree: Tree, rpm: None) -> None:
    assert kinds(found(tree({"etc/x": ""}), "package", "nvidia-driver", "chrony", "gone")) == {
        "nvidia-driver": "3:550.54.15-1.el9",
        "chrony": "4.5-1.el9",
        "gone": "absent",
    }


def test_locks_of_dnf(tree: Tree, rpm: None) -> None:
    lines = "# made by dnf\nnvidia-driver-3:550.54.15-1.el9.*\n!excluded-0:1-1.*\nkernel*\n"
    root = tree({"etc/dnf/plugins/versionlock.list": lines})
    assert found(root, "hold", "nvidia-driver", "nvidia", "excluded", "kernel") == {
        "nvidia-driver": "held",
        "nvidia": "not held",
        "excluded": "not held",
        "kernel": "held",
    }


def test_services(tree: Tree, commands: Commands) -> None:
    blocks = [
        r"LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n",
        r"LoadState=not-found\nActiveState=inactive\nUnitFileState=\n",
        r"LoadState=loaded\nActiveState=failed\nUnitFileState=disabled\n",
    ]
    commands({"systemctl": "printf '" + r"\n".join(blocks) + "'"})
    assert kinds(found(tree({"etc/x": ""}), "service", "a.service", "b.service", "c.timer")) == {
        "a.service": "enabled active",
        "b.service": "absent",
        "c.timer": "disabled failed",
    }


def test_a_systemd_that_does_not_answer(tree: Tree, commands: Commands) -> None:
    commands({"systemctl": "echo 'Failed to connect to bus' >&2; exit 1"})
    assert kinds(found(tree({"etc/x": ""}), "service", "a.service")) == {"a.service": "failed"}


def test_kernel_parameters(tree: Tree) -> None:
    files = {
        "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
        "proc/sys/net/ipv4/conf/eth0.7/forwarding": "1\n",
    }
    names = (
        "net.ipv4.tcp_rmem",
        "net/ipv4/conf/eth0.7/forwarding",
        "net.ipv4.conf.eth0/7.forwarding",
    )
    assert kinds(found(tree(files), "sysctl", *names, "vm.none", "net/../../../etc/x")) == {
        names[0]: "4096 131072 6291456",
        names[1]: "1",
        names[2]: "1",
        "vm.none": "absent",
        "net/../../../etc/x": "failed",
    }


def test_files(tree: Tree) -> None:
    root = tree({"etc/there": "x"})
    os.mkfifo(root / "etc/fifo")
    assert kinds(
        found(root, "file", "/etc/there", "/etc/gone", "/etc/fifo", "/etc/there/below")
    ) == {
        "/etc/there": hashlib.sha256(b"x").hexdigest(),
        "/etc/gone": "absent",
        "/etc/fifo": "unsupported",
        "/etc/there/below": "absent",
    }


MODINFO = r"""
case "$3 $*" in
  "6.1.0-28"*) printf 'filename: /lib/6.1.0-28/updates/dkms/nvidia-current.ko\nversion: 535.1\n';;
  "6.1.0-30"*) printf 'filename: /lib/6.1.0-30/updates/nvidia_peermem.ko.xz\nalias: x\n'
               echo 'modinfo: ERROR: Module nvidia-current not found.' >&2; exit 1;;
esac
"""


def test_modules_of_every_kernel_that_can_boot(tree: Tree, commands: Commands) -> None:
    files = {f"lib/modules/6.1.0-{n}/kernel/x.ko": "" for n in (28, 30)}
    root = tree({**files, "lib/modules/6.1.0-31/build": "-> /usr/src/linux"})
    commands({"modinfo": MODINFO})
    assert found(root, "module", "nvidia-current", "nvidia-peermem") == {
        "nvidia-current": "6.1.0-28=535.1 6.1.0-30=none",
        "nvidia-peermem": "6.1.0-28=none 6.1.0-30=unversioned",
    }


def test_kernels_to_build_for(tree: Tree) -> None:
    root = tree({f"lib/modules/6.1.0-{n}/build": "-> /usr/src/linux" for n in (28, 30)})
    assert state.bootable_kernels(root) == ["6.1.0-28", "6.1.0-30"]


def test_no_kernel(tree: Tree) -> None:
    assert kinds(found(tree({"etc/x": ""}), "module", "nvidia")) == {"nvidia": "absent"}


def test_module_options(tree: Tree, commands: Commands) -> None:
    config = "options nvidia_current NVreg_EnableMSI=0 NVreg_EnableMSI=1\nalias x y\n"
    commands({"modprobe": f"printf '{config}'"})
    files = {
        "sys/module/nvidia_drm/parameters/modeset": "Y\n",
        "proc/driver/nvidia/params": 'EnableGpuFirmware: 18\nRegistryDwords: "a=b"\n',
    }
    names = (
        "nvidia-drm modeset",
        "nvidia NVreg_EnableGpuFirmware",
        "nvidia-current NVreg_EnableMSI",
    )
    assert kinds(found(tree(files), "module_option", *names, "mlx5_core prof_sel")) == {
        names[0]: "Y",
        names[1]: "18",
        names[2]: "1",
        "mlx5_core prof_sel": "absent",
    }


def test_all_kinds_of_this_machine_are_read(tmp_path: Path) -> None:
    """Against what this machine's own commands say."""
    request = Request()
    dpkg = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "coreutils"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert state.packages(request, ["coreutils"]) == {"coreutils": dpkg.stdout}
    assert state.holds(request, ["coreutils"])["coreutils"] in ("held", "not held")
    (value,) = state.kernel_parameters(request, ["kernel.ostype"]).values()
    assert value in ("Linux", "Linux (read-only)")
