"""Where derived files go."""

from __future__ import annotations

import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from support.lone import IMPORTS
from support.poor_system import NO_HOME
from zsl_runtime.errors import UsageError
from zsl_runtime.machine.cache import cache_folder, needed_cache


@pytest.mark.parametrize(
    ("zsl", "xdg", "expected"),
    [
        ("/a/b", "/x", "/a/b"),
        (None, "/x", "/x/zsl-deploy"),
        ("", "/x", "/x/zsl-deploy"),
        (None, "relative", "/me/.cache/zsl-deploy"),
        (None, None, "/me/.cache/zsl-deploy"),
        ("~/z", None, "/me/z"),
    ],
)
def test_the_users_choice_goes_before_the_conventions(monkeypatch, zsl, xdg, expected):
    monkeypatch.setenv("HOME", "/me")
    for name, value in (("ZSL_CACHE", zsl), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.fixture
def nobody(monkeypatch):
    """A user of whom the system knows nothing, as in containers."""

    def unknown(*_arguments):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    for name in ("HOME", "ZSL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("home", [None, "", "relative/home"])
def test_without_home_and_passwd_entry_there_is_no_cache_folder(nobody, monkeypatch, home):
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert cache_folder() is None


@pytest.mark.parametrize("home", [None, "", "relative/home"])
def test_a_home_that_is_no_whole_path_is_that_of_the_list_of_users(nobody, monkeypatch, home):
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd(("me", "x", 1, 1, "", "/homes/me", "/bin/sh")))
    assert cache_folder() == Path("/homes/me/.cache/zsl-deploy")


@pytest.mark.parametrize("chosen", ["~nobodyx/c", "~nobodyx", "~/c", "~"])
def test_a_home_that_nobody_has_is_no_folder_of_that_name(nobody, monkeypatch, chosen):
    monkeypatch.setenv("ZSL_CACHE", chosen)
    assert cache_folder() is None
    with pytest.raises(UsageError, match=r"E-CACHE: ZSL_CACHE is '~.*there is no such home folder") as caught:
        needed_cache()
    assert chosen in caught.value.message


def test_the_folder_that_was_named_is_taken_as_it_is(nobody, monkeypatch, tmp_path):
    """What cannot be written there is told by whoever writes: it was asked for."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "file"))
    assert needed_cache() == tmp_path / "file"


NEEDS = """
import sys
from zsl_runtime.machine.cache import needed_cache
folder = needed_cache()
assert folder == needed_cache()
(folder / "features").mkdir(parents=True)
print(folder)
"""


@pytest.mark.parametrize("home", [None, "a file"])
def test_what_is_needed_goes_to_a_folder_of_this_process_and_is_told_once(tmp_path, home):
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    environment = {"PYTHONPATH": IMPORTS, "TMPDIR": str(tmp_path / "tmp")}
    environment |= {} if home is None else {"HOME": str(tmp_path / "file")}
    done = subprocess.run(
        [sys.executable, "-c", ("" if home else NO_HOME) + NEEDS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(done.stdout.strip())
    assert folder.parent == tmp_path / "tmp"
    assert done.stderr.count("\n") == done.stderr.count("note: there is no cache folder") == 1
    assert str(folder) in done.stderr
    assert ("has no home folder" if home is None else "cannot be written to") in done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_home_that_can_be_written_to_is_used(nobody, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert needed_cache() == tmp_path / ".cache" / "zsl-deploy"
    assert needed_cache().is_dir()
    assert capfd.readouterr().err == ""
