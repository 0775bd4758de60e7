"""What ``pip install .`` gives works outside the checkout, with all that is not Python code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it; its dependencies come from the environment."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, ROOT]
    subprocess.run(pip, check=True, timeout=300)
    return target


def python(installed: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(installed)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_module_is_the_command(installed: Path) -> None:
    assert "Usage" in python(installed, "-m", "clusterctl", "--help")


def test_playbooks_come_along(installed: Path) -> None:
    code = "from clusterctl.provision.playbooks import playbooks_folder as folder; print(folder())"
    found = Path(python(installed, "-c", code).strip())
    assert found.is_relative_to(installed)
    assert (found / "provision.yml").is_file()
    assert (found / "roles" / "mpi" / "tasks" / "main.yml").is_file()


def test_every_check_has_its_page_there(installed: Path) -> None:
    code = (
        "import clusterctl.checks as c; from pathlib import Path;"
        "pages = Path(c.__file__).parent / 'pages';"
        "print([k.id for k in c.all_checks() if not (pages / f'{k.id}.md').is_file()])"
    )
    assert python(installed, "-c", code).strip() == "[]"
