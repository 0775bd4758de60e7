"""Restart a service that runs since before its configuration was last written.

A handler would be lost with a run that is interrupted between the change and the restart, and no
later run would notice: the file is as wanted then. The times tell.
"""

from __future__ import annotations

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: restarted
short_description: Restart a service that runs since before its configuration was last written
options:
  unit:
    description: The service; one that does not run is left alone.
    type: str
    required: true
  files:
    description: Its configuration.
    type: list
    elements: path
    required: true
"""

TICK_S = 0.02
"""What a file's time may lag behind the clock: the kernel's tick, 10 ms at most, twice."""


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "required": True},
        },
        supports_check_mode=True,
    )
    unit = module.params["unit"]
    paths = [Path(file) for file in module.params["files"]]
    written = max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
    started = _started(module, unit)
    stale = started is not None and written + TICK_S >= started
    if stale and not module.check_mode:
        module.run_command(["systemctl", "restart", unit], check_rc=True)
    module.exit_json(changed=stale)


def _started(module: AnsibleModule, unit: str) -> float | None:
    """Give the time that the service started at (as files have it); None when it does not run."""
    asked = ["--property=ActiveState", "--property=ActiveEnterTimestampMonotonic"]
    _, output, _ = module.run_command(["systemctl", "show", unit, *asked], check_rc=True)
    found = dict(line.split("=", 1) for line in output.split())
    if found.get("ActiveState") != "active":
        return None
    began_s = int(found["ActiveEnterTimestampMonotonic"]) / 1_000_000
    return time.time() - (time.clock_gettime(time.CLOCK_MONOTONIC) - began_s)


if __name__ == "__main__":
    main()
