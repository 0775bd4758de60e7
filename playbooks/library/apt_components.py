"""Enable components of the distribution's archive (``non-free``) beside those that are enabled.

The node's own sources stay as they are: a file of our own names the same archives, suites and keys
with the components that are missing. So the mirror that a site uses is used for these as well.
"""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: apt_components
short_description: Enable components of the distribution's archive
options:
  components:
    description: Components that are wanted beside C(main).
    type: list
    elements: str
    required: true
"""

PATH = Path("/etc/apt/sources.list.d/clusterctl-components.sources")
FORMAT = "$(SOURCESENTRY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
DISTRIBUTION_LABELS = ("Debian", "Debian-Security", "Ubuntu")


def archives(output: str) -> dict[tuple[str, str, str], set[str]]:
    """Read apt's targets: (URI, suite, key) -> components that sources other than ours enable."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for line in output.splitlines():
        entry, uri, suite, component, key = line.split("|")
        if not entry.startswith(str(PATH)):
            # apt leaves the name of an option that a source does not set as it is.
            key = "" if key.startswith("$") else key
            found.setdefault((uri, suite, key), set()).add(component)
    return {archive: names for archive, names in found.items() if "main" in names}


def sources(found: dict[tuple[str, str, str], set[str]], components: list[str]) -> str:
    """Write the sources (deb822) for the components that are missing."""
    stanzas = []
    for (uri, suite, key), enabled in sorted(found.items()):
        missing = [component for component in components if component not in enabled]
        if missing:
            stanza = f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(missing)}\n"
            stanzas.append(stanza + (f"Signed-By: {key}\n" if key else ""))
    return "# Written by clusterctl provision.\n" + "\n".join(stanzas) if stanzas else ""


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={"components": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    found = _enabled(module)
    if not found and not module.check_mode:
        # What a source is called is known once its lists were fetched.
        module.run_command(["apt-get", "--quiet", "update"], check_rc=True)
        found = _enabled(module)
    before = PATH.read_text() if PATH.exists() else ""
    after = sources(found, module.params["components"])
    if after != before and not module.check_mode:
        aside = PATH.with_suffix(".new")
        aside.write_text(after)
        aside.chmod(0o644)
        aside.replace(PATH)
    header = str(PATH)
    diff = {"before": before, "after": after, "before_header": header, "after_header": header}
    module.exit_json(changed=after != before or not found, diff=diff)


def _enabled(module: AnsibleModule) -> dict[tuple[str, str, str], set[str]]:
    found: dict[tuple[str, str, str], set[str]] = {}
    for label in DISTRIBUTION_LABELS:
        targets = ["apt-get", "indextargets", "--format", FORMAT, f"Label: {label}"]
        _status, output, _complaints = module.run_command(
            [*targets, "Created-By: Packages"], check_rc=True
        )
        found.update(archives(output))
    return found


if __name__ == "__main__":
    main()
