"""What the last run on an inventory did not finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clusterctl.errors import UserError
from clusterctl.provision import history, wanted
from clusterctl.provision.history import PastRun
from clusterctl.provision.run import Request
from clusterctl.provision.wanted import Wanted

_DIFFERENCES_SHOWN = 5


@dataclass(frozen=True)
class Rest:
    """The part of a run that is still to do."""

    run: PastRun
    done: Mapping[str, list[str]]
    """Each node that did not finish -> the roles that it is through with."""

    @property
    def targets(self) -> list[str]:
        """All nodes of that run, those that finished too."""
        return list(self.run.content["targets"])

    def request(self, asked: Request) -> Request:
        """Give that run's request for what is left, with the options asked for besides its own."""
        options = self.run.content["options"]
        return replace(
            asked,
            limit=",".join(self.done),
            tags=options["tags"],
            rolling=asked.rolling or options["rolling"],
            max_failures=(
                options["max_failures"] if asked.max_failures is None else asked.max_failures
            ),
            all_or_nothing=asked.all_or_nothing or options["all_or_nothing"],
            no_reboot=asked.no_reboot or options["no_reboot"],
            done={name: roles for name, roles in self.done.items() if roles},
        )

    def roles(self, node: str, known: Sequence[str]) -> list[str]:
        """Give the roles that the node is to do, of those ``known``."""
        tags = self.run.content["options"]["tags"]
        asked = tags.replace(",", " ").split() if tags else known
        return [role for role in known if role in asked and role not in self.done[node]]


def find(inventory: str) -> Rest:
    """Give what the last run on the inventory (real path), plans aside, left to do.

    Raises :class:`UserError` when there is none, or nothing to go on with.
    """
    past = [run for run in history.runs(inventory) if not run.check]
    if not past:
        raise UserError(
            f"there is no run on {inventory} to go on with",
            "leave out --resume",
        )
    run = past[-1]
    before = run.content["done_before"]
    done = {
        name: [*dict.fromkeys([*before.get(name, []), *result["roles_done"]])]
        for name, result in run.nodes.items()
        if result["state"] != "done"
    }
    if not done:
        raise UserError(
            f"the last run on {inventory}, {run.id}, finished on all of its nodes",
            "leave out --resume to provision again",
        )
    return Rest(run, done)


def require_unchanged(rest: Rest, now: Wanted) -> None:
    """Refuse to go on towards another state than the one that the run began with."""
    found = wanted.differences(rest.run.wanted, now)
    if found:
        said = [f"{_some(names)}: {words}" for words, names in found.items()]
        more = [f"and {len(said) - _DIFFERENCES_SHOWN} more"] * (len(said) > _DIFFERENCES_SHOWN)
        raise UserError(
            f"the inventory asks for something else since run {rest.run.id}:\n  "
            + "\n  ".join([*said[:_DIFFERENCES_SHOWN], *more]),
            "leave out --resume, so that every node comes to the new state",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 3 else [*names[:3], f"{len(names) - 3} more"])
