"""Reaching nodes: connect, start commands, all nodes at once; trouble is a value per node."""

from clusterctl.ssh.base import (
    Completed,
    Connection,
    NodeFailure,
    Process,
    failure,
    printable,
)
from clusterctl.ssh.connect import connect
from clusterctl.ssh.fan import fan_out

__all__ = [
    "Completed",
    "Connection",
    "NodeFailure",
    "Process",
    "connect",
    "failure",
    "fan_out",
    "printable",
]
