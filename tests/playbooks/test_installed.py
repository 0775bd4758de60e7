"""The module that compares packages with what is installed."""

import json
import subprocess
from types import ModuleType

import pytest


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("half", True),
        ("gone", True),
        ("chrony", False),
        ("chrony=4.3*", False),
        ("chrony=4.3-2", False),
        ("chrony=4.30*", True),
        ("chrony=4.3", True),
    ],
)
def test_a_package_is_there_in_full_and_in_its_version(
    module: ModuleType, name: str, missing: bool
) -> None:
    output = "chrony|4.3-2|installed|install\nhalf|1|half-configured|install\n"
    assert module.missing([name], module.versions(output)) == ([name] if missing else [])


def test_an_epoch_that_rpm_does_not_have_is_none(module: ModuleType) -> None:
    output = "a|(none):1.2-3.el9|installed|\nb|3:1.2-3.el9|installed|\n"
    assert module.versions(output) == {"a": "1.2-3.el9", "b": "3:1.2-3.el9"}


def test_dpkg_itself_is_understood(module: ModuleType) -> None:
    query = module.QUERIES["dpkg"].split()
    argv = [*query, "dpkg", "no-such-package"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert module.missing(["dpkg", "no-such-package"], module.versions(done.stdout)) == [
        "no-such-package"
    ]


def test_the_versions_that_dnf_holds_are_read(module: ModuleType) -> None:
    text = "# Added lock on Wed\nlibnccl-0:2.27.5-1+cuda12.9.*\n!bad-0:1-1.*\n\nucx-1.18-1.el9.*\n"
    assert module.locked(text) == {"libnccl", "ucx"}


def test_holds_of_an_earlier_run_are_known_from_its_promise(module: ModuleType) -> None:
    kinds = [{"kind": "hold", "name": "libnccl2"}, {"kind": "package", "name": "libnccl2"}]
    assert module.promised_holds(json.dumps({"promises": kinds})) == ["libnccl2"]
    for broken in ("", "{}", "[]", '{"promises": [1]}'):
        assert module.promised_holds(broken) == []


def test_what_is_brought_to_another_version_is_held_again(module: ModuleType) -> None:
    held = {"a", "b"}
    assert module.unheld(["a", "b", "c"], held, ["a=2*"]) == ["a", "c"]
    assert module.unheld(["a", "b"], held, []) == []
