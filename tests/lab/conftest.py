"""One lab of four nodes for all tests that need one, and ways to work on it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

# Under --import-mode=importlib nothing is put on the path, and slurm.py is shared.
sys.path.insert(0, str(Path(__file__).parent))

CLUSTERCTL = str(Path(sys.executable).with_name("clusterctl"))


@dataclass(frozen=True)
class Lab:
    """A running lab, used as its users use it: through the command line."""

    name: str

    @property
    def inventory(self) -> Path:
        """Its Ansible inventory."""
        return Path(self.cli("inventory").strip())

    def cli(self, *arguments: str, check: bool = True) -> str:
        """Run ``clusterctl lab ... --name NAME`` and give what it prints on standard output."""
        done = self.process(*arguments)
        assert not check or done.returncode == 0, f"lab {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``clusterctl lab ... --name NAME``."""
        verb, *rest = arguments
        if verb == "fault":
            verb, *rest = [f"fault {rest[0]}", *rest[1:]]
        argv = [CLUSTERCTL, "lab", *verb.split(), "--name", self.name, *rest]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=400)

    def clusterctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run any command of clusterctl."""
        argv = [CLUSTERCTL, *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=400)

    def provision(
        self,
        *arguments: str,
        inventory: Path | None = None,
        exit_code: int = 0,
        timeout_s: float = 560,
    ) -> str:
        """Run ``clusterctl provision`` and give what it printed, standard error first."""
        verb = [*arguments[:1], "-i"] if arguments[:1] == ("mirror",) else ["-i"]
        rest = arguments[len(verb) - 1 :]
        argv = [CLUSTERCTL, "provision", *verb, str(inventory or self.inventory), *rest]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout_s)
        assert done.returncode == exit_code, done.stderr + done.stdout
        return done.stderr + done.stdout

    def edited(self, folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
        """Give a copy of its inventory, in ``folder``, with the group ``all`` edited."""
        content = yaml.safe_load(self.inventory.read_text())
        edit(content["all"])
        path = folder / "hosts.yml"
        path.write_text(yaml.safe_dump(content))
        return path

    def run(self, node: str, command: str, *, check: bool = True) -> str:
        """Run a shell command as the ordinary user, over SSH."""
        return self.cli("shell", node, command, check=check)

    def root(self, node: str, command: str, *, check: bool = True) -> str:
        """Run a shell command as root, without SSH: works whatever fault is in."""
        return self.cli("shell", "--console", node, "sh", "-c", command, check=check)

    def states(self) -> dict[str, str]:
        """Node -> its state, as ``lab status`` shows it."""
        header, *rows = self.cli("status").splitlines()
        begin, end = header.index("STATE"), header.index("NIC")
        return {row.split()[0]: row[begin:end].strip() for row in rows}


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Callable[..., Lab]]:
    """Start labs of a module's own, whose nodes are bare: name, then options of ``lab up``."""
    labs = []

    def start(name: str, *options: str) -> Lab:
        lab = Lab(name)
        lab.cli("down")  # what a killed run of the tests left would not be bare
        labs.append(lab)
        lab.cli("up", *options)
        return lab

    yield start
    for lab in labs:
        lab.cli("down")


@pytest.fixture(scope="session")
def lab_session() -> Iterator[Lab]:
    """Four bookworm nodes; an earlier run's are taken over.

    ``LAB`` names them, for two runs of the tests on one machine at the same time.
    """
    lab = Lab(os.environ.get("LAB", "test"))
    lab.cli("up", "--nodes", "4", "--nic", "200mbit")
    yield lab
    lab.cli("down")


@pytest.fixture
def lab(lab_session: Lab) -> Iterator[Lab]:
    """The shared lab; faults that a test adds are undone after it."""
    yield lab_session
    lab_session.cli("fault", "clear")


@pytest.fixture(scope="session")
def provisioned_session(lab_session: Lab) -> Lab:
    """The shared lab, provisioned."""
    argv = [CLUSTERCTL, "provision", "-i", str(lab_session.inventory)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr + done.stdout
    return lab_session


@pytest.fixture
def provisioned(provisioned_session: Lab, lab: Lab) -> Lab:
    """The same, with faults undone after each test."""
    return lab
