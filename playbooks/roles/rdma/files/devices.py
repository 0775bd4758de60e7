"""Load RDMA's libraries, run ibv_devices, and name each device with its firmware and ports.

The argument is the root of the tree to read (/), so that it can be tried on a captured one.
"""

import ctypes
import pathlib
import subprocess
import sys


def text(path):
    """Read a file of sysfs; a question mark where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return "?"


def port(folder):
    """Describe a port: "port 1 InfiniBand ACTIVE 400 Gb/sec (4X NDR)"."""
    state = text(folder / "state").rpartition(": ")[2]
    return " ".join(
        ["port", folder.name, text(folder / "link_layer"), state, text(folder / "rate")]
    )


def main(root):
    """Print a line for each device; end with what does not work."""
    # Sonames are those of rdma-core since 2017, in every distribution and in DOCA-OFED.
    for name in ("libibverbs.so.1", "librdmacm.so.1", "libmlx5.so.1"):
        ctypes.CDLL(name)
    devices = sorted(pathlib.Path(root, "sys/class/infiniband").glob("*"))
    listed = subprocess.run(["/usr/bin/env", "ibv_devices"], capture_output=True, text=True)
    # Without any device, and in a kernel without RDMA, it fails with this.
    absent = "Failed to get IB devices list" in listed.stderr and not devices
    if listed.returncode and not absent:
        sys.exit("ibv_devices: " + listed.stderr)
    for device in devices:
        ports = ", ".join(port(folder) for folder in sorted((device / "ports").glob("*")))
        print(
            "%s: %s, firmware %s, %s"
            % (device.name, text(device / "hca_type"), text(device / "fw_ver"), ports)
        )


main(sys.argv[1])
