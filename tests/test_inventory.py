from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clusterctl.errors import UserError
from clusterctl.inventory import Become, Cluster, Node, Secret, load


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANSIBLE_CONFIG", "ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_INVENTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    return tmp_path / "hosts.yml"


def one(hosts: Path, text: str) -> Node:
    hosts.write_text(text)
    (node,) = load(hosts).nodes
    return node


def one_with(hosts: Path, **variables: str) -> Node:
    lines = "".join(f"      {name}: {value}\n" for name, value in variables.items())
    return one(hosts, f"all:\n  hosts:\n    n1:\n{lines}")


def error_of(source: str | Path, limit: str | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        load(source, limit)
    assert caught.value.next_step
    return caught.value


def names(cluster: Cluster) -> list[str]:
    return [node.name for node in cluster.nodes]


def test_yaml_with_ranges_groups_and_group_vars(hosts: Path) -> None:
    hosts.write_text(
        """
all:
  vars: {mpi_version: "4.1"}
  children:
    gpu: {hosts: {"gpu[01:03]": {}}}
    login: {hosts: {login1: {gpu_count: 0}}}
"""
    )
    (hosts.parent / "group_vars").mkdir()
    (hosts.parent / "group_vars" / "gpu.yml").write_text("gpu_count: 8\n")
    (hosts.parent / "host_vars").mkdir()
    (hosts.parent / "host_vars" / "gpu02.yml").write_text("gpu_count: 4\n")
    cluster = load(str(hosts))
    assert names(cluster) == ["gpu01", "gpu02", "gpu03", "login1"]
    assert [node.wanted["gpu_count"] for node in cluster.nodes] == [8, 4, 8, 0]
    assert {node.wanted["mpi_version"] for node in cluster.nodes} == {"4.1"}
    assert cluster.source == str(hosts)


def test_ini(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "[gpu]\nn[1:2] ansible_user=ops ansible_port=2222\n[gpu:vars]\nfabric_network=10.0.0.0/24\n"
    )
    first, second = load(hosts).nodes
    assert (first.name, first.host, first.user, first.port) == ("n1", "n1", "ops", 2222)
    assert second.wanted == {"fabric_network": "10.0.0.0/24"}


def test_list_on_the_command_line() -> None:
    assert [(node.host, node.port) for node in load("a,b:2222,").nodes] == [
        ("a", None),
        ("b", 2222),
    ]


def test_plugin(tmp_path: Path) -> None:
    source = tmp_path / "made.yml"
    source.write_text(
        "plugin: ansible.builtin.generator\nhosts: {name: 'node{{ n }}'}\nlayers: {n: [1, 2]}\n"
    )
    assert names(load(source)) == ["node1", "node2"]


def test_script(tmp_path: Path) -> None:
    source = tmp_path / "inventory"
    source.write_text(
        """#!/bin/sh\necho '{"all": {"hosts": ["n1"]}, "_meta": {"hostvars": {}}}'\n"""
    )
    source.chmod(0o755)
    assert names(load(source)) == ["n1"]


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    folder.mkdir()
    (folder / "a.yml").write_text("all: {hosts: {n1: {}}}\n")
    (folder / "b").write_text("n2\n")
    assert names(load(folder)) == ["n1", "n2"]


def test_connection(hosts: Path) -> None:
    node = one_with(
        hosts,
        ansible_host="'{{ base }}.7'",
        base="10.1.2",
        ansible_port="'{{ 2000 + 22 }}'",
        ansible_user="ops",
        ansible_ssh_private_key_file="/keys/ops",
        ansible_ssh_common_args="-o ProxyJump=bastion",
        ansible_ssh_extra_args="-o 'UserKnownHostsFile=/known hosts'",
        ansible_python_interpreter="/usr/bin/python3.12",
    )
    assert (node.host, node.port, node.user) == ("10.1.2.7", 2022, "ops")
    assert node.private_key_file == "/keys/ops"
    assert node.ssh_args == ("-o", "ProxyJump=bastion", "-o", "UserKnownHostsFile=/known hosts")
    assert node.python == "/usr/bin/python3.12"
    assert not node.local
    assert node.wanted == {"base": "10.1.2"}


def test_defaults(hosts: Path) -> None:
    assert one_with(hosts) == Node("n1", "n1")


@pytest.mark.parametrize("value", ["auto", "auto_silent", "auto_legacy"])
def test_automatic_interpreter(hosts: Path, value: str) -> None:
    assert one_with(hosts, ansible_python_interpreter=value).python is None


def test_host_key_checking_off(hosts: Path) -> None:
    for name in ("ansible_host_key_checking", "ansible_ssh_host_key_checking"):
        node = one_with(hosts, **{name: "false"})
        assert node.ssh_args == ("-o", "StrictHostKeyChecking=no")


def test_local(hosts: Path) -> None:
    assert one_with(hosts, ansible_connection="local").local


def test_become(hosts: Path) -> None:
    assert one_with(hosts, ansible_become="true").become == Become("sudo", "root", None)
    become = one_with(
        hosts,
        ansible_become="yes",
        ansible_become_method="su",
        ansible_become_user="admin",
        ansible_become_password="hunter2",
    ).become
    assert become is not None
    assert (become.method, become.user) == ("su", "admin")
    assert become.password is not None
    assert become.password.reveal() == "hunter2"
    assert one_with(hosts, ansible_become="false").become is None


def test_settings_of_ansible_cfg(tmp_path: Path) -> None:
    """Read by a process of its own, since Ansible reads its configuration once."""
    (tmp_path / "hosts").write_text("n1\n")
    (tmp_path / "ansible.cfg").write_text(
        "[defaults]\nremote_user = ops\nhost_key_checking = false\n"
        "[privilege_escalation]\nbecome = true\n"
        "[ssh_connection]\nssh_common_args = -F config\n"
    )
    script = "from clusterctl.inventory import load; print(load('hosts').nodes[0])"
    command = [sys.executable, "-c", script]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "user='ops'" in shown
    assert "ssh_args=('-o', 'StrictHostKeyChecking=no', '-F', 'config')" in shown
    assert "become=Become(method='sudo', user='root', password=None)" in shown


def test_limit(hosts: Path) -> None:
    hosts.write_text("all: {children: {gpu: {hosts: {'n[1:4]': {}}}, cpu: {hosts: {c1: {}}}}}\n")
    assert names(load(hosts, "gpu:!n2")) == ["n1", "n3", "n4"]
    assert names(load(hosts, "n1,c*")) == ["n1", "c1"]
    assert "n9" in error_of(hosts, "n1,n9").message
    assert "none of them" not in error_of(hosts, "gpu:!gpu").message


def test_missing_file(tmp_path: Path) -> None:
    assert "there is no inventory" in error_of(tmp_path / "none.yml").message


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("hosts.yml", "all:\n  hosts:\n - n1\n", "yaml"),
        ("hosts.ini", "[gpu\nn1\n", "ini"),
        ("hosts", "[gpu:varz]\n", "varz"),
    ],
)
def test_parse_errors(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    error = error_of(tmp_path / name)
    assert reason in error.message.lower()
    assert "ansible-inventory" in error.next_step


def test_one_bad_file_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    folder.mkdir()
    (folder / "good.yml").write_text("all: {hosts: {n1: {}}}\n")
    (folder / "bad.yml").write_text("all: [\n")
    for _ in range(2):  # Ansible says each warning once a process
        message = error_of(folder).message
        assert "bad.yml" in message
        assert "yaml" in message.lower()


@pytest.mark.parametrize("text", ["", "all: {}\n", "all: {hosts: {}}\n"])
def test_no_hosts(tmp_path: Path, text: str) -> None:
    for name in ("hosts.yml", "hosts.ini"):
        (tmp_path / name).write_text(text if name == "hosts.yml" else "")
        error_of(tmp_path / name)


def test_undefined_in_the_connection(hosts: Path) -> None:
    with pytest.raises(UserError) as caught:
        one_with(hosts, ansible_host="'{{ adress }}'")
    assert "n1" in caught.value.message
    assert "ansible_host" in caught.value.message
    assert "adress" in caught.value.message


@pytest.mark.parametrize("port", ["abc", "0", "70000"])
def test_bad_port(hosts: Path, port: str) -> None:
    with pytest.raises(UserError, match="n1"):
        one_with(hosts, ansible_port=port)


def test_unknown_connection(hosts: Path) -> None:
    with pytest.raises(UserError, match="winrm"):
        one_with(hosts, ansible_connection="winrm")


def test_variables_that_need_facts_stay_as_they_are(hosts: Path) -> None:
    wanted = one_with(hosts, a="'{{ ansible_facts.distribution }}'", b="1").wanted
    assert wanted == {"a": "{{ ansible_facts.distribution }}", "b": 1}


def test_types(hosts: Path) -> None:
    wanted = one_with(hosts, a="{b: [1, 2.5, true, null, '{{ c }}']}", c="x").wanted
    assert wanted == {"a": {"b": [1, 2.5, True, None, "x"]}, "c": "x"}
    assert [type(value) for value in wanted["a"]["b"]] == [int, float, bool, type(None), str]


def test_secrets_by_name(hosts: Path) -> None:
    node = one_with(
        hosts,
        ansible_password="hunter2",
        ansible_become="true",
        ansible_become_pass="hunter3",
        db_password="hunter4",
        api_token="hunter5",
        base_nofile="1048576",
    )
    assert "hunter" not in repr(node)
    assert node.password is not None
    assert node.password.reveal() == "hunter2"
    assert node.wanted["base_nofile"] == 1048576
    assert isinstance(node.wanted["db_password"], Secret)


@pytest.fixture
def vaulted(tmp_path: Path, hosts: Path) -> Path:
    """An inventory with an encrypted variable and an encrypted file; its password's file."""
    password = tmp_path / "vault-password"
    password.write_text("open sesame\n")
    tool = [str(Path(sys.executable).parent / "ansible-vault")]
    options = ["--vault-password-file", str(password)]
    inline = subprocess.run(
        [*tool, "encrypt_string", *options, "--name", "one", "swordfish"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    hosts.write_text(
        "all:\n  hosts: {n1: {}}\n  vars:\n"
        + "".join(f"    {line}\n" for line in inline.splitlines())
        + "    two: 'it is {{ one }}, {{ three }}'\n"
        + "    ansible_password: '{{ three }}'\n"
        + "    plain: visible\n"
    )
    (tmp_path / "group_vars" / "all").mkdir(parents=True)
    file = tmp_path / "group_vars" / "all" / "vault.yml"
    file.write_text("three: halibut\nfour: {five: [mackerel, 6]}\n")
    subprocess.run([*tool, "encrypt", *options, file], check=True, capture_output=True)
    return password


LOAD = "from clusterctl.inventory import load; n = load('hosts.yml').nodes[0]; print(n)"


def run_load(
    folder: Path, script: str = LOAD, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_vault(vaulted: Path) -> None:
    script = f"{LOAD}; print('\\n', n.password.reveal(), n.wanted['one'].reveal())"
    done = run_load(vaulted.parent, script, ANSIBLE_VAULT_PASSWORD_FILE=str(vaulted))
    shown, _, revealed = done.stdout.partition("\n")
    assert revealed.split() == ["halibut", "swordfish"], done.stderr
    for secret in ("swordfish", "halibut", "mackerel"):
        assert secret not in shown
    assert "'plain': 'visible'" in shown
    assert done.stderr == ""


def test_vault_password_of_ansible_cfg(vaulted: Path) -> None:
    (vaulted.parent / "ansible.cfg").write_text(f"[defaults]\nvault_password_file = {vaulted}\n")
    assert "'plain': 'visible'" in run_load(vaulted.parent).stdout


def test_vault_without_or_with_a_wrong_password(vaulted: Path) -> None:
    assert "ANSIBLE_VAULT_PASSWORD_FILE" in error_of("hosts.yml").next_step
    wrong = vaulted.parent / "wrong"
    wrong.write_text("open barley\n")
    done = run_load(vaulted.parent, ANSIBLE_VAULT_PASSWORD_FILE=str(wrong))
    assert "UserError" in done.stderr
    assert "ecryption failed" in done.stderr


def test_vaulted_variable_alone_without_a_password(vaulted: Path) -> None:
    (vaulted.parent / "group_vars" / "all" / "vault.yml").unlink()
    hosts = vaulted.parent / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("{{ three }}", "x"))
    assert "ANSIBLE_VAULT_PASSWORD_FILE" in error_of(hosts).next_step


def test_nothing_is_printed(hosts: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hosts.write_text("all: {children: {bad-name: {hosts: {n1: {environment: x}}}}}\n")
    load(hosts)
    assert capfd.readouterr() == ("", "")


def test_a_secret_never_shows() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {secret!s} {[secret]}"
    assert secret.reveal() == "hunter2"
