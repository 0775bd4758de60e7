"""Running the system's own tools."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from clusterctl.errors import UserError


def run(argv: Sequence[str], stdin: str = "", timeout_s: float = 120) -> str:
    """Run a tool of this machine and give its output; :class:`UserError` with its words if not."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"`{' '.join(argv[:4])}` did not end in {timeout_s:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise UserError(f"`{' '.join(argv[:4])}` failed with {done.returncode}: {said}")
    return done.stdout
