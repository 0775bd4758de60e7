"""Logging in as OpenSSH would: the agent's keys, key files, then the inventory's password."""

from __future__ import annotations

import base64
import contextlib
import functools
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
from paramiko.agent import AgentSSH
from paramiko.pkey import UnknownKeyType

from clusterctl.inventory import Node
from clusterctl.ssh.base import failure
from clusterctl.ssh.config import Target

AGENT_TIMEOUT_S = 10.0


class Agent(AgentSSH):
    """A connection to the ssh agent at a socket path."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(AGENT_TIMEOUT_S)
        try:
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined] # not in the stubs
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """End the connection to the agent."""
        self._close()  # type: ignore[attr-defined] # not in the stubs


class Login:
    """One attempt to authenticate an encrypted connection."""

    def __init__(
        self, transport: paramiko.Transport, target: Target, node: Node, *, send_password: bool
    ) -> None:
        self._transport = transport
        self._target = target
        self._node = node
        self._send_password = send_password
        self._allowed: set[str] = {"publickey", "password", "keyboard-interactive"}
        self._tried: list[str] = []
        self._notes: list[str] = []

    def run(self) -> None:
        """Try what there is in OpenSSH's order; an ``auth`` failure says what was tried."""
        with contextlib.ExitStack() as stack:
            for name, key in self._keys(stack):
                if "publickey" not in self._allowed:
                    break
                attempt = functools.partial(self._transport.auth_publickey, self._target.user, key)
                if self._attempt(name, attempt):
                    return
            if self._with_password():
                return
        raise self._refused()

    def _attempt(self, name: str, attempt: Callable[[], list[str]]) -> bool:
        self._tried.append(name)
        try:
            further = attempt()
        except paramiko.BadAuthenticationType as error:
            self._allowed &= set(error.allowed_types)
            self._tried.pop()
            return False
        except (paramiko.SSHException, OSError, EOFError) as error:
            if not self._transport.is_active():
                raise self._cut_off() from None
            if "timeout" in str(error).lower():
                raise failure(
                    "timeout",
                    f"{self._target} did not answer a login with {name} in time",
                    "look at the node's load, its PAM modules and its name service",
                ) from None
            return False
        if further:  # accepted, and the server wants one more method
            self._allowed = set(further)
            self._notes.append(f"after {name} the server wants {' or '.join(further)} as well")
            return False
        return True

    def _keys(self, stack: contextlib.ExitStack) -> Iterator[tuple[str, paramiko.PKey]]:
        files = [path for path in self._target.identity_files if path.exists()]
        wished = self._node.private_key_file
        if wished and not Path(wished).expanduser().exists():
            self._notes.append(f"the key {wished} does not exist")
        wanted = {blob for path in files if (blob := _public_blob(path))}
        in_agent: set[bytes] = set()
        agent_keys = self._agent_keys(stack)
        # Keys that the configuration names come first: servers count attempts.
        for key in sorted(agent_keys, key=lambda key: key.asbytes() not in wanted):
            if key.asbytes() in wanted or not self._target.identities_only:
                in_agent.add(key.asbytes())
                yield f"agent key {key.comment}", key
        for path in files:
            if _public_blob(path) in in_agent or path.suffix == ".pub":
                continue
            loaded = self._load(path)
            if loaded is not None and loaded.asbytes() not in in_agent:
                yield str(path), loaded

    def _agent_keys(self, stack: contextlib.ExitStack) -> tuple[paramiko.AgentKey, ...]:
        if not self._target.identity_agent:
            return ()
        try:
            agent = Agent(self._target.identity_agent)
        except (OSError, paramiko.SSHException) as error:
            self._notes.append(f"the ssh agent could not be asked: {error}")
            return ()
        stack.callback(agent.close)
        return agent.get_keys()

    def _load(self, path: Path) -> paramiko.PKey | None:
        try:
            return _private_key(path)
        except (paramiko.PasswordRequiredException, TypeError):
            # TypeError is what the cryptography package says of an encrypted key.
            self._notes.append(f"{path} is encrypted: load it with `ssh-add {path}`")
        except (OSError, ValueError, paramiko.SSHException, UnknownKeyType) as error:
            self._notes.append(f"{path} cannot be read: {str(error)[:200]}")
        return None

    def _with_password(self) -> bool:
        if self._node.password is None:
            return False
        if not self._send_password:
            self._notes.append("the password was not sent, since the host key has changed")
            return False
        password = self._node.password.reveal()
        user = self._target.user
        if "password" in self._allowed and self._attempt(
            "password", lambda: self._transport.auth_password(user, password, fallback=False)
        ):
            return True

        def answer(_title: str, _text: str, prompts: list[tuple[str, bool]]) -> list[str]:
            return [password for _ in prompts]

        return "keyboard-interactive" in self._allowed and self._attempt(
            "keyboard-interactive", lambda: self._transport.auth_interactive(user, answer)
        )

    def _refused(self) -> Exception:
        tried = ", ".join(self._tried) or "nothing, since there is no key and no password"
        why = f"{self._target} refused the login of {self._target.user}; tried: {tried}"
        return failure(
            "auth",
            "; ".join([why, *self._notes]),
            f"ssh-copy-id {self._target.user}@{self._target.hostname}, "
            "or set ansible_user, ansible_ssh_private_key_file or ansible_password",
        )

    def _cut_off(self) -> Exception:
        return failure(
            "auth",
            f"{self._target} ended the connection during the login of {self._target.user} "
            f"after trying: {', '.join(self._tried)}",
            "with many keys in the agent set IdentitiesOnly yes; else see the node's sshd log",
        )


_loading = threading.Lock()


def _private_key(path: Path) -> paramiko.PKey:
    with _loading:  # one thread checks a key's arithmetic, the others wait for its result
        return _cached_key(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _cached_key(path: Path, _mtime_ns: int) -> paramiko.PKey:
    return paramiko.PKey.from_path(path)


def _public_blob(path: Path) -> bytes:
    """Give the public key that belongs to an identity file, empty when it cannot be seen."""
    public = path if path.suffix == ".pub" else path.with_name(path.name + ".pub")
    try:
        return base64.b64decode(public.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return b""
