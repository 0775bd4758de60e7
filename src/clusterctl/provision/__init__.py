"""Provisioning: an Ansible run as a value, its events as live progress, and its record.

``run`` drives one run in a child process (``child``, which holds ansible-runner), ``progress``
turns its events into the state of every node, ``record`` keeps what happened, ``cleanup`` ends
what a killed run left on the controller, and ``view`` shows it all.
"""
