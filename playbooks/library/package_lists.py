"""Fetch apt's package lists where they are old, and say which source does not answer.

A third party's repository that is down is no reason to leave a node as it is: what it offers comes
from the lists of its last answer. An entry that apt cannot read stops every installation, and is
named with its file.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: package_lists
short_description: Fetch apt's package lists where they are old
options:
  age_max_s:
    description: Lists that are younger are left as they are.
    type: int
    default: 3600
  strict:
    description: Whether every source must answer.
    type: bool
    default: false
  lock_timeout_s:
    description: How long to wait for a run of apt that is under way.
    type: int
    default: 600
"""

LOCKED = "Could not get lock"


def age_s(lists: Path) -> float:
    """Say how long ago the lists were fetched last."""
    folders = [folder for folder in (lists, lists / "partial") if folder.is_dir()]
    newest = max((folder.stat().st_mtime for folder in folders), default=0.0)
    return time.time() - newest


def silent(output: str) -> list[str]:
    """Give the sources that did not answer, with apt's reason."""
    found = re.findall(r"^[WE]: Failed to fetch (\S+) +(.*)$", output, re.MULTILINE)
    by_reason: dict[str, list[str]] = {}
    for url, reason in found:
        by_reason.setdefault(reason.strip(), []).append(url)
    return [f"{urls[0]}: {reason}" for reason, urls in by_reason.items()]


def errors(output: str) -> str:
    """Give what apt calls an error, or all that it said."""
    found = [line[3:] for line in output.splitlines() if line.startswith("E: ")]
    return "\n".join(dict.fromkeys(found)) or output.strip()


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "age_max_s": {"type": "int", "default": 3600},
            "strict": {"type": "bool", "default": False},
            "lock_timeout_s": {"type": "int", "default": 600},
        }
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    # Young lists may be of sources that somebody has broken since: this reads the sources.
    status, output, complaints = module.run_command(["apt-get", "indextargets"])
    if status == 0 and not _young(module):
        status, output, complaints = _update(module)
    said = output + complaints
    if status != 0:
        module.fail_json(
            msg=f"apt cannot use its sources:\n{errors(said)}\n"
            "  correct or remove the entry that it names (see /etc/apt), then run again"
        )
    module.exit_json(changed=False, silent=silent(said))


def _young(module: AnsibleModule) -> bool:
    _status, output, _complaints = module.run_command(
        ["apt-config", "shell", "at", "Dir::State::lists/d"]
    )
    lists = Path(output.strip()[len("at='") : -len("'")])
    return 0 <= age_s(lists) < module.params["age_max_s"]


def _update(module: AnsibleModule) -> tuple[int, str, str]:
    deadline = time.monotonic() + module.params["lock_timeout_s"]
    command = ["apt-get", "--quiet", "update"]
    if module.params["strict"]:
        command.append("--error-on=any")
    while True:
        # apt waits for the lock of dpkg, and not for that of its lists.
        done = module.run_command(command)
        if LOCKED not in done[2] or time.monotonic() > deadline:
            return done
        time.sleep(2)


if __name__ == "__main__":
    main()
