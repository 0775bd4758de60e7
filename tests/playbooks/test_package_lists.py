import os
import time
from pathlib import Path
from types import ModuleType

UNREADABLE = """\
E: Malformed entry 1 in list file /etc/apt/sources.list.d/x.list (URI parse)
E: The list of sources could not be read.
E: Malformed entry 1 in list file /etc/apt/sources.list.d/x.list (URI parse)
"""
SILENT = """\
Hit:1 http://mirror.example/debian bookworm InRelease
W: Failed to fetch http://gone.example/dists/a/InRelease  Could not connect to gone.example:80
W: Failed to fetch http://gone.example/dists/b/InRelease  Could not connect to gone.example:80
W: Failed to fetch https://cert.example/InRelease  Certificate verification failed
W: Some index files failed to download. They have been ignored, or old ones used instead.
"""


def test_each_error_of_apt_is_told_once(module: ModuleType) -> None:
    assert module.errors(UNREADABLE) == (
        "Malformed entry 1 in list file /etc/apt/sources.list.d/x.list (URI parse)\n"
        "The list of sources could not be read."
    )


def test_what_apt_says_without_calling_it_an_error_is_told_too(module: ModuleType) -> None:
    assert module.errors(" terminated\n") == "terminated"


def test_sources_that_do_not_answer_are_named_once_for_each_reason(module: ModuleType) -> None:
    assert module.silent(SILENT) == [
        "http://gone.example/dists/a/InRelease: Could not connect to gone.example:80",
        "https://cert.example/InRelease: Certificate verification failed",
    ]


def test_age_is_that_of_the_last_fetch(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    then = time.time() - 7200
    os.utime(tmp_path, (then, then))
    assert module.age_s(tmp_path) < 3600
    os.utime(tmp_path / "partial", (then, then))
    assert module.age_s(tmp_path) > 3600


def test_lists_that_were_never_fetched_are_old(module: ModuleType, tmp_path: Path) -> None:
    assert module.age_s(tmp_path / "none") > 1e9
