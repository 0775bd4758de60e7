"""Enable components of the distribution's archive (``non-free``) beside those that are enabled.

The node's own sources stay as they are: a file of our own names the same archives, suites and keys
with the components that are missing. So the mirror that a site uses is used for these as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: apt_components
short_description: Enable components of the distribution's archive
description:
  - Components that an earlier call enabled stay, so that roles need not know of each other.
options:
  components:
    description: Components that are wanted beside C(main).
    type: list
    elements: str
    required: true
"""

PATH = Path("/etc/apt/sources.list.d/clusterctl-components.sources")
FORMAT = "$(SOURCESENTRY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(LABEL)|$(SIGNED_BY)|."
"""A key may be in the source itself, over several lines, so a record ends with more than a line."""

LABELS = ("Debian", "Debian-Security", "Ubuntu")
"""What a distribution calls its archives, wherever they are mirrored; backports are left alone."""


class Archive(NamedTuple):
    """What a source is of."""

    uri: str
    suite: str
    key: str


def archives(output: str) -> tuple[dict[Archive, set[str]], list[str]]:
    """Read apt's targets: archive -> components that its own sources enable, and those of ours."""
    found: dict[Archive, set[str]] = {}
    ours = []
    for record in output.split("|.\n"):
        entry, *values = record.split("|")
        if len(values) != 5 or values[3] not in LABELS:
            continue
        uri, suite, component, _label, key = values
        if entry.startswith(str(PATH)):
            ours.append(component)
            continue
        # apt leaves the name of an option that a source does not set as it is.
        archive = Archive(uri, suite, "" if key.startswith("$") else key)
        found.setdefault(archive, set()).add(component)
    return {archive: names for archive, names in found.items() if "main" in names}, ours


def sources(found: dict[Archive, set[str]], components: list[str]) -> str:
    """Write the sources (deb822) for the components that are missing."""
    stanzas = []
    for archive, enabled in sorted(found.items()):
        missing = [component for component in components if component not in enabled]
        if missing:
            stanzas.append(
                f"Types: deb\nURIs: {archive.uri}\nSuites: {archive.suite}\n"
                f"Components: {' '.join(missing)}\n{_signed_by(archive.key)}"
            )
    return "# Written by clusterctl provision.\n" + "\n".join(stanzas) if stanzas else ""


def _signed_by(key: str) -> str:
    if not key.strip():
        return ""
    # A key in the source goes on over lines that begin with a space; a dot stands for an empty one.
    first, *rest = key.strip().splitlines()
    lines = [f" {line.strip() or '.'}" for line in rest]
    if lines:
        lines.insert(0, f" {first.strip()}")
        return "\n".join(["Signed-By:", *lines, ""])
    return f"Signed-By: {first}\n"


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={"components": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    found, ours = _enabled(module)
    if not found and not module.check_mode:
        # What a source is called is known once its lists were fetched.
        module.run_command(["apt-get", "--quiet", "update"], check_rc=True)
        found, ours = _enabled(module)
        if not found:
            module.fail_json(
                msg=f"no source of this node is one of {', '.join(LABELS)} with the component main,"
                f" beside which {', '.join(module.params['components'])} could be enabled"
            )
    before = PATH.read_text() if PATH.exists() else ""
    after = sources(found, sorted({*module.params["components"], *ours}))
    if after != before and not module.check_mode:
        _put(after)
    header = str(PATH)
    diff = {"before": before, "after": after, "before_header": header, "after_header": header}
    module.exit_json(changed=after != before or not found, diff=diff)


def _put(text: str) -> None:
    if not text:
        PATH.unlink()
        return
    aside = PATH.with_suffix(".new")
    aside.write_text(text)
    aside.chmod(0o644)
    aside.replace(PATH)


def _enabled(module: AnsibleModule) -> tuple[dict[Archive, set[str]], list[str]]:
    targets = ["apt-get", "indextargets", "--format", FORMAT, "Created-By: Packages"]
    _status, output, _complaints = module.run_command(targets, check_rc=True)
    return archives(output)


if __name__ == "__main__":
    main()
