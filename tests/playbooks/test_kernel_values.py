"""The module that gives the kernel values, on a tree of files and on the kernel itself."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, value in {
        "proc/sys/vm/max_map_count": "65530",
        "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456",
        "proc/sys/net/ipv4/conf/eth0.5/arp_ignore": "0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(value + "\n")
    return tmp_path


GOVERNOR = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"


def test_values_are_set_where_they_differ(module: ModuleType, root: Path) -> None:
    values = {
        "vm.max_map_count": "1048576",
        "net.ipv4.tcp_rmem": "4096 131072 6291456",
        "net/ipv4/conf/eth0.5/arp_ignore": "1",
        GOVERNOR: "performance",
        "vm.unheard_of": "1",
    }
    for _ in range(2):
        kernel = module.Kernel(str(root))
        for name, value in values.items():
            kernel.apply(name, value)
        assert kernel.kept == {"vm.unheard_of": module.ABSENT}
        changed = kernel.changed
        assert "net.ipv4.tcp_rmem" not in changed
    assert changed == []
    assert (root / "proc/sys/vm/max_map_count").read_text() == "1048576\n"
    assert (root / GOVERNOR.lstrip("/").replace("*", "0")).read_text() == "performance\n"


def test_a_dry_run_says_what_would_change_and_changes_nothing(
    module: ModuleType, root: Path
) -> None:
    kernel = module.Kernel(str(root), dry=True)
    kernel.apply("vm.max_map_count", "1048576")
    assert kernel.changed == ["vm.max_map_count"]
    assert (root / "proc/sys/vm/max_map_count").read_text() == "65530\n"


def test_what_the_kernel_does_not_take_is_told_with_its_reason(module: ModuleType) -> None:
    kept = {"vm.nr_hugepages": module.READ_ONLY, "vm.max_map_count": module.READ_ONLY}
    kept |= {"net.x": module.ABSENT}
    said = module.note(kept)
    assert said == "vm.nr_hugepages, vm.max_map_count: read-only here; net.x: absent here"
    assert module.note({}) == ""


def test_the_kernel_itself_is_told(module: ModuleType) -> None:
    """In a network namespace of its own, whose parameters are nobody else's."""
    program = (
        f"import runpy; module = runpy.run_path({module.__file__!r}); kernel = module['Kernel']();"
        "kernel.apply('net.ipv4.conf.all.arp_ignore', '1');"
        "kernel.apply('net.ipv4.conf.all.arp_announce', 'nonsense');"
        "print(kernel.changed, kernel.kept)"
    )
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        "['net.ipv4.conf.all.arp_ignore'] {'net.ipv4.conf.all.arp_announce': 'Invalid argument'}\n"
    )
