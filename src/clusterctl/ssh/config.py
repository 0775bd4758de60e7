"""What the user's SSH configuration says of a node, as ``ssh -G`` resolves it."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterctl.errors import UserError
from clusterctl.inventory import Node
from clusterctl.ssh.base import failure, printable

RESOLVE_TIMEOUT_S = 10
"""``Match exec`` in a configuration may run anything."""


@dataclass(frozen=True)
class Target:
    """Where to connect, through what, as whom, and which host keys to believe."""

    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    certificate_files: tuple[Path, ...]
    identities_only: bool
    identity_agent: str
    """Path of the agent's socket; empty: no agent."""
    user_known_hosts: tuple[Path, ...]
    global_known_hosts: tuple[Path, ...]
    host_key_checking: str
    """``strict``, ``accept-new`` or ``off``."""
    hash_known_hosts: bool
    host_key_alias: str
    proxy: tuple[str, ...]
    """Command whose standard input and output lead to the node; empty: TCP."""
    connect_timeout_s: float | None
    address_family: str

    @property
    def known_names(self) -> tuple[str, ...]:
        """Names under which known_hosts files may hold the node's key, the exact one first."""
        if self.host_key_alias:
            return (self.host_key_alias,)
        plain = self.hostname.lower()
        return (plain,) if self.port == 22 else (f"[{plain}]:{self.port}", plain)

    def __str__(self) -> str:
        return f"{self.hostname} port {self.port}"


def resolve(node: Node) -> Target:
    """Ask ``ssh -G``; a configuration that ssh refuses is this node's failure."""
    command = ["ssh", "-G", *node.ssh_args]
    if node.port is not None:
        command += ["-p", str(node.port)]
    if node.user is not None:
        command += ["-l", node.user]
    if node.private_key_file is not None:
        command += ["-i", node.private_key_file]
    try:
        done = subprocess.run(
            [*command, "--", node.host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RESOLVE_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("the ssh client is not installed", "apt install openssh-client") from None
    except subprocess.TimeoutExpired:
        raise failure(
            "unreachable",
            f"`ssh -G {node.host}` did not end within {RESOLVE_TIMEOUT_S} s",
            "look at Match exec in your SSH configuration",
        ) from None
    if done.returncode:
        raise failure(
            "unreachable",
            f"ssh refuses its configuration: {printable(done.stderr).strip()[-300:]}",
            f"see what `ssh -G {node.host}` says",
        )
    return _target(done.stdout.decode(errors="surrogateescape"), node)


def _target(text: str, node: Node) -> Target:
    options: dict[str, list[str]] = {}
    for row in text.splitlines():
        key, _, value = row.partition(" ")
        options.setdefault(key.lower(), []).append(value)

    def one(key: str, default: str = "") -> str:
        value = options.get(key, [default])[0]
        return default if value == "none" else value

    account = pwd.getpwuid(os.getuid())
    tokens = {
        "h": one("hostname", node.host),
        "n": node.host,
        "p": one("port", "22"),
        "r": one("user"),
        "u": account.pw_name,
        "d": account.pw_dir,
        "i": str(os.getuid()),
        "k": one("hostkeyalias") or node.host,
        "%": "%",
    }

    def paths(key: str) -> tuple[Path, ...]:
        words = [word for value in options.get(key, []) for word in _split(value)]
        return tuple(_path(word, tokens) for word in words if word != "none")

    timeout = one("connecttimeout")
    return Target(
        hostname=tokens["h"],
        port=int(tokens["p"]),
        user=tokens["r"],
        identity_files=paths("identityfile"),
        certificate_files=paths("certificatefile"),
        identities_only=one("identitiesonly") == "yes",
        identity_agent=_agent(options.get("identityagent", ["SSH_AUTH_SOCK"])[0], tokens),
        user_known_hosts=paths("userknownhostsfile"),
        global_known_hosts=paths("globalknownhostsfile"),
        host_key_checking=_checking(one("stricthostkeychecking")),
        hash_known_hosts=one("hashknownhosts") == "yes",
        host_key_alias=one("hostkeyalias"),
        proxy=_proxy(one("proxyjump"), one("proxycommand"), node.ssh_args, tokens),
        connect_timeout_s=float(timeout) if timeout.isdigit() else None,
        address_family=one("addressfamily"),
    )


def _checking(value: str) -> str:
    return {"false": "off", "no": "off", "off": "off", "accept-new": "accept-new"}.get(
        value, "strict"
    )


def _agent(value: str, tokens: dict[str, str]) -> str:
    if value == "none":
        return ""
    if value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK", "")
    if value.startswith("$"):
        return os.environ.get(value.strip("${}"), "")
    return str(_path(value, tokens))


def _proxy(
    jump: str, command: str, ssh_args: Sequence[str], tokens: dict[str, str]
) -> tuple[str, ...]:
    """Give the command that leads to the node, as ssh itself would run it."""
    if jump:
        *before, last = jump.split(",")
        # As in ssh: of the command line only -F holds for a jump, the rest is its own Host block.
        argv = ["ssh", *_config_file(ssh_args), "-o", "BatchMode=yes"]
        if before:
            argv += ["-J", ",".join(before)]
        last = last if last.startswith("ssh://") else f"ssh://{last}"
        return (*argv, "-W", f"[{tokens['h']}]:{tokens['p']}", "--", last)
    if command:
        return ("sh", "-c", f"exec {_expand(command, tokens)}")
    return ()


def _config_file(ssh_args: Sequence[str]) -> list[str]:
    for index, word in enumerate(ssh_args):
        if word == "-F" and index + 1 < len(ssh_args):
            return ["-F", ssh_args[index + 1]]
        if word.startswith("-F"):
            return ["-F", word[2:]]
    return []


def _split(value: str) -> list[str]:
    """Split a list of paths; ssh quotes those with spaces, and some versions do not."""
    if Path(value).exists():
        return [value]
    try:
        return shlex.split(value)
    except ValueError:
        return value.split()


def _path(value: str, tokens: dict[str, str]) -> Path:
    """Expand a path; ``~`` is the account's home and not $HOME, as in ssh."""
    expanded = _expand(value, tokens)
    return Path(tokens["d"] + expanded[1:] if expanded.startswith("~/") else expanded)


def _expand(value: str, tokens: dict[str, str]) -> str:
    """Replace ssh's ``%`` tokens; an unknown one stays as it is."""
    parts = value.split("%")
    out, index = parts[0], 1
    while index < len(parts):
        part = parts[index]
        if part:
            out += tokens.get(part[0], "%" + part[0]) + part[1:]
        elif index + 1 < len(parts):  # "%%"
            index += 1
            out += "%" + parts[index]
        index += 1
    return out
