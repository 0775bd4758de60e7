"""Faults to inject into lab nodes. Each is one function: a value breaks, None makes whole."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from clusterctl.errors import UserError
from clusterctl.lab import cgroup, net, node
from clusterctl.lab.spec import LabSpec, NodeSpec, format_rate, parse_rate

Apply = Callable[[LabSpec, NodeSpec, str | None], None]


@dataclass(frozen=True)
class Fault:
    """A way in which a node can be broken.

    ``caught_by`` is the check that must notice it. ``normalize`` gives a value in the form that
    is kept, or raises :class:`UserError`. ``set`` gets the node with its faults as they are to
    be, and the value, or None to undo the fault; it may be called again with the same.
    """

    name: str
    help: str
    caught_by: str
    default: str
    normalize: Callable[[str], str]
    set: Apply
    needs: str = ""
    """The role that must have been applied, for there to be something to break."""


FAULTS: dict[str, Fault] = {}
"""Name -> fault."""


def fault(
    name: str,
    *,
    caught_by: str,
    default: str = "",
    normalize: Callable[[str], str] | None = None,
    needs: str = "",
) -> Callable[[Apply], Apply]:
    """Declare a fault; the function's docstring is its help."""

    def declare(function: Apply) -> Apply:
        text = (function.__doc__ or "").strip().splitlines()[0]
        check = normalize or (lambda value: _no_value(name, value))
        FAULTS[name] = Fault(name, text, caught_by, default, check, function, needs)
        return function

    return declare


def _no_value(name: str, value: str) -> str:
    if value:
        raise UserError(f"{name} takes no value", f"clusterctl lab fault add NODE {name}")
    return ""


def _rate(value: str) -> str:
    bits_per_s = parse_rate(value)
    if bits_per_s is None:
        raise UserError("a slow link needs a rate", "slow-link=50mbit")
    return format_rate(bits_per_s)


def _percent(value: str) -> str:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", value)
    if not match or not 0 < float(match[1]) <= 100:
        raise UserError(f"{value!r} is not a share of packets", "give one like 2%")
    return f"{float(match[1]):g}"


def _mebibytes(value: str) -> str:
    match = re.fullmatch(r"(\d+)(?:M|MB|MiB)?", value)
    if not match:
        raise UserError(f"{value!r} is not a size", "give the space to leave free, like 8M")
    return f"{match[1]}M"


def _seconds(value: str) -> str:
    match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)s?", value)
    if not match:
        raise UserError(f"{value!r} is not a time", "give seconds, like +120s or -0.5s")
    return f"{float(match[1]):+g}s"


@fault("slow-link", caught_by="node.network.bandwidth", default="50mbit", normalize=_rate)
def slow_link(spec: LabSpec, target: NodeSpec, value: str | None) -> None:  # noqa: ARG001 - in spec
    """Its NIC runs at this rate, both ways."""
    net.shape(spec, [target])


@fault("lossy-link", caught_by="node.network.loss", default="2", normalize=_percent)
def lossy_link(spec: LabSpec, target: NodeSpec, value: str | None) -> None:  # noqa: ARG001 - in spec
    """This percentage of its packets is lost, both ways."""
    net.set_loss(spec)


@fault("sshd-down", caught_by="node.reachable")
def sshd_down(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """Its SSH server is stopped."""
    verb = "enable" if value is None else "disable"
    node.run_inside(spec, target, ["systemctl", "--quiet", "--now", verb, "ssh.service"])


@fault("node-frozen", caught_by="node.reachable")
def node_frozen(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """Its processes stand still: connections open, no answer."""
    cgroup.freeze(spec, target, frozen=value is not None)


FILLER = "var/log/lab-disk-full.log"


@fault("disk-full", caught_by="node.disk.space", default="0M", normalize=_mebibytes)
def disk_full(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """A log file leaves this much of its disk free."""
    path = f"/{FILLER}"
    if value is None:
        node.run_inside(spec, target, ["rm", "-f", path])
        return
    leave = int(value.removesuffix("M"))
    fill = (
        f"rm -f {path}; free=$(df --output=avail -k / | tail -n 1);"
        f" fallocate -l $((free - {leave} * 1024 - 64))K {path};"
        # What allocation leaves over goes to plain blocks, down to the last.
        f" [ {leave} -gt 0 ] || cat /dev/zero >> {path} 2> /dev/null || true"
    )
    node.run_inside(spec, target, ["sh", "-c", fill])


_SUDO_CLOCK = "/etc/sudoers.d/lab-clock-skew"


@fault("clock-skew", caught_by="node.clock.offset", default="+120s", normalize=_seconds)
def clock_skew(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """Logins and their sudo see a clock that is this far off."""
    script = "sed -i /FAKETIME/d\\;/libfaketime/d /etc/environment"
    if value is None:
        script += f"; rm -f /etc/faketimerc {_SUDO_CLOCK} /dev/shm/*faketime_s*"
    else:
        script += f"""
            echo '{value}' > /etc/faketimerc
            echo 'Defaults env_file=/etc/environment' > {_SUDO_CLOCK}
            {{
                echo LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketime.so.1)
                echo FAKETIME_DONT_FAKE_MONOTONIC=1
                echo FAKETIME_TIMESTAMP_FILE=/etc/faketimerc
            }} >> /etc/environment"""
    node.run_inside(spec, target, ["sh", "-ec", f"touch /etc/environment; {script}"])


@fault("package-removed", caught_by="node.packages.wanted")
def package_removed(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """Chrony, which provision installed, was removed."""
    if value is not None:
        node.run_inside(spec, target, ["dpkg", "--force-depends", "--remove", "chrony"])
        return
    install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet"]
    options = ["-o", "DPkg::Lock::Timeout=60", "-o", "Dpkg::Options::=--force-confold"]
    node.run_inside(spec, target, [*install, "--no-install-recommends", *options, "chrony"])


@fault("service-stopped", caught_by="node.services.wanted")
def service_stopped(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """Chrony is stopped, and does not start at the next boot."""
    verb = "enable" if value is None else "disable"
    node.run_inside(spec, target, ["systemctl", "--quiet", "--now", verb, "chrony.service"])


EDIT = "# edited by hand"


@fault("file-edited", caught_by="node.files.wanted")
def file_edited(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """Somebody added a line to a file that provision wrote."""
    script = f"f=/etc/security/limits.d/90-clusterctl.conf; sed -i '/^{EDIT}$/d' $f"
    if value is not None:
        script += f"; echo '{EDIT}' >> $f"
    node.run_inside(spec, target, ["sh", "-ec", script])


@fault("provisioned-otherwise", caught_by="node.provision.current")
def provisioned_otherwise(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """Its record says that base was applied with another base_nofile than the inventory's."""
    before, after = ('"base_nofile": 7', '"base_nofile": ')
    if value is not None:
        before, after = after, before
    script = f"s/{before}/{after}/"
    node.run_inside(spec, target, ["sed", "-i", script, "/etc/clusterctl/provisioned/base.json"])


@fault("hold-lost", caught_by="node.packages.held", needs="nvidia_driver")
def hold_lost(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """The driver's packages are no longer held against upgrades."""
    kept = "/var/tmp/lab-holds"  # noqa: S108 - on the node, where root alone works
    script = f"apt-mark showhold > {kept}; xargs -r apt-mark unhold < {kept}"
    if value is None:
        script = f"xargs -r apt-mark hold < {kept}; rm {kept}"
    node.run_inside(spec, target, ["sh", "-ec", script])


@fault("module-missing", caught_by="node.modules.wanted", needs="nvidia_driver")
def module_missing(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """The newest kernel has no module of the driver's, as after an upgrade without its headers."""
    before, after = ("", ".lab") if value is not None else (".lab", "")
    script = f"""
        folder=$(ls -d /lib/modules/*/updates/dkms | sort -V | tail -n 1)
        for file in "$folder"/nvidia*.ko{before} "$folder"/nvidia*.ko.[gxz]*{before}; do
            [ ! -e "$file" ] || mv "$file" "${{file%.lab}}{after}"
        done
        echo "$folder" | cut -d/ -f4 | xargs depmod
    """
    node.run_inside(spec, target, ["sh", "-ec", script])


@fault("libraries-behind", caught_by="node.gpu.driver", needs="nvidia_driver")
def libraries_behind(spec: LabSpec, target: NodeSpec, value: str | None) -> None:
    """Programs load the driver's libraries in another version than its module's."""
    script = "cd /usr/lib/$(uname -m)-linux-gnu; link=libnvidia-ml.so.1; old=libnvidia-ml.so.1.0.1"
    if value is None:
        script += "; mv $link.lab $link; rm $old"
    else:
        script += "; mv $link $link.lab; : > $old; ln -s $old $link"
    node.run_inside(spec, target, ["sh", "-ec", script])


def parse(text: str) -> tuple[Fault, str]:
    """Read ``FAULT`` or ``FAULT=VALUE``."""
    name, given, value = text.partition("=")
    found = FAULTS.get(name)
    if found is None:
        raise UserError(f"there is no fault {name!r}", f"choose from {', '.join(FAULTS)}")
    return found, found.normalize(value if given else found.default)


def add(spec: LabSpec, target: NodeSpec, text: str) -> LabSpec:
    """Break the node; written down before, so that a killed command's fault can be undone."""
    found, value = parse(text)
    broken = replace(target, faults=target.faults | {found.name: value})
    with_fault = spec.with_node(broken)
    with_fault.save()
    try:
        found.set(with_fault, broken, value)
    except UserError:
        with contextlib.suppress(UserError):
            clear(with_fault, broken, found.name)
        spec.save()
        raise
    return with_fault


def clear(spec: LabSpec, target: NodeSpec, name: str) -> LabSpec:
    """Undo one fault of the node."""
    if name not in target.faults:
        return spec
    left = {other: value for other, value in target.faults.items() if other != name}
    target = replace(target, faults=left)
    healed = spec.with_node(target)
    FAULTS[name].set(healed, target, None)
    healed.save()
    return healed


def in_clearing_order(target: NodeSpec) -> list[str]:
    """The node's faults, in the order to undo them: a frozen node can be mended in nothing else."""
    return sorted(target.faults, key=lambda name: name != "node-frozen")
