"""Reads an inventory in-process through Ansible's own loader and option resolution.

Importing this module imports Ansible (0.2 s), so only :func:`clusterctl.inventory.load` does.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible import constants as C  # noqa: N812 - Ansible's own name for it
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing import vault
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import become_loader, connection_loader, init_plugin_loader
from ansible.template import Templar
from ansible.utils.display import Display
from ansible.vars.manager import VariableManager

from clusterctl.errors import UserError
from clusterctl.inventory import Become, Cluster, Node, Secret

SSH_CONNECTIONS = {"ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh"}
LOCAL_CONNECTIONS = {"local", "ansible.builtin.local"}
SECRET_NAME = re.compile(r"(password|passwd|passphrase|_pass|secret|token|private_key)$", re.I)
TELLING_BYTES = 6
"""A vaulted text from this length on is also hidden where it is a part of another value."""

VAULT_STEP = "set ANSIBLE_VAULT_PASSWORD_FILE, or vault_password_file in ansible.cfg"


def read(source: str, limit: str | None) -> Cluster:
    """Give the inventory's nodes; :class:`UserError` with Ansible's reason when it cannot."""
    if "," not in source and not Path(source).exists():
        raise UserError(f"there is no inventory {source}", "clusterctl doctor -i FILE")
    with _strict_and_quiet() as said:
        try:
            return Cluster(tuple(_nodes(source, limit)), source)
        except AnsibleError as error:
            raise _user_error(source, error, said) from None


class _Loader(DataLoader):  # type: ignore[misc] # Ansible has no types
    """Remembers what came out of encrypted files."""

    def __init__(self) -> None:
        super().__init__()
        self.vaulted: dict[str, Any] = {}
        self.vaulted_texts: set[str] = set()

    def load_from_file(self, file_name: str, *args: Any, **kwargs: Any) -> Any:
        data = super().load_from_file(file_name, *args, **kwargs)
        if isinstance(data, Mapping) and _is_vault_file(self.path_dwim(file_name)):
            self.vaulted.update(data)
            self.vaulted_texts.update(_texts(data))
        return data


def _nodes(source: str, limit: str | None) -> Iterator[Node]:
    _init_plugins()
    loader = _Loader()
    _unlock(loader)
    path = Path(source)
    # Variables beside the inventory count, those beside the current folder do not.
    loader.set_basedir(str(path.resolve().parent if path.exists() else Path("/")))
    manager = InventoryManager(loader=loader, sources=[source])
    if not manager.hosts:
        raise UserError(f"the inventory {source} names no host", "add hosts to it")
    if limit:
        manager.subset(limit)
    hosts = manager.get_hosts()
    if not hosts:
        raise UserError(
            f"no host of {source} matches {limit}", f"ansible-inventory -i {source} --graph"
        )
    variables = VariableManager(loader=loader, inventory=manager)
    magic = {*variables.get_vars(include_hostvars=False), *MAGIC_OF_A_HOST}
    for host in hosts:
        try:
            raw = variables.get_vars(host=host, include_hostvars=True)
            yield _Variables(str(host.name), raw, loader, magic).node()
        except AnsibleError as error:
            raise UserError(f"{host.name}: {_reason(error)}", _step(source, error)) from None


MAGIC_OF_A_HOST = {
    "ansible_facts",
    "environment",
    "group_names",
    "hostvars",
    "inventory_dir",
    "inventory_file",
    "inventory_hostname",
    "inventory_hostname_short",
    "omit",
    "vars",
}


class _Variables:
    """One host's variables, and the node that they describe."""

    def __init__(self, name: str, raw: dict[str, Any], loader: _Loader, magic: set[str]) -> None:
        self._name = name
        self._raw = raw
        self._loader = loader
        self._magic = magic
        self._templar = Templar(loader=loader, variables=raw)
        self._connection = {
            name: self._value(name)
            for name in raw
            if name.startswith("ansible_") and name not in magic
        } | {"inventory_hostname": self._name}

    def node(self) -> Node:
        """Resolve the connection's options as Ansible's ssh plugin does, then the rest."""
        local = self._is_local()
        port = self._option("port")
        return Node(
            name=self._name,
            host=str(self._option("host") or self._name),
            port=self._port(port) if port is not None else None,
            user=_text(self._option("remote_user")),
            password=_secret(self._option("password")),
            private_key_file=_text(self._option("private_key_file")),
            ssh_args=self._ssh_args(),
            python=self._python(),
            become=self._become(),
            local=local,
            wanted=self._wanted(),
        )

    def _value(self, name: str) -> Any:
        try:
            return _plain(self._templar.template(self._raw[name]))
        except AnsibleError as error:
            raise UserError(
                f"{self._name}: the variable {name} cannot be resolved: {_reason(error)}",
                VAULT_STEP if _is_vaulted(self._raw[name]) else "define what it needs there",
            ) from None

    def _option(self, name: str) -> Any:
        return C.config.get_config_value(
            name, plugin_type="connection", plugin_name="ssh", variables=self._connection
        )

    def _port(self, value: Any) -> int:
        port = int(value)
        if not 0 < port < 65536:
            raise UserError(f"{self._name}: ansible_port is {value}", "give a port number")
        return port

    def _is_local(self) -> bool:
        kind = str(self._connection.get("ansible_connection", C.DEFAULT_TRANSPORT))
        if kind not in SSH_CONNECTIONS | LOCAL_CONNECTIONS:
            raise UserError(
                f"{self._name}: ansible_connection is {kind}; nodes are reached with ssh or local",
                f"leave it out with --limit 'all:!{self._name}'",
            )
        return kind in LOCAL_CONNECTIONS

    def _ssh_args(self) -> tuple[str, ...]:
        args: list[str] = []
        if not self._option("host_key_checking"):
            args += ["-o", "StrictHostKeyChecking=no"]  # what Ansible passes as well
        for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
            value, origin = C.config.get_config_value_and_origin(
                name, plugin_type="connection", plugin_name="ssh", variables=self._connection
            )
            if origin == "default" or not value:
                continue
            try:
                args += shlex.split(str(value))
            except ValueError as error:
                raise UserError(f"{self._name}: ansible_{name}: {error}", "mend it") from None
        return tuple(args)

    def _python(self) -> str | None:
        value = C.config.get_config_value("INTERPRETER_PYTHON", variables=self._connection)
        return None if str(value).startswith("auto") else str(value)

    def _become(self) -> Become | None:
        wanted = self._connection.get("ansible_become", C.DEFAULT_BECOME)
        if str(wanted).lower() not in ("true", "yes", "on", "1"):
            return None
        method = str(self._connection.get("ansible_become_method", C.DEFAULT_BECOME_METHOD))
        method = method.removeprefix("ansible.builtin.").removeprefix("community.general.")
        plugin = method if become_loader.get(method, class_only=True) else "sudo"

        def option(name: str) -> Any:
            return C.config.get_config_value(
                name, plugin_type="become", plugin_name=plugin, variables=self._connection
            )

        user = str(option("become_user") or "root")
        return Become(method=method, user=user, password=_secret(option("become_pass")))

    def _wanted(self) -> dict[str, Any]:
        """Give all variables but Ansible's own; what is or may be a secret is a Secret."""
        texts = set(self._loader.vaulted_texts)
        values: dict[str, Any] = {}
        for name, raw in self._raw.items():
            if name in self._magic or name.startswith("ansible_"):
                continue
            try:
                values[name] = _plain(self._templar.template(raw))
            except AnsibleError as error:
                if _is_vaulted(raw):
                    raise UserError(
                        f"{self._name}: {name} cannot be decrypted: {_reason(error)}", VAULT_STEP
                    ) from None
                values[name] = str(raw)  # needs facts that only a play has
            if _is_vaulted(raw):
                texts.update(_texts(values[name]))
        return {
            name: _hide(value, texts, wholly=self._is_secret(name, value))
            for name, value in values.items()
        }

    def _is_secret(self, name: str, value: Any) -> bool:
        from_vault = name in self._loader.vaulted and self._loader.vaulted[name] == value
        return from_vault or _is_vaulted(self._raw[name]) or bool(SECRET_NAME.search(name))


@functools.cache
def _init_plugins() -> None:
    init_plugin_loader()  # warns when it is called twice


def _unlock(loader: DataLoader) -> None:
    """Give the loader the vault passwords that Ansible's configuration names."""
    specs = list(C.DEFAULT_VAULT_IDENTITY_LIST or [])
    if C.DEFAULT_VAULT_PASSWORD_FILE:
        specs.append(f"{C.DEFAULT_VAULT_IDENTITY}@{C.DEFAULT_VAULT_PASSWORD_FILE}")
    secrets = []
    for spec in specs:
        name, _, file = spec.rpartition("@")
        if file.startswith("prompt"):
            continue  # nobody may be there to answer
        name = name or C.DEFAULT_VAULT_IDENTITY
        secret = vault.get_file_vault_secret(filename=file, vault_id=name, loader=loader)
        secret.load()
        secrets.append((name, secret))
    loader.set_vault_secrets(secrets)
    context = getattr(vault, "VaultSecretsContext", None)  # ansible-core 2.19 and newer
    if context is None:
        return
    if current := context.current(optional=True):
        current.secrets = secrets
    else:
        context.initialize(context(secrets))


@contextlib.contextmanager
def _strict_and_quiet() -> Iterator[list[str]]:
    """Make Ansible raise where it would only warn, and keep what it would print."""
    said: list[str] = []
    display = Display()
    connection_loader.get("ssh", class_only=True)  # makes its options known

    def keep(message: str, *_args: Any, **_kwargs: Any) -> None:
        said.append(str(message).strip())

    strict = {"INVENTORY_ANY_UNPARSED_IS_FAILED": True, "HOST_PATTERN_MISMATCH": "error"}
    before = {name: getattr(C, name) for name in strict}
    display._warns.clear()  # it would tell the second run in this process nothing
    display.display = keep
    for name, value in strict.items():
        setattr(C, name, value)
    try:
        yield said
    finally:
        for name, value in before.items():
            setattr(C, name, value)
        del display.display


def _user_error(source: str, error: AnsibleError, said: list[str]) -> UserError:
    reason = _reason(error)
    if parse_errors := _parse_errors(said):
        # Of a folder, Ansible's own error names the file.
        file = reason.rpartition(" ")[2]
        reason = parse_errors if file.endswith(source) else f"{file}: {parse_errors}"
    return UserError(f"the inventory {source} cannot be read: {reason}", _step(source, error))


def _step(source: str, error: AnsibleError) -> str:
    if re.search("vault|decrypt", str(error), re.I):
        return VAULT_STEP
    return f"see what Ansible says: ansible-inventory -i {source} --list"


def _parse_errors(said: list[str]) -> str:
    """Pick each plugin's own reason out of what Ansible would have printed as warnings."""
    reasons = []
    for text in said:
        plain = " ".join(text.replace("[WARNING]: ", "").split())
        if found := re.match(r"(?:\* )?(Failed to parse .*? plugin: .+)", plain):
            # Since 2.19 the same sentence follows again with its causes.
            reasons.append(re.sub(r"\.? Failed to parse inventory with .*", "", found[1]))
    return "; ".join(dict.fromkeys(reasons))[:600]


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())


def _is_vault_file(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return bool(vault.is_encrypted_file(file))
    except OSError:
        return False


def _is_vaulted(raw: Any) -> bool:
    """Say whether a raw value is, or holds, an inline ``!vault``."""
    if isinstance(raw, Mapping):
        return any(_is_vaulted(value) for value in raw.values())
    if isinstance(raw, (list, tuple)):
        return any(_is_vaulted(value) for value in raw)
    # The first since ansible-core 2.19, the second before.
    return type(raw).__name__ in ("EncryptedString", "AnsibleVaultEncryptedUnicode")


def _plain(value: Any) -> Any:
    """Give Ansible's tagged values as Python's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return "".join(value)
    if isinstance(value, (bool, type(None))):
        return value
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else str(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield "".join(value)


def _hide(value: Any, texts: set[str], *, wholly: bool) -> Any:
    if isinstance(value, dict):
        return {key: _hide(item, texts, wholly=wholly) for key, item in value.items()}
    if isinstance(value, list):
        return [_hide(item, texts, wholly=wholly) for item in value]
    holds = isinstance(value, str) and any(
        text in value for text in texts if len(text) >= TELLING_BYTES
    )
    return Secret(str(value)) if (wholly or holds) and value is not None else value


def _secret(value: Any) -> Secret | None:
    return None if value is None else Secret("".join(str(value)))


def _text(value: Any) -> str | None:
    return None if value is None else "".join(str(value))
