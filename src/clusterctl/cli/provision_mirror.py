"""``clusterctl provision mirror``: packages for sites without a way out."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from clusterctl import inventory
from clusterctl.cli.options import inventory_option, resolve_inventory
from clusterctl.findings import ExitCode
from clusterctl.provision.mirror import Mirror, make
from clusterctl.state import state_folder


@click.command()
@inventory_option(required=True)
@click.option("-l", "--limit", metavar="PATTERN", help="Only these hosts (an Ansible pattern).")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def mirror(source: str, limit: str | None, folder: Path) -> int:
    """Make a mirror of all packages that provisioned nodes need, for nodes that reach no other.

    Provision one node of each release where packages can be had, with the variables of the site
    that the mirror is for. FOLDER then gets a signed repository for each of these releases, which
    any web server can serve, or which is copied to the nodes. Run it again to renew them.

    \b
    Examples:
      clusterctl provision mirror -i inventory/hosts.yml /srv/mirror
      clusterctl provision mirror -i inventory/hosts.yml --limit builder1 mirror
    """
    cluster = inventory.load(resolve_inventory(source), limit)
    console = Console(stderr=True, highlight=False)
    made = make(cluster, folder, state_folder() / "mirror-keys", console.print)
    _tell(made, folder)
    return int(ExitCode.FAILED if made.trouble else ExitCode.OK)


def _tell(made: Mirror, folder: Path) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for name, error in made.trouble.items():
        console.print(f"✗ {name}: {error.why}; {error.next_step}")
    for one in made.releases:
        console.print(
            f"✓ {folder / one.release}: {len(one.packages)} packages,"
            f" {one.size_bytes / 1e6:.0f} MB, through {one.node}"
        )
    vendor = any(one.promised.vendor for one in made.releases)
    console.print(
        f"\nServe {folder} with any web server, or copy it to the nodes. In the inventory:\n"
        "  mirror_url: http://SERVER/PATH    # or file:///PATH where it is on every node\n"
        f'  mirror_key: "{made.fingerprint}"' + "\n  mirror_of: vendor" * vendor
    )
