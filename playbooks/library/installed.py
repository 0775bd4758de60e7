"""Compare packages with what is installed, in one round trip, on dpkg and rpm systems alike."""

from __future__ import annotations

import fnmatch
import re

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: installed
short_description: Tell which packages are missing
description:
  - Works on a bare node, where Ansible's own modules would need python3-apt and a package cache.
options:
  names:
    description: Package names, each with an optional C(=VERSION) in which C(*) stands for anything.
    type: list
    elements: str
    required: true
"""

QUERIES = {
    "dpkg": "dpkg-query --show --showformat=${Package}|${Version}|${db:Status-Status}\\n",
    "rpm": "rpm --query --queryformat=%{NAME}|%{EPOCH}:%{VERSION}-%{RELEASE}|installed\\n",
}


def versions(output: str) -> dict[str, str]:
    """Read a query's output: package -> its version, of those that are installed in full."""
    rows = (line.split("|") for line in output.splitlines())
    return {
        row[0]: re.sub(r"^\(none\):", "", row[1])
        for row in rows
        if len(row) == 3 and row[2] == "installed"
    }


def missing(names: list[str], found: dict[str, str]) -> list[str]:
    """Give the names that are not installed, or not in their version."""
    return [name for name in names if not _matches(name, found)]


def _matches(name: str, found: dict[str, str]) -> bool:
    package, _, wanted = name.partition("=")
    return package in found and fnmatch.fnmatchcase(found[package], wanted or "*")


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={"names": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    names = module.params["names"]
    found: dict[str, str] = {}
    if names:
        manager = "dpkg" if module.get_bin_path("dpkg-query") else "rpm"
        packages = [name.partition("=")[0] for name in names]
        # It answers for those that it knows, and complains about the others.
        _status, output, _complaints = module.run_command([*QUERIES[manager].split(), *packages])
        found = versions(output)
    module.exit_json(missing=missing(names, found), versions=found)


if __name__ == "__main__":
    main()
