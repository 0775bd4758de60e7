"""Loads modules of playbooks/library, which are files that Ansible sends to nodes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"


def load(name: str) -> ModuleType:
    """Load a module of playbooks/library."""
    spec = importlib.util.spec_from_file_location(name, PLAYBOOKS / "library" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def module(request: pytest.FixtureRequest) -> ModuleType:
    """The module that a file test_NAME.py is about."""
    return load(request.path.stem.removeprefix("test_"))
