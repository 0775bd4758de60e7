"""The module that writes down what a role established."""

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

EMPTY: dict[str, Any] = {
    **{"packages": {}, "services": {}, "sysctl": {}, "modules": {}, "module_options": {}},
    **{"holds": [], "files": [], "variable_of": {}},
}


def test_everything_is_text_sorted_and_has_its_variable(module: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "limits.conf"
    file.write_text("x")
    promised = module.promises(
        EMPTY
        | {
            "packages": {"b": "", "a": "1.2"},
            "holds": ["a"],
            "sysctl": {"vm.max_map_count": 1048576},
            "files": [str(file)],
            "variable_of": {"a": "a_version"},
        }
    )
    assert promised == [
        {
            "kind": "file",
            "name": str(file),
            "wanted": hashlib.sha256(b"x").hexdigest(),
            "variable": "",
        },
        {"kind": "hold", "name": "a", "wanted": "held", "variable": "a_version"},
        {"kind": "package", "name": "a", "wanted": "1.2", "variable": "a_version"},
        {"kind": "package", "name": "b", "wanted": "", "variable": ""},
        {"kind": "sysctl", "name": "vm.max_map_count", "wanted": "1048576", "variable": ""},
    ]
