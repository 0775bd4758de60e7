"""What holds for all tests."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

# A run started in the background of a shell ignores SIGINT, and so would the commands that tests
# start and interrupt: a handler of our own becomes the default in them.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``every_python`` under each that a node may have."""
    if "every_python" in metafunc.fixturenames:
        metafunc.parametrize("every_python", pythons(), ids=lambda path: Path(path).name)


def pythons() -> list[str]:
    """Every Python from 3.9 on that starts: on PATH, and those that pyenv keeps aside."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for minor in range(9, 15):
        name = f"python3.{minor}"
        for path in (shutil.which(name), *map(str, kept.glob(f"*/bin/{name}"))):
            if (
                path
                and subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0
            ):
                found[name] = path
    return list(found.values())
