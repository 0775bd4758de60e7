"""The command line: parse, call, render, exit code. Nothing is decided here."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from importlib.metadata import version
from typing import NoReturn

import click

from clusterctl.errors import UserError
from clusterctl.findings import ExitCode

COMMANDS = {
    "doctor": "Examine nodes and the network between them: READY or NOT READY.",
    "lab": "A cluster of real nodes on this machine, for trying, teaching and testing.",
    "provision": "Bring every node to the state that the inventory asks for.",
}
"""Command -> its help line. Each is the object of that name in the module of that name, imported
when it is used, so that ``--help`` does not wait for Ansible."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every command."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and give its command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"clusterctl.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("clusterctl"), prog_name="clusterctl")
def cli() -> None:
    """Turn a list of GPU machines into a cluster that has proved that it can train.

    \b
    Try it on this machine, nothing else needed:
      clusterctl lab up && clusterctl provision -i lab && clusterctl doctor -i lab
    """


def main() -> NoReturn:
    """Run the command line and exit with one of :class:`ExitCode`."""
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(int(code or ExitCode.OK))
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except UserError as error:
        click.echo(f"clusterctl: {error.message}", err=True)
        if error.next_step:
            click.echo(f"  next: {error.next_step}", err=True)
        sys.exit(ExitCode.USAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except Exception:  # noqa: BLE001 - the last line of defence: a bug of ours, told as one
        path = _save_traceback()
        click.echo(f"clusterctl: this is a bug in clusterctl; the details are in {path}", err=True)
        sys.exit(ExitCode.BUG)


def _save_traceback() -> str:
    handle, path = tempfile.mkstemp(prefix="clusterctl-bug-", suffix=".txt")
    with os.fdopen(handle, "w") as file:
        file.write(f"clusterctl {version('clusterctl')}, Python {sys.version}\n")
        file.write(traceback.format_exc())
    return path
