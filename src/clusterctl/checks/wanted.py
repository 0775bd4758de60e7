"""Checks of what the roles established: is it still so, and is it still what is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from clusterctl.checks.base import NodeView, check, fail, known, ok, skip, unknown, warn
from clusterctl.checks.units import number_of
from clusterctl.facts import Promise, Unread
from clusterctl.findings import Outcome

READ_ONLY = " (read-only)"
"""Follows the value of a kernel parameter that root cannot change here."""

SHOWN = 6
"""Deviations that a finding names; how many more there are is said."""


@check("node.packages.wanted", "The packages that provision installed are there", of=NodeView)
def packages(node: NodeView) -> Outcome:
    """Compare the installed versions with the promised ones, or with their beginnings."""

    def deviation(promise: Promise, found: str) -> str:
        same = is_version(found, promise.wanted)
        return "" if same else f"{promise.name} is {found} instead of {promise.wanted}"

    return _judge(node, "package", "package", deviation)


@check("node.packages.held", "Upgrades leave the pinned packages alone", of=NodeView)
def held(node: NodeView) -> Outcome:
    """Look for the holds: without them an unattended upgrade parts driver and libraries."""

    def deviation(promise: Promise, found: str) -> str:
        return "" if found == promise.wanted else f"{promise.name} is {found}"

    return _judge(node, "hold", "held package", deviation)


@check("node.services.wanted", "The services that provision set up run", of=NodeView)
def services(node: NodeView) -> Outcome:
    """Compare what systemd says of each unit with enabled and active, as promised."""

    def deviation(promise: Promise, found: str) -> str:
        missing = set(promise.wanted.split()) - set(found.split())
        return f"{promise.name} is {found} instead of {promise.wanted}" if missing else ""

    return _judge(node, "service", "service", deviation)


@check("node.sysctl.wanted", "The kernel parameters have the wanted values", of=NodeView)
def kernel_parameters(node: NodeView) -> Outcome:
    """Compare the values in effect; a container may be forbidden to change them."""

    def deviation(promise: Promise, found: str) -> str:
        value = found.replace(READ_ONLY, "")
        same = value.split() == promise.wanted.split()
        return "" if same else f"{promise.name} is {value} instead of {promise.wanted}"

    outcome = _judge(node, "sysctl", "kernel parameter", deviation)
    if outcome.remedy and node.contained and not _changeable(node, deviation):
        return warn(
            f"{outcome.evidence}: a container may not change what it shares with its host",
            outcome.limit,
            f"on {node.name}'s host: sysctl -w, with the values of /etc/sysctl.d on {node.name}",
        )
    return outcome


def _changeable(node: NodeView, deviation: Callable[[Promise, str], str]) -> bool:
    """Say whether some deviating parameter is one that this container could change."""
    return any(
        not promise.found.endswith(READ_ONLY) and deviation(promise, promise.found)
        for promise in _promises(node, "sysctl")
        if not isinstance(promise.found, Unread)
    )


@check("node.files.wanted", "The files that provision wrote are unchanged", of=NodeView)
def files(node: NodeView) -> Outcome:
    """Compare each file's hash with that of what the role wrote."""

    def deviation(promise: Promise, found: str) -> str:
        return "" if found == promise.wanted else f"{promise.name} was changed since"

    return _judge(node, "file", "file", deviation)


@check("node.modules.wanted", "Every kernel that can boot has the wanted modules", of=NodeView)
def modules(node: NodeView) -> Outcome:
    """Look for each module in each kernel: a kernel upgraded without it boots without GPUs."""

    def deviation(promise: Promise, found: str) -> str:
        at = dict(word.partition("=")[::2] for word in found.split())
        missing = [kernel for kernel, version in at.items() if version == "none"]
        other = [
            f"{version} in {kernel}"
            for kernel, version in at.items()
            if version != "none" and not is_version(version, promise.wanted)
        ]
        texts = [f"is missing in {', '.join(missing)}"] if missing else []
        texts += [f"is {', '.join(other)} instead of {promise.wanted}"] if other else []
        return f"{promise.name} {' and '.join(texts)}" if texts else ""

    return _judge(node, "module", "kernel module", deviation)


@check("node.modules.options", "The kernel modules have the wanted options", of=NodeView)
def module_options(node: NodeView) -> Outcome:
    """Compare the options of loaded modules, or those that the next loading would set."""

    def deviation(promise: Promise, found: str) -> str:
        as_number = {"Y": "1", "N": "0"}.get(found, found)
        same = promise.wanted in (found, as_number)
        return "" if same else f"{promise.name} is {found} instead of {promise.wanted}"

    return _judge(node, "module_option", "module option", deviation)


@check("node.provision.current", "What was provisioned is what the inventory wants", of=NodeView)
def current(node: NodeView) -> Outcome:
    """Compare the variables that the roles applied with the inventory's."""
    recorded = known(node.facts.provisioned, skip=("absent",)).variables
    asked = node.evidence.wanted.get(node.name, {})
    compared = [
        (role, name, text, wanted)
        for role, variables in recorded.items()
        for name, text in variables.items()
        if name in asked and (wanted := _plain(asked[name])) is not None
    ]
    changed = [
        _Deviation(role, name, f"{name} is {wanted}, and {role} applied {_plain_text(text)}")
        for role, name, text, wanted in compared
        if wanted != _plain_text(text)
    ]
    if not compared:
        return skip("the inventory sets none of the variables that the roles applied")
    limit = "the inventory's variables, as the roles applied them"
    if changed:
        return fail(_texts(changed), limit, _provision(node, changed))
    return ok(f"{number_of(len(compared), 'variable')} as applied", limit)


def is_version(found: str, wanted: str) -> bool:
    """Say whether a version is the wanted one or begins with it: 4.1 is no beginning of 4.10.

    An epoch counts only where the wanted version has one.
    """
    if ":" not in wanted:
        found = re.sub(r"^\d+:", "", found)
    return re.match(rf"{re.escape(wanted)}(?![0-9A-Za-z])", found) is not None if wanted else True


@dataclass(frozen=True)
class _Deviation:
    role: str
    variable: str
    text: str


def _promises(node: NodeView, kind: str) -> list[Promise]:
    provisioned = known(node.facts.provisioned, skip=("absent",))
    return [promise for promise in provisioned.promises if promise.kind == kind]


def _judge(
    node: NodeView, kind: str, thing: str, deviation: Callable[[Promise, str], str]
) -> Outcome:
    """Name everything of a kind that is not as promised; what was not read never passes."""
    promises = _promises(node, kind)
    if not promises:
        return skip(f"no role established a {thing} here")
    deviations, unread = [], []
    for promise in promises:
        text = _absence(promise)
        if not isinstance(promise.found, Unread):
            text = deviation(promise, promise.found)
        elif not text:
            unread.append(f"{promise.name}: {promise.found.why} ({promise.found.unread})")
        if text:
            deviations.append(_Deviation(promise.role, promise.variable, text))
    if deviations:
        return fail(_texts(deviations), _source(deviations), _provision(node, deviations))
    if unread:
        return unknown(_shortened(unread))
    roles = ", ".join(dict.fromkeys(promise.role for promise in promises))
    return ok(f"{number_of(len(promises), thing)} as provisioned ({roles})", "as provisioned")


def _absence(promise: Promise) -> str:
    if isinstance(promise.found, Unread) and promise.found.unread == "absent":
        return f"{promise.name} is not there: {promise.found.why}"
    return ""


def _texts(deviations: Sequence[_Deviation]) -> str:
    return _shortened([deviation.text for deviation in deviations])


def _shortened(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def _source(deviations: Sequence[_Deviation]) -> str:
    roles = ", ".join(_unique(deviation.role for deviation in deviations))
    variables = ", ".join(_unique(deviation.variable for deviation in deviations))
    return f"as provisioned by {roles}" + (f" (inventory: {variables})" if variables else "")


def _provision(node: NodeView, deviations: Sequence[_Deviation]) -> str:
    roles = ",".join(_unique(deviation.role for deviation in deviations))
    return f"clusterctl provision --limit {node.name} --tags {roles}"


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, words)))


def _plain_text(text: str) -> str:
    try:
        value = _plain(json.loads(text))
    except ValueError:
        value = None
    return text if value is None else value


def _plain(value: Any) -> str | None:
    """Give a value as text that is the same however it was written; None for no plain value.

    A number in an INI inventory is a text, ``yes`` is a boolean, and nothing is an empty text. A
    value that needs what only a play knows, or that is secret, has none.
    """
    if isinstance(value, dict):
        items = {str(key): _plain(item) for key, item in value.items()}
        plain = None not in items.values()
        return json.dumps(items, sort_keys=True) if plain else None
    if isinstance(value, (list, tuple)):
        parts = [_plain(item) for item in value]
        return None if None in parts else json.dumps(parts)
    if value is not None and not isinstance(value, (str, bool, int, float)):
        return None
    text = "" if value is None else str(value)
    if "{{" in text:
        return None
    words = {"true": "true", "yes": "true", "on": "true"}
    words |= {"false": "false", "no": "false", "off": "false"}
    return words.get(text.lower(), text)
