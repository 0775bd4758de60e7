"""A cluster on this machine: real Debian nodes in systemd-nspawn, and faults to inject into them.

Only :mod:`clusterctl.cli.lab` imports this package; to everything else a lab node is a machine
behind SSH like any other.
"""
