"""Prints the interfaces that the probe reads; run within a network namespace of its own."""

import json
import sys
from pathlib import Path

from clusterctl.facts import to_json
from clusterctl.probe.network import read_nics
from clusterctl.probe.reading import Request

json.dump([to_json(nic) for nic in read_nics(Request(root=Path(sys.argv[1])))], sys.stdout)
