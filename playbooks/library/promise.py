"""Write down, on the node, what a role established there; the doctor verifies it.

The file says nothing of when and by whom, so that it changes only when the state does.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: promise
short_description: Write down what a role established
options:
  role:
    description: The role.
    type: str
    required: true
  variables:
    description: The role's variables as they were applied.
    type: dict
    default: {}
  packages:
    description: Package -> version or its beginning; empty for any.
    type: dict
    default: {}
  holds:
    description: Packages that upgrades leave alone.
    type: list
    elements: str
    default: []
  services:
    description: Unit -> V(enabled), V(active) or V(enabled active).
    type: dict
    default: {}
  sysctl:
    description: Kernel parameter -> value.
    type: dict
    default: {}
  files:
    description: Files whose content is the role's.
    type: list
    elements: path
    default: []
  modules:
    description: Kernel module -> version that it has in every kernel that can boot.
    type: dict
    default: {}
  module_options:
    description: C(MODULE OPTION) -> value.
    type: dict
    default: {}
  variable_of:
    description: Name of anything promised -> the variable that decides it.
    type: dict
    default: {}
"""

FOLDER = Path("/etc/clusterctl/provisioned")


def promises(params: dict[str, object]) -> list[dict[str, str]]:
    """List what was established, each as kind, name, wanted value and deciding variable."""
    listed: list[tuple[str, str, object]] = []
    listed += [("package", name, version) for name, version in params["packages"].items()]
    listed += [("hold", name, "held") for name in params["holds"]]
    listed += [("service", name, state) for name, state in params["services"].items()]
    listed += [("sysctl", name, value) for name, value in params["sysctl"].items()]
    listed += [("file", path, _sha256(path)) for path in params["files"]]
    listed += [("module", name, version) for name, version in params["modules"].items()]
    listed += [("module_option", name, value) for name, value in params["module_options"].items()]
    return [
        {
            "kind": kind,
            "name": name,
            "wanted": str(wanted),
            "variable": str(params["variable_of"].get(name, "")),
        }
        for kind, name, wanted in sorted(listed, key=lambda entry: entry[:2])
    ]


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def main() -> None:
    """Answer Ansible."""
    dictionary = {"type": "dict", "default": {}}
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str", "required": True},
            "variables": dictionary,
            "packages": dictionary,
            "holds": {"type": "list", "elements": "str", "default": []},
            "services": dictionary,
            "sysctl": dictionary,
            "files": {"type": "list", "elements": "path", "default": []},
            "modules": dictionary,
            "module_options": dictionary,
            "variable_of": dictionary,
        },
        supports_check_mode=True,
    )
    params = module.params
    path = FOLDER / f"{params['role']}.json"
    try:
        content = {
            "role": params["role"],
            "variables": params["variables"],
            "promises": promises(params),
        }
    except OSError as error:
        if module.check_mode:
            # On a bare node the files are still to come.
            module.exit_json(changed=False, versions={})
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    after = json.dumps(content, indent=2, sort_keys=True) + "\n"
    before = path.read_text() if path.exists() else ""
    if after != before and not module.check_mode:
        FOLDER.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".new")
        aside.write_text(after)
        aside.chmod(0o644)
        aside.replace(path)
    module.exit_json(
        # Other tasks are what changed the node; this file only tells of it.
        changed=False,
        versions=_versions(module, params["packages"]),
    )


def _versions(module: AnsibleModule, packages: dict[str, str]) -> dict[str, str]:
    if not packages:
        return {}
    if module.get_bin_path("dpkg-query"):
        query = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n"]
    else:
        query = ["rpm", "--query", "--queryformat", "%{NAME} %{VERSION}-%{RELEASE}\n"]
    _status, output, _complaints = module.run_command([*query, *packages])
    rows = (line.split() for line in output.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


if __name__ == "__main__":
    main()
