"""Rebuild the boot images that would load nouveau in spite of our configuration.

An image has the configuration of the moment when it was made. Only one that is older than ours and
has nouveau in it is made anew: that takes a minute a kernel.
"""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: driver_initramfs
short_description: Rebuild the boot images that would load nouveau
options:
  configuration:
    description: File that keeps nouveau away.
    type: path
    required: true
"""

IMAGE = re.compile(r"(?:initrd\.img-(.+)|initramfs-(.+)\.img)")
"""Debian's and Red Hat's names of images; the latter's rescue image stays as it is."""


def older(root: Path, configuration: Path) -> dict[str, Path]:
    """Give the images made before the configuration: kernel -> path."""
    since = configuration.stat().st_mtime
    found = {}
    for path in sorted((root / "boot").glob("init*")):
        named = IMAGE.fullmatch(path.name)
        kernel = next(filter(None, named.groups())) if named else ""
        if (root / "lib/modules" / kernel).is_dir() and kernel and path.stat().st_mtime < since:
            found[kernel] = path
    return found


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={"configuration": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    configuration = Path(module.params["configuration"])
    images = older(Path("/"), configuration) if configuration.exists() else {}
    debian = module.get_bin_path("update-initramfs", opt_dirs=["/usr/sbin"])
    lister = module.get_bin_path("lsinitramfs" if debian else "lsinitrd", required=bool(images))
    rebuilt = []
    for kernel, image in images.items():
        _status, listing, _complaint = module.run_command([lister, str(image)], check_rc=True)
        if re.search(r"/nouveau\.ko", listing):
            rebuilt.append(kernel)
            again = [debian, "-u", "-k"] if debian else ["dracut", "--force", "--kver"]
            if not module.check_mode:
                module.run_command([*again, kernel], check_rc=True)
    module.exit_json(changed=bool(rebuilt), kernels=rebuilt)


if __name__ == "__main__":
    main()
