"""An Ansible callback that writes down, as a line of JSON, what each task of each node came to."""

import json
import os
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: record
type: stdout
short_description: Write down what each task came to
description: A line of JSON each, into the file named by C(RECORD).
"""


class CallbackModule(CallbackBase):
    """Called by Ansible for each result."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "record"

    def _write(self, outcome, result):
        role = result._task._role
        line = {
            "outcome": outcome,
            "host": result._host.get_name(),
            "role": role.get_name() if role else "",
            "task": result._task.get_name(),
            "result": result._result,
        }
        with Path(os.environ["RECORD"]).open("a") as file:
            file.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result):
        """Write it down."""
        self._write("ok", result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        """Write it down."""
        self._write("failed", result)

    def v2_runner_on_unreachable(self, result):
        """Write it down."""
        self._write("failed", result)
