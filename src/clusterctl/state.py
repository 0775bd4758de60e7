"""Where clusterctl keeps what outlives a run: the user's state and cache folders (XDG)."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Give ``$XDG_STATE_HOME/clusterctl``, by default ``~/.local/state/clusterctl``."""
    return _folder("XDG_STATE_HOME", ".local/state")


def cache_folder() -> Path:
    """Give ``$XDG_CACHE_HOME/clusterctl``, by default ``~/.cache/clusterctl``."""
    return _folder("XDG_CACHE_HOME", ".cache")


def _folder(variable: str, default: str) -> Path:
    base = os.environ.get(variable, "")
    # The XDG specification says that a relative path is to be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / default
    return root / "clusterctl"
