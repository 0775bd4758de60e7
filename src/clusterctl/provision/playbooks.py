"""Where the playbooks are, and which roles they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import clusterctl
from clusterctl.errors import UserError


def playbooks_folder() -> Path:
    """Give the folder of the playbooks: in the installed package, else in the checkout."""
    package = Path(clusterctl.__file__).parent
    for folder in (package / "playbooks", package.parents[1] / "playbooks"):
        if (folder / "provision.yml").is_file():
            return folder
    raise UserError("the playbooks are missing from this installation", "reinstall clusterctl")


def last_play(playbook: Path) -> str:
    """Name the playbook's last play: a node that never comes to it has not finished."""
    plays = yaml.safe_load(playbook.read_text())
    return str(plays[-1]["name"])


def roles() -> list[str]:
    """Name the roles, each of which is a tag as well, in the order that they run in."""
    return [role["role"] for play in _plays() for role in play.get("roles", ())]


def tags() -> list[str]:
    """Name what can be asked for alone: the roles, and steps that are none (``reboot``)."""
    steps = [task for play in _plays() for task in play.get("post_tasks", ())]
    found = [*roles(), *(task["tags"] for task in steps if "tags" in task)]
    return [tag for tag in dict.fromkeys(found) if tag != "always"]


def _plays() -> list[dict[str, Any]]:
    plays: list[dict[str, Any]] = yaml.safe_load((playbooks_folder() / "provision.yml").read_text())
    return plays
