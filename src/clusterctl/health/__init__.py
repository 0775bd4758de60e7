"""Runs ON a node: the doctor's quick level there, without a controller, SSH or network.

Standard library only, Python 3.9; of the rest it takes the probe, the checks, findings and the
Prometheus renderer along.
"""
