"""A password that programs read from a file, and that is on no disk."""

from __future__ import annotations

import os

from clusterctl.inventory import Secret


def in_memory(secret: Secret) -> str:
    """Give the path of a file that holds the secret, for programs that this user runs.

    It lies in the memory of this process and goes with it, whatever ends it. So the secret is
    in no argument, no environment and no file system; the path may be in all of them.
    """
    descriptor = os.memfd_create("clusterctl-secret")
    os.fchmod(descriptor, 0o400)  # Ansible would run a file that is executable
    os.write(descriptor, secret.reveal().encode())
    return f"/proc/{os.getpid()}/fd/{descriptor}"
