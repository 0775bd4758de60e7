"""``python -m clusterctl``: the same as the ``clusterctl`` command."""

from clusterctl.cli import main

if __name__ == "__main__":
    main()
