"""What driver_modules makes of DKMS's words and logs."""

from pathlib import Path
from types import ModuleType

STATUS = """\
nvidia-current/535.309.01, 6.1.0-55-amd64, x86_64: built
nvidia-current/535.309.01, 6.1.0-56-amd64, x86_64: installed
nvidia-current/535.261.03, 6.1.0-54-amd64, x86_64: installed
"""

LOG = """\
DKMS make.log for nvidia-current-open-535.261.03 for kernel 6.1.0-56-amd64 (x86_64)
make[1]: Entering directory
/var/lib/dkms/nv-pci.c:250:11: error: too few arguments to function 'pci_resize_resource'
"""


def test_only_installed_modules_of_the_version_count(module: ModuleType) -> None:
    assert module.built(STATUS, "nvidia-current", "535.309.01") == {"6.1.0-56-amd64"}


def test_the_older_form_of_dkms_is_read(module: ModuleType) -> None:
    old = "nvidia, 580.178.04, 5.15.0-204-generic, x86_64: installed\n"
    assert module.built(old, "nvidia", "580.178.04") == {"5.15.0-204-generic"}


def test_kernels_that_can_boot_come_before_those_with_headers_alone(
    module: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "lib/modules/6.1.0-56-amd64/build").mkdir(parents=True)
    assert module.bootable(tmp_path) == ["6.1.0-56-amd64"]
    (tmp_path / "lib/modules/6.1.0-55-amd64/kernel").mkdir(parents=True)
    assert module.bootable(tmp_path) == ["6.1.0-55-amd64"]


def test_a_failed_build_is_told_with_kernel_culprit_and_the_end_of_its_log(
    module: ModuleType, tmp_path: Path
) -> None:
    assert module.failed_build(tmp_path, "nvidia-current-open") == ""
    folder = tmp_path / "var/lib/dkms/nvidia-current-open/535.261.03/build"
    folder.mkdir(parents=True)
    rest = "".join(f"make: line {number}\n" for number in range(100))
    (folder / "make.log").write_text(LOG + rest)
    told = module.failed_build(tmp_path, "nvidia-current-open")
    assert "nvidia-current-open/535.261.03 for 6.1.0-56-amd64" in told
    assert "error: too few arguments to function 'pci_resize_resource'" in told
    assert told.endswith("make: line 99")
    assert "make: line 50" not in told
