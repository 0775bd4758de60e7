"""How a command is started on a node: quoting, the start marker, privilege escalation.

A login shell may be any shell and may print anything. So the shell is given one fixed text that
sh, fish and csh read alike; the command itself comes as the first line of standard input, and a
marker on standard output says where the command's own output begins.
"""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

from clusterctl.inventory import Become, Node
from clusterctl.ssh.base import NodeFailure, failure, printable
from clusterctl.ssh.process import PipedProcess

RECEIVER = """sh -c 'IFS= read -r line && eval "$line"'"""
"""What the login shell runs: a POSIX shell that takes the command from standard input."""

START_TIMEOUT_S = 30.0
NOISE_LIMIT_BYTES = 1 << 20
REFUSALS = re.compile(
    r"a password is required|not in the sudoers|not allowed to|sorry, you must have a tty"
    r"|[Aa]uthentication fail|incorrect password|[Pp]ermission denied|Operation not permitted"
)


@dataclass(frozen=True)
class Launch:
    """A command ready to be started, and the signs of its beginning."""

    argv: tuple[str, ...]
    marker: bytes
    prompt: bytes


def prepare(argv: Sequence[str], become: Become | None) -> Launch:
    """Wrap a command so that it announces its beginning, as another user if asked."""
    marker = f"clusterctl-{secrets.token_hex(8)}"
    announce = ["sh", "-c", r'printf "\n%s\n" "$1"; shift; exec "$@"', "sh", marker, *argv]
    if become is None:
        return Launch(tuple(announce), marker.encode(), b"")
    prompt = f"password-{secrets.token_hex(8)}:"
    if become.method == "sudo":
        ask = ["-n"] if become.password is None else ["-S", "-p", prompt]
        argv = ["sudo", "-H", *ask, "-u", become.user, "--", *announce]
    elif become.method == "su":
        # su has no option for its prompt: in the C locale it is this one.
        prompt = "Password: "
        command = shlex.join(announce)
        argv = ["env", "LC_ALL=C", "su", "-s", "/bin/sh", "-c", command, become.user]
    elif become.method == "doas" and become.password is None:
        argv = ["doas", "-n", "-u", become.user, "--", *announce]
    else:
        raise failure(
            "become",
            f"privilege escalation with {become.method}"
            f"{' and a password' if become.method == 'doas' else ''} is not supported",
            "use sudo, su, or doas with nopass: ansible_become_method",
        )
    return Launch(tuple(argv), marker.encode(), prompt.encode())


def line(argv: Sequence[str]) -> bytes:
    """Write a command as one line for :data:`RECEIVER`."""
    words = [shlex.quote(word) for word in argv]
    if not any("\n" in word for word in words):
        return f"exec {' '.join(words)}\n".encode(errors="surrogateescape")
    # read takes one line only, so newlines come through a variable.
    text = " ".join(words).replace("\n", """'"$n"'""")
    return f"n=$(printf '\\n.'); n=${{n%.}}; exec {text}\n".encode(errors="surrogateescape")


def await_start(process: PipedProcess, launch: Launch, node: Node) -> None:
    """Read up to the start marker, giving the password of ``become`` when it is asked for."""
    deadline = time.monotonic() + START_TIMEOUT_S
    password = node.become.password if launch.prompt and node.become else None
    asked = False
    noise = bytearray()
    while True:
        while (said := process.take_line()) is not None:
            if said == launch.marker:
                return
            noise += said + b"\n"
        if launch.prompt and process.take_stderr(launch.prompt):
            if asked or password is None:
                process.kill()
                raise _refused(node, "wrong password" if asked else "a password is required")
            asked = True
            process.write(password.reveal().encode() + b"\n")
        if process.ended:
            raise _not_started(process, launch, node, noise)
        remaining = deadline - time.monotonic()
        if remaining <= 0 or len(noise) > NOISE_LIMIT_BYTES:
            process.kill()
            raise _silent(launch, noise)
        process.pump(min(remaining, 1.0))


def _refused(node: Node, why: str) -> NodeFailure:
    method = node.become.method if node.become else "become"
    user = node.become.user if node.become else "root"
    return failure(
        "become",
        f"{method} to {user} was refused: {why}",
        "set ansible_become_password (in a vault), or let the user in without (sudo: NOPASSWD)",
    )


def _not_started(
    process: PipedProcess, launch: Launch, node: Node, noise: bytes | bytearray
) -> NodeFailure:
    if (lost := process.broken()) is not None:
        return lost
    said = process.stderr_tail()
    if launch.prompt and (REFUSALS.search(said) or "sudo:" in said or "su:" in said):
        return _refused(node, said[-300:])
    if launch.prompt and re.search(r"not found|No such file", said):
        return _refused(node, said[-300:])
    text = (printable(bytes(noise)).strip() + "\n" + said).strip()[-300:] or "nothing"
    return failure(
        "protocol",
        f"the login ran no command; it said: {text}",
        "see what `ssh NODE true` says: a login shell, a forced command or an expired account",
    )


def _silent(launch: Launch, noise: bytes | bytearray) -> NodeFailure:
    if len(noise) > NOISE_LIMIT_BYTES:
        return failure(
            "protocol",
            "the login printed more than 1 MB before the command started",
            "quiet the login scripts of that account",
        )
    what = "become" if launch.prompt else "the login"
    return failure(
        "timeout",
        f"{what} did not start the command within {START_TIMEOUT_S:.0f} s",
        "log in by hand: a hanging login script, PAM module or home directory",
    )
