"""``clusterctl provision``: bring every node to the state that the inventory asks for."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import click
from click.core import ParameterSource
from rich.console import Console

from clusterctl import inventory
from clusterctl.cli.options import inventory_option
from clusterctl.cli.provision_history import history, real_inventory, show
from clusterctl.cli.provision_mirror import mirror
from clusterctl.errors import UserError
from clusterctl.findings import ExitCode
from clusterctl.inventory import Secret
from clusterctl.provision import cleanup, lock, record, summary, view, wanted
from clusterctl.provision import resume as resuming
from clusterctl.provision.past_view import tell_rest
from clusterctl.provision.playbooks import last_play, playbooks_folder, roles
from clusterctl.provision.playbooks import tags as playbook_tags
from clusterctl.provision.progress import Failure, Progress
from clusterctl.provision.redaction import Redaction
from clusterctl.provision.run import Request, Run
from clusterctl.provision.secret_file import in_memory
from clusterctl.provision.summary import count


def _batch(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Let through what Ansible's ``serial`` takes: a number of nodes or a percentage."""
    if value is not None and not re.fullmatch(r"[1-9]\d*|([1-9]\d?|100)%", value):
        raise click.BadParameter("give a number of nodes, or a percentage such as 10%")
    return value


EXIT_CODES = """\b
Exit codes: 0 done, 1 a node failed, 2 usage, inventory, locked, or nothing to resume,
130 and 143 interrupted."""


@click.group(invoke_without_command=True, epilog=EXIT_CODES)
@inventory_option(required=False)
@click.option("-l", "--limit", metavar="PATTERN", help="Only these hosts (an Ansible pattern).")
@click.option("-t", "--tags", metavar="ROLES", help="Only these roles, such as base,mpi.")
@click.option("-C", "--check", is_flag=True, help="Say what would change, and change nothing.")
@click.option("-D", "--diff", is_flag=True, help="Show what changes in files.")
@click.option("--rolling", metavar="N|N%", callback=_batch, help="Only so many nodes at a time.")
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    metavar="N",
    help="When more nodes have failed, let no node begin another role.",
)
@click.option(
    "--all-or-nothing", is_flag=True, help="Touch no node when the preflight of one fails."
)
@click.option("--no-reboot", is_flag=True, help="Leave to you what needs a reboot.")
@click.option("--resume", is_flag=True, help="Go on with what the last run did not finish.")
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
@click.pass_context
def provision(
    context: click.Context,
    source: str | None,
    limit: str | None,
    tags: str | None,
    check: bool,
    diff: bool,
    rolling: str | None,
    max_failures: int | None,
    all_or_nothing: bool,
    no_reboot: bool,
    resume: bool,
    ask_become_pass: bool,
    ask_vault_pass: bool,
    vault_password_file: str | None,
) -> int | None:
    """Bring every node of an inventory to the state that its variables ask for.

    A second run changes nothing, and says so. Every run leaves a record in
    ~/.local/state/clusterctl/runs; history and show read it.

    \b
    Examples:
      clusterctl provision -i lab
      clusterctl provision -i inventory/hosts.yml --check --diff
      clusterctl provision -i inventory/hosts.yml --limit 'gpu:!gpu7' --tags mpi
      clusterctl provision -i inventory/hosts.yml --rolling 10% --max-failures 2
      clusterctl provision -i inventory/hosts.yml --resume
      clusterctl provision show
    """
    if context.invoked_subcommand:
        _refuse_options(context)
        return None
    if source is None:
        raise click.UsageError("Missing option '-i' / '--inventory'.", context)
    if resume and (limit or tags):
        raise click.UsageError(
            "--resume takes its nodes and roles from the run that it goes on with.", context
        )
    _refuse_unknown(tags)
    become_password = _ask("Password of sudo on the nodes") if ask_become_pass else None
    if ask_vault_pass:
        vault_password_file = in_memory(_ask("Password of the inventory's vault"))
    if vault_password_file:
        # For Ansible's loader in this process as well as for the run.
        os.environ["ANSIBLE_VAULT_PASSWORD_FILE"] = vault_password_file
    request = Request(
        inventory=real_inventory(source),
        playbook=playbooks_folder() / "provision.yml",
        limit=limit,
        tags=tags,
        check=check,
        diff=diff,
        rolling=rolling,
        max_failures=max_failures,
        all_or_nothing=all_or_nothing,
        no_reboot=no_reboot,
        become_password=become_password,
    )
    return int(_exclusively(request, resume=resume))


provision.add_command(history)
provision.add_command(mirror)
provision.add_command(show)


def _refuse_options(context: click.Context) -> None:
    given = [
        option.opts[-1]
        for option in context.command.params
        if context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)} before {context.invoked_subcommand} has no effect; "
            f"give the options of {context.invoked_subcommand} after it.",
            context,
        )


def _refuse_unknown(tags: str | None) -> None:
    """A mistyped tag would run nothing, and look like nodes that are as wanted."""
    known = playbook_tags()
    unknown = set((tags or "").replace(",", " ").split()) - set(known)
    if unknown:
        raise UserError(f"no role has the tag {', '.join(unknown)}", f"tags: {', '.join(known)}")


def _ask(what: str) -> Secret:
    return Secret(click.prompt(what, hide_input=True, err=True))


def _exclusively(request: Request, *, resume: bool) -> ExitCode:
    """Provision while nobody else provisions this inventory; a plan disturbs nobody."""
    with nullcontext() if request.check else lock.held(request.inventory) as sign:
        record.tidy()
        rest = resuming.find(request.inventory) if resume else None
        nodes = inventory.load(
            request.inventory, ",".join(rest.targets) if rest else request.limit
        ).nodes
        asked = wanted.snapshot(nodes)
        if rest:
            resuming.require_unchanged(rest, asked)
            request = rest.request(request)
            asked = {name: asked[name] for name in rest.done}
            tell_rest(rest, roles(), Console(stderr=True, highlight=False))
        scratch = cleanup.make_scratch()
        kept = record.Record(request, scratch, asked, rest.run.id if rest else None)
        if sign:
            sign(kept.holder)
        run = Run(request, kept.id, scratch, kept.log, Redaction(nodes))
        return _provision(run, request, Progress(asked, last_play(request.playbook)), kept)


def _provision(run: Run, request: Request, progress: Progress, kept: record.Record) -> ExitCode:
    with _stopped_by_signals(run) as signals:
        try:
            _follow(run, progress, kept, request)
        finally:
            run.close()
    code = _exit_code(run, progress, signals, kept.log)
    state = "interrupted" if signals else "done" if code is ExitCode.OK else "failed"
    kept.close(progress, state, code)
    _conclude(progress, kept.folder, code, request, interrupted=bool(signals))
    return code


def _follow(run: Run, progress: Progress, kept: record.Record, request: Request) -> None:
    console = Console(stderr=True, highlight=False)
    with view.watching(progress, console, check=request.check) as shown:
        for event in run.events():
            kept.event(event)
            for news in progress.take(event):
                shown.tell(news)
                if isinstance(news, Failure):
                    _stop_after_too_many(run, progress, request.max_failures)


def _stop_after_too_many(run: Run, progress: Progress, limit: int | None) -> None:
    failed = len(progress.failures)
    if limit is not None and failed > limit:
        run.wind_down(f"{count(failed, 'node')} failed, and --max-failures is {limit}")


def _exit_code(run: Run, progress: Progress, signals: list[int], log: Path) -> ExitCode:
    if signals:
        return ExitCode(128 + signals[0]) if signals[0] != signal.SIGHUP else ExitCode.TERMINATED
    if run.return_code is None:
        raise RuntimeError(f"the child of the run broke: {log.read_text()[-4000:]}")
    if progress.failures or progress.unfinished:
        return ExitCode.FAILED
    return ExitCode.OK if progress.finished and run.return_code == 0 else ExitCode.USAGE


def _conclude(
    progress: Progress, folder: Path, code: ExitCode, request: Request, *, interrupted: bool
) -> None:
    console = Console(highlight=False)
    if interrupted:
        summary.tell_interrupted(progress, console, check=request.check)
    elif code is ExitCode.USAGE:
        raise UserError(
            "Ansible could not run the playbook: " + "\n".join(progress.messages[-5:]),
            f"what it did is in {folder}",
        )
    else:
        summary.summarize(progress, console, check=request.check, diff=request.diff)
    if code is ExitCode.FAILED and not request.check:
        console.print("When the cause is mended, go on with --resume.")
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
