"""Stands in for each module of playbooks/library: does nothing, and records what it was asked for.

Ansible loads a copy of this file under each module's name, as an action plugin, so that a role's
tasks run here without a node. Answers are those of a bare node.
"""

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Called by Ansible for a task."""

    def run(self, tmp=None, task_vars=None):
        """Answer the task."""
        super().run(tmp, task_vars)
        module, asked = self._task.action, self._task.args
        answer = {"changed": False, "asked": {"module": module, **asked}}
        if module == "preflight":
            answer |= {"ansible_facts": task_vars["facts"], "notes": []}
        elif module == "installed":
            answer |= {"missing": asked["names"], "hold": [], "unhold": []}
        elif module == "kernel_values":
            answer |= {"applied": asked["values"], "kept": {}, "note": ""}
        elif module == "driver_state":
            answer |= {"version": "", "missing": asked["packages"], "set": [], "flavours": []}
            answer |= {"kernels_without_headers": [], "services": [], "users": [], "loaded": ""}
        elif module == "reboot_reasons":
            answer |= {"reasons": []}
        elif module == "files":
            answer |= {"written": list(asked["contents"])}
        return answer
