"""Compare packages with what is installed and held, in one round trip, on dpkg and rpm alike."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: installed
short_description: Tell which packages are missing, and which holds
description:
  - Works on a bare node, where Ansible's own modules would need python3-apt and a package cache.
options:
  names:
    description: Package names, each with an optional C(=VERSION) in which C(*) stands for anything.
    type: list
    elements: str
    required: true
  holds:
    description: Packages that upgrades are to leave alone.
    type: list
    elements: str
    default: []
  role:
    description: Role whose holds of an earlier run are given up where C(holds) has them no more.
    type: str
    default: ""
"""

QUERIES = {
    "dpkg": "dpkg-query --show --showformat=${Package}|${Version}|${db:Status-Status}|"
    "${db:Status-Want}\\n",
    "rpm": "rpm --query --queryformat=%{NAME}|%{EPOCH}:%{VERSION}-%{RELEASE}|installed|\\n",
}
VERSIONLOCK = Path("/etc/dnf/plugins/versionlock.list")
PROMISED = Path("/etc/clusterctl/provisioned")


def rows(output: str) -> list[list[str]]:
    """Read a query's output: package, version, status, and what dpkg is to do with it."""
    found = (line.split("|") for line in output.splitlines())
    return [row for row in found if len(row) == 4 and row[2] == "installed"]


def versions(output: str) -> dict[str, str]:
    """Give package -> version of those that are installed in full."""
    return {row[0]: re.sub(r"^\(none\):", "", row[1]) for row in rows(output)}


def missing(names: list[str], found: dict[str, str]) -> list[str]:
    """Give the names that are not installed, or not in their version."""
    return [name for name in names if not _matches(name, found)]


def _matches(name: str, found: dict[str, str]) -> bool:
    package, _, wanted = name.partition("=")
    return package in found and fnmatch.fnmatchcase(found[package], wanted or "*")


def locked(text: str) -> set[str]:
    """Read dnf's versionlock.list (NAME-EPOCH:VERSION-RELEASE.*): the packages named there."""
    lines = (line.strip() for line in text.splitlines())
    entries = (line for line in lines if line and not line.startswith(("#", "!")))
    return {re.sub(r"-(\d+:)?[^-]+-[^-]+$", "", entry) for entry in entries}


def unheld(holds: list[str], held: set[str], lacking: list[str]) -> list[str]:
    """Give the packages to hold. apt lets go of what it changes, so those count as well."""
    changed = {name.partition("=")[0] for name in lacking}
    return [name for name in holds if name not in held or name in changed]


def promised_holds(promise: str) -> list[str]:
    """Read which holds a role's earlier run promised."""
    try:
        listed = json.loads(promise)["promises"]
        return [entry["name"] for entry in listed if entry["kind"] == "hold"]
    except (ValueError, KeyError, TypeError):
        return []


def main() -> None:
    """Answer Ansible."""
    names = {"type": "list", "elements": "str"}
    module = AnsibleModule(
        argument_spec={
            "names": {**names, "required": True},
            "holds": {**names, "default": []},
            "role": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    names, holds = module.params["names"], module.params["holds"]
    promise = PROMISED / f"{module.params['role']}.json"
    former = promised_holds(promise.read_text()) if promise.is_file() else []
    manager = "dpkg" if module.get_bin_path("dpkg-query") else "rpm"
    packages = sorted({name.partition("=")[0] for name in [*names, *holds, *former]})
    output = ""
    if packages:
        # It answers for those that it knows, and complains about the others.
        _status, output, _complaints = module.run_command([*QUERIES[manager].split(), *packages])
    if manager == "dpkg":
        held = {row[0] for row in rows(output) if row[3] == "hold"}
    else:
        held = locked(VERSIONLOCK.read_text()) if VERSIONLOCK.exists() else set()
    found = versions(output)
    lacking = missing(names, found)
    module.exit_json(
        missing=lacking,
        hold=unheld(holds, held, lacking),
        unhold=[name for name in former if name in held and name not in holds],
    )


if __name__ == "__main__":
    main()
