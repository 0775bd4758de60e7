"""Where the playbooks are."""

from __future__ import annotations

from pathlib import Path

import clusterctl
from clusterctl.errors import UserError


def playbooks_folder() -> Path:
    """Give the folder of the playbooks: in the installed package, else in the checkout."""
    package = Path(clusterctl.__file__).parent
    for folder in (package / "playbooks", package.parents[1] / "playbooks"):
        if (folder / "provision.yml").is_file():
            return folder
    raise UserError("the playbooks are missing from this installation", "reinstall clusterctl")


def roles() -> list[str]:
    """Name the roles, each of which is a tag as well."""
    return sorted(path.name for path in (playbooks_folder() / "roles").iterdir())
