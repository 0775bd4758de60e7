"""Runs on a node: reads and measures, judges nothing.

Standard library, psutil and pynvml only, Python 3.9. ``python -m clusterctl.probe`` answers on
its standard output; :mod:`clusterctl.probe.__main__` describes the protocol.
"""
