"""``python -m clusterctl.health_bundle MACHINE...``: what the role healthcheck copies to the nodes.

Keeps one archive a kind of machine (``x86_64``, ``aarch64``) in the cache folder and prints where:
``{"x86_64": {"archive": PATH, "hash": SHA256}, ...}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from clusterctl import bundle
from clusterctl.errors import UserError
from clusterctl.state import cache_folder


def build(machine: str) -> dict[str, str]:
    """Give the archive's path and the hash of its content; written only when it is not there."""
    content = bundle.health(machine)
    archive = cache_folder() / "health" / f"{content.hash[:24]}.tar.gz"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        aside = archive.with_name(f"{archive.name}.{os.getpid()}")
        aside.write_bytes(content.archive)
        aside.replace(archive)
    return {"archive": str(archive), "hash": content.hash}


def main(machines: Sequence[str]) -> None:
    """Print where the archives are."""
    try:
        print(json.dumps({machine: build(machine) for machine in machines}))
    except (UserError, OSError) as error:
        sys.exit(f"the health check cannot be built: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
