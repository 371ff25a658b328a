"""A power cut at any point of a change: whatever of it is on the disk then, the bundle is the old or the new one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from support.changes import change_twice, words_of, write_jay
from support.faults import LACKING, Nursery, Plan, operations
from support.power import lay_out, states
from support.reliability import Tally
from support.sound import answers, check_sound, litter
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import prune
from zsl_runtime.errors import ZslError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    before = "import onnxruntime, zsl_runtime.classes.changes"
    with Nursery(tmp_path_factory.mktemp("power"), ["zsl-classes"], before) as made:
        yield made


@pytest.fixture
def start(nursery, own_bundle, tmp_path) -> Path:
    bundle = own_bundle("start", rule="gaussian")
    write_jay(tmp_path)
    change_twice(nursery, bundle)
    return bundle


def logged(nursery: Nursery, name: str, start: Path, folder: Path) -> list:
    """The operations of a change of a bundle, which lies where `start` does in their paths."""
    kept, log = folder / "kept", folder / "log"
    shutil.copytree(start, kept)
    ended = nursery.run("zsl-classes", *words_of(name, start, folder), plan=Plan(root=str(start), log=str(log)))
    assert ended.code == 0, ended.err
    return list(operations(log))


@pytest.mark.parametrize("name", ["add", "remove", "undo", "prune"])
def test_after_a_power_cut_the_bundle_is_the_old_or_the_new_one(nursery, start, tmp_path, name):
    before = answers(start)
    done = logged(nursery, name, start, tmp_path)
    after = answers(start)
    place, tally = tmp_path / "after", Tally("faults", f"{name}: power cut")
    found = set()
    for _, content in states_of(tmp_path, start, done):
        with tally.point("state"):
            lay_out(content, start, place)
            found.add(check_sound(place, before, after, computed=False).state)
            prune(Bundle.open(place), 9)
            assert litter(place) == []
    assert found == {before.state, after.state}
    tally.end()


def states_of(folder: Path, start: Path, done: list):
    """The states from the bundle as it was kept; names are those of the log."""
    changed = folder / "changed"
    start.rename(changed)
    shutil.copytree(folder / "kept", start)
    return list(states(start, done))


@pytest.mark.parametrize("without", ["of files", "of folders"])
def test_a_change_that_did_not_wait_would_be_found_out(nursery, start, tmp_path, without):
    """The model is strict enough: without fsync of files, or of folders, some state is no bundle any more."""
    done = logged(nursery, "add", start, tmp_path)
    hasty = [
        one
        for one in done
        if one[0] != "sync" or ("classes/." in one[1] or "/.tmp" in one[1]) != (without == "of files")
    ]
    assert len(hasty) < len(done)
    broken = 0
    for _, content in states_of(tmp_path, start, hasty):
        lay_out(content, start, tmp_path / "after")
        try:
            Bundle.open(tmp_path / "after")
        except ZslError:
            broken += 1
    assert broken > 0
