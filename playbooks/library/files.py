"""Keep several small files as they should be, in one round trip and with one diff.

Ansible's own ``template`` needs two round trips a file even where nothing is to be done.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: files
short_description: Keep several files as they should be
options:
  contents:
    description: Path -> content. An empty content means that the file is not to be there.
    type: dict
    required: true
  mode:
    description: Permissions of each.
    type: str
    default: "0644"
"""


def outdated(contents: dict[str, str], root: Path = Path("/")) -> dict[str, tuple[str, str]]:
    """Give the paths that differ: path -> what is there (empty: no file) and what should be."""
    found = {path: _text(root / path.lstrip("/")) for path in contents}
    return {
        path: (found[path], content) for path, content in contents.items() if found[path] != content
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "contents": {"type": "dict", "required": True},
            "mode": {"type": "str", "default": "0644"},
        },
        supports_check_mode=True,
    )
    mode = module.params["mode"]
    changes = outdated(module.params["contents"])
    if not module.check_mode:
        for path, (_before, after) in changes.items():
            _put(module, Path(path), after, int(mode, 8))
    loose = [
        path
        for path, content in module.params["contents"].items()
        if content and path not in changes and module.set_mode_if_different(path, mode, False)
    ]
    module.exit_json(
        changed=bool(changes or loose),
        written=sorted([*changes, *loose]),
        diff=[
            {"before": before, "after": after, "before_header": path, "after_header": path}
            for path, (before, after) in changes.items()
        ],
    )


def _put(module: AnsibleModule, path: Path, content: str, mode: int) -> None:
    if not content:
        path.unlink()
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    # Atomically, and with the context that SELinux wants there.
    module.atomic_move(aside, str(path))
    path.chmod(mode)  # a new file gets what the umask leaves


if __name__ == "__main__":
    main()
