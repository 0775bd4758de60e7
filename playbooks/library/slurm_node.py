"""Take a node out of Slurm before it is disturbed, and give it back. Without slurmd: do nothing.

Only what we drained is resumed: our reason stands at the node, and a node that somebody else
drained has another one.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: slurm_node
short_description: Drain and resume the node in Slurm
options:
  state:
    description: V(drained), V(resumed), or V(seen) to change nothing.
    type: str
    choices: [drained, resumed, seen]
    required: true
  reason:
    description: Reason of the drain. Its first two words tell ours from others'.
    type: str
    default: clusterctl provision
"""

OURS = "clusterctl provision"
FOLDERS = ["/usr/local/bin", "/opt/slurm/bin"]
# Jobs that are on the node, in squeue's words; one that only waits is not.
ON_NODE = "running,completing,configuring,suspended,stopped,signaling,stage_out"


def node(shown: str) -> tuple[str, set[str], str]:
    """Read ``scontrol show node``: name, words of the state, and the reason without its author."""
    name = re.search(r"NodeName=(\S+)", shown)
    state = re.search(r"\bState=(\S+)", shown)
    reason = re.search(r"^\s*Reason=(.*?)(?: \[[^\]]*\])?\s*$", shown, re.MULTILINE)
    words = set(re.findall(r"[A-Z_]+", state.group(1))) if state else set()
    return name.group(1) if name else "", words, reason.group(1) if reason else ""


def wanted_update(state: str, words: set[str], reason: str) -> str:
    """Give the state that Slurm is to be told; empty where nothing is to be done."""
    out = bool(words & {"DRAIN", "DRAINED", "DRAINING"})
    if state == "drained" and not out:
        return "drain"
    if state == "resumed" and (out or "DOWN" in words) and reason.startswith(OURS):
        return "resume"
    return ""


def runs(root: Path) -> bool:
    """Whether slurmd runs here."""
    for path in (root / "proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == "slurmd":
                return True
        except OSError:  # it has ended meanwhile
            continue
    return False


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["drained", "resumed", "seen"], "required": True},
            "reason": {"type": "str", "default": OURS},
        },
        supports_check_mode=True,
    )
    if not runs(Path("/")):
        module.exit_json(changed=False, jobs=[], words=[], reason="")
    name, words, reason = node(_ask(module, "scontrol", "show", "node", _hostname()))
    update = wanted_update(module.params["state"], words, reason)
    if update and not module.check_mode:
        why = [f"Reason={module.params['reason']}"] if update == "drain" else []
        _ask(module, "scontrol", "update", f"NodeName={name}", f"State={update}", *why)
    jobs = _ask(
        module, "squeue", "--noheader", f"--nodelist={name}", f"--states={ON_NODE}", "--format=%i"
    )
    module.exit_json(
        changed=bool(update), jobs=jobs.split(), words=sorted(words), reason=reason, update=update
    )


def _hostname() -> str:
    return platform.node().partition(".")[0]


def _ask(module: AnsibleModule, command: str, *arguments: str) -> str:
    path = module.get_bin_path(command, required=True, opt_dirs=FOLDERS)
    status, output, complaint = module.run_command(["timeout", "60", path, *arguments])
    if status:
        module.fail_json(
            msg=f"slurmd runs here, and {command} says: {(complaint or output).strip()}\n"
            "  a node that jobs may run on is not disturbed: see that slurmctld answers, or stop "
            "slurmd here, or set provision_drain: false"
        )
    return output


if __name__ == "__main__":
    main()
