"""``clusterctl provision``: bring every node to the state that the inventory asks for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from clusterctl import inventory
from clusterctl.cli.options import inventory_option, resolve_inventory
from clusterctl.errors import UserError
from clusterctl.findings import ExitCode
from clusterctl.inventory import Secret
from clusterctl.provision import cleanup, record, view
from clusterctl.provision.playbooks import playbooks_folder, roles
from clusterctl.provision.progress import Progress
from clusterctl.provision.run import Request, Run
from clusterctl.provision.secret_file import in_memory


@click.command(epilog="Exit codes: 0 done, 1 a node failed, 2 usage or inventory, 130 interrupted.")
@inventory_option(required=True)
@click.option("-l", "--limit", metavar="PATTERN", help="Only these hosts (an Ansible pattern).")
@click.option("-t", "--tags", metavar="TAGS", help="Only these roles: base, mpi.")
@click.option("-C", "--check", is_flag=True, help="Say what would change, and change nothing.")
@click.option("-D", "--diff", is_flag=True, help="Show what changes in files.")
@click.option(
    "-K", "--ask-become-pass", is_flag=True, help="Ask for the password of sudo on the nodes."
)
@click.option(
    "-J", "--ask-vault-pass", is_flag=True, help="Ask for the password of the inventory's vault."
)
@click.option(
    "--vault-password-file",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="File (or program) that gives the vault's password.",
)
def provision(
    source: str,
    limit: str | None,
    tags: str | None,
    check: bool,
    diff: bool,
    ask_become_pass: bool,
    ask_vault_pass: bool,
    vault_password_file: str | None,
) -> int:
    """Bring every node of an inventory to the state that its variables ask for.

    A second run changes nothing, and says so. Every run leaves a record in
    ~/.local/state/clusterctl/runs.

    \b
    Examples:
      clusterctl provision -i lab
      clusterctl provision -i inventory/hosts.yml --check --diff
      clusterctl provision -i inventory/hosts.yml --limit 'gpu:!gpu7' --tags mpi
    """
    _refuse_unknown(tags)
    source = resolve_inventory(source)
    become_password = _ask("Password of sudo on the nodes") if ask_become_pass else None
    if ask_vault_pass:
        vault_password_file = in_memory(_ask("Password of the inventory's vault"))
    if vault_password_file:
        # For Ansible's loader in this process as well as for the run.
        os.environ["ANSIBLE_VAULT_PASSWORD_FILE"] = vault_password_file
    nodes = inventory.load(source, limit).nodes
    request = Request(
        inventory=source,
        playbook=playbooks_folder() / "provision.yml",
        limit=limit,
        tags=tags,
        check=check,
        diff=diff,
        become_password=become_password,
    )
    return int(_provision(request, Progress(node.name for node in nodes)))


def _refuse_unknown(tags: str | None) -> None:
    """A mistyped tag would run nothing, and look like nodes that are as wanted."""
    unknown = set((tags or "").replace(",", " ").split()) - set(roles())
    if unknown:
        raise UserError(f"no role has the tag {', '.join(unknown)}", f"tags: {', '.join(roles())}")


def _ask(what: str) -> Secret:
    return Secret(click.prompt(what, hide_input=True, err=True))


def _provision(request: Request, progress: Progress) -> ExitCode:
    record.tidy()
    scratch = cleanup.make_scratch()
    kept = record.Record(request, scratch)
    run = Run(request, kept.id, scratch, kept.log)
    with _stopped_by_signals(run) as signals:
        try:
            _follow(run, progress, kept, check=request.check)
        finally:
            run.close()
    code = _exit_code(run, progress, signals, kept.log)
    state = "interrupted" if signals else "done" if code is ExitCode.OK else "failed"
    kept.close(progress, state, code)
    _conclude(progress, kept.folder, code, check=request.check, interrupted=bool(signals))
    return code


def _follow(run: Run, progress: Progress, kept: record.Record, *, check: bool) -> None:
    console = Console(stderr=True, highlight=False)
    with view.watching(progress, console, check=check) as shown:
        for event in run.events():
            kept.event(event)
            for news in progress.take(event):
                shown.tell(news)


def _exit_code(run: Run, progress: Progress, signals: list[int], log: Path) -> ExitCode:
    if signals:
        return ExitCode(128 + signals[0]) if signals[0] != signal.SIGHUP else ExitCode.TERMINATED
    if run.return_code is None:
        raise RuntimeError(f"the child of the run broke: {log.read_text()[-4000:]}")
    if progress.failures:
        return ExitCode.FAILED
    return ExitCode.OK if progress.finished and run.return_code == 0 else ExitCode.USAGE


def _conclude(
    progress: Progress, folder: Path, code: ExitCode, *, check: bool, interrupted: bool
) -> None:
    console = Console(highlight=False)
    if interrupted:
        view.tell_interrupted(progress, console)
    elif code is ExitCode.USAGE:
        raise UserError(
            "Ansible could not run the playbook: " + "\n".join(progress.messages[-5:]),
            f"what it did is in {folder}",
        )
    else:
        view.summarize(progress, console, check=check)
    if code is not ExitCode.OK:
        console.print(f"Record of this run: {folder}", markup=False, soft_wrap=True)


@contextmanager
def _stopped_by_signals(run: Run) -> Iterator[list[int]]:
    """Stop the run at the first SIGINT, SIGTERM or SIGHUP, kill it at the second.

    Gives the list of signals received.
    """
    received: list[int] = []

    def handler(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            run.stop()
        else:
            run.kill()

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, old)
