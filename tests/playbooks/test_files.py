"""The module that keeps several files, called as Ansible calls it."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def _call(module: ModuleType, **arguments: object) -> dict[str, Any]:
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    done = subprocess.run(
        [sys.executable, str(module.__file__)],
        input=given,
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_files_are_written_replaced_and_removed_once(module: ModuleType, tmp_path: Path) -> None:
    new, old, gone = tmp_path / "folder" / "new", tmp_path / "old", tmp_path / "gone"
    old.write_text("before\n")
    gone.write_text("x\n")
    contents = {str(new): "a\n", str(old): "after\n", str(gone): "", str(tmp_path / "never"): ""}
    dry = _call(module, contents=contents, _ansible_check_mode=True)
    assert dry["written"] == sorted([str(new), str(old), str(gone)])
    assert not new.exists()
    real = _call(module, contents=contents)
    assert real["written"] == dry["written"]
    assert [entry["before"] for entry in real["diff"]] == ["", "before\n", "x\n"]
    assert (new.read_text(), old.read_text(), gone.exists()) == ("a\n", "after\n", False)
    assert new.stat().st_mode & 0o777 == 0o644
    again = _call(module, contents=contents)
    assert (again["changed"], again["written"]) == (False, [])


def test_permissions_are_put_right(module: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a\n")
    file.chmod(0o600)
    assert _call(module, contents={str(file): "a\n"})["written"] == [str(file)]
    assert file.stat().st_mode & 0o777 == 0o644
