"""Name the container runtimes, of those asked for, that are installed and do not know NVIDIA's."""

import pathlib
import shutil
import sys

CONFIGURATIONS = {
    "docker": "etc/docker/daemon.json",
    "containerd": "etc/containerd",
    "crio": "etc/crio",
}


def configured(path):
    """Whether nvidia-container-runtime is named in a file or a folder of them."""
    files = [path, *path.rglob("*")]
    return any("nvidia-container-runtime" in file.read_text() for file in files if file.is_file())


def main(root, *names):
    """Print them."""
    programs = {"docker": "dockerd"}
    for name in names:
        there = shutil.which(programs.get(name, name))
        if there and not configured(pathlib.Path(root, CONFIGURATIONS[name])):
            print(name)


main(*sys.argv[1:])
