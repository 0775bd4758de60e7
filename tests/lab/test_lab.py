"""The lab itself: what it brings up works, and it leaves nothing behind however it ends."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clusterctl.errors import UserError
from clusterctl.findings import ExitCode
from clusterctl.lab import preflight
from clusterctl.lab.cgroup import hierarchies

BIN = Path(sys.executable).parent
CLUSTERCTL = str(BIN / "clusterctl")
ROUND_LAB = "round-trip"
TOP = "clusterctl-lab"


def until(condition: Callable[[], bool], deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)


PLACES = ("/var/lib/clusterctl", "/run/clusterctl", "/run/systemd/nspawn", "/run/netns")
SETTINGS = ("net/ipv4/ip_forward", "fs/inotify/max_user_instances")


def footprint() -> set[str]:
    """All that labs could leave on this machine, except in the cache that outlives them."""
    tables = json.loads(run("nft", "-j", "list", "tables"))["nftables"]
    backing = Path("/sys/block").glob("loop*/loop/backing_file")
    return {
        *(f"interface {name}" for _, name in socket.if_nameindex()),
        *(f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines()),
        *(f"loop device of {path.read_text().strip()}" for path in backing),
        *(f"nft table {item['table']['name']}" for item in tables if "table" in item),
        *(f"process in {group}: {command}" for group, command in processes()),
        *(f"cgroup {path}" for path, _, _ in os.walk("/sys/fs/cgroup") if TOP in path),
        *(f"file {path}" for top in PLACES for path in files(top) if not held(path)),
        *(f"{name} = {Path('/proc/sys', name).read_text()}" for name in SETTINGS),
    }


def files(top: str) -> Iterator[str]:
    """Paths below a folder, but not what is mounted there."""
    for root, folders, names in os.walk(top):
        yield from (f"{root}/{name}" for name in (*folders, *names))
        folders[:] = [name for name in folders if not os.path.ismount(f"{root}/{name}")]


def held(path: str) -> bool:
    """Whether it is the lock of a systemd-nspawn that runs, of whichever lab."""
    if "/locks/" not in path:
        return False
    with contextlib.suppress(FileNotFoundError), Path(path).open("r+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
    return True


def processes() -> Iterator[tuple[str, str]]:
    """Group and command line of all that runs in labs or keeps their nodes.

    A zombie has ended; only this machine's init has yet to notice.
    """
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        with contextlib.suppress(OSError):
            groups = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
            command = " ".join(process.info["cmdline"] or [])
            yield from ((group, command) for group in groups if TOP in group)


def other_labs() -> list[str]:
    """Patterns of what belongs to labs that are none of this test's business."""
    specs = [json.loads(path.read_text()) for path in Path(PLACES[0]).glob("lab/*/lab.json")]
    others = [spec for spec in specs if spec["name"] != ROUND_LAB]
    patterns = [rf"\bclab{spec['index']}(n\d+)?\b" for spec in others]
    return patterns + [rf"(lab|{TOP})/{spec['name']}\b" for spec in others]


def leftovers(before: set[str]) -> set[str]:
    patterns = other_labs()
    new = footprint() - before
    patterns += other_labs()  # those that began meanwhile
    return {what for what in new if not any(re.search(pattern, what) for pattern in patterns)}


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def other(lab: Any) -> Iterator[Any]:
    """A second lab beside the shared one, not yet up."""
    second = type(lab)(ROUND_LAB)
    second.cli("down")
    yield second
    second.cli("down")


def test_nodes_are_real_machines(lab: Any) -> None:
    assert lab.states() == {f"node{number}": "up" for number in range(1, 5)}
    assert lab.run("node2", "hostname; id -un; sudo id -un").split() == ["node2", "ops", "root"]
    until(lambda: lab.run("node2", "systemctl is-system-running", check=False) == "running\n")
    inits = {lab.run(f"node{number}", "cat /etc/machine-id") for number in (1, 2, 3, 4)}
    assert len(inits) == 4


def test_inventory_works_with_strict_host_keys(lab: Any) -> None:
    hosts = json.loads(run(str(BIN / "ansible-inventory"), "-i", str(lab.inventory), "--list"))
    variables = hosts["_meta"]["hostvars"]["node1"]
    argv = ["ssh", "-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    argv += variables["ansible_ssh_common_args"].split()
    argv += ["-i", variables["ansible_ssh_private_key_file"]]
    target = f"{variables['ansible_user']}@{variables['ansible_host']}"
    assert run(*argv, target, "hostname") == "node1\n"


def test_up_again_leaves_running_nodes_alone(lab: Any) -> None:
    before = lab.run("node1", "cat /proc/sys/kernel/random/boot_id")
    lab.cli("up")
    assert lab.run("node1", "cat /proc/sys/kernel/random/boot_id") == before


def test_stopping_a_service_leaves_the_neighbours_alone(lab: Any) -> None:
    lab.root("node1", "systemctl stop ssh")
    assert lab.states()["node1"] == "no ssh"
    assert lab.run("node2", "systemctl is-active ssh") == "active\n"
    lab.root("node1", "systemctl start ssh")
    assert lab.states()["node1"] == "up"


def test_a_rebooted_node_comes_back_with_its_disk(lab: Any) -> None:
    before = lab.run("node3", "sudo touch /var/kept /run/lost; cat /proc/sys/kernel/random/boot_id")
    lab.root("node3", "systemctl reboot", check=False)
    until(lambda: lab.run("node3", "true; cat /proc/sys/kernel/random/boot_id", check=False)
          not in ("", before))  # fmt: skip
    assert lab.run("node3", "ls /var/kept; ls /run/lost", check=False) == "/var/kept\n"
    until(lambda: lab.run("node3", "ping -c 1 -q node3 > /dev/null && echo yes") == "yes\n")


def test_a_node_that_was_switched_off_starts_again(lab: Any) -> None:
    lab.root("node4", "systemctl poweroff", check=False)
    until(lambda: lab.states()["node4"] == "off")
    lab.cli("up")
    assert lab.states()["node4"] == "up"


def test_a_killed_keeper_is_replaced(lab: Any) -> None:
    keeper = int(Path(f"/run/clusterctl/lab/{lab.name}/node4/keeper.pid").read_text())
    os.kill(keeper, signal.SIGKILL)
    lab.cli("up")
    assert lab.states()["node4"] == "up"
    assert int(Path(f"/run/clusterctl/lab/{lab.name}/node4/keeper.pid").read_text()) != keeper


def test_nodes_reach_the_package_mirror(lab: Any) -> None:
    assert "Reading package lists" in lab.run("node1", "sudo apt-get update")


def test_up_and_down_leave_nothing(other: Any) -> None:
    before = footprint()
    other.cli("up", "--nodes", "2")
    kinds = {what.split()[0] for what in leftovers(before)}
    assert kinds == {"interface", "mount", "loop", "nft", "cgroup", "process", "file"}
    other.cli("up", "--nodes", "3", "--nic", "unshaped")
    assert other.states() == {"node1": "up", "node2": "up", "node3": "up"}
    assert "unshaped" in other.cli("status")
    other.cli("fault", "add", "node1", "lossy-link")
    other.cli("fault", "add", "node2", "node-frozen")
    other.cli("down")
    assert leftovers(before) == set()


STAGES: dict[str, Callable[[], bool]] = {
    "begun": lambda: True,
    "written down": lambda: Path(f"/var/lib/clusterctl/lab/{ROUND_LAB}/lab.json").exists(),
    "plugged in": lambda: any("/node1/" in path for path in round_trip_mounts()) or plugged_in(),
    "disk mounted": lambda: any(path.endswith("/disk") for path in round_trip_mounts()),
    "root mounted": lambda: any(path.endswith("/root") for path in round_trip_mounts()),
    "group made": lambda: (hierarchies()[0].mountpoint / TOP / ROUND_LAB).exists(),
    "started": lambda: Path(f"/run/clusterctl/lab/{ROUND_LAB}/node1/keeper.pid").exists(),
    "all started": lambda: Path(f"/run/clusterctl/lab/{ROUND_LAB}/node3/keeper.pid").exists(),
}


def round_trip_mounts() -> list[str]:
    lines = Path("/proc/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if f"/{ROUND_LAB}/" in line]


def plugged_in() -> bool:
    with contextlib.suppress(OSError, ValueError):
        spec = json.loads(Path(f"/var/lib/clusterctl/lab/{ROUND_LAB}/lab.json").read_text())
        return Path(f"/run/netns/clab{spec['index']}n1").exists()
    return False


def up_until(stage: str, number: signal.Signals) -> int:
    """Start a lab and send a signal as soon as it has come this far."""
    argv = [CLUSTERCTL, "lab", "up", "--name", ROUND_LAB, "--nodes", "3"]
    process = subprocess.Popen(
        argv,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # What starts these tests in the background may ignore the signal, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not STAGES[stage]():
        time.sleep(0.002)
    process.send_signal(number)
    return process.wait(60)


@pytest.mark.parametrize("stage", STAGES)
def test_down_after_a_killed_up_leaves_nothing(other: Any, stage: str) -> None:
    before = footprint()
    up_until(stage, signal.SIGKILL)
    other.cli("down")
    assert leftovers(before) == set()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.usefixtures("other")
def test_an_interrupted_up_leaves_nothing(stage: str) -> None:
    before = footprint()
    assert up_until(stage, signal.SIGINT) in (ExitCode.INTERRUPTED, -signal.SIGINT)
    assert leftovers(before) == set()


@pytest.mark.parametrize("delay_s", [0.3, 0.5, 0.8])
def test_down_ends_what_a_killed_down_left(other: Any, delay_s: float) -> None:
    before = footprint()
    other.cli("up", "--nodes", "3")
    process = subprocess.Popen([CLUSTERCTL, "lab", "down", "--name", ROUND_LAB])
    time.sleep(delay_s)
    process.kill()
    process.wait(60)
    other.cli("down")
    assert leftovers(before) == set()


def test_down_ends_a_lab_whose_keepers_were_killed(other: Any) -> None:
    before = footprint()
    other.cli("up", "--nodes", "2")
    for path in Path(f"/run/clusterctl/lab/{ROUND_LAB}").glob("*/keeper.pid"):
        os.kill(int(path.read_text()), signal.SIGKILL)
    other.cli("down")
    assert leftovers(before) == set()


def test_up_mends_what_a_killed_up_left(other: Any) -> None:
    up_until("started", signal.SIGKILL)
    other.cli("up")
    assert other.states() == {"node1": "up", "node2": "up", "node3": "up"}


def test_releases_can_be_mixed(other: Any) -> None:
    other.cli("up", "--release", "bookworm:1,trixie:1")
    versions = [other.run(node, "cut -d. -f1 /etc/debian_version") for node in ("node1", "node2")]
    assert versions == ["12\n", "13\n"]
    other.root("node2", "systemctl reboot", check=False)
    until(lambda: other.states()["node2"] == "up" and uptime_s(other, "node2") < 30)
    other.cli("fault", "add", "node2", "clock-skew=+1000s")
    assert abs(clock(other, "node2", "sudo date +%s") - time.time() - 1000) < 60


def uptime_s(lab: Any, node: str) -> float:
    text = lab.root(node, "ps -o etimes= -p 1", check=False).strip()
    return float(text) if text else 1e9


def clock(lab: Any, node: str, command: str = "date +%s") -> float:
    return float(lab.run(node, command))


def megabits_per_s(lab: Any, source: str, target: str, size: int = 4_000_000) -> float:
    """Bandwidth of a plain TCP stream between two nodes, with what is on a bare node."""
    serve = (
        "import socket,time; s=socket.create_server(('',5301)); c,_=s.accept(); n=0\n"
        "c.recv(1); t=time.monotonic()\n"
        "while (d:=c.recv(1<<16)): n+=len(d)\n"
        "print(n*8/1e6/(time.monotonic()-t))"
    )
    send = (
        "import socket,sys,time\n"
        "for _ in range(50):\n"
        "  try: s=socket.create_connection((sys.argv[1],5301)); break\n"
        "  except OSError: time.sleep(.1)\n"
        f"s.sendall(bytes({size}))"
    )
    address = lab.run(target, "ip -4 -br address show eth0").split()[2].split("/")[0]
    argv = [CLUSTERCTL, "lab", "shell", "--name", lab.name, target]
    server = subprocess.Popen(
        [*argv, f'python3 -c "{serve}"'], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    lab.run(source, f'python3 -c "{send}" {address}')
    out, _ = server.communicate(timeout=60)
    return float(out)


def test_slow_link_is_slow_both_ways_and_heals(lab: Any) -> None:
    lab.cli("fault", "add", "node3", "slow-link=20mbit")
    assert megabits_per_s(lab, "node3", "node1") < 24
    assert megabits_per_s(lab, "node1", "node3") < 24
    lab.cli("fault", "clear", "node3")
    assert megabits_per_s(lab, "node1", "node3", 12_000_000) > 60


def lost_percent(lab: Any, source: str, target: str) -> float:
    report = lab.run(source, f"ping -q -i 0.01 -c 300 -W 1 {target}", check=False)
    return float(report.split("% packet loss")[0].split()[-1])


def test_lossy_link_loses_and_heals(lab: Any) -> None:
    address = lab.run("node2", "ip -4 -br address show eth0").split()[2].split("/")[0]
    lab.cli("fault", "add", "node2", "lossy-link=10%")
    assert 8 < lost_percent(lab, "node1", address) < 32, "10 % each way is 19 %"
    lab.cli("fault", "clear", "node2", "lossy-link")
    assert lost_percent(lab, "node1", address) == 0


def test_sshd_down_and_back(lab: Any) -> None:
    lab.cli("fault", "add", "node2", "sshd-down")
    assert lab.states()["node2"] == "no ssh"
    assert lab.process("shell", "node2", "true").returncode == 255
    lab.cli("up")
    lab.cli("fault", "clear", "node2")
    assert lab.states()["node2"] == "up"


def test_frozen_node_accepts_and_says_nothing(lab: Any) -> None:
    address = lab.run("node2", "ip -4 -br address show eth0").split()[2].split("/")[0]
    lab.cli("fault", "add", "node2", "node-frozen")
    assert lab.states() == {"node1": "up", "node2": "frozen", "node3": "up", "node4": "up"}
    with socket.create_connection((address, 22), timeout=5) as connection:
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    lab.cli("fault", "clear")
    assert lab.states()["node2"] == "up"


def test_full_disk_refuses_and_heals(lab: Any) -> None:
    write = "dd if=/dev/zero of=/var/tmp/x bs=1M count=1 2>&1; rm -f /var/tmp/x"
    lab.cli("fault", "add", "node4", "disk-full")
    assert "No space left" in lab.run("node4", write)
    assert "No space left" in lab.run("node4", f"sudo sh -c '{write}'")
    assert "No space left" not in lab.run("node1", write)
    lab.cli("fault", "add", "node4", "disk-full=8M")
    assert "No space left" not in lab.run("node4", write)
    lab.cli("fault", "clear")
    free_kib = int(lab.run("node4", "df --output=avail / | tail -n 1"))
    assert free_kib > 4 * 2**20


def test_clock_skew_shows_in_sessions_and_sudo_and_heals(lab: Any) -> None:
    lab.cli("fault", "add", "node1", "clock-skew=-500s")
    for command in (
        "date +%s",
        "sudo date +%s",
        "sudo python3 -c 'import time; print(time.time())'",
    ):
        assert abs(clock(lab, "node1", command) - time.time() + 500) < 60
    assert abs(clock(lab, "node2") - time.time()) < 60
    lab.cli("fault", "clear", "node1", "clock-skew")
    assert abs(clock(lab, "node1", "sudo date +%s") - time.time()) < 60


def test_faults_add_up_and_outlive_a_restart(lab: Any) -> None:
    for fault in ("sshd-down", "clock-skew", "node-frozen"):
        lab.cli("fault", "add", "node2", fault)
    refused = lab.process("fault", "add", "node2", "disk-full")
    assert refused.returncode == 2
    assert "frozen" in refused.stderr
    os.kill(
        int(Path(f"/run/clusterctl/lab/{lab.name}/node2/keeper.pid").read_text()), signal.SIGKILL
    )
    lab.cli("up")
    assert lab.states()["node2"] == "frozen"
    lab.cli("fault", "clear")
    until(lambda: lab.states()["node2"] == "up")
    assert abs(clock(lab, "node2", "sudo date +%s") - time.time()) < 60


def test_faults_are_listed(lab: Any) -> None:
    lab.cli("fault", "add", "node1", "slow-link=30mbit")
    assert "slow-link=30mbit" in lab.cli("status")
    row = next(line for line in lab.cli("fault", "list").splitlines() if "slow-link" in line)
    assert "node1" in row.split()
    lab.cli("fault", "clear")
    assert "slow-link" not in lab.cli("status")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status",), "is not up"),
        (("inventory",), "is not up"),
        (("shell", "node1"), "is not up"),
        (("fault", "add", "node1", "slow-link"), "is not up"),
        (("up", "--nic", "fast"), "is not a rate"),
        (("up", "--release", "sid"), "no release"),
    ],
)
def test_errors_say_what_and_leave_nothing(
    other: Any, arguments: tuple[str, ...], words: str
) -> None:
    done = other.process(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert not Path(f"/var/lib/clusterctl/lab/{ROUND_LAB}").exists()


@pytest.mark.usefixtures("other")
def test_missing_tool_names_the_package(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("ip", "tc", "nft", "mkfs.ext4", "ssh-keygen", "mount", "nsenter", "unshare"):
        path = run("sh", "-c", f"PATH=$PATH:/usr/sbin command -v {tool}").strip()
        (tools / tool).symlink_to(path)
    argv = [CLUSTERCTL, "lab", "up", "--name", ROUND_LAB]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env={"PATH": str(tools)}
    )
    assert done.returncode == 2
    assert "systemd-nspawn" in done.stderr
    assert "systemd-container" in done.stderr


def test_an_ordinary_user_is_told_to_use_sudo() -> None:
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            preflight.require_root()
        except UserError as error:
            os._exit(0 if "sudo" in error.next_step else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
