"""Give the kernel values through /proc/sys and /sys, as far as it takes them, in one round trip.

What it does not take (in a container that may not write there, in a kernel that does not know the
parameter) is told and is no failure: the files that apply the values at boot are a role's matter.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: kernel_values
short_description: Give the kernel values through /proc/sys and /sys
options:
  values:
    description:
      - Parameter -> value. A parameter is named as in sysctl.d(5), or is a path below /sys in which
        C(*) stands for anything.
    type: dict
    required: true
  optional:
    description: Parameters whose absence needs no telling.
    type: list
    elements: str
    default: []
"""

ABSENT = "absent here"
READ_ONLY = "read-only here"


class Kernel:
    """The values of the kernel below ``root`` (``/`` but for tests)."""

    def __init__(self, root: str = "/", *, dry: bool = False) -> None:
        self.root = Path(root)
        self.dry = dry
        self.changed: list[str] = []
        self.kept: dict[str, str] = {}
        """Parameter -> why it does not have its value."""

    def apply(self, name: str, value: str) -> None:
        """Set a parameter, unless it has the value."""
        paths = self.paths(name)
        if not paths:
            self.kept[name] = ABSENT
        for path in paths:
            before = _words(path.read_text())
            if before == _words(value):
                continue
            why = self._write(path, value)
            if why:
                self.kept[name] = why
            elif name not in self.changed:
                self.changed.append(name)

    def paths(self, name: str) -> list[Path]:
        """Find the files of a parameter."""
        if name.startswith("/"):
            return sorted(self.root.glob(name.lstrip("/")))
        path = self.root / "proc/sys" / relative(name)
        return [path] if path.is_file() else []

    def _write(self, path: Path, value: str) -> str:
        """Write a value; give why the kernel has another one afterwards."""
        if not os.access(path, os.W_OK):
            return READ_ONLY
        if self.dry:
            return ""
        try:
            path.write_text(f"{value}\n")
        except OSError as error:
            return error.strerror or "refused"
        after = _words(path.read_text())
        return "" if after == _words(value) else f"the kernel made {after} of {_words(value)}"


def relative(name: str) -> str:
    """Give the path of a parameter below /proc/sys, after the rules of sysctl.d(5)."""
    first = next((letter for letter in name if letter in "./"), "/")
    return name if first == "/" else name.translate(str.maketrans("./", "/."))


def _words(value: str) -> str:
    return " ".join(value.split())


def note(kept: dict[str, str]) -> str:
    """Tell what does not have its value, by reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, why in kept.items():
        reasons[why].append(name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "values": {"type": "dict", "required": True},
            "optional": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    kernel = Kernel(dry=module.check_mode)
    values = {name: str(value) for name, value in module.params["values"].items()}
    for name, value in values.items():
        kernel.apply(name, value)
    module.exit_json(
        changed=bool(kernel.changed),
        set=kernel.changed,
        applied={name: value for name, value in values.items() if name not in kernel.kept},
        kept=kernel.kept,
        note=note(
            {
                name: why
                for name, why in kernel.kept.items()
                if why != ABSENT or name not in module.params["optional"]
            }
        ),
    )


if __name__ == "__main__":
    main()
