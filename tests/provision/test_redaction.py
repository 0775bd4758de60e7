import json

import pytest

from clusterctl.inventory import Become, Node, Secret
from clusterctl.provision.redaction import Redaction

NODE = Node(
    "node1",
    "10.0.0.1",
    password=Secret("of the login"),
    become=Become(password=Secret("of sudo")),
    wanted={
        "plain": "nothing to hide",
        "users": [{"name": "alice", "hash": Secret('quo"ted\\')}],
        "key": Secret("first line\nsecond line\n"),
        "short": Secret("abc"),
    },
)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("nothing to hide", "nothing to hide"),
        ("with of the login in it", "with *** in it"),
        ("of sudo", "***"),
        ('a quo"ted\\ hash', "a *** hash"),
        ("first line\nsecond line\n", "***"),
        ("only the second line", "only the ***"),
        ("abcdef", "abcdef"),
    ],
)
def test_secrets_are_blanked_in_lines_of_json(text: str, redacted: str) -> None:
    line = Redaction([NODE])(json.dumps({"text": text}).encode())
    assert json.loads(line) == {"text": redacted}
