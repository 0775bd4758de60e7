"""Every role, on every supported distribution, from every source, as far as goes without a node.

The real playbook runs in check mode on this machine, with a stand-in for each of our modules that
answers as a bare node would (stub.py), so that every variable is resolved and every task is chosen
by Ansible itself. What the roles ask for is compared with what is wanted of them.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
PLAYBOOKS = HERE.parents[1] / "playbooks"
ROLES = sorted(path.name for path in (PLAYBOOKS / "roles").iterdir())
PLAYED = ["base", "rdma", "nvidia_driver", "cuda", "nccl", "container_toolkit", "dcgm", "mpi"]
GPU_ROLES = ["nvidia_driver", "cuda", "nccl", "container_toolkit", "dcgm"]

SYSTEMS = {
    "debian12": ("Debian", "12", "Debian", "apt"),
    "debian13": ("Debian", "13", "Debian", "apt"),
    "ubuntu2204": ("Ubuntu", "22.04", "Debian", "apt"),
    "ubuntu2404": ("Ubuntu", "24.04", "Debian", "apt"),
    "rhel9": ("Rocky", "9", "RedHat", "dnf"),
    "rhel10": ("RedHat", "10", "RedHat", "dnf"),
}
PAIRS = [(system, source) for system in SYSTEMS for source in ("distro", "vendor")]
# Where packages come from makes no difference to their names.
PAIRS += [("debian13", "mirror"), ("rhel9", "mirror")]
FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"

ABSENT = {
    # Who has no packages of what, in the distribution's and in the vendor's repository.
    "nvidia_driver": {"distro": ["rhel9", "rhel10"]},
    "cuda": {"distro": ["rhel9", "rhel10"]},
    "nccl": {"distro": ["debian12", "ubuntu2204", "ubuntu2404", "rhel9", "rhel10"]},
    "container_toolkit": {"distro": list(SYSTEMS)},
    "dcgm": {"distro": list(SYSTEMS), "vendor": ["debian13"]},
    "rdma": {"vendor": ["debian13"]},
}


@dataclass(frozen=True)
class Line:
    """What a task of a role came to on a node."""

    outcome: str
    host: str
    role: str
    task: str
    result: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run of the playbook came to."""

    lines: list[Line]

    def of(self, host: str, role: str = "") -> list[Line]:
        return [line for line in self.lines if line.host == host and role in ("", line.role)]

    def asked(self, host: str, role: str, module: str) -> list[dict[str, Any]]:
        """Give the arguments that a role gave to one of our modules."""
        asked = (line.result.get("asked", {}) for line in self.of(host, role))
        return [arguments for arguments in asked if arguments.get("module") == module]

    def packages(self, host: str, role: str) -> list[str]:
        return [name for asked in self.asked(host, role, "installed") for name in asked["names"]]

    def written(self, host: str, role: str) -> dict[str, str]:
        files: dict[str, str] = {}
        for asked in self.asked(host, role, "files"):
            files |= {path: text for path, text in asked["contents"].items() if text}
        return files

    def notes(self, host: str, role: str) -> list[str]:
        return [
            line.result["msg"]
            for line in self.of(host, role)
            if line.outcome == "ok" and "_ansible_verbose_always" in line.result
        ]

    def failures(self, host: str, role: str = "") -> list[str]:
        return [
            line.result.get("msg", "") for line in self.of(host, role) if line.outcome == "failed"
        ]


def _facts(system: str, **node: object) -> dict[str, object]:
    distribution, version, family, manager = SYSTEMS[system]
    return {
        "distribution": distribution,
        "distribution_version": version,
        "distribution_major_version": version.partition(".")[0],
        "os_family": family,
        "architecture": "x86_64",
        "hostname": "node",
        "python": {"executable": sys.executable},
        "pkg_mgr": manager,
        "node": {
            **{"gpus": 8, "nvswitches": 0, "hcas": 8, "infiniband": 0, "nvidia_loaded": ""},
            **{"gpu_flavours": ["open", "proprietary"], "nvlink5": False},
            **{"container": "", "kernels": [], "kernel": "6.1.0", "secure_boot": False},
            **{"slurmd": False, "packages_broken": False, "reboot_required": False},
            **node,
        },
    }


def _play(folder: Path, hosts: dict[str, dict[str, object]]) -> Run:
    plugins = folder / "plugins"
    plugins.mkdir()
    for module in (PLAYBOOKS / "library").glob("*.py"):
        shutil.copy(HERE / "stub.py", plugins / module.name)
    callbacks = folder / "callbacks"
    callbacks.mkdir()
    shutil.copy(HERE / "record.py", callbacks)
    inventory = folder / "hosts.json"
    everyone = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    # Nothing is tried as root, and chrony's address of a peer needs no name service.
    everyone |= {"ansible_become": False, "ansible_host": "192.0.2.1"}
    # Names of all in each node's hosts file would be most of the work, and are tested in the lab.
    everyone |= {"base_hosts_group": "first"}
    first = {"first": {"hosts": {next(iter(hosts)): {}}}}
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": everyone, "children": first}}))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_ACTION_PLUGINS": str(plugins),
        "ANSIBLE_LIBRARY": str(PLAYBOOKS / "library"),
        "ANSIBLE_CALLBACK_PLUGINS": str(callbacks),
        "ANSIBLE_STDOUT_CALLBACK": "record",
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_REMOTE_TEMP": str(folder / "tmp"),
        "RECORD": str(folder / "record.jsonl"),
    }
    playbook = [str(PLAYBOOKS / "provision.yml"), "--check", "--tags", ",".join(PLAYED)]
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", str(inventory), *playbook],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    record = folder / "record.jsonl"
    assert record.exists(), done.stdout + done.stderr
    return Run([Line(**json.loads(line)) for line in record.read_text().splitlines()])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over every distribution and source, and over some nodes that are peculiar."""
    hosts: dict[str, dict[str, object]] = {
        f"{system}-{source}": {
            "facts": _facts(system),
            "vendor_source": source,
            # The mirror has what the vendor has, but for RDMA and MPI.
            "mirror_of": "vendor",
            "rdma_source": source,
            "rdma_vendor_fingerprints": [FINGERPRINT],
        }
        for system, source in PAIRS
    }
    bare = _facts("debian12", gpus=0, hcas=0, container="systemd-nspawn")
    pinned = {
        "nccl_version": "2.27.5-1+cuda12.9",
        "dcgm_version": "4.6",
        "container_toolkit_version": "1.18",
        "cuda_versions": ["13.0", "12.9"],
        "cuda_default": "12.9",
        "rdma_version": "44.0",
    }
    volta = _facts("ubuntu2404", gpu_flavours=["proprietary"])
    blackwell = _facts("debian12", gpu_flavours=["open"])
    nvlink5 = _facts("ubuntu2404", gpu_flavours=["open"], nvlink5=True)
    hosts |= {
        "volta": {"facts": volta, "nvidia_driver_build": "dkms"},
        "blackwell": {"facts": blackwell, "nvidia_driver_flavour": "proprietary"},
        "nvlink5": {"facts": nvlink5, "nvidia_driver_source": "vendor"},
        "nvswitch": {"facts": _facts("debian12", nvswitches=4)},
        "without-hardware": {"facts": bare},
        "forced": {"facts": bare, "nccl_enabled": True, "cuda_enabled": False},
        "pinned": {"facts": _facts("debian12"), "vendor_source": "vendor", **pinned},
        "pinned-rhel": {"facts": _facts("rhel9"), "vendor_source": "vendor", **pinned},
        "unvouched": {"facts": _facts("debian12"), "rdma_source": "vendor"},
    }
    return _play(tmp_path_factory.mktemp("play"), hosts)


def test_everything_resolves_on_every_distribution_from_every_source(run: Run) -> None:
    failures = [line for line in run.lines if line.outcome == "failed"]
    told = {line.host: line.result["msg"] for line in failures}
    assert set(told) == {"forced", "unvouched", "blackwell", "nvswitch"}
    # Each node went through all of the playbook.
    for system, source in PAIRS:
        assert run.asked(f"{system}-{source}", "mpi", "promise")


@pytest.mark.parametrize("role", PLAYED)
@pytest.mark.parametrize(("system", "source"), PAIRS)
def test_a_role_has_packages_or_says_that_there_are_none(
    run: Run, system: str, source: str, role: str
) -> None:
    host = f"{system}-{source}"
    of = "vendor" if source == "mirror" and role in GPU_ROLES else source
    of = "distro" if role in ("base", "mpi") or (role == "rdma" and source == "mirror") else of
    packages, notes = run.packages(host, role), run.notes(host, role)
    if system in ABSENT.get(role, {}).get(of, []):
        assert packages == []
        assert f'{role} is not to be had: the source "{of}" has no package of it' in notes[0]
        assert run.asked(host, role, "promise") == []
    else:
        assert packages
        assert not any("not to be had" in note for note in notes)
        promised = run.asked(host, role, "promise")[0]
        assert set(promised["packages"]) == {name.partition("=")[0] for name in packages}
        assert set(promised["variables"]) <= _specified(role)


def test_what_is_said_names_the_source_that_has_it(run: Run) -> None:
    assert "nccl_source: vendor has" in run.notes("debian12-distro", "nccl")[0]
    assert "No source that is known here has" in run.notes("debian13-vendor", "dcgm")[0]
    assert run.failures("forced") == [
        'nccl is not to be had: the source "distro" has no package of it for Debian 12.'
        " nccl_source: vendor has."
    ]


REPOSITORIES = {
    "debian12": ("debian12/x86_64", "3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC"),
    "debian13": ("debian13/x86_64", "8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"),
    "ubuntu2204": ("ubuntu2204/x86_64", "3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC"),
    "ubuntu2404": ("ubuntu2404/x86_64", "3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC"),
    "rhel9": ("rhel9/x86_64", "D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685"),
    "rhel10": ("rhel10/x86_64", "D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685"),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_vendors_repository_is_that_of_the_distribution(run: Run, system: str) -> None:
    folder, key, fingerprint = REPOSITORIES[system]
    url = f"https://developer.download.nvidia.com/compute/cuda/repos/{folder}/"
    asked = run.asked(f"{system}-vendor", "nccl", "keyring")[0]
    assert (asked["url"], asked["fingerprints"]) == (url + key, [fingerprint])
    assert any(url in text for text in run.written(f"{system}-vendor", "nccl").values())
    for host in (f"{system}-distro", "debian13-mirror"):
        assert not any(run.asked(host, role, "keyring") for role in GPU_ROLES), host


def _repositories(run: Run, suffix: str) -> dict[str, str]:
    found = {}
    for system in SYSTEMS:
        for role in PLAYED:
            for path, text in run.written(f"{system}-vendor", role).items():
                if path.endswith(suffix):
                    found[f"{system} {Path(path).stem}"] = text
    return found


def test_apt_reads_the_repositories(run: Run, tmp_path: Path) -> None:
    files = _repositories(run, ".sources")
    assert len(files) == 4 * 2 + 3  # CUDA, container toolkit; DOCA not for Debian 13
    for name, text in files.items():
        path = tmp_path / f"{name}.sources"
        path.write_text(text)
        options = [f"Dir::Etc::SourceList={path}", "Dir::Etc::SourceParts=-"]
        done = subprocess.run(
            ["apt-get", "update", "--print-uris", *(f"--option={option}" for option in options)],
            capture_output=True,
            text=True,
            check=True,
        )
        url = yaml.safe_load(text)["URIs"]
        assert f"'{url}./InRelease'" in done.stdout, name
        assert done.stderr == "", name


def test_dnf_reads_the_repositories(run: Run, tmp_path: Path) -> None:
    files = _repositories(run, ".repo")
    assert len(files) == 2 * 3  # CUDA, container toolkit, DOCA
    for system in ("rhel9", "rhel10"):
        folder = tmp_path / system
        folder.mkdir()
        mine = {name: text for name, text in files.items() if name.startswith(system)}
        for name, text in mine.items():
            (folder / f"{name.split()[1]}.repo").write_text(text)
        options = {"reposdir": folder, "cachedir": folder / "cache", "persistdir": folder / "state"}
        options |= {"logdir": folder, "releasever": system.removeprefix("rhel")}
        done = subprocess.run(
            ["dnf", *(f"--setopt={name}={value}" for name, value in options.items()), "repolist"],
            capture_output=True,
            text=True,
            check=True,
        )
        listed = [line.split()[0] for line in done.stdout.splitlines()[1:]]
        assert sorted(listed) == sorted(name.split()[1] for name in mine)
        assert done.stderr == ""


def test_nothing_is_done_where_the_hardware_is_not(run: Run) -> None:
    for role in [*GPU_ROLES, "rdma"]:
        assert run.packages("without-hardware", role) == []
        assert run.notes("without-hardware", role) == []
        assert run.asked("without-hardware", role, "promise") == []
    assert run.packages("without-hardware", "mpi") == ["openmpi-bin"]


def test_a_pinned_version_is_asked_for_held_and_promised(run: Run) -> None:
    assert run.packages("pinned", "nccl") == [
        "libnccl2=2.27.5-1+cuda12.9*",
        "libnccl-dev=2.27.5-1+cuda12.9*",
    ]
    assert "datacenter-gpu-manager-4-core=1:4.6*" in run.packages("pinned", "dcgm")
    assert "rdma-core=44.0*" in run.packages("pinned", "rdma")
    assert "perftest" in run.packages("pinned", "rdma")
    for host in ("pinned", "pinned-rhel"):
        for role in ("nccl", "dcgm", "container_toolkit", "rdma"):
            asked = run.asked(host, role, "installed")[0]
            pinned = {name.partition("=")[0] for name in asked["names"] if "=" in name}
            assert set(asked["holds"]) == pinned, role
            assert set(run.asked(host, role, "promise")[0]["holds"]) == pinned
    assert "python3-dnf-plugin-versionlock" in run.packages("pinned-rhel", "nccl")
    assert run.asked("debian12-vendor", "nccl", "installed")[0]["holds"] == []


DRIVERS = {
    "debian12-distro": ("nvidia-kernel-dkms", "nvidia-current", "linux-headers-amd64"),
    "debian13-distro": ("nvidia-kernel-dkms", "nvidia-current", "linux-headers-amd64"),
    "debian12-vendor": ("nvidia-kernel-open-dkms", "nvidia", "linux-headers-amd64"),
    "ubuntu2204-distro": ("nvidia-utils-580-server", "nvidia", "generic"),
    "ubuntu2404-distro": ("nvidia-utils-580-server", "nvidia", "generic"),
    "ubuntu2404-vendor": ("nvidia-open", "nvidia", "linux-headers-generic"),
    "rhel9-vendor": ("kmod-nvidia-open-dkms", "nvidia", "kernel-devel-matched"),
    "rhel10-vendor": ("kmod-nvidia-open-dkms", "nvidia", "kernel-devel-matched"),
    "volta": ("nvidia-dkms-580-server", "nvidia", "linux-headers-generic"),
}


@pytest.mark.parametrize("host", DRIVERS)
def test_the_driver_is_what_the_source_and_the_gpus_ask_for(run: Run, host: str) -> None:
    package, module, headers = DRIVERS[host]
    packages = run.packages(host, "nvidia_driver")
    assert package in packages
    assert any(name.endswith(headers) for name in packages)
    assert list(run.asked(host, "nvidia_driver", "promise")[0]["modules"]) == [module]
    files = run.written(host, "nvidia_driver")
    assert "blacklist nouveau" in files["/etc/modprobe.d/clusterctl-nvidia-driver.conf"]
    assert ("/etc/apt/apt.conf.d/52clusterctl-nvidia-driver" in files) is ("rhel" not in host)


def test_ubuntus_own_modules_are_the_signed_ones(run: Run) -> None:
    packages = run.packages("ubuntu2404-distro", "nvidia_driver")
    assert "linux-modules-nvidia-580-server-open-generic" in packages
    assert not any("dkms" in name.replace("no-dkms", "") for name in packages)


def test_modules_that_the_gpus_do_not_work_with_are_refused(run: Run) -> None:
    assert "work with open kernel modules" in run.failures("blackwell", "nvidia_driver")[0]
    assert run.packages("blackwell", "nvidia_driver") == []


def test_fabric_manager_comes_where_switches_are(run: Run) -> None:
    packages = run.packages("nvlink5", "nvidia_driver")
    assert {"nvidia-fabricmanager", "nvlsm"} <= set(packages)
    assert "nvidia_driver_source: vendor has it" in run.failures("nvswitch", "nvidia_driver")[0]
    assert not any("fabric" in name for name in run.packages("ubuntu2404-vendor", "nvidia_driver"))


def test_versions_of_cuda_stand_side_by_side(run: Run) -> None:
    assert run.packages("pinned", "cuda") == ["cuda-toolkit-13-0", "cuda-toolkit-12-9", "g++"]
    profile = run.written("pinned", "cuda")["/etc/profile.d/clusterctl-cuda.sh"]
    assert "CUDA_HOME=/usr/local/cuda-12.9\n" in profile
    found = subprocess.run(
        ["sh", "-c", f'PATH=/bin\n{profile}{profile}echo "$CUDA_HOME $PATH"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "/usr/local/cuda-12.9 /usr/local/cuda-12.9/bin:/bin\n"


def test_a_key_that_nobody_vouches_for_stops_before_anything_is_fetched(run: Run) -> None:
    assert "rdma_vendor_fingerprints is empty" in run.failures("unvouched", "rdma")[0]
    assert run.asked("unvouched", "rdma", "keyring") == []


def test_limits_hold_for_logins_and_services_in_their_own_units(run: Run) -> None:
    files = run.written("debian13-distro", "base")
    assert "root - memlock unlimited" in files["/etc/security/limits.d/90-clusterctl.conf"]
    system = files["/etc/systemd/system.conf.d/90-clusterctl.conf"]
    assert "DefaultLimitMEMLOCK=infinity\nDefaultLimitNOFILE=1024:1048576\n" in system


def test_kernel_parameters_are_set_and_kept_for_the_next_boot(run: Run) -> None:
    governor = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    asked = run.asked("debian13-distro", "base", "kernel_values")[0]["values"]
    assert asked[governor] == "performance"
    files = run.written("debian13-distro", "base")
    sysctl = files["/etc/sysctl.d/90-clusterctl.conf"]
    for name, value in asked.items():
        assert name == governor or f"{name} = {value}\n" in sysctl
    assert (
        f"w {governor} - - - - performance" in files["/etc/tmpfiles.d/90-clusterctl-governor.conf"]
    )
    promised = run.asked("debian13-distro", "base", "promise")[0]
    assert set(promised["sysctl"]) == set(asked) - {governor}
    # A container's frequency is not its own.
    assert governor not in run.asked("without-hardware", "base", "kernel_values")[0]["values"]
    assert "/etc/tmpfiles.d/90-clusterctl-governor.conf" not in run.written(
        "without-hardware", "base"
    )


def _specified(role: str) -> set[str]:
    specs = yaml.safe_load((PLAYBOOKS / "roles" / role / "meta" / "argument_specs.yml").read_text())
    return set(specs["argument_specs"]["main"]["options"])


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_specified_and_the_reverse(role: str) -> None:
    defaults = yaml.safe_load((PLAYBOOKS / "roles" / role / "defaults" / "main.yml").read_text())
    assert set(defaults or {}) == _specified(role)


@pytest.mark.parametrize("role", PLAYED)
def test_every_variable_is_on_the_roles_page(role: str) -> None:
    page = (PLAYBOOKS.parent / "docs" / "roles" / f"{role}.md").read_text()
    assert all(f"`{variable}`" in page for variable in _specified(role))
