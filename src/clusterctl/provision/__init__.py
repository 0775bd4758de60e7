"""Provisioning: an Ansible run as a value, its events as live progress, and its record.

``run`` drives one run in a child process (``child``, which holds ansible-runner), ``progress``
turns its events (``results``) into the state of every node, ``view`` shows that while it goes on
and ``summary`` at the end. ``lock`` keeps a second run away, ``redaction`` secrets, and ``cleanup``
ends what a killed run left on the controller. ``record`` keeps what happened and what the inventory
asked for (``wanted``); ``history`` reads it, ``past_view`` shows it, ``resume`` goes on with it.
``mirror``, ``mirror_source`` and ``repository`` are about nodes without a way out.
"""
