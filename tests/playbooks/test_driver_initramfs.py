"""Which boot images are looked into."""

import os
from pathlib import Path
from types import ModuleType

NAMES = (
    "initrd.img-6.1.0-55-amd64",
    "initrd.img-6.1.0-56-amd64",
    "initramfs-5.14.0-503.el9.x86_64.img",
    "initramfs-0-rescue-abc.img",
    "initrd.img-6.1.0-56-amd64.bak",
)


def test_images_made_before_the_configuration_of_kernels_that_are_there(
    module: ModuleType, tmp_path: Path
) -> None:
    configuration = tmp_path / "nouveau.conf"
    configuration.touch()
    os.utime(configuration, (1000, 1000))
    (tmp_path / "boot").mkdir()
    for name in NAMES:
        (tmp_path / "boot" / name).touch()
        os.utime(tmp_path / "boot" / name, (999, 999))
    os.utime(tmp_path / "boot" / NAMES[1], (1001, 1001))
    for kernel in ("6.1.0-55-amd64", "6.1.0-56-amd64", "5.14.0-503.el9.x86_64"):
        (tmp_path / "lib/modules" / kernel).mkdir(parents=True)
    assert list(module.older(tmp_path, configuration)) == [
        "5.14.0-503.el9.x86_64",
        "6.1.0-55-amd64",
    ]
